"""Energies and scales against sums written out in float64."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ptycho_torch import RawData, read_scan, simulate_scan
from ptycho_torch.data.detector import Detector
from ptycho_torch.data.errors import OptionError, ScanError
from ptycho_torch.data.frames import Frames
from ptycho_torch.data.normalization import (
    CHUNK_BYTES,
    frame_energies,
    intensity_scale,
    norm_Y_I,
)


def random_frames(dtype: str, frames: int = 30, N: int = 8) -> np.ndarray:
    rng = np.random.default_rng(0)
    return (rng.random((frames, N, N)) * 200).astype(dtype)


@pytest.mark.parametrize("dtype", ["u1", "u2", "i4", "f2", "f4", "f8"])
@pytest.mark.parametrize("measurement", ["amplitude", "counts"])
def test_energy_is_the_sum_of_squared_amplitudes(dtype: str, measurement: str) -> None:
    stored = random_frames(dtype)
    values = stored.astype(np.float64)
    expected = (values if measurement == "counts" else values**2).sum((1, 2))
    energies = frame_energies(Frames.from_array(stored, measurement=measurement))
    np.testing.assert_allclose(energies, expected, rtol=1e-14)


def test_energies_of_chosen_frames_are_those_of_all_frames_also_over_many_blocks() -> None:
    stored = random_frames("f4", frames=700, N=32)
    assert stored.nbytes > 2 * CHUNK_BYTES
    frames = Frames.from_array(stored)
    chosen = np.random.default_rng(1).permutation(700)[:600]
    np.testing.assert_array_equal(frame_energies(frames, chosen), frame_energies(frames)[chosen])


@pytest.mark.parametrize(
    ("value", "found"), [(np.nan, "NaN or infinite"), (np.inf, "NaN or infinite"), (-1, "negative")]
)
def test_bad_value_is_refused_with_its_frame_also_when_frames_are_chosen(
    value: float, found: str
) -> None:
    stored = random_frames("f4")
    stored[17, 2, 3] = value
    frames = Frames.from_array(stored)
    for indices in (None, np.array([3, 17, 4])):
        with pytest.raises(ScanError, match=f"frame 17 is {found}"):
            frame_energies(frames, indices)
    frame_energies(frames, np.array([3, 4]))


def test_scale_brings_the_mean_energy_of_grouped_frames_to_a_quarter_of_N_squared() -> None:
    stored = random_frames("f4")
    nn = np.random.default_rng(1).integers(0, 30, (12, 4))
    scale = intensity_scale([frame_energies(Frames.from_array(stored))[nn]], 8)
    X = np.float64(scale) * stored[nn]
    assert (X**2).sum((2, 3)).mean() == pytest.approx((8 / 2) ** 2, rel=1e-6)
    assert scale.dtype == np.float32


def test_scale_counts_every_grouped_frame_of_every_scan() -> None:
    first, second = np.full((3, 4), 2.0), np.full((1, 4), 10.0)
    expected = np.sqrt(4.0**2 / ((3 * 2 + 10) / 4))
    assert intensity_scale([first, second], 8) == pytest.approx(expected, rel=1e-6)


def test_frames_without_signal_and_photons_without_number_are_refused() -> None:
    with pytest.raises(ScanError, match="diff3d is zero in every grouped frame"):
        intensity_scale([np.zeros((5, 4))], 8)
    for photons in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(OptionError, match="nphotons"):
            norm_Y_I(4.0, photons)


def fields_of(scan: RawData) -> dict[str, object]:
    names = ("xcoords", "ycoords", "xcoords_start", "ycoords_start", "diff3d", "probeGuess")
    return {name: getattr(scan, name) for name in (*names, "scan_index", "objectGuess")}


@pytest.mark.parametrize(
    ("value", "dtype"), [(1e-42, "float32"), (1e45, "float64"), (1e200, "float64")]
)
def test_amplitudes_that_float32_cannot_scale_are_refused(value: float, dtype: str) -> None:
    scan = simulate_scan(n_frames=20, N=8, object_size=40, seed=3)
    fields = {"diff3d": np.full((20, 8, 8), value, dtype), "objectGuess": None}
    scan = RawData(**{**fields_of(scan), **fields})
    with pytest.raises(ScanError, match=r"diff3d is (about|up to) .*; expected amplitude between"):
        scan.generate_grouped_data(8, K=4, nsamples=10, gridsize=2, seed=0)


@pytest.mark.parametrize("value", [1e-45, 1e-60])
def test_counts_that_float32_cannot_hold_are_refused_though_it_holds_their_scale(
    value: float,
) -> None:
    scan = simulate_scan(n_frames=20, N=8, object_size=40, seed=3)
    counts = Frames.from_array(np.full((20, 8, 8), value), measurement="counts")
    scan = RawData(**{**fields_of(scan), "diff3d": counts, "objectGuess": None})
    with pytest.raises(ScanError, match=r"diff3d is about .*; expected counts between"):
        scan.generate_grouped_data(8, K=4, nsamples=10, gridsize=2, seed=0)


def test_one_pixel_that_float32_cannot_hold_is_refused() -> None:
    diff3d = np.ones((20_000, 4, 4))
    diff3d[7, 1, 2] = 1e39
    with pytest.raises(ScanError, match=r"up to 1e\+39"):
        frame_energies(Frames.from_array(diff3d))
    counts = np.ones((20, 4, 4))
    counts[7, 1, 2] = 1e39
    with pytest.raises(ScanError, match=r"up to 1e\+39"):
        frame_energies(Frames.from_array(counts, measurement="counts"))


@pytest.mark.parametrize("value", [1e-30, 1e-15, 1e15, 1e30])
def test_amplitudes_far_from_one_that_float32_holds_are_taken(value: float) -> None:
    scan = simulate_scan(n_frames=20, N=8, object_size=40, seed=3)
    far = RawData(**{**fields_of(scan), "diff3d": scan.diff3d.astype(np.float64) * value})
    X = far.generate_grouped_data(8, K=4, nsamples=10, gridsize=2, seed=0, patch_positions="scan")
    near = scan.generate_grouped_data(
        8, K=4, nsamples=10, gridsize=2, seed=0, patch_positions="scan"
    )
    np.testing.assert_allclose(X["X_full"], near["X_full"], rtol=1e-5)


@pytest.mark.parametrize("name", ["probeGuess", "objectGuess"])
@pytest.mark.parametrize("value", [1e300, 1e39j])
def test_probe_or_object_that_complex64_cannot_hold_is_refused(name: str, value: complex) -> None:
    scan = simulate_scan(n_frames=20, N=8, object_size=40, seed=3)
    wrong = np.array(getattr(scan, name), np.complex128)
    wrong[3, 4] = value
    with pytest.raises(ScanError, match=rf"{name} is up to 1e\+\d+; expected at most 3.40282e\+38"):
        RawData(**{**fields_of(scan), name: wrong})


@pytest.mark.parametrize("compressed", [True, False])
def test_patches_that_complex64_cannot_hold_are_refused(tmp_path: Path, compressed: bool) -> None:
    scan = simulate_scan(n_frames=40, N=8, object_size=60, seed=3)
    Y = np.ones((40, 8, 8), np.complex128)
    Y[7, 1, 2] = 1e39j
    scan.to_file(tmp_path / "whole.npz")
    with np.load(tmp_path / "whole.npz") as file:
        fields = {**file, "Y": Y}
    file_with_Y = tmp_path / "scan.npz"
    (np.savez_compressed if compressed else np.savez)(file_with_Y, **fields)
    options = {"K": 4, "nsamples": 40, "seed": 0, "gridsize": 1}
    for raw in (RawData(**{**fields_of(scan), "Y": Y}), read_scan(file_with_Y, use_file_Y=True)):
        with pytest.raises(ScanError, match=r"Y is up to 1e\+39; expected at most 3.40282e\+38"):
            raw.generate_grouped_data(8, **options)


def test_batch_of_patches_that_complex64_cannot_hold_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="torch is not installed: batches are its")
    from ptycho_torch import GroupingConfig, PtychoDataset

    scan = simulate_scan(n_frames=40, N=8, object_size=60, seed=3)
    Y = np.ones((40, 8, 8), np.complex128)
    Y[7, 1, 2] = 1e39j
    scan.to_file(tmp_path / "whole.npz")
    with np.load(tmp_path / "whole.npz") as file:
        np.savez(tmp_path / "scan.npz", **{**file, "Y": Y})
    grouping = GroupingConfig(gridsize=1)
    data = PtychoDataset(tmp_path / "scan.npz", grouping=grouping, ground_truth="file")
    assert data[[6, 8]].Y.abs().max() == 1
    with pytest.raises(ScanError, match=r"scan\.npz: Y is up to 1e\+39; expected at most"):
        data[[6, 7]]


def test_frames_that_outshine_the_scan_are_named_wherever_they_are(caplog):
    stack = np.ones((400, 8, 8), dtype=np.uint32)
    stack[301, 2] = 2**32 - 2
    frame_energies(Frames.from_array(stack, measurement="counts"))
    assert "1 of 400 frames have over 1000 times the light of a usual one (301)" in caplog.text
    caplog.clear()
    stack[301, 2] = 900
    stack[:150] = 0
    frame_energies(Frames.from_array(stack, measurement="counts"))
    assert not caplog.records


@pytest.mark.parametrize("dtype", ["u1", "u2", "i4", "u8"])
@pytest.mark.parametrize("chosen", [False, True])
def test_frames_with_the_largest_integer_are_named_with_what_to_type(caplog, dtype, chosen):
    top = np.iinfo(dtype).max
    # So bright a scan that no frame outshines it.
    stack = np.full((400, 8, 8), top - top // 3, dtype)
    stack[301, 2, :5] = stack[17, 0, 0] = top
    frames = Frames.from_array(stack, measurement="counts")
    frame_energies(frames, np.arange(399, 250, -1) if chosen else None)
    (said,) = caplog.messages
    found = "1 of 149 frames" if chosen else "2 of 400 frames"
    listed = "frame 301: 5 pixels" if chosen else "frame 17: 1 pixels, 301: 5 pixels"
    assert f"{found} have pixels that hold {top}, the largest integer of {stack.dtype}" in said
    assert f"({listed})" in said and f"--saturation {top} (" in said
    caplog.clear()
    frame_energies(frames.with_bad_pixels(stack == top))
    frame_energies(frames, np.arange(20, 300))
    assert not caplog.records
    frame_energies(frames.with_measurement("amplitude"))
    assert "--saturation" not in caplog.text and "--bad-pixels FILE.npy" in caplog.text


def test_what_the_warning_of_a_largest_integer_says_to_type_makes_it_bad(tmp_path, caplog):
    scan = simulate_scan(n_frames=150, N=16, object_size=80, seed=3)
    counts = np.round(np.square(scan.diff3d)).clip(0, 60_000).astype(np.uint16)
    counts[101, 3, 4] = 65535
    np.savez(tmp_path / "scan.npz", **{**fields_of(scan), "diff3d": counts})
    path, told = tmp_path / "scan.npz", {"measurement": "counts"}
    read_scan(path, **told).frame_energies()
    assert f"{path}: 1 of 150 frames have" in caplog.text and "101: 1 pixels" in caplog.text
    caplog.clear()
    marked = read_scan(path, **told, detector=Detector(saturation=65535))
    assert marked.bad_pixels is not None and np.argwhere(marked.bad_pixels).tolist() == [[3, 4]]
    caplog.clear()
    marked.frame_energies()
    assert not caplog.records
