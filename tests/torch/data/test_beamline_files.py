"""PtyPy, NSLS-II, Dectris and tike: one scan written as each has it, and read back alike."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scan_files import (
    BAD,
    DETECTOR_PIXEL_M,
    PIXEL_M,
    M,
    N,
    counts_of,
    measured_scan,
    metres_of,
    write_dectris,
    write_nsls2,
    write_ptyd,
    write_tike,
)

from ptycho_torch.data.detector import Detector
from ptycho_torch.data.errors import (
    OptionError,
    PtychoTorchError,
    ScanError,
    ScanFileError,
    ScanFileNotFoundError,
    ScanKeyError,
)
from ptycho_torch.data.raw_data import read_scan
from ptycho_torch.data.readers import dectris, nsls2, ptyd
from ptycho_torch.data.readers.position_file import positions_from
from ptycho_torch.data.readers.scan_file import open_scan_file
from ptycho_torch.data.readout import ORIENTATIONS, composed
from ptycho_torch.data.scan import Scan

h5py = pytest.importorskip(
    "h5py", reason="h5py is not installed: pip install ptycho-torch[formats]"
)

SCAN = measured_scan()
NO_MASK = np.zeros((N, N), bool)
STAGE = {"positions": metres_of(SCAN), "position_axes": "y,x"}
PIXEL = {"object_pixel_m": PIXEL_M}
FILES: dict[str, tuple[Callable[..., Path], str, dict[str, Any], dict[str, Any]]] = {
    "ptyd": (write_ptyd, "scan.ptyd", {}, {}),
    "nsls2": (write_nsls2, "scan_1.h5", {}, PIXEL),
    "dectris": (write_dectris, "a_master.h5", STAGE, {**STAGE, **PIXEL}),
}


def read(path: Path, **options: Any) -> Scan:
    return read_scan(path, **{"probe": "initial", "sidecar": "off", **options})


def refused(path: Path, error: type[Exception] = PtychoTorchError, **options: Any) -> str:
    with pytest.raises(error) as caught:
        read(path, **options)
    line = str(caught.value)
    assert isinstance(caught.value, PtychoTorchError) and "\n" not in line
    return line


def assert_positions(found: Scan) -> None:
    np.testing.assert_allclose(found.xcoords, SCAN.xcoords, rtol=0, atol=1e-6)
    np.testing.assert_allclose(found.ycoords, SCAN.ycoords, rtol=0, atol=1e-6)


@pytest.mark.parametrize("poor", [False, True], ids=["full", "poor"])
@pytest.mark.parametrize("format", FILES)
def test_a_scan_is_read_as_written(tmp_path, format, poor):
    write, name, full_options, poor_options = FILES[format]
    path = write(tmp_path / name, SCAN, poor=poor)
    found = read(path, **(poor_options if poor else full_options))
    assert_positions(found)
    np.testing.assert_allclose(found.diff3d, SCAN.diff3d, rtol=1e-6)
    assert found.metadata["format"] == format
    assert found.metadata["positions_shift_px"] == [0, 0]
    known = not poor or format == "dectris"
    assert (
        found.bad_pixels is None
        if not known or format == "nsls2"
        else (np.argwhere(found.bad_pixels).tolist() == [list(BAD)])
    )
    assert found.geometry.object_pixel_m == pytest.approx(PIXEL_M)
    if not poor:
        assert found.geometry.detector_pixel_m == pytest.approx(DETECTOR_PIXEL_M)
        assert found.geometry.wavelength_m == pytest.approx(SCAN.geometry.wavelength_m)
    with pytest.raises(PtychoTorchError, match="probe='initial'"):
        read(path, probe="file", **(poor_options if poor else full_options))


@pytest.mark.parametrize("poor", [False, True], ids=["full", "poor"])
def test_tike_is_read_as_written(tmp_path, poor):
    found = read_scan(write_tike(tmp_path / "scan.npz", SCAN, poor=poor))
    assert_positions(found)
    np.testing.assert_allclose(found.diff3d, SCAN.diff3d, rtol=1e-6)


def test_files_recognise_each_other_not(tmp_path):
    rooms = {"ptyd": ptyd, "nsls2": nsls2, "dectris": dectris}
    for format, (write, name, _, _) in FILES.items():
        path = write(tmp_path / name, SCAN)
        with open_scan_file(path) as file:
            assert [key for key, room in rooms.items() if room.recognises(file)] == [format]


# -- PtyPy ---------------------------------------------------------------------------------------


def test_linked_chunks_are_read_and_a_missing_one_is_named(tmp_path):
    path = write_ptyd(tmp_path / "scan.ptyd", SCAN, link=True)
    assert_positions(read(path))
    (tmp_path / "scan.ptyd.part004").unlink()
    assert "part004" in refused(path, ScanFileNotFoundError)


@pytest.mark.parametrize("target", ["/etc/hostname", "../scan.h5"])
def test_chunks_outside_the_folder_are_refused(tmp_path, target):
    path = write_ptyd(tmp_path / "scan.ptyd", SCAN)
    with h5py.File(path, "r+") as file:
        del file["chunks/3"]
        file["chunks/3"] = h5py.ExternalLink(target, "/")
    assert f"a link into {target}" in refused(path, ScanFileError)


def test_weights_that_vary_make_a_mask_per_frame(tmp_path):
    path = write_ptyd(tmp_path / "scan.ptyd", SCAN)
    with h5py.File(path, "r+") as file:
        file["chunks/10/weights"][0, 2, 2] = 0
    found = read(path)
    assert found.bad_pixels.shape == (M, N, N)
    assert [len(np.argwhere(bad)) for bad in found.bad_pixels] == [1 + (n == 10) for n in range(M)]
    cropped = read(path, detector=Detector(size=N - 2))
    assert cropped.bad_pixels[10, 1, 1] and cropped.bad_pixels.sum() == M + 1


def test_positions_of_each_chunk_are_as_many_as_its_frames(tmp_path):
    path = write_ptyd(tmp_path / "scan.ptyd", SCAN)
    with h5py.File(path, "r+") as file:
        for number, rows in ((3, np.zeros((2, 2))), (4, np.zeros((0, 2)))):
            del file[f"chunks/{number}/positions"]
            file[f"chunks/{number}/positions"] = rows
    assert "chunks/3/positions shape is (2, 2); expected (1, 2)" in refused(path, ScanError)


def test_near_field_is_what_meta_says(tmp_path):
    path = write_ptyd(tmp_path / "scan.ptyd", SCAN)
    with h5py.File(path, "r+") as file:
        del file["meta/propagation"]
        file["meta/propagation"] = "nearfield"
    geometry = read(path).geometry
    assert geometry.near_field and geometry.object_pixel_m == pytest.approx(DETECTOR_PIXEL_M)


def test_missing_frames_are_said(tmp_path, caplog):
    path = write_ptyd(tmp_path / "scan.ptyd", SCAN)
    with h5py.File(path, "r+") as file:
        del file["chunks/11"]
    assert len(read(path)) == M - 1
    assert "11 of 12 frames are there" in caplog.text


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("meta/energy", 8000.0),
        ("meta/psize", "None"),
        ("meta/distance", "far"),
        ("meta/psize", np.ones(3)),
        ("chunks/x/data", np.ones((1, N, N))),
        ("chunks/5/weights", np.ones((1, N, 2))),
        ("chunks/5/weights", "heavy"),
        ("chunks/5/positions", np.array([[np.nan, 0]])),
        ("chunks/5/positions", None),
        ("chunks/5/data", None),
        ("chunks/5/data", np.ones((1, N, N), np.float32)),
        ("chunks", None),
    ],
)
def test_a_wrong_ptyd_is_one_line(tmp_path, name, value):
    path = write_ptyd(tmp_path / "scan.ptyd", SCAN)
    with h5py.File(path, "r+") as file:
        if name in file:
            del file[name]
        if value is not None:
            file[name] = value
    assert str(path) in refused(path)


# -- NSLS-II -------------------------------------------------------------------------------------


def test_the_orientation_comes_after_the_files_own(tmp_path):
    path = write_nsls2(tmp_path / "scan_1.h5", SCAN)
    found = read(path, detector=Detector(orientation="rot270"))
    with h5py.File(path) as file:
        stored = np.fft.fftshift(file["diffamp"][:], axes=(1, 2))
    assert np.array_equal(found.diff3d, stored)


def test_two_orientations_are_one_of_the_eight():
    def turned(name: str, frame: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        swap, *reverse = ORIENTATIONS[name]
        frame = frame.T if swap else frame
        return np.flip(frame, [axis for axis in (0, 1) if reverse[axis]])

    frame = np.arange(9).reshape(3, 3)
    for first in ORIENTATIONS:
        for then in ORIENTATIONS:
            both = turned(then, turned(first, frame))
            assert np.array_equal(turned(composed(first, then), frame), both)


def test_amplitudes_are_not_binned(tmp_path):
    path = write_nsls2(tmp_path / "scan_1.h5", SCAN)
    assert "only counts" in refused(path, OptionError, detector=Detector(bin=2))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("points", np.ones((M, 2))),
        ("points", np.ones((2, M - 1))),
        ("points", np.full((2, M), np.inf)),
        ("diffamp", np.ones((M, N, 2))),
        ("lambda_nm", -1.0),
        ("z_m", np.ones(2)),
        ("ccd_pixel_um", None),
    ],
)
def test_a_wrong_nsls2_file_is_one_line(tmp_path, name, value):
    path = write_nsls2(tmp_path / "scan_1.h5", SCAN)
    with h5py.File(path, "r+") as file:
        del file[name]
        if value is not None:
            file[name] = value
    assert str(path) in refused(path)


def without_frames(path: Path, name: str | bytes, folder: Path, **roi: Any) -> Path:
    """A newer file, which names that of its frames; these lie as the detector gave them."""
    write_nsls2(path, SCAN)
    folder.mkdir(parents=True, exist_ok=True)
    with h5py.File(folder / "raw.h5", "w") as other:
        other.create_dataset("entry/data/data", data=counts_of(SCAN), chunks=(1, N, N))
    with h5py.File(path, "r+") as file:
        del file["diffamp"]
        file["raw_data/filename"] = name
        for key, value in roi.items():
            file[f"raw_data/{key}"] = value
    return path


def assert_counts_of_the_scan(found: Any) -> None:
    assert found.frames.measurement == "counts"
    assert np.array_equal(found.frames.stored, counts_of(SCAN))
    np.testing.assert_allclose(np.diff(found.xcoords), np.diff(SCAN.xcoords), atol=1e-6)


@pytest.mark.parametrize(("name", "below"), [("raw.h5", ""), (b"raw/raw.h5", "raw")])
def test_frames_are_read_from_the_file_that_a_newer_nsls2_file_names(tmp_path, name, below):
    path = without_frames(tmp_path / "scan_1.h5", name, tmp_path / below)
    assert_counts_of_the_scan(read(path))


@pytest.mark.parametrize("name", ["../raw.h5", "{}/raw.h5", "absent.h5"])
def test_frames_of_nsls2_elsewhere_are_named_by_the_user(tmp_path, name):
    outside = tmp_path / "outside"
    path = tmp_path / "scan" / "scan_1.h5"
    path.parent.mkdir()
    without_frames(path, name.format(outside), outside)
    line = refused(path, ScanFileNotFoundError if name == "absent.h5" else ScanFileError)
    assert "file is missing" in line or "--diffraction FILE" in line
    assert_counts_of_the_scan(read(path, diffraction=outside / "raw.h5"))


def test_the_window_of_nsls2_frames_is_asked_for(tmp_path):
    roi = np.array([[2, 12], [4, 14]])
    path = without_frames(tmp_path / "scan_1.h5", "raw.h5", tmp_path, roi=roi)
    line = refused(path, ScanError)
    assert "roi is [[2.0, 12.0], [4.0, 14.0]], rows or columns first" in line
    assert "add --size 10 --centre 7,9 (size=, centre=)" in line
    assert line == refused(path, ScanError, detector=Detector(size=10)), "of which place?"
    found = read(path, detector=Detector(size=10, centre=(7, 9)))
    assert np.array_equal(found.frames.stored, counts_of(SCAN)[:, 2:12, 4:14])


# -- Dectris -------------------------------------------------------------------------------------


def test_a_master_without_positions_says_what_to_pass(tmp_path):
    line = refused(write_dectris(tmp_path / "a_master.h5", SCAN), ScanKeyError)
    assert "Add --option positions=FILE (positions=), a .csv, .npy or .h5" in line


def test_missing_frame_files_and_unequal_numbers_are_refused(tmp_path):
    path = write_dectris(tmp_path / "a_master.h5", SCAN)
    few = {**STAGE, "positions": metres_of(SCAN)[:-1]}
    assert "11 for 12 frames" in refused(path, ScanError, **few)
    (tmp_path / "a_data_000002.h5").unlink()
    assert "a_data_000002.h5" in refused(path, ScanFileNotFoundError, **STAGE)


@pytest.mark.parametrize("unit", ["m", "um"])
@pytest.mark.parametrize("name", ["at.csv", "at.txt", "at.npy", "at.h5", "both.h5"])
def test_positions_come_from_a_file_of_their_own(tmp_path, name, unit):
    path = tmp_path / name
    rows = metres_of(SCAN) * {"m": 1, "um": 1e6}[unit]
    axes = "auto"
    if name == "at.csv":
        np.savetxt(path, rows, delimiter=",", header=f"y_{unit},x_{unit}", comments="")
    elif name == "at.h5":
        with h5py.File(path, "w") as file:
            file["x"], file["y"] = rows[:, 1], rows[:, 0]
    else:
        axes, rows = "-x,y", rows[:, ::-1] * [-1, 1]
        if name == "at.txt":
            np.savetxt(path, rows)
        elif name == "at.npy":
            np.save(path, rows)
        else:
            with h5py.File(path, "w") as file:
                file["positions"] = rows
    options = {"positions": path, "position_unit": unit, "position_axes": axes}
    assert_positions(read(write_dectris(tmp_path / "a_master.h5", SCAN), **options))


BAD_POSITIONS: dict[str, bytes | None] = {
    "no.csv": b"1,2\n3,4\n",
    "words.csv": b"x,y\na,b\n",
    "ragged.csv": b"x,y\n1,2\n3\n",
    "empty.csv": b"",
    "binary.csv": b"\xff\xfe\x00",
    "nan.csv": b"x,y\nnan,1\n",
    "cut.npy": b"\x93NUMPY\x01\x00",
    "no.npy": b"abc",
    "no.h5": b"abc",
    "missing.csv": None,
}


@pytest.mark.parametrize("name", BAD_POSITIONS)
def test_wrong_positions_are_one_line_that_names_their_file(tmp_path, name):
    content = BAD_POSITIONS[name]
    if content is not None:
        (tmp_path / name).write_bytes(content)
    path = write_dectris(tmp_path / "a_master.h5", SCAN)
    assert name in refused(path, positions=tmp_path / name)


def test_a_header_of_absurd_shape_is_refused_before_it_is_read(tmp_path):
    header = "{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999, 2), }\n"
    text = header.encode()
    path = tmp_path / "at.npy"
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text)
    with pytest.raises(ScanFileError, match=r"at\.npy"):
        positions_from(path, "m", "x,y")


@pytest.mark.parametrize(
    "options", [{"position_unit": "inch"}, {"position_axes": "x,x"}, {"position_axes": "x"}]
)
def test_unknown_units_and_axes_are_refused(tmp_path, options):
    path = write_dectris(tmp_path / "a_master.h5", SCAN)
    refused(path, OptionError, **{**STAGE, **options})


def test_a_wavelength_says_its_unit_or_is_angstroms(tmp_path):
    path = write_dectris(tmp_path / "a_master.h5", SCAN)
    name = "entry/instrument/beam/incident_wavelength"
    for unit, value in (("nm", 0.15), ("m", 1.5e-10)):
        with h5py.File(path, "r+") as file:
            file[name][()] = value
            file[name].attrs["units"] = unit
        assert read(path, **STAGE).geometry.wavelength_m == pytest.approx(1.5e-10)
    with h5py.File(path, "r+") as file:
        file[name].attrs["units"] = "furlong"
    assert "furlong" in refused(path, **STAGE)


def test_counts_stay_whole_in_memory(tmp_path):
    found = read(write_ptyd(tmp_path / "scan.ptyd", SCAN))
    assert found.frames.dtype == np.uint16
    assert np.array_equal(found.frames.stored, counts_of(SCAN))
