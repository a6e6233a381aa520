"""Frames that a detector turns keep no probe of the file, in every format, and it is said."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ptycho_torch import read_scan
from ptycho_torch.data.detector import Detector
from ptycho_torch.data.errors import ScanKeyError
from ptycho_torch.data.readers.conformance import example_scan
from ptycho_torch.data.readers.write_npz import write_scan

h5py = pytest.importorskip("h5py", reason="h5py is not installed")
import ptychodus_files as files  # noqa: E402
from scan_files import measured_scan, write_cxi, write_tike  # noqa: E402

Words = dict[str, Any]


def npz(folder: Path) -> tuple[Path, Words]:
    return write_scan(measured_scan(), folder / "scan.npz"), {}


def tike(folder: Path) -> tuple[Path, Words]:
    return write_tike(folder / "scan.npz", measured_scan()), {}


def cxi(folder: Path) -> tuple[Path, Words]:
    return write_cxi(folder / "scan.cxi", measured_scan()), {}


def product(folder: Path) -> tuple[Path, Words]:
    files.write_diffraction_h5(folder / "diffraction.h5", example_scan())
    return files.write_product_h5(folder / "product.h5", example_scan()), {}


def layout(folder: Path) -> tuple[Path, Words]:
    scan = measured_scan()
    with h5py.File(folder / "scan.h5", "w") as file:
        file["frames"] = np.round(scan.diff3d**2).astype("u2")
        file["xy"] = np.stack([scan.xcoords, scan.ycoords], axis=1)
        file["probe"] = np.asarray(scan.probeGuess)
    words = {
        "frames": {"path": "/frames"},
        "positions": {"path": "/xy", "columns": ["x", "y"], "unit": "px", "origin": "scan"},
        "probe": "/probe",
        "measurement": "counts",
    }
    return folder / "scan.h5", {"layout": words}


@pytest.mark.parametrize("write", [npz, tike, cxi, layout])
def test_a_turned_detector_leaves_the_files_probe_out(
    tmp_path: Path,
    write: Callable[[Path], tuple[Path, Words]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    path, options = write(tmp_path)
    options["sidecar"] = "off"
    kept = read_scan(path, **options)
    assert kept.has_probe and "probe is left out" not in caplog.text
    options["detector"] = Detector(orientation="transpose")
    with pytest.raises(ScanKeyError, match="probeGuess is missing"):
        read_scan(path, **options)
    assert "probe is left out" in caplog.text and "transpose; --probe FILE" in caplog.text


def test_the_probe_of_the_same_file_is_taken_as_it_is_where_that_is_asked_for(
    tmp_path: Path,
) -> None:
    path, _ = npz(tmp_path)
    turned = read_scan(path, detector=Detector(orientation="fliplr"), probe=path)
    assert np.array_equal(turned.probeGuess, measured_scan().probeGuess)


def test_a_product_of_turned_frames_has_no_probe(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, _ = product(tmp_path)
    assert read_scan(path).has_probe and "probe is left out" not in caplog.text
    read_scan(path, detector=Detector(orientation="rot90"), probe="initial")
    assert "probe is left out" in caplog.text
