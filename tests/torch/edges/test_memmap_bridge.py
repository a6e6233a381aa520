"""MemmapDatasetBridge: RawData's dict, frames mapped, caches where they were asked for."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden_builders import mirror_warning_ignored
from golden_records import COMMITTED, Records

from ptycho_torch.config_bridge import ModelConfig, TrainingConfig
from ptycho_torch.data.errors import PtychoTorchError
from ptycho_torch.data.raw_data import RawData
from ptycho_torch.memmap_bridge import MemmapDatasetBridge

PART = Records(COMMITTED)


def config(**options: Any) -> TrainingConfig:
    return TrainingConfig(ModelConfig(N=32, gridsize=2), **({"n_groups": 8} | options))


@pytest.fixture(name="scan")
def fixture_scan(tmp_path: Path) -> Path:
    (tmp_path / "scans").mkdir()
    return Path(shutil.copyfile(PART.input_path("b_jitter"), tmp_path / "scans" / "b_jitter.npz"))


@pytest.fixture(name="uncompressed")
def fixture_uncompressed(tmp_path: Path) -> Path:
    path = tmp_path / "stored.npz"
    np.savez(path, **PART.scan("i_noobj"))
    return path


def assert_same(got: dict[str, Any], expected: dict[str, Any]) -> None:
    assert set(got) == set(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(got[name], array, err_msg=name)


@pytest.mark.parametrize("seed", [0, 42])
@pytest.mark.parametrize(
    ("K", "nsamples", "gridsize"), [(4, 8, 2), (7, 144, 2), (9, 5, 3), (4, 9, 1)]
)
def test_grouped_data_equals_that_of_raw_data(
    scan: Path, K: int, nsamples: int, gridsize: int, seed: int
) -> None:
    with mirror_warning_ignored():
        expected = RawData.from_file(scan).generate_grouped_data(
            32, K=K, nsamples=nsamples, gridsize=gridsize, seed=seed
        )
        bridge = MemmapDatasetBridge(scan, config())
        for _ in range(2):  # the first call fills the cache, the second reads it
            assert_same(bridge.get_grouped_data(32, K, nsamples, gridsize, seed=seed), expected)


def test_defaults_come_from_the_configuration(scan: Path) -> None:
    bridge = MemmapDatasetBridge(scan, config(neighbor_count=6, n_groups=5))
    with mirror_warning_ignored():
        assert_same(bridge.get_grouped_data(seed=3), bridge.get_grouped_data(32, 6, 5, 2, seed=3))


@pytest.mark.parametrize(
    "options",
    [
        {"sequential_sampling": True},
        {"n_groups": 150, "enable_oversampling": True},
        {"n_groups": 150, "enable_oversampling": True, "neighbor_pool_size": 6},
    ],
)
def test_sampling_options_of_the_configuration_reach_the_grouping(
    scan: Path, options: dict[str, Any]
) -> None:
    expected = dict(options)
    expected["nsamples"] = expected.pop("n_groups", 8)
    with mirror_warning_ignored():
        assert_same(
            MemmapDatasetBridge(scan, config(**options)).get_grouped_data(seed=3),
            RawData.from_file(scan).generate_grouped_data(32, gridsize=2, seed=3, **expected),
        )


def test_cache_and_sidecar_lie_in_the_folder_that_was_named(scan: Path, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "maps"
    with mirror_warning_ignored():
        MemmapDatasetBridge(scan, config(), folder).get_grouped_data(32, 4, 8, 2, seed=0)
    assert (folder / "b_jitter.g2k4.groups_cache.npz").is_file()
    assert [path.name for path in scan.parent.iterdir()] == ["b_jitter.npz"]


def test_cache_lies_beside_the_scan_where_no_folder_was_named(scan: Path) -> None:
    with mirror_warning_ignored():
        MemmapDatasetBridge(scan, config()).get_grouped_data(32, 4, 8, 2, seed=0)
    assert (scan.parent / "b_jitter.g2k4.groups_cache.npz").is_file()


def test_cache_of_an_earlier_bridge_is_used_and_left_alone(scan: Path, tmp_path: Path) -> None:
    with mirror_warning_ignored():
        first = MemmapDatasetBridge(scan, config(), tmp_path).get_grouped_data(seed=0)
        cache = tmp_path / "b_jitter.g2k4.groups_cache.npz"
        before = (cache.stat().st_mtime_ns, cache.read_bytes())
        second = MemmapDatasetBridge(scan, config(), tmp_path)
        assert_same(second.get_grouped_data(seed=0), first)
        second.get_grouped_data(nsamples=20, seed=9)
    assert (cache.stat().st_mtime_ns, cache.read_bytes()) == before


def test_frames_are_mapped_in_place(uncompressed: Path, tmp_path: Path) -> None:
    bridge = MemmapDatasetBridge(uncompressed, config(), tmp_path / "maps")
    bridge.get_grouped_data(seed=0)
    assert bridge.raw.diff3d.any()
    assert str(uncompressed) in Path("/proc/self/maps").read_text()
    # no copy of what is mapped where it lies
    assert not list((tmp_path / "maps").rglob("*.sidecar.npz"))


def test_subsample_of_the_configuration_is_grouped(scan: Path) -> None:
    bridge = MemmapDatasetBridge(scan, config(n_subsample=50, subsample_seed=2))
    with mirror_warning_ignored():
        grouped = bridge.get_grouped_data(seed=1)
    chosen = np.sort(np.random.RandomState(2).permutation(144)[:50])
    np.testing.assert_array_equal(grouped["sample_indices"], chosen)
    frames = PART.scan("b_jitter")["diff3d"][chosen[grouped["nn_indices"]]]
    np.testing.assert_array_equal(grouped["diffraction"], np.moveaxis(frames, 1, -1))
    assert len(bridge) == 50


def test_without_n_groups_there_is_one_group_a_frame(uncompressed: Path) -> None:
    bridge = MemmapDatasetBridge(uncompressed, ModelConfig(N=32, gridsize=1))
    assert bridge.get_grouped_data(seed=0)["nn_indices"].shape == (60, 1)
    assert "60 frames of 32 x 32" in repr(bridge)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"absent\.npz") as caught:
        MemmapDatasetBridge(tmp_path / "absent.npz", config())
    assert isinstance(caught.value, PtychoTorchError)
