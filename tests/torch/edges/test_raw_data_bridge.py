"""RawDataTorch: defaults from a configuration or a legacy dict, subsampling, the two backends."""

from __future__ import annotations

import sys
import types
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden_builders import mirror_warning_ignored
from golden_records import COMMITTED, Records, seed_of_call

from ptycho_torch.config_bridge import InferenceConfig, ModelConfig, TrainingConfig
from ptycho_torch.data.errors import MissingDependencyError
from ptycho_torch.raw_data_bridge import RawDataTorch

PART = Records(COMMITTED)
Arrays = dict[str, Any]


def scan_arguments(name: str, *, with_object: bool = False) -> Arrays:
    names = ["xcoords", "ycoords", "diff3d", "probeGuess", "scan_index"]
    scan = PART.scan(name)
    return {n: scan[n] for n in [*names, "objectGuess"][: 6 if with_object else 5]}


def config(n_groups: int | None = 8, gridsize: int = 2, **options: Any) -> TrainingConfig:
    return TrainingConfig(ModelConfig(N=32, gridsize=gridsize), n_groups=n_groups, **options)


def assert_same(got: Arrays, expected: Arrays) -> None:
    assert set(got) == set(expected)
    for name, array in expected.items():
        if array is None:
            assert got[name] is None
        else:
            assert got[name].dtype == array.dtype, name
            np.testing.assert_array_equal(got[name], array, err_msg=name)


@dataclass
class ForeignModel:
    N: int = 32
    gridsize: int = 2


@dataclass
class ForeignConfig:
    model: Any = field(default_factory=ForeignModel)
    neighbor_count: int = 4
    n_groups: int = 8


@dataclass
class TorchSpelling:
    N: int = 32
    grid_size: tuple[int, int] = (2, 2)
    K: int = 4
    n_groups: int = 8


@pytest.mark.parametrize(
    "source",
    [
        {"config": config()},
        {"config": ForeignConfig()},
        {"config": TorchSpelling()},
        {"params": {"N": 32, "gridsize": 2, "neighbor_count": 4, "n_groups": 8}},
    ],
    ids=["dataclass", "foreign dataclass", "torch spelling", "legacy dict"],
)
def test_defaults_come_from_the_configuration_as_recorded(source: Arrays) -> None:
    name = "b_gs2_K4_n8_s42_gridsize_from_cfg"
    case, recorded = PART.cases[name], PART.arrays("cases", name)
    with mirror_warning_ignored():
        grouped = RawDataTorch(
            **scan_arguments(case["input"], with_object=True), **source
        ).generate_grouped_data(seed=case["call"]["seed"])
    np.testing.assert_array_equal(grouped["nn_indices"], recorded["g.nn_indices"])
    assert grouped["Y"].shape == (8, 32, 32, 4)


def test_arguments_of_the_call_win_over_the_configuration() -> None:
    raw = RawDataTorch(**scan_arguments("i_noobj"), config=config(enable_oversampling=True))
    grouped = raw.generate_grouped_data(
        K=6, nsamples=3, gridsize=1, seed=0, enable_oversampling=False
    )
    assert_same(grouped, raw.raw.generate_grouped_data(32, K=6, nsamples=3, gridsize=1, seed=0))


@pytest.mark.parametrize(
    "options",
    [
        {"sequential_sampling": True},
        {"n_groups": 70, "enable_oversampling": True},
        {"n_groups": 70, "enable_oversampling": True, "neighbor_pool_size": 6},
    ],
)
def test_sampling_options_of_the_configuration_reach_the_grouping(options: Arrays) -> None:
    raw = RawDataTorch(**scan_arguments("i_noobj"), config=config(**options))
    expected = dict(options)
    expected["nsamples"] = expected.pop("n_groups", 8)
    assert_same(
        raw.generate_grouped_data(seed=3),
        raw.raw.generate_grouped_data(32, K=4, gridsize=2, seed=3, **expected),
    )


def test_inference_without_n_groups_means_one_group_a_frame() -> None:
    model = ModelConfig(N=32, gridsize=1)
    raw = RawDataTorch(**scan_arguments("i_noobj"), config=InferenceConfig(model, "m", "t"))
    assert raw.generate_grouped_data(seed=0)["nn_indices"].shape == (60, 1)


def test_callers_legacy_dict_is_updated_from_the_configuration() -> None:
    params = {"N": 64, "unrelated": 1}
    raw = RawDataTorch(**scan_arguments("i_noobj"), config=config(n_groups=5), params=params)
    assert raw.params is params
    assert (params["N"], params["gridsize"], params["n_groups"]) == (32, 2, 5)
    assert params["unrelated"] == 1


def test_without_a_configuration_the_gridsize_must_be_said() -> None:
    raw = RawDataTorch(**scan_arguments("i_noobj"))
    with pytest.raises(TypeError, match="gridsize is None"):
        raw.generate_grouped_data()
    assert raw.generate_grouped_data(gridsize=1, seed=0)["X_full"].shape == (1, 32, 32, 1)


@pytest.mark.parametrize("n_subsample", [20, 60, 61])
def test_frames_that_the_caller_chose_are_all_kept_whatever_n_subsample_says(
    n_subsample: int,
) -> None:
    raw = RawDataTorch(**scan_arguments("i_noobj"), config=config(n_subsample=n_subsample))
    expected = RawDataTorch(**scan_arguments("i_noobj"), config=config())
    assert len(raw) == 60
    assert_same(raw.generate_grouped_data(seed=4), expected.generate_grouped_data(seed=4))


def test_a_label_set_from_outside_reaches_the_result_and_indexes_nothing() -> None:
    raw = RawDataTorch(**scan_arguments("i_noobj"), config=config())
    expected = raw.generate_grouped_data(seed=4)
    raw.sample_indices = np.arange(1000, 1060)
    grouped = raw.generate_grouped_data(seed=4)
    np.testing.assert_array_equal(grouped.pop("sample_indices"), np.arange(1000, 1060))
    np.testing.assert_array_equal(raw.sample_indices, np.arange(1000, 1060))
    assert_same(grouped, expected)
    with pytest.raises(ValueError, match=r"sample_indices is .*; expected \(60,\) integer"):
        raw.sample_indices = np.arange(3)


@pytest.mark.parametrize("as_object", [False, True])
def test_a_record_goes_around_with_all_that_it_carries(as_object: bool) -> None:
    arguments = scan_arguments("i_noobj")
    rng = np.random.default_rng(0)
    record = arguments | {
        "xcoords_start": arguments["xcoords"] + rng.random(60),
        "ycoords_start": arguments["ycoords"] + rng.random(60),
        "Y": rng.random((60, 32, 32)) + 1j,
        "metadata": {"nphotons": 1e7},
        "sample_indices": np.arange(7, 67),
    }
    source = types.SimpleNamespace(**record) if as_object else record
    back = RawDataTorch.from_acquisition(source, config()).to_acquisition()
    assert back["objectGuess"] is None
    for name, value in record.items():
        np.testing.assert_array_equal(back[name], value, err_msg=name)
    again = RawDataTorch.from_acquisition(back).to_acquisition()
    for name, value in back.items():
        np.testing.assert_array_equal(again[name], value, err_msg=name)


def test_a_record_without_start_positions_or_metadata_has_none_made_up() -> None:
    raw = RawDataTorch.from_acquisition(scan_arguments("i_noobj"), config())
    np.testing.assert_array_equal(raw.xcoords_start, raw.xcoords)
    assert raw.metadata is None and raw.Y is None and raw.sample_indices is None
    direct = RawDataTorch(**scan_arguments("i_noobj"), config=config())
    assert_same(raw.generate_grouped_data(seed=1), direct.generate_grouped_data(seed=1))


def test_scan_from_arrays_keeps_the_cache_at_the_path_it_is_given(tmp_path: Path) -> None:
    arguments = scan_arguments("i_noobj")
    scan = tmp_path / "its name.npz"
    for factor in (1, 3):  # other frames at the same positions: their energies are not mixed up
        arguments["diff3d"] = arguments["diff3d"] * np.float32(factor)
        raw = RawDataTorch(**arguments, config=config())
        expected = raw.generate_grouped_data(seed=2)
        for _ in range(2):
            assert_same(raw.generate_grouped_data(dataset_path=scan, seed=2), expected)
    assert [path.name for path in tmp_path.iterdir()] == ["its name.g2k4.groups_cache.npz"]
    groups = np.load(tmp_path / "its name.g2k4.groups_cache.npz")["all_groups"]
    assert groups.dtype == np.int64 and groups.shape[1] == 4


@pytest.mark.parametrize("seed", [5, np.int64(5)])
def test_fourth_argument_is_a_seed_where_it_is_an_integer(seed: Any) -> None:
    raw = RawDataTorch(**scan_arguments("i_noobj"), config=config())
    expected = raw.raw.generate_grouped_data(32, 4, 9, None, 5, gridsize=2)
    assert_same(raw.raw.generate_grouped_data(32, 4, 9, seed, gridsize=2), expected)
    assert_same(raw.generate_grouped_data(32, 4, 9, seed), expected)
    with pytest.raises(ValueError, match="dataset_path is 5 beside seed=6"):
        raw.generate_grouped_data(32, 4, 9, seed, 6)
    with pytest.raises(TypeError, match="dataset_path is True"):
        raw.generate_grouped_data(32, 4, 9, True)


def test_attributes_are_those_of_the_raw_data() -> None:
    arguments = scan_arguments("i_noobj")
    raw = RawDataTorch(**arguments)
    for name, array in arguments.items():
        np.testing.assert_array_equal(getattr(raw, name), array)
    assert "60 frames of 32 x 32" in repr(raw)
    with pytest.raises(AttributeError, match="nothing_like_it"):
        _ = raw.nothing_like_it


def test_unknown_backend_is_refused() -> None:
    with pytest.raises(ValueError, match="backend is 'tensorflow'; expected one of native, legacy"):
        RawDataTorch(**scan_arguments("i_noobj"), backend="tensorflow")  # type: ignore[arg-type]


def test_legacy_backend_without_the_package_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ptycho", None)
    with pytest.raises(MissingDependencyError, match="ptycho is not installed"):
        RawDataTorch(**scan_arguments("i_noobj"), backend="legacy")


class StandIn:
    """Draws from NumPy's global stream, as the reference does, and notes its arguments."""

    @classmethod
    def from_coords_without_pc(cls, *arguments: Any) -> StandIn:
        made = cls()
        made.arguments = arguments  # type: ignore[attr-defined]
        return made

    def generate_grouped_data(self, **options: Any) -> Arrays:
        np.random.seed(options["seed"])
        return {"nn_indices": np.random.permutation(60)[:5, None], "Y": None, "options": options}


@pytest.fixture(name="stand_in")
def fixture_stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("ptycho.raw_data")
    module.RawData = StandIn  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ptycho", types.ModuleType("ptycho"))
    monkeypatch.setitem(sys.modules, "ptycho.raw_data", module)


@pytest.mark.usefixtures("stand_in")
def test_legacy_backend_hands_the_call_on_and_leaves_the_global_stream_alone() -> None:
    raw = RawDataTorch(**scan_arguments("i_noobj"), config=config(), backend="legacy")
    raw.sample_indices = np.arange(60)
    state = np.random.get_state()
    grouped = raw.generate_grouped_data(seed=11, gridsize=1)
    after = np.random.get_state()
    assert (after[0], after[2:]) == (state[0], state[2:])
    np.testing.assert_array_equal(after[1], state[1])
    options = grouped["options"]
    assert (options["N"], options["K"], options["nsamples"], options["gridsize"]) == (32, 4, 8, 1)
    assert options["seed"] == 11
    assert len(raw._legacy.arguments[0]) == len(grouped["sample_indices"]) == 60


@pytest.mark.usefixtures("stand_in")
def test_legacy_backend_without_a_seed_draws_anew_at_every_call() -> None:
    raw = RawDataTorch(**scan_arguments("i_noobj"), backend="legacy")
    drawn = [raw.generate_grouped_data(gridsize=1)["nn_indices"] for _ in range(2)]
    assert (drawn[0] != drawn[1]).any()


@pytest.mark.usefixtures("stand_in")
def test_legacy_backend_refuses_the_scan_positions_it_does_not_have() -> None:
    raw = RawDataTorch(**scan_arguments("i_noobj"), backend="legacy")
    with pytest.raises(ValueError, match="patch_positions is 'scan'; expected 'reference'"):
        raw.generate_grouped_data(gridsize=1, patch_positions="scan")


@pytest.mark.parametrize("name", list(PART.groups))
def test_legacy_backend_gives_what_native_gives(name: str) -> None:
    pytest.importorskip("ptycho.raw_data", reason="ptycho is not installed: the two backends")
    arguments = scan_arguments(name)
    for record in PART.groups[name]:
        call = dict(record["call"])
        call["seed"] = seed_of_call(call, record["prelude_seed"], len(arguments["xcoords"]))
        native, legacy = (
            RawDataTorch(**arguments, backend=backend).generate_grouped_data(**call)  # type: ignore[arg-type]
            for backend in ("native", "legacy")
        )
        assert_same(native, legacy)
