"""The lineage's configuration dataclasses and the flat legacy dict they become."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from ptycho_torch.config_bridge import (
    InferenceConfig,
    ModelConfig,
    TrainingConfig,
    to_legacy_params,
    update_legacy_dict,
)
from ptycho_torch.data.errors import PtychoTorchError

# The reference's defaults in the words of its flat dict, typed from its documentation.
MODEL_PARAMS = {
    "N": 64,
    "gridsize": 1,
    "model_type": "pinn",
    "object.big": True,
    "probe.big": True,
    "probe.mask": False,
    "pad_object": True,
    "probe_scale": 4.0,
    "gaussian_smoothing_sigma": 0.0,
    "n_filters_scale": 2,
    "amp_activation": "sigmoid",
}
TRAINING_PARAMS = MODEL_PARAMS | {
    "batch_size": 16,
    "nepochs": 50,
    "mae_weight": 0.0,
    "nll_weight": 1.0,
    "realspace_mae_weight": 0.0,
    "realspace_weight": 0.0,
    "nphotons": 1e9,
    "n_groups": 512,
    "neighbor_count": 4,
    "enable_oversampling": False,
    "positions.provided": True,
    "probe.trainable": False,
    "intensity_scale.trainable": True,
    "output_prefix": "training_outputs",
    "sequential_sampling": False,
}
INFERENCE_PARAMS = MODEL_PARAMS | {
    "model_path": "model.h5",
    "test_data_file_path": "test.npz",
    "neighbor_count": 4,
    "enable_oversampling": False,
    "debug": False,
    "output_prefix": "inference_outputs",
}


def test_training_defaults_become_the_flat_dict_of_the_reference() -> None:
    assert to_legacy_params(TrainingConfig(ModelConfig())) == TRAINING_PARAMS


def test_inference_defaults_become_the_flat_dict_of_the_reference() -> None:
    config = InferenceConfig(ModelConfig(), Path("model.h5"), Path("test.npz"))
    assert to_legacy_params(config) == INFERENCE_PARAMS
    assert config.n_groups is None


def test_model_alone_becomes_its_part_of_the_flat_dict() -> None:
    assert to_legacy_params(ModelConfig()) == MODEL_PARAMS


def test_paths_become_strings_under_their_legacy_keys() -> None:
    config = TrainingConfig(
        ModelConfig(), train_data_file=Path("a/train.npz"), test_data_file="b/test.npz"
    )
    params = to_legacy_params(config)
    assert params["train_data_file_path"] == str(Path("a/train.npz"))
    assert type(params["train_data_file_path"]) is str
    assert params["test_data_file_path"] == "b/test.npz"
    assert not {"train_data_file", "test_data_file", "output_dir"} & set(params)


def test_update_keeps_the_dicts_value_where_a_field_is_none() -> None:
    legacy = {"n_groups": 7, "neighbor_pool_size": 9, "unrelated": "kept", "N": 128}
    update_legacy_dict(legacy, InferenceConfig(ModelConfig(), "m", "t"))
    assert legacy == INFERENCE_PARAMS | {
        "n_groups": 7,
        "neighbor_pool_size": 9,
        "unrelated": "kept",
        "model_path": "m",
        "test_data_file_path": "t",
    }


def test_update_refuses_swapped_arguments() -> None:
    with pytest.raises(TypeError, match=r"expected the dict to update"):
        update_legacy_dict(TrainingConfig(ModelConfig()), {})  # type: ignore[arg-type]


def test_update_leaves_the_dict_alone_when_the_configuration_is_refused() -> None:
    legacy = {"N": 128}
    with pytest.raises(ValueError, match="grid_size"):
        update_legacy_dict(legacy, TorchDataConfig(grid_size=(2, 3)))
    assert legacy == {"N": 128}


def test_n_images_warns_and_becomes_n_groups() -> None:
    with pytest.warns(DeprecationWarning, match="n_groups=40") as caught:
        config = TrainingConfig(ModelConfig(), n_images=40)
    assert config.n_groups == 40
    assert caught[0].filename == __file__


def test_n_images_that_contradicts_n_groups_is_refused() -> None:
    with (
        pytest.warns(DeprecationWarning),
        pytest.raises(ValueError, match=r"n_images is 40; expected n_groups = 30"),
    ):
        TrainingConfig(ModelConfig(), n_groups=30, n_images=40)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"N": 0}, "N is 0"),
        ({"N": 64.0}, "N is 64.0"),
        ({"gridsize": 0}, "gridsize is 0"),
        ({"gridsize": True}, "gridsize is True"),
        ({"model_type": "Unsupervised"}, "model_type is 'Unsupervised'; expected one of pinn"),
        ({"n_filters_scale": 0}, "n_filters_scale is 0"),
        ({"probe_scale": 0}, "probe_scale is 0.0; expected a finite number > 0"),
        ({"gaussian_smoothing_sigma": -1.0}, "gaussian_smoothing_sigma is -1.0"),
        ({"object_big": 1}, "object_big is 1; expected True or False"),
        ({"amp_activation": None}, "amp_activation is None"),
    ],
)
def test_model_refuses_a_bad_value_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(PtychoTorchError, match=message):
        ModelConfig(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"nepochs": 0}, "nepochs is 0"),
        ({"nphotons": 0.0}, "nphotons is 0.0"),
        ({"nphotons": float("nan")}, "nphotons is nan"),
        ({"mae_weight": -0.1}, "mae_weight is -0.1"),
        ({"nll_weight": True}, "nll_weight is True; expected a number"),
        ({"realspace_weight": "1"}, "realspace_weight is '1'"),
        ({"realspace_mae_weight": float("inf")}, "realspace_mae_weight is inf"),
        ({"n_groups": 0}, "n_groups is 0"),
        ({"n_images": 0}, "n_images is 0"),
        ({"n_subsample": 0}, "n_subsample is 0"),
        ({"subsample_seed": -1}, "subsample_seed is -1"),
        ({"neighbor_count": 0}, "neighbor_count is 0"),
        ({"neighbor_pool_size": 0}, "neighbor_pool_size is 0"),
        ({"enable_oversampling": "yes"}, "enable_oversampling is 'yes'"),
        ({"sequential_sampling": None}, "sequential_sampling is None"),
        ({"positions_provided": 0}, "positions_provided is 0"),
        ({"probe_trainable": 0}, "probe_trainable is 0"),
        ({"intensity_scale_trainable": 0}, "intensity_scale_trainable is 0"),
        ({"train_data_file": 5}, "train_data_file is 5; expected a path"),
        ({"output_dir": 5}, "output_dir is 5; expected a path"),
        ({"model": None}, "model is None; expected a ModelConfig"),
    ],
)
def test_training_refuses_a_bad_value_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(PtychoTorchError, match=message):
        TrainingConfig(**({"model": ModelConfig()} | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_path": None}, "model_path is None; expected a path"),
        ({"test_data_file": None}, "test_data_file is None; expected a path"),
        ({"debug": 1}, "debug is 1"),
        ({"n_groups": 0}, "n_groups is 0"),
    ],
)
def test_inference_refuses_a_bad_value_by_name(changes: dict[str, Any], message: str) -> None:
    fields = {"model": ModelConfig(), "model_path": "m", "test_data_file": "t"} | changes
    with pytest.raises(PtychoTorchError, match=message):
        InferenceConfig(**fields)


def test_configurations_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        TrainingConfig(ModelConfig()).nepochs = 2  # type: ignore[misc]


@dataclass
class TorchDataConfig:
    grid_size: Any = (2, 2)
    K: int = 6
    N: int = 32
    n_subsample: int | None = None


@dataclass
class TorchModelConfig:
    mode: str = "Unsupervised"


@dataclass
class TorchTrainingConfig:
    model: Any = field(default_factory=TorchModelConfig)
    epochs: int = 5
    nll: Any = True
    output_dir: Path = Path("out")


def test_torch_spelling_of_the_data_is_translated() -> None:
    assert to_legacy_params(TorchDataConfig()) == {"gridsize": 2, "neighbor_count": 6, "N": 32}


@pytest.mark.parametrize(
    ("mode", "nll", "model_type", "nll_weight"),
    [("Unsupervised", True, "pinn", 1.0), ("Supervised", False, "supervised", 0.0)],
)
def test_torch_spelling_of_training_and_model_is_translated(
    mode: str, nll: bool, model_type: str, nll_weight: float
) -> None:
    params = to_legacy_params(TorchTrainingConfig(TorchModelConfig(mode), nll=nll))
    assert params == {
        "model_type": model_type,
        "nepochs": 5,
        "nll_weight": nll_weight,
        "output_prefix": "out",
    }


@pytest.mark.parametrize("grid_size", [(2, 3), (2,), 2, (0, 0), "22"])
def test_torch_grid_that_is_no_square_pair_is_refused(grid_size: Any) -> None:
    with pytest.raises(ValueError, match="grid_size is"):
        to_legacy_params(TorchDataConfig(grid_size))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (TorchModelConfig("unsupervised"), "mode is 'unsupervised'; expected 'Unsupervised' or"),
        (TorchTrainingConfig(nll=1), "nll is 1; expected True or False"),
        (TorchTrainingConfig(epochs=0), "epochs is 0"),
        (TorchDataConfig(K=0), "K is 0"),
    ],
)
def test_torch_value_without_a_translation_is_refused(config: Any, message: str) -> None:
    with pytest.raises(PtychoTorchError, match=message):
        to_legacy_params(config)


def test_torch_n_subsample_becomes_groups_per_seed_and_is_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    params = to_legacy_params(TorchDataConfig(n_subsample=7))
    assert params["groups_per_seed"] == 7 and "n_subsample" not in params
    assert "n_subsample=7 beside grid_size means groups per seed position" in caplog.text


def test_n_subsample_of_our_spelling_passes_beside_a_torch_model() -> None:
    config = TrainingConfig(TorchModelConfig(), n_subsample=500, subsample_seed=3)
    params = to_legacy_params(config)
    assert (params["n_subsample"], params["subsample_seed"]) == (500, 3)
    assert params["model_type"] == "pinn"


def test_two_spellings_that_agree_pass_and_that_contradict_are_refused() -> None:
    @dataclass
    class Both:
        gridsize: int
        grid_size: tuple[int, int] = (2, 2)

    assert to_legacy_params(Both(2)) == {"gridsize": 2}
    with pytest.raises(ValueError, match=r"grid_size is \(2, 2\); expected gridsize = 1"):
        to_legacy_params(Both(1))


def test_model_that_contradicts_the_fields_around_it_is_refused() -> None:
    @dataclass
    class Around:
        model: ModelConfig
        gridsize: int

    assert to_legacy_params(Around(ModelConfig(gridsize=2), 2))["gridsize"] == 2
    with pytest.raises(ValueError, match="gridsize is 3; expected 2"):
        to_legacy_params(Around(ModelConfig(gridsize=2), 3))


@pytest.mark.parametrize("config", [{"N": 64}, None, ModelConfig])
def test_something_that_is_no_dataclass_instance_is_refused(config: Any) -> None:
    with pytest.raises(TypeError, match="expected a dataclass instance"):
        to_legacy_params(config)
