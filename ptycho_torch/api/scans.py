"""Scans as Ptychodus hands them over: a folder of training files, or arrays.

Owns what its training files lack beside a canonical NPZ. Positions there count from the middle of
pixel 0 of the object, so half a pixel is added; frames are counts.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.data.errors import OptionError, ScanFileNotFoundError
from ptycho_torch.data.frames import Frames
from ptycho_torch.data.raw_data import RawData, read_scan
from ptycho_torch.data.readers.ptychodus_product import CENTRE_PX
from ptycho_torch.data.readers.scan_file import open_scan_file

EXPORTED = frozenset(
    "xcoords ycoords xcoords_start ycoords_start diff3d bad_pixels probeGuess objectGuess "
    "scan_index".split()
)
"""Keys of a training file of Ptychodus 1.7; canonical scans of others have some of them."""


def training_scans(data_dir: str | Path) -> list[RawData]:
    """The scans of a folder of training files, or of one such file, by name.

    Products and frames that lie beside them, as in a folder for Ptychodus' batch mode, are left.

    Raises
    ------
    ScanFileNotFoundError
        There is no training file.
    ScanError, ScanKeyError, ScanFileError
        A file cannot be used; one line says why.
    """
    folder = Path(data_dir)
    files = [folder] if folder.is_file() else sorted(folder.glob("*.npz"))
    scans = [each for each in map(_training_scan, files) if each is not None]
    if not scans:
        action = "Export training data there, in Ptychodus"
        raise ScanFileNotFoundError(
            "the folder", "without a training file", "*.npz", action=action, file=folder
        )
    return scans


def scan_of_arrays(
    diff_patterns: NDArray[Any], probe: NDArray[Any], positions: NDArray[Any]
) -> RawData:
    """A scan of what Ptychodus holds in memory.

    Parameters
    ----------
    diff_patterns
        Counts, (M, N, N).
    probe
        Modes, (P, N, N), complex.
    positions
        (M, 2) as (y, x), object pixels, from the middle of pixel 0.

    Raises
    ------
    OptionError, ScanError
        The shapes do not belong together, or values cannot be.
    """
    places = np.asarray(positions, dtype=np.float64)
    if places.ndim != 2 or places.shape[1] != 2:
        raise OptionError("positions", f"of shape {places.shape}", "(M, 2) as (y, x)")
    y, x = (places + CENTRE_PX).T
    frames = Frames.from_array(diff_patterns, measurement="counts")
    return RawData.from_coords_without_pc(x, y, frames, np.asarray(probe))


def without_mean_phase(scan: RawData) -> RawData:
    """The scan, its object turned so that its mean over the scanned area is real and positive.

    Frames do not depend on that phase; labels do.
    """
    if scan.objectGuess is None:
        return scan
    rows, columns = (
        slice(max(0, int(at.min())), int(at.max()) + 1) for at in (scan.ycoords, scan.xcoords)
    )
    phase = np.angle(scan.objectGuess[rows, columns].mean(dtype=np.complex128))
    turned = (scan.objectGuess * np.exp(-1j * phase)).astype(scan.objectGuess.dtype)
    turned.flags.writeable = False
    return RawData.sharing(scan, objectGuess=turned)


def _training_scan(path: Path) -> RawData | None:
    """The scan of a training file; None: the file is a cache, a product, or frames."""
    with open_scan_file(path.absolute()) as file:
        keys = set(file.archive.members)
    if not {"xcoords", "probeGuess"} <= keys:
        return None
    exported = keys == EXPORTED
    scan = read_scan(path, format="npz", measurement="counts" if exported else "auto")
    if exported and scan.frames.dtype.kind == "f":
        # The reader takes integers for an export; these are one by all of its keys.
        moved = {name: getattr(scan, name) + CENTRE_PX for name in ("xcoords", "ycoords")}
        for array in moved.values():
            array.flags.writeable = False
        starts = {f"{name}_start": array for name, array in moved.items()}
        return RawData.sharing(scan, **moved, **starts)
    return scan
