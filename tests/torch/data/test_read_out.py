"""Detector options on formats that have their frames as N x N: what follows the pixels."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from ptycho_torch.data.config import GroupingConfig
from ptycho_torch.data.corrections import Corrections
from ptycho_torch.data.detector import Detector
from ptycho_torch.data.errors import OptionError, ScanError
from ptycho_torch.data.raw_data import read_scan
from ptycho_torch.simulation.scan import simulate_scan

N, M = 32, 30


@pytest.fixture(scope="module")
def scan():
    return simulate_scan(n_frames=M, N=N, photons=1e5, seed=4)


@pytest.fixture(params=["stored", "compressed", "frames last"])
def path(request, scan, tmp_path):
    counts = np.rint(np.asarray(scan.diff3d) ** 2).astype(np.uint16)
    counts[:, 5, 5] = 60_000
    fields = {name: getattr(scan, name) for name in ("xcoords", "ycoords", "probeGuess")}
    fields |= {"objectGuess": scan.objectGuess, "detector_pixel_m": 75e-6, "wavelength_m": 1.5e-10}
    fields["distance_m"] = 0.5
    if request.param == "frames last":
        counts = np.ascontiguousarray(counts.transpose(1, 2, 0))
    save = np.savez_compressed if request.param == "compressed" else np.savez
    save(tmp_path / "scan.npz", diff3d=counts, **fields)
    return tmp_path / "scan.npz"


def counts_of(scan):
    counts = np.rint(np.asarray(scan.diff3d) ** 2)
    counts[:, 5, 5] = 0
    return counts


def read(path, **options):
    return read_scan(path, measurement="counts", detector=Detector(**options), probe="auto")


def test_a_crop_makes_object_pixels_larger_and_positions_follow(scan, path, caplog):
    raw = read(path, size=16, saturation=60_000)
    inside = counts_of(scan)[:, 8:24, 8:24]
    assert np.allclose(raw.diff3d, np.sqrt(inside))
    assert np.allclose(raw.xcoords, scan.xcoords / 2) and np.allclose(raw.ycoords, scan.ycoords / 2)
    assert raw.geometry.object_pixel_m == pytest.approx(1.5e-10 * 0.5 / (16 * 75e-6))
    assert raw.objectGuess is None and raw.probeGuess.shape == (16, 16)
    assert "the probe is left out" in caplog.text and "objectGuess is left out" in caplog.text
    again = pickle.loads(pickle.dumps(raw))  # noqa: S301
    assert np.array_equal(again.diff3d, raw.diff3d)


def test_bins_add_counts_and_leave_object_pixels(scan, path):
    raw = read(path, bin=2, saturation=60_000)
    bad = np.zeros((16, 16), bool)
    bad[2, 2] = True
    summed = counts_of(scan).reshape(M, 16, 2, 16, 2).sum(axis=(2, 4))
    assert np.array_equal(raw.bad_pixels, bad)
    assert np.allclose(raw.diff3d, np.sqrt(np.where(bad, 0, summed)))
    assert np.array_equal(raw.xcoords, scan.xcoords)
    assert np.array_equal(raw.objectGuess, scan.objectGuess)


def test_bad_pixels_alone_change_nothing_else(scan, path, caplog):
    raw = read(path, saturation=60_000)
    assert "1 saturated" in caplog.text or "1 hot" in caplog.text
    assert raw.bad_pixels[5, 5] and raw.bad_pixels.sum() == 1
    assert np.array_equal(raw.xcoords, scan.xcoords)
    assert np.array_equal(raw.probeGuess, scan.probeGuess)


def test_caches_belong_to_the_options(path):
    grouping = GroupingConfig(gridsize=2, n_groups=8)
    for options in ({"size": 16}, {"bin": 2}, {"size": 16, "centre": (15, 16)}, {}):
        raw = read(path, **options)
        assert np.array_equal(raw.group(grouping).frame_energies, raw.frame_energies())


def test_amplitudes_are_cropped_but_not_added(scan, tmp_path):
    path = scan.to_file(tmp_path / "amplitude.npz")
    raw = read_scan(path, detector=Detector(size=16), probe="initial")
    assert np.array_equal(raw.diff3d, scan.diff3d[:, 8:24, 8:24])
    with pytest.raises(OptionError, match=r"bin is given for amplitudes.*measurement='counts'"):
        read_scan(path, detector=Detector(bin=2))


@pytest.mark.parametrize(("size", "scale"), [(16, 0.5), (64, 2.0), (None, 1.0)])
def test_positions_in_metres_are_scaled_once_and_so_is_the_pixel(scan, tmp_path, size, scale):
    stored = {"probeGuess": scan.probeGuess, "diff3d": scan.diff3d}
    path = tmp_path / "metres.npz"
    np.savez(path, xcoords=scan.xcoords * 8e-9, ycoords=scan.ycoords * 8e-9, **stored)
    metres = Corrections(position_unit="m", pixel_size_m=8e-9)
    raw = read_scan(path, corrections=metres, detector=Detector(size=size), probe="initial")
    assert np.ptp(raw.xcoords) == pytest.approx(np.ptp(scan.xcoords) * scale)
    assert np.ptp(raw.ycoords) == pytest.approx(np.ptp(scan.ycoords) * scale)
    assert raw.geometry.object_pixel_m == pytest.approx(8e-9 / scale)


def test_positions_out_of_reach_are_refused_after_corrections_too(scan, tmp_path):
    path = scan.to_file(tmp_path / "pixels.npz")
    metres = Corrections(position_unit="m", pixel_size_m=1e-9)
    with pytest.raises(ScanError, match="px from the origin"):
        read_scan(path, corrections=metres)


@pytest.mark.parametrize("window", [{"size": 16}, {"size": 12, "centre": (15, 18)}, {"bin": 2}])
@pytest.mark.parametrize("format", ["npz", "cxi"])
def test_the_zero_frequency_moves_before_a_detector_crops(scan, tmp_path, format, window):
    if format == "cxi":
        pytest.importorskip("h5py", reason="h5py is not installed: nothing to write CXI with")
    counts = np.rint(np.asarray(scan.diff3d) ** 2).astype(np.uint32)
    dark = 1 + np.arange(N * N, dtype=np.uint32).reshape(N, N) % 3
    detector = Detector(**window, dark=dark)
    stored = {"centre": counts + dark, "corner": np.fft.ifftshift(counts, axes=(1, 2)) + dark}
    found = {}
    for place, frames in stored.items():
        path = tmp_path / f"{place}.{format}"
        if format == "npz":
            fields = {name: getattr(scan, name) for name in ("xcoords", "ycoords", "probeGuess")}
            np.savez(path, diff3d=frames, **fields)
        else:
            _write_cxi(path, frames, scan)
        found[place] = read_scan(
            path,
            measurement="counts",
            detector=detector,
            probe="initial",
            corrections=Corrections(zero_frequency=place),
        )
    np.testing.assert_array_equal(found["corner"].diff3d, found["centre"].diff3d)
    np.testing.assert_allclose(np.ptp(found["corner"].xcoords), np.ptp(found["centre"].xcoords))
    assert found["corner"].geometry == found["centre"].geometry


def _write_cxi(path, frames, scan, pixel_m=8e-9):
    import h5py

    with h5py.File(path, "w") as file:
        detector = file.create_group("entry_1/instrument_1/detector_1")
        detector["data"] = frames
        detector["distance"], detector["x_pixel_size"] = 0.5, 75e-6
        file["entry_1/instrument_1/source_1/wavelength"] = 8e-9 * N * 75e-6 / 0.5
        places = np.stack([scan.xcoords, scan.ycoords, 0 * scan.xcoords], axis=1)
        file["entry_1/sample_1/geometry_1/translation"] = places * pixel_m


def test_frames_that_are_no_squares_have_no_corner_to_move(scan, tmp_path):
    pytest.importorskip("h5py", reason="h5py is not installed: nothing to write CXI with")
    counts = np.pad(np.rint(np.asarray(scan.diff3d) ** 2), ((0, 0), (4, 0), (0, 0)))
    _write_cxi(tmp_path / "wide.cxi", counts.astype(np.uint32), scan)
    options = {"detector": Detector(size=N), "corrections": Corrections(zero_frequency="corner")}
    with pytest.raises(OptionError, match=r"zero_frequency is .*expected square frames"):
        read_scan(tmp_path / "wide.cxi", **options)


def test_an_object_pixel_is_that_of_the_frames_as_stored(scan, tmp_path):
    h5py = pytest.importorskip("h5py", reason="h5py is not installed: nothing to write CXI with")
    path = tmp_path / "scan.cxi"
    counts = np.rint(np.asarray(scan.diff3d) ** 2).astype(np.uint32)
    _write_cxi(path, counts, scan)
    with h5py.File(path, "r+") as file:
        del file["entry_1/instrument_1/source_1/wavelength"]
    for given in ({"object_pixel_m": 8e-9}, {"corrections": Corrections(pixel_size_m=8e-9)}):
        raw = read_scan(path, detector=Detector(size=16), probe="initial", **given)
        assert raw.geometry.object_pixel_m == pytest.approx(16e-9)
        assert np.ptp(raw.xcoords) == pytest.approx(np.ptp(scan.xcoords) / 2)
    _write_cxi(path, np.pad(counts, ((0, 0), (4, 0), (0, 0))), scan)
    with h5py.File(path, "r+") as file:
        del file["entry_1/instrument_1/source_1/wavelength"]
    cropped = {"detector": Detector(size=N), "probe": "initial"}
    with pytest.raises(OptionError, match=r"one number for frames of 36 x 32.*a pair"):
        read_scan(path, object_pixel_m=8e-9, **cropped)
    raw = read_scan(path, object_pixel_m=(8e-9 * N / 36, 8e-9), **cropped)
    assert raw.geometry.object_pixel_m == pytest.approx(8e-9)


def test_what_the_refusal_of_a_position_unit_advises_is_taken(scan, tmp_path):
    """Micrometres that were written as if they were metres; the geometry is whole."""
    h5py = pytest.importorskip("h5py", reason="h5py is not installed: nothing to write CXI with")
    path = tmp_path / "scan.cxi"
    _write_cxi(path, np.rint(np.asarray(scan.diff3d) ** 2).astype(np.uint32), scan)
    right = read_scan(path, probe="initial")
    places, detector = "entry_1/sample_1/geometry_1/translation", "entry_1/instrument_1/detector_1"
    with h5py.File(path, "r+") as file:
        file[places][...] *= 1e6
        assert f"{detector}/distance" in file
    with pytest.raises(OptionError, match="which says its own unit") as refused:
        read_scan(path, corrections=Corrections(position_unit="um"), probe="initial")
    assert "Read HDF5 of another unit with --layout" in str(refused.value)
    assert "--pixel-size" not in str(refused.value)
    layout = {
        "measurement": "counts",
        "frames": f"/{detector}/data",
        "positions": {"path": f"/{places}", "columns": ["x", "y", "z"], "unit": "um"},
        "wavelength": {"path": "/entry_1/instrument_1/source_1/wavelength", "unit": "m"},
        "distance": {"path": f"/{detector}/distance", "unit": "m"},
        "detector_pixel": {"path": f"/{detector}/x_pixel_size", "unit": "m"},
    }
    mended = read_scan(path, layout=layout, probe="initial")
    assert np.allclose(np.diff(mended.xcoords), np.diff(right.xcoords), atol=1e-4)
    assert np.allclose(np.diff(mended.ycoords), np.diff(right.ycoords), atol=1e-4)


@pytest.mark.parametrize("format", ["npz", "cxi"])
@pytest.mark.parametrize("options", [{}, {"detector": Detector(bin=2)}])
def test_a_mask_of_ones_own_stands_beside_the_files(scan, tmp_path, format, options):
    counts = np.rint(np.asarray(scan.diff3d) ** 2).astype(np.uint32)
    counts[:, 9, 4] = 2**31
    mask, path = np.zeros((N, N), np.uint8), tmp_path / f"scan.{format}"
    mask[9, 4] = mask[16, 17] = 1
    if format == "npz":
        fields = {name: getattr(scan, name) for name in ("xcoords", "ycoords", "probeGuess")}
        np.savez(path, diff3d=counts, **fields)
    else:
        pytest.importorskip("h5py", reason="h5py is not installed: nothing to write CXI with")
        _write_cxi(path, counts, scan)
    np.save(tmp_path / "mask.npy", mask)
    for given in (mask, mask.astype(bool), tmp_path / "mask.npy"):
        raw = read_scan(path, measurement="counts", probe="initial", bad_pixels=given, **options)
        b = 2 if options else 1
        assert np.argwhere(raw.bad_pixels).tolist() == [[9 // b, 4 // b], [16 // b, 17 // b]]
        kept = np.where(raw.bad_pixels, 0, counts.reshape(M, N // b, b, N // b, b).sum((2, 4)))
        np.testing.assert_allclose(raw.diff3d, np.sqrt(kept))
    with pytest.raises(ScanError, match=r"bad_pixels shape .* as frames"):
        read_scan(path, measurement="counts", bad_pixels=mask[1:])
