"""CXI of cdtools and PyNX: the files in the shared folder, and files of every legal shape."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scan_files import (
    BAD,
    DEFAULT_STEPS,
    DETECTOR_PIXEL_M,
    DISTANCE_M,
    GEOMETRY,
    M,
    N,
    counts_of,
    measured_scan,
    write_cxi,
)

from ptycho_torch.data.detector import Detector
from ptycho_torch.data.errors import OptionError, PtychoTorchError, ScanError
from ptycho_torch.data.raw_data import read_scan
from ptycho_torch.data.readers import cxi
from ptycho_torch.data.readers.scan_file import open_scan_file
from ptycho_torch.data.scan import Scan

h5py = pytest.importorskip(
    "h5py", reason="h5py is not installed: pip install ptycho-torch[formats]"
)

SHARED = Path(os.environ.get("PTYCHO_TORCH_DATA", "absent"), "data")
SCAN = measured_scan()
DETECTOR, SOURCE = "entry_1/instrument_1/detector_1", "entry_1/instrument_1/source_1"
TRANSLATION = "entry_1/sample_1/geometry_1/translation"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "scan.cxi"


def read(path: Path, **options: Any) -> Scan:
    return read_scan(path, **{"probe": "initial", "sidecar": "off", **options})


def changed(path: Path, **changes: Any) -> Path:
    """A full file with datasets replaced, or left out where the change is None."""
    write_cxi(path, SCAN)
    names = {"translation": TRANSLATION, "energy": f"{SOURCE}/energy"}
    names |= {"wavelength": f"{SOURCE}/wavelength", "illumination": f"{SOURCE}/illumination"}
    names |= {"monitor": "entry_1/data_1/monitor"}
    with h5py.File(path, "r+") as file:
        for key, value in changes.items():
            name = names.get(key, f"{DETECTOR}/{key}")
            if name in file:
                del file[name]
            if value is not None:
                file[name] = value
    return path


def refused(path: Path, error: type[Exception] = ScanError, **options: Any) -> str:
    with pytest.raises(error) as caught:
        read(path, **options)
    line = str(caught.value)
    assert isinstance(caught.value, PtychoTorchError) and str(path) in line and "\n" not in line
    return line


def assert_same_scan(found: Scan, shift: tuple[float, float] = (0, 0)) -> None:
    np.testing.assert_allclose(found.xcoords, SCAN.xcoords + shift[0], rtol=0, atol=1e-4)
    np.testing.assert_allclose(found.ycoords, SCAN.ycoords + shift[1], rtol=0, atol=1e-4)
    assert np.array_equal(found.diff3d, SCAN.diff3d)
    assert found.geometry is not None and SCAN.geometry is not None
    for name, value in SCAN.geometry.known().items():
        assert getattr(found.geometry, name) == pytest.approx(value, rel=1e-6), name


def test_full_file_is_read_as_written(path):
    found = read(write_cxi(path, SCAN), probe="file")
    assert_same_scan(found)
    assert np.argwhere(found.bad_pixels).tolist() == [list(BAD)]
    assert found.frame_photons.tolist() == list(range(1, M + 1))
    assert found.metadata["format"] == "cxi"
    assert found.metadata["positions_shift_px"] == [0, 0]
    mean = float(np.mean(found.frame_energies()))
    assert np.sum(np.abs(found.probeGuess) ** 2) == pytest.approx(mean, rel=1e-5)
    ratio = found.probeGuess / SCAN.probeGuess
    assert np.ptp(np.abs(ratio)) < 1e-4 and np.abs(ratio).mean() == pytest.approx(1, abs=0.3)


def test_poor_file_takes_the_default_basis_the_energy_and_one_pixel_size(path):
    found = read(write_cxi(path, SCAN, poor=True))
    assert_same_scan(found)
    assert found.bad_pixels is None and found.frame_photons is None
    with pytest.raises(PtychoTorchError, match="probe='initial'"):
        read(path, probe="file")


ROTATED = ((0.6, 0.8), (-0.8, 0.6), (0.0, 0.0))
BASES = [
    [[first, 0.0], [0.0, second], [0.0, 0.0]] for first in (1.0, -1.0) for second in (1.0, -1.0)
]
BASES += [
    [[0.0, second], [first, 0.0], [0.0, 0.0]] for first in (1.0, -1.0) for second in (1.0, -1.0)
]


@pytest.mark.parametrize("pynx", [False, True], ids=["cdtools", "pynx"])
@pytest.mark.parametrize("steps", [*BASES, ROTATED], ids=str)
def test_every_basis_comes_to_the_same_positions(path, steps, pynx):
    assert_same_scan(read(write_cxi(path, SCAN, steps=steps, pynx=pynx)))


def test_a_stage_with_its_origin_elsewhere_is_moved_and_the_shift_kept(path):
    changed(path)
    with h5py.File(path, "r+") as file:
        file[TRANSLATION][...] -= [3e-5, -2e-3, 0.01]
    found = read(path)
    shift = found.metadata["positions_shift_px"]
    for axis, name in enumerate(("xcoords", "ycoords")):
        truth, moved = getattr(SCAN, name), getattr(found, name)
        np.testing.assert_allclose(moved - moved[0], truth - truth[0], atol=1e-4)
        assert moved.min() - N / 2 == pytest.approx(2)
        stage = moved - shift[axis] - truth
        assert np.ptp(stage) < 1e-4


@pytest.mark.parametrize("order", ["frames_first", "frames_last"])
def test_translations_of_three_frames_are_refused_without_an_order(path, order):
    square = np.arange(9.0).reshape(3, 3) * 1e-8
    changed(path, data=counts_of(SCAN)[:3], translation=square, monitor=None)
    assert "--axis-order frames_last (axis_order='frames_first')" in refused(path)
    found = read(path, axis_order=order)
    rows = square if order == "frames_first" else square.T
    np.testing.assert_allclose(np.diff(found.xcoords), np.diff(rows[:, 0]) / 3.125e-8, atol=1e-6)
    with pytest.raises(OptionError, match="axis_order"):
        read(path, axis_order="rows")


@pytest.mark.parametrize(
    ("mask", "bad"),
    [
        (np.full((N, N), 0x1000, np.uint32), 0),
        (np.eye(N, dtype=np.uint32) * 0x1001, N),
        (np.eye(N, dtype=np.uint8), N),
        (np.eye(N, dtype=bool), N),
    ],
)
def test_a_pixel_is_good_where_the_mask_says_nothing_but_signal(path, mask, bad):
    found = read(changed(path, mask=mask)).bad_pixels
    assert (0 if found is None else found.sum()) == bad


def test_the_dark_is_subtracted_and_negative_counts_are_zero(path):
    counts = counts_of(SCAN).astype(np.float32)
    dark = np.full((2, N, N), 3.0)
    found = read(changed(path, data=counts, data_dark=dark))
    np.testing.assert_allclose(found.diff3d**2, np.maximum(counts - 3, 0), rtol=1e-5)
    counts -= 3
    found = read(changed(path, data=counts))
    good = ~SCAN.bad_pixels
    np.testing.assert_allclose((found.diff3d**2)[:, good], np.maximum(counts, 0)[:, good], 1e-5)


def test_a_pixel_that_is_nan_in_one_frame_is_bad(path):
    counts = counts_of(SCAN).astype(np.float32)
    counts[M - 1, 2, 7] = np.nan
    found = read(changed(path, data=counts))
    assert np.argwhere(found.bad_pixels).tolist() == [[2, 7], list(BAD)]
    assert np.isfinite(found.diff3d).all() and np.isfinite(found.frame_energies()).all()


def test_an_energy_in_ev_is_recognised_and_said(path, caplog):
    found = read(write_cxi(path, SCAN, poor=True, energy_unit="eV"))
    assert_same_scan(found)
    assert "taken for eV, not J" in caplog.text


def test_a_mask_of_each_frame_is_read_in_parts_and_follows_the_detector(path, monkeypatch):
    masks = np.random.default_rng(5).integers(0, 2, (M, N, N)).astype(np.uint32) * 0x1004
    for size in (1, 3 * masks[0].nbytes, 1 << 24):
        monkeypatch.setattr(cxi, "_BLOCK_BYTES", size)
        found = read(changed(path, mask=masks | 0x1000))
        assert np.array_equal(found.bad_pixels, masks != 0)
        assert not found.diff3d[masks != 0].any()
    turned = read(path, detector=Detector(size=8, orientation="transpose"))
    assert np.array_equal(turned.bad_pixels, (masks != 0)[:, 4:12, 4:12].swapaxes(1, 2))


def test_a_mask_of_each_frame_that_is_always_the_same_is_one(path):
    masks = np.repeat(np.eye(N, dtype=np.uint8)[None], M, axis=0)
    assert np.array_equal(read(changed(path, mask=masks)).bad_pixels, np.eye(N, dtype=bool))


def test_a_mask_of_each_frame_reaches_batches_and_files(path, tmp_path):
    masks = np.zeros((M, N, N), bool)
    masks[np.arange(M), np.arange(M) % N, 3] = True
    found = read(changed(path, mask=masks))
    again = read_scan(found.to_file(tmp_path / "copy.npz"))
    assert np.array_equal(again.bad_pixels, masks)


def test_what_is_left_out_of_a_file_is_said(path, caplog):
    efficiency = np.full((16, 16), 0.5)
    read(changed(path, qe_mask=efficiency, mask=None))
    assert "qe_mask" not in caplog.text, "the same everywhere"
    efficiency[2, 3] = 0.7
    efficiency[5, 6], efficiency[7, 8] = 0, np.nan
    found = read(changed(path, qe_mask=efficiency, mask=None))
    assert "qe_mask is left out where it is above 0" in caplog.text
    assert np.argwhere(found.bad_pixels).tolist() == [[5, 6], [7, 8]]
    with h5py.File(path, "a") as file:
        file["entry_1/data_1/intensities"] = 1.0
    read(path)
    assert "intensities is left out" in caplog.text


def test_the_wavelength_goes_before_the_energy(path):
    assert_same_scan(read(changed(path, energy=1e-16)))


def test_the_distance_may_be_that_of_the_corner(path):
    corner = np.array([0.01, -0.02, -DISTANCE_M])
    assert_same_scan(read(changed(path, distance=None, corner_position=corner)))


def test_what_the_object_pixel_lacks_is_named(path):
    line = refused(changed(path, distance=None), PtychoTorchError)
    assert "object_pixel_m is missing" in line and "distance_m" in line
    assert read(path, object_pixel_m=2e-8).geometry.object_pixel_m == 2e-8
    line = refused(write_cxi(path, SCAN), PtychoTorchError, object_pixel_m=2e-8)
    assert "wavelength * distance" in line


def test_near_field_needs_the_object_pixel(path):
    write_cxi(path, SCAN)
    assert "magnification" in refused(path, PtychoTorchError, near_field=True)
    found = read(path, near_field=True, object_pixel_m=1e-7)
    assert found.geometry.near_field and found.geometry.object_pixel_m == 1e-7


def test_a_cropped_detector_makes_larger_object_pixels(path):
    whole, cropped = read(write_cxi(path, SCAN)), read(path, detector=Detector(size=8))
    assert cropped.N == 8
    assert cropped.geometry.object_pixel_m == pytest.approx(2 * whole.geometry.object_pixel_m)
    np.testing.assert_allclose(
        np.diff(cropped.xcoords), np.diff(whole.xcoords) / 2, rtol=0, atol=1e-9
    )
    assert (BAD[0] - 4, BAD[1] - 4) == (1, -1), "the bad pixel lies outside"


def test_a_probe_of_other_pixels_is_left_out(path, caplog):
    read(write_cxi(path, SCAN), detector=Detector(size=8))
    assert "the probe is left out" in caplog.text
    with pytest.raises(PtychoTorchError, match="probe='initial'"):
        read(path, detector=Detector(size=8), probe="file")


def test_products_of_ptychodus_and_other_files_are_not_recognised(path):
    write_cxi(path, SCAN)
    with open_scan_file(path) as file:
        assert cxi.recognises(file)
    with h5py.File(path, "r+") as file:
        file["entry_1/ptychodus/x"] = 1
    with open_scan_file(path) as file:
        assert not cxi.recognises(file)


WRONG = {
    "translation": [np.zeros((M, 2)), np.zeros(M), np.full((M, 3), np.nan), np.zeros((M, 3), "c8")],
    "basis_vectors": [
        np.zeros((3, 2)),
        np.ones((3, 2)),
        np.ones((2, 2)),
        np.array(DEFAULT_STEPS) * DETECTOR_PIXEL_M * 2,
        np.array([[1.0, 0], [0, 0], [0, 1]]) * DETECTOR_PIXEL_M,
    ],
    "data": [np.zeros((M, N)), np.zeros((M, N, N + 1)), np.zeros((M, N, N), "c8"), "text"],
    "mask": [
        np.zeros((N, N + 1), int),
        np.zeros((M - 1, N, N), int),
        np.zeros((N, N)),
        np.ones((N, N), int),
    ],
    "qe_mask": [np.ones((N, N + 1)), np.ones(N), "text"],
    "data_dark": [np.zeros((N, 2)), np.full((N, N), np.inf)],
    "distance": [np.ones(2), "far", -1.0, np.nan],
    "x_pixel_size": [-1.0, np.inf, 5e-5],
    "wavelength": [1.5, -1e-10],
    "monitor": [np.ones(M - 1)],
    "illumination": [np.zeros((N, N), "c8"), np.ones((N, N)), np.ones(N, "c8")],
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in WRONG.items() for value in values]
)
def test_a_wrong_dataset_is_one_line(path, name, value):
    refused(changed(path, **{name: value}), PtychoTorchError)


def test_a_dark_of_zeros_of_another_shape_is_refused(path):
    assert "dark shape" in refused(changed(path, data_dark=np.ones((N, 2))))


@pytest.mark.parametrize("name", [TRANSLATION, f"{DETECTOR}/data", f"{DETECTOR}/mask"])
@pytest.mark.parametrize("kind", ["dead", "loop", "outside", "objects", "group"])
def test_hostile_objects_are_one_line(path, name, kind):
    write_cxi(path, SCAN)
    with h5py.File(path, "r+") as file:
        del file[name]
        if kind == "loop":
            file[name] = h5py.SoftLink(f"/{name}")
        elif kind in ("dead", "outside"):
            file[name] = h5py.ExternalLink("/etc/hostname" if kind == "outside" else "no.h5", "/x")
        elif kind == "objects":
            file.create_dataset(name, data=["a", "b"], dtype=h5py.string_dtype())
        else:
            file.create_group(name)
    refused(path, PtychoTorchError)


def test_nexus_is_no_plain_cxi(path):
    write_cxi(path, SCAN)
    with h5py.File(path, "r+") as file:
        file["entry_1/definition"] = "NXcxi_ptycho"
    assert "NeXus" in refused(path)


def test_units_other_than_metres_are_refused(path):
    write_cxi(path, SCAN)
    with h5py.File(path, "r+") as file:
        file[TRANSLATION].attrs["units"] = "um"
    assert "translation@units is um; expected m" in refused(path)


def shared(name: str) -> Path:
    path = SHARED / name
    if not path.exists():
        pytest.skip("PTYCHO_TORCH_DATA names no folder with the shared scans")
    return path


def test_cdtools_file_is_the_truth():
    found = read(shared("formats/cdtools032/default_basis.cxi"))
    with np.load(shared("formats/truth.npz")) as truth:
        np.testing.assert_allclose(found.xcoords, truth["xcoords"], rtol=0, atol=1e-4)
        np.testing.assert_allclose(found.ycoords, truth["ycoords"], rtol=0, atol=1e-4)
        counts = np.rint(truth["diff3d"].astype(np.float64) ** 2)
    good = ~found.bad_pixels
    assert np.array_equal(found.frames.stored[:, good], counts[:, good])
    assert np.argwhere(found.bad_pixels).tolist() == [[3, 5]]
    geometry = found.geometry
    assert geometry.energy_ev == pytest.approx(8000, rel=1e-6)
    assert geometry.object_pixel_m == pytest.approx(8e-9, rel=1e-6)
    assert geometry.detector_pixel_m == pytest.approx(75e-6, rel=1e-6)


def test_the_near_field_scan_of_petra_has_its_documented_numbers():
    path = shared("PETRAIII_P25_Near_Field_Ptycho.cxi")
    found = read(path, near_field=True, object_pixel_m=1.79e-7)
    geometry = found.geometry
    assert (len(found), found.N, found.bad_pixels.sum()) == (200, 100, 5)
    assert geometry.near_field and geometry.distance_m == pytest.approx(1.12)
    assert geometry.wavelength_m == pytest.approx(9.795e-11, rel=1e-4)
    assert geometry.detector_pixel_m == pytest.approx(55e-6)
    with h5py.File(path) as file:
        stage = file[TRANSLATION][:].astype(float)
    np.testing.assert_allclose(np.diff(found.ycoords), np.diff(stage[:, 1]) / 1.79e-7, atol=1e-4)
    np.testing.assert_allclose(np.diff(found.xcoords), np.diff(stage[:, 0]) / 1.79e-7, atol=1e-4)


def test_geometry_of_the_builders_is_consistent():
    assert GEOMETRY.for_frames(N).object_pixel_m == pytest.approx(3.125e-8)
