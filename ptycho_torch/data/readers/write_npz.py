"""Write a scan as a canonical NPZ.

Members are stored uncompressed and aligned, so that readers can map the frames where they lie; the
file is written under a temporary name and renamed. Knows keys and bytes, not what a scan means.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.data.errors import ScanError
from ptycho_torch.data.files.atomic_write import atomic_zip, write_stored
from ptycho_torch.data.frames import Frames

FRAMES_PER_BLOCK_BYTES = 16 * 2**20


def write_scan(
    path: Path,
    *,
    arrays: Mapping[str, NDArray[np.generic] | None],
    frames: Frames,
    indices: NDArray[np.integer],
    metadata: Mapping[str, Any],
) -> Path:
    """Write a canonical NPZ; see the contract's scan table for the keys.

    Parameters
    ----------
    path
        Where to; must end in ``.npz``.
    arrays
        Small arrays by key; None is left out.
    frames
        Diffraction frames, written as amplitude under ``diff3d`` in blocks.
    indices
        Frames to write, in order, shape (M,).
    metadata
        JSON values, written as text under ``_metadata``.

    Returns
    -------
    path
        The path given.
    """
    if path.suffix != ".npz":
        raise ScanError("the file name", repr(path.name), "a name ending in .npz", file=path)
    if len(indices) == frames.shape[1]:
        # As many frames as pixels along their side: the shape alone does not tell the frame axis.
        metadata = {**metadata, "axis_order": "frames_first"}
    text = json.dumps(dict(metadata), sort_keys=True, default=_plain_number)
    with atomic_zip(path) as archive:
        for key, array in arrays.items():
            if array is not None:
                write_stored(archive, key, array.dtype, array.shape, [np.ascontiguousarray(array)])
        dtype = frames.take(indices[:1]).dtype
        shape = (len(indices), *frames.shape[1:])
        write_stored(archive, "diff3d", dtype, shape, _blocks(frames, indices, dtype))
        if metadata:
            value = np.array(text)
            write_stored(archive, "_metadata", value.dtype, (), [value])
    return path


def _blocks(
    frames: Frames, indices: NDArray[np.integer], dtype: np.dtype[Any]
) -> Iterator[NDArray[np.generic]]:
    per_frame = max(1, int(np.prod(frames.shape[1:])) * dtype.itemsize)
    step = max(1, FRAMES_PER_BLOCK_BYTES // per_frame)
    for start in range(0, len(indices), step):
        yield frames.take(indices[start : start + step])


def _plain_number(value: object) -> object:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} has no JSON form")
