"""What PtychoPINN's own code asks of scans, containers and memory maps."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden_builders import build, mirror_warning_ignored
from golden_records import COMMITTED, Records

from ptycho_torch import RawData, simulate_scan
from ptycho_torch.config_bridge import ModelConfig, TrainingConfig
from ptycho_torch.data_container_bridge import PtychoDataContainerTorch, load
from ptycho_torch.memmap_bridge import MemmapDatasetBridge

PART = Records(COMMITTED)
CONFIG = TrainingConfig(ModelConfig(N=32, gridsize=2), n_groups=8)


def grouped_and_probe(**changes: Any) -> tuple[dict[str, Any], Any]:
    scan = dict(PART.scan("i_noobj")) | changes
    raw = build(scan)
    return raw.generate_grouped_data(32, K=4, nsamples=8, seed=0, gridsize=2), scan["probeGuess"]


def test_container_has_measured_positions_beside_the_nominal_ones() -> None:
    grouped, probe = grouped_and_probe()
    container = PtychoDataContainerTorch(grouped, probe)
    measured = np.asarray(container.coords_relative)
    assert measured.dtype == np.float32 and measured.shape == (8, 1, 2, 4)
    np.testing.assert_array_equal(measured, grouped["coords_relative"].astype(np.float32))
    moved = grouped | {"coords_start_relative": grouped["coords_relative"] + 1}
    container = PtychoDataContainerTorch(moved, probe)
    np.testing.assert_array_equal(container.coords_relative, measured)
    np.testing.assert_array_equal(
        container.coords_nominal, moved["coords_start_relative"].astype(np.float32)
    )
    np.testing.assert_array_equal(container.probeGuess, np.asarray(container.probe))


def test_container_needs_four_arrays_and_takes_the_measured_positions_for_the_rest() -> None:
    grouped, probe = grouped_and_probe()
    names = ("X_full", "coords_relative", "coords_offsets", "nn_indices")
    four = {name: grouped[name] for name in names}
    container = load(lambda: four, probe, None, False)
    np.testing.assert_array_equal(container.coords_nominal, container.coords_relative)
    assert (np.asarray(container.Y) == 1).all()
    for name in names:
        rest = {key: value for key, value in four.items() if key != name}
        with pytest.raises(ValueError, match=rf"grouped_data\['{name}'\] is missing"):
            PtychoDataContainerTorch(rest, probe)


def test_metadata_is_none_where_there_is_none(tmp_path: Path) -> None:
    arrays = dict(PART.scan("i_noobj"))
    scans = [build(arrays), build(arrays | {"metadata": {}}), simulate_scan(n_frames=9, N=16)]
    assert scans[0].metadata is None
    np.savez(tmp_path / "scan.npz", **arrays)
    assert RawData.from_file(tmp_path / "scan.npz").metadata is None
    # As many frames as pixels: the file says which axis is which, and that is no metadata.
    square = RawData.from_coords_without_pc(
        *(arrays[name][:32] for name in ("xcoords", "ycoords", "diff3d")), arrays["probeGuess"]
    )
    assert RawData.from_file(square.to_file(tmp_path / "square.npz")).metadata is None
    kept = RawData.from_file(scans[2].to_file(tmp_path / "kept.npz")).metadata
    assert kept is not None and kept["nphotons"] == 1e5


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"gridsize": 3, "K": 5}, "K=5 must be >= C=9"),
        ({"nsamples": 61}, "K choose C oversampling"),
        ({"nsamples": 61}, "enable_oversampling=True"),
        (
            {"nsamples": 61, "enable_oversampling": True, "neighbor_pool_size": 3},
            "neighbor_pool_size >= C",
        ),
        (
            {"nsamples": 61, "enable_oversampling": True, "neighbor_pool_size": 3},
            "K choose C oversampling",
        ),
    ],
)
def test_refusals_have_the_words_that_code_matches_on(options: Any, words: str) -> None:
    raw = build(dict(PART.scan("i_noobj")))
    with pytest.raises(ValueError) as caught:
        raw.generate_grouped_data(32, **({"K": 4, "nsamples": 5, "gridsize": 2} | options))
    assert words in str(caught.value)


def test_two_files_open_as_a_pair(tmp_path: Path) -> None:
    paths = [
        simulate_scan(n_frames=n, N=16, seed=0).to_file(tmp_path / f"{n}.npz") for n in (9, 12)
    ]
    assert [len(scan) for scan in RawData.from_files(*paths)] == [9, 12]


@pytest.mark.parametrize("n_modes", [1, 3])
def test_simulation_at_given_positions_gives_the_frames_of_a_simulated_scan(n_modes: int) -> None:
    scan = simulate_scan(n_frames=12, N=16, photons=None, n_modes=n_modes, seed=3)
    again = RawData.from_simulation(scan.xcoords, scan.ycoords, scan.probeGuess, scan.objectGuess)
    np.testing.assert_allclose(again.diff3d, scan.diff3d, rtol=2e-5, atol=2e-5)
    assert again.xcoords_start is again.xcoords and again.diff3d.dtype == np.float32


def counts_file(tmp_path: Path, **more: Any) -> tuple[Path, dict[str, Any]]:
    arrays = dict(PART.scan("i_noobj"))
    counts = np.rint(arrays.pop("diff3d") ** 2).astype(np.uint16)
    np.savez(tmp_path / "scan.npz", **arrays, **({"diff3d": counts} | more))
    return tmp_path / "scan.npz", arrays | {"counts": counts}


def test_memory_map_opens_counts_when_it_hears_so(tmp_path: Path) -> None:
    path, arrays = counts_file(tmp_path)
    with pytest.raises(ValueError, match=r"--measurement counts"):
        MemmapDatasetBridge(path, CONFIG)
    bridge = MemmapDatasetBridge(path, CONFIG, measurement="counts")
    nn = bridge.get_grouped_data(seed=0)["nn_indices"]
    frames = bridge.get_grouped_data(seed=0)["diffraction"]
    expected = np.sqrt(arrays["counts"].astype(np.float32))[nn].transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(frames, expected)


def test_memory_map_has_the_attributes_of_the_file(tmp_path: Path) -> None:
    arrays = dict(PART.scan("i_noobj"))
    np.savez(tmp_path / "scan.npz", **arrays)
    bridge = MemmapDatasetBridge(tmp_path / "scan.npz", CONFIG)
    for name in ("xcoords", "ycoords", "diff3d", "probeGuess", "scan_index"):
        np.testing.assert_array_equal(getattr(bridge, name), arrays[name])
    assert bridge.objectGuess is None and bridge.config is CONFIG
    assert bridge.npz_path == tmp_path / "scan.npz"
    assert bridge.raw_data_torch.raw is bridge.raw
    with pytest.raises(AttributeError, match="nothing_like_it"):
        _ = bridge.nothing_like_it


def test_memory_map_takes_diffraction_where_a_file_has_both_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    frames = np.random.default_rng(0).random((60, 32, 32))
    path, _ = counts_file(tmp_path, diffraction=frames)
    caplog.set_level(logging.INFO)
    np.testing.assert_array_equal(MemmapDatasetBridge(path, CONFIG).diff3d, frames)
    assert "both diff3d and diffraction are there; diffraction is taken" in caplog.text


def test_grouped_indices_are_int32_or_int64_as_the_contract_says() -> None:
    with mirror_warning_ignored():
        raw = build(dict(PART.scan("i_noobj")))
        kinds = [
            raw.generate_grouped_data(32, 4, n, 0, gridsize=g, enable_oversampling=True)[
                "nn_indices"
            ].dtype
            for n, g in ((8, 2), (8, 1), (70, 2))
        ]
    assert kinds == [np.int32, np.int64, np.int64]
