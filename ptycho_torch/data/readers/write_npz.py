"""Write a scan as a canonical NPZ.

Members are stored uncompressed and aligned, so that readers can map the frames where they lie; the
file is written under a temporary name and renamed. Knows keys and bytes, not what a scan means.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.data.errors import ScanError
from ptycho_torch.data.files.atomic_write import atomic_zip
from ptycho_torch.data.frames import Frames

ALIGNMENT = 64
"""Array data start at multiples of this many bytes, as NumPy's own .npy files do."""

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
                _write_member(archive, key, np.ascontiguousarray(array).dtype, array.shape, [array])
        dtype = frames.take(indices[:1]).dtype
        shape = (len(indices), *frames.shape[1:])
        _write_member(archive, "diff3d", dtype, shape, _blocks(frames, indices, dtype))
        if metadata:
            value = np.array(text)
            _write_member(archive, "_metadata", value.dtype, (), [value])
    return path


def _blocks(
    frames: Frames, indices: NDArray[np.integer], dtype: np.dtype[Any]
) -> Iterator[NDArray[np.generic]]:
    per_frame = max(1, int(np.prod(frames.shape[1:])) * dtype.itemsize)
    step = max(1, FRAMES_PER_BLOCK_BYTES // per_frame)
    for start in range(0, len(indices), step):
        yield frames.take(indices[start : start + step])


def _write_member(
    archive: zipfile.ZipFile,
    key: str,
    dtype: np.dtype[Any],
    shape: tuple[int, ...],
    blocks: Any,
) -> None:
    info = zipfile.ZipInfo(f"{key}.npy")
    info.compress_type = zipfile.ZIP_STORED
    _align(info, archive)
    with archive.open(info, "w", force_zip64=True) as member:
        member.write(_npy_header(dtype, shape))
        for block in blocks:
            _write_array(member, block)


def _write_array(member: IO[bytes], array: NDArray[np.generic]) -> None:
    contiguous = np.ascontiguousarray(array)
    if contiguous.nbytes:
        member.write(contiguous.reshape(-1).view(np.uint8).data)


def _npy_header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header,
        {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape},
    )
    return header.getvalue()


def _align(info: zipfile.ZipInfo, archive: zipfile.ZipFile) -> None:
    """Pad the member's extra field so that its data start at a multiple of ALIGNMENT.

    An extra field is (id, length, bytes); zipfile itself puts a 20-byte zip64 field in front.
    """
    position = archive.fp.tell() if archive.fp is not None else 0
    fixed = 30 + len(info.filename.encode()) + 20 + 4
    padding = -(position + fixed) % ALIGNMENT
    info.extra = b"\xff\xff" + padding.to_bytes(2, "little") + bytes(padding)


def _plain_number(value: object) -> object:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} has no JSON form")
