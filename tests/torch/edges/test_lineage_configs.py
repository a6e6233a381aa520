"""PtychoPINN's torch dataclasses become the configurations here, and come back."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pytest

from ptycho_torch import GroupingConfig, RawDataTorch, simulate_scan
from ptycho_torch.config_bridge import (
    InferenceConfig,
    ModelConfig,
    TrainingConfig,
    to_grouping_config,
    to_inference_config,
    to_legacy_params,
    to_lineage_options,
    to_model_config,
    to_training_config,
)


# Fields and defaults as Ptychodus passes them, from its settings.
@dataclass
class Data:
    N: int = 128
    C: int = 4
    normalize: str = "Batch"
    neighbor_function: str = "Nearest"
    x_bounds: tuple[float, float] = (0.1, 0.9)
    n_subsample: int = 7
    probe_scale: float = 4.0
    K: int = 6
    grid_size: tuple[int, int] = (2, 2)


@dataclass
class Model:
    mode: str = "Unsupervised"
    object_big: bool = True
    probe_big: bool = True
    amp_activation: str = "silu"
    intensity_scale_trainable: bool = False
    n_filters_scale: int = 2
    probe_mask: Any = None
    C_model: int = 4
    C_forward: int = 4


@dataclass
class Training:
    epochs: int = 50
    batch_size: int = 16
    nll: bool = True
    device: str = "cuda"


@dataclass
class Inference:
    batch_size: int = 1000
    middle_trim: int = 32


def training(data: Data | None = None, **overrides: Any) -> TrainingConfig:
    model = to_model_config(data or Data(), Model())
    return to_training_config(model, data or Data(), Model(), Training(epochs=9), overrides)


def test_model_takes_the_sides_the_grid_and_the_activation() -> None:
    expected = ModelConfig(N=128, gridsize=2, amp_activation="swish")
    assert to_model_config(Data(), Model()) == expected
    masked = to_model_config(Data(), Model(probe_mask=np.ones((2, 2))), {"pad_object": False})
    assert masked.probe_mask is True and masked.pad_object is False
    assert to_model_config(Data(), Model(mode="Supervised")).model_type == "supervised"


def test_training_run_has_the_words_of_the_flat_dict() -> None:
    params = to_legacy_params(training(nphotons=1e6, n_groups=20, n_subsample=500))
    wanted = {
        "N": 128, "gridsize": 2, "neighbor_count": 6, "nepochs": 9, "nll_weight": 1.0,
        "nphotons": 1e6, "n_groups": 20, "n_subsample": 500, "intensity_scale.trainable": False,
    }  # fmt: skip
    assert {name: params[name] for name in wanted} == wanted


def test_groups_per_seed_of_a_default_configuration_are_drawn() -> None:
    config = training(Data(N=16), nphotons=1e5)
    assert (config.groups_per_seed, config.n_subsample, config.n_groups) == (7, None, None)
    scan = simulate_scan(n_frames=30, N=16, seed=0)
    for source in (config, Data(N=16)):
        raw = RawDataTorch.from_acquisition(scan.choose(np.arange(30)), source)
        grouped = raw.generate_grouped_data(seed=0, patch_positions="scan")
        assert grouped["nn_indices"].shape == (210, 4)
        assert (np.diff(np.sort(grouped["nn_indices"], axis=1), axis=1) > 0).all()


def test_inference_run_asks_for_its_paths() -> None:
    model = to_model_config(Data(), Model())
    with pytest.raises(ValueError, match=r"model_path is missing; expected a path"):
        to_inference_config(model, Data(), Inference())
    paths = {"model_path": "m", "test_data_file": "t"}
    config = to_inference_config(model, Data(n_subsample=1), Inference(), paths)
    assert config == InferenceConfig(model, "m", "t", neighbor_count=6, groups_per_seed=1)


def test_photons_that_nobody_says_are_told(caplog: pytest.LogCaptureFixture) -> None:
    training()
    assert "nphotons is not said; 1e+09 is taken" in caplog.text


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: to_model_config(Data(C=5), Model()), "C is 5; expected 4"),
        (lambda: to_model_config(Data(grid_size=(2, 3)), Model()), r"grid_size is \(2, 3\)"),
        (lambda: training(photons=3), "override is photons; expected one of batch_size"),
    ],
)
def test_what_has_no_translation_is_refused_by_name(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_configuration_comes_back_from_the_options_it_gives() -> None:
    config = training(Data(K=9, N=64), nphotons=1e5)
    options = to_lineage_options(config)
    classes: dict[str, Any] = {"DataConfig": Data, "ModelConfig": Model, "TrainingConfig": Training}
    assert all(set(options[name]) <= {f.name for f in fields(classes[name])} for name in options)
    data, model, run = (classes[name](**options[name]) for name in classes)
    back = to_training_config(to_model_config(data, model), data, model, run, {"nphotons": 1e5})
    assert back == config


@dataclass
class Neighbours(Data):
    y_bounds: tuple[float, float] = (0.2, 0.8)
    min_neighbor_distance: float = 0.5
    max_neighbor_distance: float = 3.0
    K_quadrant: int = 30


@pytest.mark.parametrize(
    ("function", "changes"),
    [
        ("Nearest", {}),
        ("Min_dist", {"min_neighbor_distance": 0.5, "max_neighbor_distance": 3.0}),
        ("4_quadrant", {"neighbor_choice": "quadrants", "neighbor_count": 30}),
    ],
)
def test_neighbours_are_chosen_as_their_names_say(function: str, changes: Any) -> None:
    config = to_grouping_config(Neighbours(neighbor_function=function), {"seed": 5})
    assert config == GroupingConfig(
        **{
            "neighbor_count": 6, "x_bounds": (0.1, 0.9), "y_bounds": (0.2, 0.8),
            "groups_per_seed": 7, "seed": 5, **changes,
        }
    )  # fmt: skip
    groups = simulate_scan(n_frames=80, N=16, seed=0).group(config).nn_indices
    assert groups.min() >= 0 and len({frozenset(g) for g in groups.tolist()}) == len(groups)


def test_a_neighbour_function_that_nobody_knows_is_refused() -> None:
    with pytest.raises(ValueError, match=r"neighbor_function is 'Nearset'; expected one of Near"):
        to_grouping_config(Neighbours(neighbor_function="Nearset"))


def test_choices_that_grouped_data_leave_out_are_told(caplog: pytest.LogCaptureFixture) -> None:
    scan = simulate_scan(n_frames=30, N=16, seed=0)
    RawDataTorch.from_acquisition(scan, Neighbours(neighbor_function="4_quadrant"))
    assert "neighbor_function, x_bounds, y_bounds left out" in caplog.text
    assert "grouping=to_grouping_config(data)" in caplog.text
    caplog.clear()
    RawDataTorch.from_acquisition(scan, Neighbours(x_bounds=(0, 1), y_bounds=(0, 1)))
    assert "left out" not in caplog.text
