"""Write a scan as a canonical NPZ.

Members are stored uncompressed and aligned, so that readers can map the frames where they lie; the
file appears whole or not at all.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.data.errors import ScanError
from ptycho_torch.data.files.atomic_write import atomic_zip, write_stored
from ptycho_torch.data.scan import Scan

BLOCK_BYTES = 16 * 2**20
SMALL = "xcoords ycoords xcoords_start ycoords_start probeGuess scan_index objectGuess Y"


def write_scan(scan: Scan, path: Path, *, replace: bool = True) -> Path:
    """Write the scan, its frames as amplitude under ``diff3d``; give the path back.

    A ScanError or ScanFileError says that the name does not end in ``.npz`` or cannot be written,
    or, with ``replace`` False, that it is there by the time the scan is written.
    """
    if path.suffix != ".npz":
        raise ScanError("the file name", repr(path.name), "a name ending in .npz", file=path)
    metadata = scan.metadata or {}
    if len(scan) == scan.N or "axis_order" in metadata:
        # As many frames as pixels along their side, or a file that had its frames last.
        metadata = {**metadata, "axis_order": "frames_first"}
    with atomic_zip(path, replace=replace) as archive:
        for key in SMALL.split():
            array = getattr(scan, key)
            if array is not None:
                write_stored(archive, key, array.dtype, array.shape, [np.ascontiguousarray(array)])
        dtype = scan.frames.take([0]).dtype
        shape = (len(scan), scan.N, scan.N)
        write_stored(archive, "diff3d", dtype, shape, _blocks(scan, dtype))
        if metadata:
            text = np.array(json.dumps(metadata, sort_keys=True, default=_plain_number))
            write_stored(archive, "_metadata", text.dtype, (), [text])
    return path


def _blocks(scan: Scan, dtype: np.dtype[Any]) -> Iterator[NDArray[Any]]:
    numbers = scan.file_indices(np.arange(len(scan)))
    step = max(1, BLOCK_BYTES // (scan.N**2 * dtype.itemsize))
    for start in range(0, len(numbers), step):
        yield scan.frames.take(numbers[start : start + step])


def _plain_number(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} has no JSON form")
