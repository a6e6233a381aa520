"""Write a scan as a canonical NPZ.

Members are stored uncompressed and aligned, so that readers can map the frames where they lie; the
file appears whole or not at all.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ptycho_torch.data.errors import ScanError
from ptycho_torch.data.files.atomic_write import atomic_zip, write_stored
from ptycho_torch.data.frames import FrameStack
from ptycho_torch.data.scan import AnyArray, Scan

SMALL = (
    "xcoords ycoords xcoords_start ycoords_start probeGuess scan_index objectGuess "
    "bad_pixels frame_photons"
)


def write_scan(scan: Scan, path: Path, *, replace: bool = True) -> Path:
    """Write the scan, its frames as amplitude under ``diff3d``; give the path back.

    A ScanError or ScanFileError says that the name does not end in ``.npz`` or cannot be written;
    that the scan's own file is damaged or was written to since it was opened; or, with ``replace``
    False, that the name is there by the time the scan is written.
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
        for name, value in (scan.geometry.known() if scan.geometry else {}).items():
            number = np.array(value)
            write_stored(archive, name, number.dtype, number.shape, [number])
        if scan.patches is not None:
            _write_stack(archive, "Y", scan, scan.patches, np.asarray)
        _write_stack(archive, "diff3d", scan, scan.frames, scan.frames.amplitude)
        if metadata:
            text = np.array(json.dumps(metadata, sort_keys=True, default=_plain_number))
            write_stored(archive, "_metadata", text.dtype, (), [text])
    return path


def _write_stack(
    archive: zipfile.ZipFile,
    key: str,
    scan: Scan,
    stack: FrameStack,
    as_written: Callable[[AnyArray], AnyArray],
) -> None:
    # The copy gets a fresh checksum, so what the old one tells has to be known first.
    chunks = stack.chunks(check=True, chosen=scan.chosen)
    dtype = as_written(np.empty(0, stack.dtype)).dtype
    blocks = (as_written(block) for _, _, block in chunks)
    write_stored(archive, key, dtype, (len(scan), scan.N, scan.N), blocks)


def _plain_number(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} has no JSON form")
