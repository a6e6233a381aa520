"""Readers: a full file, poor files, and one line for everything that is wrong."""

from __future__ import annotations

import bz2
import errno
import io
import json
import logging
import os
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ptycho_torch.data.errors import (
    OptionError,
    OptionTypeError,
    PtychoTorchError,
    ScanError,
    ScanFileError,
    ScanFileNotFoundError,
    ScanKeyError,
)
from ptycho_torch.data.files import zip_archive
from ptycho_torch.data.frames import FrameStack
from ptycho_torch.data.raw_data import read_scan
from ptycho_torch.data.readers import format_names, read_file
from ptycho_torch.data.scan import Scan

M, N = 20, 8


def scan_arrays(**changes: Any) -> dict[str, Any]:
    """A full canonical scan; a change to None leaves the key out."""
    rng = np.random.default_rng(7)
    arrays: dict[str, Any] = {
        "xcoords": rng.random(M) * 40,
        "ycoords": rng.random(M) * 30,
        "xcoords_start": rng.random(M) * 40,
        "ycoords_start": rng.random(M) * 30,
        "diff3d": rng.random((M, N, N), np.float32),
        "probeGuess": (rng.random((N, N)) + 1j * rng.random((N, N))).astype(np.complex64),
        "objectGuess": (rng.random((50, 60)) + 1j).astype(np.complex64),
        "Y": (rng.random((M, N, N)) + 1j).astype(np.complex64),
        "scan_index": np.arange(M),
        "_metadata": np.array(json.dumps({"nphotons": 1e5})),
    }
    arrays.update(changes)
    return {key: value for key, value in arrays.items() if value is not None}


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def write_scan(compressed: bool = False, **changes: Any) -> Path:
        path = tmp_path / "scan.npz"
        (np.savez_compressed if compressed else np.savez)(path, **scan_arrays(**changes))
        return path

    return write_scan


def refusal(path: Path, error: type[Exception] = ScanError, **options: Any) -> str:
    with pytest.raises(error) as caught:
        read_file(path, **options)
    message = str(caught.value)
    assert isinstance(caught.value, PtychoTorchError)
    assert "\n" not in message and message.endswith(".")
    return message


@pytest.mark.parametrize("compressed", [False, True])
def test_full_scan_is_read_as_written(write: Callable[..., Path], compressed: bool) -> None:
    path = write(compressed)
    scan = read_file(path)
    for key, truth in scan_arrays(diff3d=None, Y=None, _metadata=None).items():
        found = getattr(scan, key)
        assert found.dtype == truth.dtype and np.array_equal(found, truth), key
    assert scan.path == path and scan.metadata == {"nphotons": 1e5}
    assert scan.frames.measurement == "amplitude"
    assert isinstance(scan.patches, FrameStack)
    assert os.listdir(path.parent) == ["scan.npz"], "opening writes nothing"
    assert np.array_equal(scan.frames.stored, scan_arrays()["diff3d"])
    assert np.array_equal(scan.patches.stored, scan_arrays()["Y"])


def test_poor_scan_gets_the_contracts_defaults(write: Callable[..., Path]) -> None:
    optional = ("xcoords_start", "ycoords_start", "objectGuess", "Y", "scan_index", "_metadata")
    scan = read_file(write(**dict.fromkeys(optional)))
    assert np.array_equal(scan.xcoords_start, scan.xcoords)
    assert np.array_equal(scan.ycoords_start, scan.ycoords)
    assert scan.objectGuess is None and scan.patches is None and scan.metadata is None
    assert scan.scan_index.dtype == np.int64 and not scan.scan_index.any()


def test_frames_may_be_called_diffraction(write: Callable[..., Path]) -> None:
    frames = scan_arrays()["diff3d"]
    scan = read_file(write(diff3d=None, diffraction=frames))
    assert np.array_equal(scan.frames.stored, frames)


def test_both_frame_keys_are_read_as_diff3d_only_when_alike(write: Callable[..., Path]) -> None:
    frames = scan_arrays()["diff3d"]
    scan = read_file(write(diffraction=frames + 1))
    assert np.array_equal(scan.frames.stored, frames)
    message = refusal(write(diffraction=frames[:, :4, :4]))
    assert "diff3d and diffraction is (20, 8, 8) float32 and (20, 4, 4) float32" in message


@pytest.mark.parametrize("shape", [(3, N, N), (N, N, 1), (N, N)])
def test_probe_may_be_one_mode_or_several(
    write: Callable[..., Path], shape: tuple[int, ...]
) -> None:
    probe = np.random.default_rng(1).random(shape) + 1j
    found = read_file(write(probeGuess=probe)).probeGuess
    assert np.array_equal(found, probe[:, :, 0] if shape[-1] == 1 else probe)


def test_positions_keep_a_float_dtype_and_integers_become_float64(
    write: Callable[..., Path],
) -> None:
    single = read_file(write(xcoords=np.arange(M, dtype="f4"))).xcoords
    whole = read_file(write(xcoords=np.arange(M, dtype=">i2"))).xcoords
    assert (single.dtype, whole.dtype) == (np.float32, np.float64)
    assert np.array_equal(whole, np.arange(M))


def test_small_arrays_may_be_big_endian_or_fortran_ordered(write: Callable[..., Path]) -> None:
    truth = scan_arrays()
    scan = read_file(
        write(
            xcoords=truth["xcoords"].astype(">f8"),
            objectGuess=np.asfortranarray(truth["objectGuess"]).astype(">c8"),
        )
    )
    assert np.array_equal(scan.objectGuess, truth["objectGuess"])
    assert scan.objectGuess.dtype.isnative and scan.objectGuess.flags.c_contiguous
    assert np.array_equal(scan.xcoords, truth["xcoords"]) and scan.xcoords.dtype.isnative


def test_scan_index_stored_as_whole_floats_becomes_integer(write: Callable[..., Path]) -> None:
    found = read_file(write(scan_index=np.arange(M) * 1.0)).scan_index
    assert found.dtype == np.int64 and np.array_equal(found, np.arange(M))
    assert "scan_index is fractional" in refusal(write(scan_index=np.arange(M) + 0.5))


def test_frames_on_the_last_axis_are_told_by_the_positions(write: Callable[..., Path]) -> None:
    frames = scan_arrays()["diff3d"]
    legacy = np.ascontiguousarray(frames.transpose(1, 2, 0))
    for compressed in (False, True):
        scan = read_file(write(compressed, diff3d=legacy))
        assert np.array_equal(scan.frames.stored, frames)
    squeezed = read_file(write(diff3d=frames[..., None]))
    assert np.array_equal(squeezed.frames.stored, frames)


def test_frames_that_fit_both_axes_are_refused_until_told(write: Callable[..., Path]) -> None:
    changes = {key: scan_arrays()[key][:N] for key in scan_arrays() if "coords" in key}
    cube = np.random.default_rng(2).random((N, N, N), np.float32)
    path = write(diff3d=cube, Y=None, scan_index=None, **changes)
    message = refusal(path)
    assert "diff3d shape is (8, 8, 8) with 8 positions" in message
    assert "axis_order='frames_first'" in message
    first = read_file(path, axis_order="frames_first").frames.stored
    last = read_file(path, axis_order="frames_last").frames.stored
    assert np.array_equal(first, cube) and np.array_equal(last, cube.transpose(2, 0, 1))
    said = np.array(json.dumps({"axis_order": "frames_first"}))
    path = write(diff3d=cube, Y=None, scan_index=None, _metadata=said, **changes)
    assert np.array_equal(read_file(path).frames.stored, cube)


@pytest.mark.parametrize("key", ["diff3d", "xcoords", "ycoords"])
def test_missing_key_is_named_with_the_keys_there_are(write: Callable[..., Path], key: str) -> None:
    message = refusal(write(**{key: None}), ScanKeyError)
    assert f"scan.npz: {key} is missing" in message and "scan_index" in message


def nan_at(key: str, place: tuple[int, ...]) -> np.ndarray:
    array = scan_arrays()[key].copy()
    array[place] = np.nan
    return array


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"xcoords": nan_at("xcoords", (3,))}, r"xcoords[3] is nan"),
        ({"ycoords_start": nan_at("ycoords_start", (0,))}, "ycoords_start[0] is nan"),
        ({"probeGuess": nan_at("probeGuess", (1, 2))}, "probeGuess[1, 2] is (nan"),
        ({"objectGuess": nan_at("objectGuess", (1, 2))}, "objectGuess[1, 2] is (nan"),
        ({"diff3d": nan_at("diff3d", (1, 2, 2))}, "diff3d is NaN or infinite"),
        ({"diff3d": -scan_arrays()["diff3d"]}, "diff3d is negative"),
        ({"xcoords": np.zeros(M + 4)}, "xcoords axis 0 is 24; expected M = 20"),
        ({"ycoords": np.zeros(M - 1)}, "ycoords axis 0 is 19; expected M = 20"),
        ({"scan_index": np.zeros(3, int)}, "scan_index axis 0 is 3"),
        ({"xcoords": np.zeros((M, 1))}, "xcoords shape is (20, 1)"),
        ({"xcoords": np.zeros(M, complex)}, "xcoords dtype is complex128"),
        ({"xcoords": np.zeros(M, "M8[s]")}, "xcoords dtype is datetime64[s]"),
        ({"xcoords": np.array([None] * M)}, "xcoords dtype is object (a pickle)"),
        ({"xcoords": np.zeros(M, [("a", "f4")])}, "xcoords dtype is structured"),
        ({"probeGuess": np.zeros((4, 4), complex)}, "probeGuess axis 0 is 4; expected N = 8"),
        ({"probeGuess": np.zeros((0, N, N), complex)}, "probeGuess shape is (0, 8, 8)"),
        ({"probeGuess": np.zeros((N, N))}, "probeGuess dtype is float64"),
        ({"probeGuess": np.zeros(N, complex)}, "probeGuess shape is (8,)"),
        ({"objectGuess": np.zeros((1, 9, 9), complex)}, "objectGuess shape is (1, 9, 9)"),
        ({"objectGuess": np.zeros((0, 9), complex)}, "objectGuess shape is (0, 9)"),
        ({"diff3d": np.zeros((0, N, N))}, "diff3d shape is (0, 8, 8)"),
        ({"diff3d": np.zeros((M, N, N + 1))}, "diff3d shape is (20, 8, 9)"),
        ({"diff3d": np.zeros((M, N))}, "diff3d shape is (20, 8)"),
        ({"diff3d": np.zeros((M, N, N), complex)}, "diff3d dtype is complex128"),
        ({"diff3d": np.zeros((M, N, N), object)}, "diff3d dtype is object (a pickle)"),
        ({"Y": np.zeros((M, N))}, "Y shape is (20, 8)"),
    ],
)
def test_scan_that_breaks_the_contract_is_refused_in_one_line(
    write: Callable[..., Path], changes: dict[str, Any], found: str
) -> None:
    path = write(**changes)
    message = refusal(path, ScanError)
    assert message.startswith(f"{path}: ") and found in message
    assert os.listdir(path.parent) == ["scan.npz"]


@pytest.mark.parametrize("dtype", ["uint16", "int32"])
def test_integer_frames_must_be_told_apart_from_counts(
    write: Callable[..., Path], dtype: str
) -> None:
    path = write(diff3d=np.arange(M * N * N).reshape(M, N, N).astype(dtype))
    message = refusal(path)
    assert f"diff3d is {dtype}, ambiguous; expected amplitude or counts" in message
    assert "measurement='counts' or measurement='amplitude'" in message
    for measurement in ("counts", "amplitude"):
        frames = read_file(path, measurement=measurement).frames
        assert frames.measurement == measurement and frames.stored.dtype == np.dtype(dtype)


def test_whole_float_frames_above_fifty_look_like_counts(write: Callable[..., Path]) -> None:
    counts = np.zeros((M, N, N), np.float32)
    assert read_file(write(diff3d=counts + 50)).frames.measurement == "amplitude"
    counts[15, 3, 3] = 51
    assert "whole numbers above 50" in refusal(write(diff3d=counts))
    counts[16, 3, 3] = 0.5
    assert read_file(write(diff3d=counts)).frames.measurement == "amplitude"


@pytest.mark.parametrize("stored", ["frames first", "frames last"])
def test_counts_behind_dark_frames_are_found_beyond_the_sample(
    write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, stored: str
) -> None:
    frames = np.zeros((400, 64, 64), np.float32)  # the sample is 1 MiB, 64 frames
    frames[398, 60, 1] = 900
    if stored == "frames last":
        # The bright row lies near the end of the file, behind what is searched in other files.
        monkeypatch.setattr("ptycho_torch.data.readers.measurement.SEARCH_BYTES", 2 << 20)
        frames = np.ascontiguousarray(frames.transpose(1, 2, 0))
    zeros = np.zeros(400)
    arrays = dict(
        dict.fromkeys(("xcoords", "ycoords", "xcoords_start", "ycoords_start"), zeros),
        diff3d=frames,
        probeGuess=np.ones((64, 64), complex),
        Y=None,
        scan_index=None,
    )
    path = write(True, **arrays)
    assert "whole numbers above 50" in refusal(path)
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    ("metadata", "logged"),
    [
        (np.array({"pickled": 1}, dtype=object), "pickle"),
        (np.array("no json"), "Expecting value"),
        (np.array("[1]"), "no mapping"),
        (np.array("[" * 100_000), "_metadata skipped"),
        (np.zeros(3), "one JSON text"),
        (np.array(["{}", "{}"]), "one JSON text"),
    ],
)
def test_metadata_of_another_kind_is_skipped_with_a_log_line(
    write: Callable[..., Path], metadata: np.ndarray, logged: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    assert read_file(write(_metadata=metadata)).metadata is None
    assert [logged in r.getMessage() for r in caplog.records] == [True]


def test_pickle_beside_the_known_keys_is_never_touched(write: Callable[..., Path]) -> None:
    assert read_file(write(notes=np.array([print], dtype=object))).frames.shape == (M, N, N)


def test_damaged_small_member_fails_its_checksum(write: Callable[..., Path]) -> None:
    path = write()
    content = bytearray(path.read_bytes())
    content[content.find(b"ycoords.npy") + 200] ^= 1
    path.write_bytes(content)
    assert "ycoords checksum is wrong" in refusal(path, ScanFileError)


@pytest.mark.parametrize("content", [b"", b"PK", b"\x00" * 5000, b"PK\x05\x06" + bytes(18)])
def test_file_without_an_archive_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "scan.npz"
    path.write_bytes(content)
    refusal(path, ScanKeyError if len(content) == 22 else ScanFileError)


def test_file_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    assert "gone.npz: file is missing" in refusal(tmp_path / "gone.npz", ScanFileNotFoundError)
    (tmp_path / "folder.npz").mkdir()
    assert "a directory" in refusal(tmp_path / "folder.npz", ScanFileError)
    assert "text or a Path" in refusal(7, OptionTypeError)  # type: ignore[arg-type]


def test_unknown_format_and_option_are_refused_by_name(write: Callable[..., Path]) -> None:
    path = write()
    assert format_names()[:2] == ("npz", "tike")
    assert "format is 'word'; expected one of auto, npz, tike" in refusal(
        path, OptionError, format="word"
    )
    message = refusal(path, OptionError, measurment="counts")
    assert "measurment" in message and "measurement, sidecar, axis_order" in message
    assert "measurement is 'count'" in refusal(path, OptionError, measurement="count")
    assert "axis_order is 'last'" in refusal(path, OptionError, axis_order="last")
    other = path.rename(path.with_suffix(".dat"))
    assert ".npz, .npz.bz2" in refusal(other, ScanFileError)
    assert read_file(other, "npz").frames.shape == (M, N, N)


def test_opening_reads_no_frames_of_a_stored_scan(write: Callable[..., Path]) -> None:
    path = write(
        diff3d=np.random.default_rng(0).random((M, 256, 256), np.float32),
        Y=None,
        probeGuess=np.ones((256, 256), complex),
    )
    tracemalloc.start()
    read_file(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < path.stat().st_size


def tike_arrays(**changes: Any) -> dict[str, Any]:
    """A tiny tike scan: counts with the corner at zero frequency, corners of patches."""
    rng = np.random.default_rng(11)
    arrays = {
        "data": rng.poisson(30, (1, 5, N, N)).astype(np.float32),
        "scan": rng.random((1, 5, 2), np.float32) * 20,
        "probe": (rng.random((1, 1, 1, 2, N, N)) + 1j).astype(np.complex64),
    }
    arrays.update(changes)
    return arrays


def write_tike(path: Path, **changes: Any) -> Path:
    content = io.BytesIO()
    np.savez(content, **tike_arrays(**changes))
    packed = path.name.endswith(".bz2")
    path.write_bytes(bz2.compress(content.getvalue()) if packed else content.getvalue())
    return path


@pytest.mark.parametrize("name", ["s.npz", "s.npz.bz2"])
def test_tike_scan_becomes_canonical(tmp_path: Path, name: str) -> None:
    scan = read_file(write_tike(tmp_path / name))
    raw = tike_arrays()
    # By hand: the corner pixel of the transform moves to the centre.
    assert scan.frames.measurement == "counts"
    assert np.array_equal(scan.frames.stored[:, N // 2, N // 2], raw["data"][0, :, 0, 0])
    assert np.array_equal(scan.frames.stored[:, N // 2 + 1, N // 2], raw["data"][0, :, 1, 0])
    assert np.array_equal(scan.xcoords, raw["scan"][0, :, 1].astype("f8") + N / 2)
    assert np.array_equal(scan.ycoords, raw["scan"][0, :, 0].astype("f8") + N / 2)
    mean_counts = raw["data"].sum(axis=(2, 3)).mean()
    assert np.sum(np.abs(scan.probeGuess) ** 2) == pytest.approx(mean_counts, rel=1e-5)
    assert scan.probeGuess.shape == (2, N, N) and scan.probeGuess.dtype == np.complex64
    assert scan.metadata["positions_shift_px"] == [0.0, 0.0]


def test_tike_corners_below_zero_are_moved_into_the_object(tmp_path: Path) -> None:
    corners = tike_arrays()["scan"] - np.float32(10)
    scan = read_file(write_tike(tmp_path / "s.npz", scan=corners))
    assert scan.xcoords.min() == scan.ycoords.min() == N / 2 + 2
    shift = scan.metadata["positions_shift_px"]
    assert np.allclose(scan.xcoords - shift[0], corners[0, :, 1] + N / 2)
    assert np.allclose(scan.ycoords - shift[1], corners[0, :, 0] + N / 2)


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"data": np.zeros((2, 5, N, N))}, "data shape is (2, 5, 8, 8); expected (1, M, N, N)"),
        ({"data": np.zeros((1, 5, N, 4))}, "data shape is (5, 8, 4)"),
        ({"data": np.full((1, 5, N, N), np.nan)}, "data is NaN"),
        ({"data": np.full((1, 5, N, N), -1)}, "data frame 0 is negative"),
        ({"data": np.zeros((1, 5, N, N))}, "data is zero throughout"),
        ({"data": np.zeros((1, 5, N, N), complex)}, "data dtype is complex128"),
        ({"scan": np.zeros((1, 4, 2))}, "scan shape is (4, 2); expected (5, 2)"),
        ({"scan": np.zeros((1, 5, 3))}, "scan shape is (5, 3)"),
        ({"probe": np.zeros((1, 5, 1, 2, N, N), complex)}, "probe shape is (1, 5, 1, 2, 8, 8)"),
        ({"probe": np.zeros((N, N), complex)}, "probe is zero throughout"),
        ({"probe": np.zeros((4, 4), complex)}, "probe shape is (4, 4)"),
        ({"probe": np.zeros((N, N))}, "probe dtype is float64"),
        ({"probe": np.zeros(N, complex)}, "probe shape is (8,)"),
    ],
)
def test_tike_scan_that_is_wrong_is_refused(
    tmp_path: Path, changes: dict[str, Any], found: str
) -> None:
    assert found in refusal(write_tike(tmp_path / "s.npz", **changes))


def test_tike_archive_is_unpacked_within_a_bound(tmp_path: Path) -> None:
    path = write_tike(tmp_path / "s.npz.bz2")
    assert "unpacked size is over 1000 bytes" in refusal(path, max_bytes=1000)
    assert "max_bytes" in refusal(write_tike(tmp_path / "s.npz"), format="tike", max_bytes=1000)
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    assert "bz2 stream is cut short" in refusal(path, ScanFileError)
    path.write_bytes(whole[:200] + bytes([whole[200] ^ 255]) + whole[201:])
    refusal(path, ScanFileError)
    path.write_bytes(b"no bz2")
    assert "bz2 stream is broken" in refusal(path, ScanFileError)


def test_tike_lacking_a_key_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "s.npz", "w") as target:
        target.writestr("data.npy", b"")
    assert "scan is missing" in refusal(tmp_path / "s.npz", ScanKeyError, format="tike")


def measured(name: str) -> Path:
    downloads = Path(__file__).parents[3] / "datasets" / "download"
    folders = [Path(os.environ.get("PTYCHO_TORCH_DATA", "nowhere")) / "data", downloads]
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
    pytest.skip(f"no measured scan: {name} is in none of {', '.join(map(str, folders))}")


def test_measured_siemens_star_opens_as_amplitude() -> None:
    scan = read_file(measured("aps_velociprobe_siemens.npz"), sidecar="off")
    assert scan.frames.shape == (516, 128, 128)
    counts = np.sum(scan.frames.take(np.arange(516)).astype("f8") ** 2) / 516
    assert counts == pytest.approx(461212.9, rel=1e-6)


def test_measured_tike_scan_equals_its_canonical_form() -> None:
    raw: Scan = read_file(measured("siemens-star-small.npz.bz2"))
    canonical = read_file(measured("aps_velociprobe_siemens.npz"), sidecar="off")
    assert np.array_equal(raw.frames.take(np.arange(516)), canonical.frames.stored)
    assert np.array_equal(raw.xcoords, canonical.xcoords)
    assert np.array_equal(raw.ycoords, canonical.ycoords)
    assert np.abs(raw.probeGuess - canonical.probeGuess).max() < 1e-5


def test_names_in_hostile_files_stay_one_short_printable_line(tmp_path: Path) -> None:
    path = tmp_path / "scan.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a\nb\x1b[2J.npy", b"")
        archive.writestr("x" * 60_000, b"")
    message = refusal(path, ScanKeyError)
    assert message.isprintable() and len(message) < 2000
    assert "a\\nb\\x1b[2J" in message


def test_small_array_that_unpacks_to_far_more_than_the_file_is_refused(
    write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zip_archive, "MODERATE_BYTES", 1 << 20)
    objects = np.zeros((600, 600), np.complex64)
    message = refusal(write(compressed=True, objectGuess=objects), ScanFileError)
    assert "objectGuess size is 2880000 bytes, unpacked from" in message
    assert "np.savez" in message
    assert read_file(write(objectGuess=objects)).objectGuess is not None, "stored is as large"
    monkeypatch.setattr(zip_archive, "MODERATE_BYTES", 4 << 20)
    assert read_file(write(compressed=True, objectGuess=objects)).objectGuess is not None


def test_frame_that_unpacks_to_far_more_than_the_file_is_refused(
    write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zip_archive, "MODERATE_BYTES", 1 << 20)
    frames = np.zeros((M, 600, 600), np.float32)
    message = refusal(write(compressed=True, diff3d=frames, Y=None), ScanFileError)
    assert "diff3d size is 1440000 bytes, unpacked from" in message


@pytest.mark.parametrize("far", [1e308, -1e10])
def test_positions_no_object_can_hold_are_refused(write: Callable[..., Path], far: float) -> None:
    positions = scan_arrays()["xcoords"].copy()
    positions[3] = far
    with pytest.raises(ScanError, match=r"xcoords is up to 1e.* px from the origin"):
        read_scan(write(xcoords=positions))


@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO])
def test_scan_that_cannot_be_reached_is_refused_in_one_line(
    write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    path, genuine = write(), os.open

    def refuse(place: Any, *arguments: Any, **options: Any) -> Any:
        if str(place) == str(path):
            raise OSError(code, os.strerror(code))
        return genuine(place, *arguments, **options)

    monkeypatch.setattr(os, "open", refuse)
    assert f"unreadable ({os.strerror(code)})" in refusal(path, ScanFileError)


READER_OF_ANOTHER_PACKAGE = """
import numpy as np
from ptycho_torch.data.readers import Reader, ScanFile
from ptycho_torch.data.scan import Scan

def recognises(file: ScanFile) -> bool:
    return file.stream.read(4) == b"MINE"

def read(file: ScanFile, *, offset: float = 0.0) -> Scan:
    x = np.arange(4.0) + offset
    frames = np.ones((4, 8, 8), np.float32)
    probe = np.ones((8, 8), complex)
    return Scan(xcoords=x, ycoords=x, frames=frames, probeGuess=probe, path=file.path)

mine = Reader("mine", (".mine", ".npz"), recognises, read)
nothing = "no reader"
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Put a package with an entry point of our group on the path, as pip would."""

    def install_package(target: str) -> None:
        (tmp_path / "mine_reader.py").write_text(READER_OF_ANOTHER_PACKAGE, encoding="utf-8")
        folder = tmp_path / "mine-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
        (folder / "entry_points.txt").write_text(f"[ptycho_torch.readers]\nmine = {target}\n")
        monkeypatch.syspath_prepend(tmp_path)

    return install_package


def test_format_of_an_installed_package_is_read_like_ours(
    write: Callable[..., Path], install: Callable[[str], None], tmp_path: Path
) -> None:
    install("mine_reader:mine")
    (path := tmp_path / "scan.mine").write_bytes(b"MINE")
    assert format_names()[-2:] == ("mine", "hdf5")
    assert read_scan(path, offset=2.0).xcoords[0] == 2.0
    assert len(read_scan(path, format="mine", measurement="auto")) == 4
    assert read_scan(write()).N == N, "the built-in formats come first"
    with pytest.raises(OptionError, match="option of format mine is phase; expected one of offset"):
        read_scan(path, phase=1)


@pytest.mark.parametrize("target", ["mine_reader:nothing", "mine_reader:absent", "no_module:mine"])
def test_entry_point_that_leads_to_no_reader_is_named(
    install: Callable[[str], None], tmp_path: Path, target: str
) -> None:
    install(target)
    (path := tmp_path / "scan.mine").write_bytes(b"MINE")
    with pytest.raises(OptionError, match=f"entry point {target} of ptycho_torch.readers is "):
        read_scan(path)
