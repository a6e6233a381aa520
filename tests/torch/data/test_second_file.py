"""A scan of two files is refused once either changes, the one of the positions too."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ptycho_torch import RawData, read_scan
from ptycho_torch.data.corrections import Corrections
from ptycho_torch.data.detector import Detector
from ptycho_torch.data.errors import ScanFileError
from ptycho_torch.data.readers.conformance import example_scan

h5py = pytest.importorskip("h5py", reason="h5py is not installed")
import ptychodus_files as files  # noqa: E402
from scan_files import measured_scan, metres_of, write_dectris, write_nsls2  # noqa: E402

Written = tuple[RawData, Path]
"""The scan, and its file that is not the one of the frames."""


def product_first(folder: Path) -> Written:
    product = files.write_product_h5(folder / "product.h5", example_scan())
    files.write_diffraction_h5(folder / "diffraction.h5", example_scan())
    return read_scan(product), product


def frames_first(folder: Path) -> Written:
    _, product = product_first(folder)
    return read_scan(folder / "diffraction.h5"), product


def product_npz(folder: Path) -> Written:
    product = files.write_product_npz(folder / "a_product.npz", example_scan())
    frames = files.write_diffraction_npz(folder / "a_diffraction.npz", example_scan())
    return read_scan(frames), product


def read_out(folder: Path) -> Written:
    _, product = product_first(folder)
    corrections = Corrections(transpose_frames=True)
    options = {"detector": Detector(size=32), "probe": "initial", "corrections": corrections}
    return read_scan(folder / "diffraction.h5", **options), product


def dectris(folder: Path) -> Written:
    np.save(folder / "stage.npy", metres_of(measured_scan()))
    path = write_dectris(folder / "a_master.h5", measured_scan())
    stage = {"positions": folder / "stage.npy", "position_axes": "y,x"}
    return read_scan(path, probe="initial", **stage), folder / "stage.npy"


def layout(folder: Path) -> Written:
    with h5py.File(folder / "scan.h5", "w") as file:
        frames = np.random.default_rng(0).poisson(9, (6, 8, 8)).astype("u2")
        file.create_dataset("frames", data=frames, chunks=(1, 8, 8))
    np.savetxt(folder / "scan.txt", np.random.default_rng(1).random((6, 2)) * 20)
    words = {
        "frames": {"path": "/frames"},
        "positions": {"file": "{stem}.txt", "columns": ["x", "y"], "unit": "px", "origin": "scan"},
        "measurement": "counts",
    }
    raw = read_scan(folder / "scan.h5", layout=words, probe="initial")
    return raw, folder / "scan.txt"


def nsls2(folder: Path) -> Written:
    path = write_nsls2(folder / "scan_1.h5", measured_scan())
    with h5py.File(path, "r+") as file, h5py.File(folder / "raw.h5", "w") as other:
        other["entry/data/data"] = file["diffamp"][:]
        del file["diffamp"]
        file["raw_data/filename"] = "raw.h5"
    return read_scan(path, probe="initial", measurement="amplitude"), path


@pytest.mark.parametrize(
    "write", [product_first, frames_first, product_npz, read_out, dectris, layout, nsls2]
)
@pytest.mark.parametrize("change", ["touched", "replaced", "removed"])
def test_a_file_of_positions_that_changed_is_noticed(
    tmp_path: Path, write: Callable[[Path], Written], change: str
) -> None:
    raw, second = write(tmp_path)
    raw.check_unchanged()
    if change == "touched":
        os.utime(second, (1e9, 1e9))
    elif change == "replaced":
        second.with_name("new").write_bytes(second.read_bytes())
        os.replace(second.with_name("new"), second)
    else:
        second.unlink()
    for scan in (raw, pickle.loads(pickle.dumps(raw))):  # noqa: S301
        with pytest.raises((ScanFileError, FileNotFoundError), match=second.name):
            scan.check_unchanged()
