"""Where the numbers of a frame stack lie on disk, and how to stream them.

Owns the way from stored bytes (zip member or ``.npy``, any byte order, any axis order) to blocks of
a C-ordered (M, N, N) array in native byte order. Knows no sidecars and keeps nothing open.
"""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.data.errors import ScanError, ScanFileError
from ptycho_torch.data.files.mapping import (
    FileState,
    changed_file,
    map_array,
    opened,
    require_unchanged,
)
from ptycho_torch.data.files.npy_header import NpyHeader, read_npy_header, shape_text
from ptycho_torch.data.files.zip_archive import ZipArchive, damaged

AxisOrder = Literal["frames_first", "frames_last"]
Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes in all)."""

Chunk = tuple[int, int, NDArray[Any]]
"""Number of the first frame, number after the last, and those frames (n, N, N)."""

BLOCK_BYTES = 1 << 20


@dataclass(frozen=True)
class FramesIdentity:
    """What tells one stack from another, cheap to get; equal identities mean equal frames.

    Path, size and mtime_ns are the file's when it was opened (of an array in memory None, its
    bytes, None), dtype and shape the stack's, crc32 that of the stored member where the file has
    one, and axes the order in which these bytes are read as (M, N, N). made_by is a digest of
    everything else that the frames depend on, as which of them, and how a detector is read out.
    """

    path: str | None
    size: int
    mtime_ns: int | None
    dtype: str
    shape: tuple[int, int, int]
    crc32: int | None
    axes: tuple[int, ...] = (0, 1, 2)
    made_by: str | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of all frames as stored values."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

    def as_dict(self) -> dict[str, object]:
        """The same as a dict that JSON can hold; axes and made_by only where they are not usual."""
        content = {**vars(self), "shape": list(self.shape), "axes": list(self.axes)}
        if self.axes == (0, 1, 2):
            del content["axes"]
        if self.made_by is None:
            del content["made_by"]
        return content


@dataclass(frozen=True)
class StoredStack:
    """A stack of square frames in a file: everything a process needs to reach it, small.

    Parameters
    ----------
    path, state
        The file, and its state when its headers were checked.
    field, header
        Name of the zip member or of the ``.npy``, and its header.
    crc32, data_offset
        Checksum of the member, None for a bare ``.npy``; offset of the first number in the file,
        None where the member is compressed.
    axes
        For each axis of (M, N, N), the axis of the array as its bytes lie on disk, C order.
    """

    path: Path
    state: FileState
    field: str
    header: NpyHeader
    crc32: int | None
    data_offset: int | None
    axes: tuple[int, ...]

    @property
    def label(self) -> str:
        """What a sidecar's name says of it: the field."""
        return self.field

    @property
    def disk_shape(self) -> tuple[int, ...]:
        """Shape of the bytes read in C order, an axis of length 1 beyond the third dropped."""
        shape = self.header.shape[:3]
        return shape[::-1] if self.header.fortran_order else shape

    @property
    def shape(self) -> tuple[int, int, int]:
        """(M, N, N)."""
        first, second, third = (self.disk_shape[axis] for axis in self.axes)
        return first, second, third

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype in native byte order."""
        return self.header.dtype.newbyteorder("=")

    @property
    def in_place(self) -> bool:
        """The file can be mapped as it is."""
        native = self.header.dtype.isnative and self.axes == (0, 1, 2)
        return native and self.data_offset is not None

    @property
    def frame_by_frame(self) -> bool:
        """Whole frames follow each other on disk."""
        return self.axes[0] == 0

    @property
    def data_bytes(self) -> int:
        """Bytes of the numbers."""
        return self.header.data_bytes

    def identity(self) -> FramesIdentity:
        """File, its state, and the checksum in its zip directory."""
        size, mtime_ns = self.state.size, self.state.mtime_ns
        return FramesIdentity(
            str(self.path), size, mtime_ns, self.dtype.str, self.shape, self.crc32, self.axes
        )

    def made_from(self) -> dict[str, Any]:
        """What a sidecar must have been made from to stand for this stack, as JSON values."""
        content: dict[str, Any] = {
            "field": self.field,
            "dtype": self.dtype.str,
            "shape": list(self.shape),
            "axes": list(self.axes),
        }
        # The checksum is the content itself; times would only make copies look foreign.
        member_bytes = self.header.size + self.data_bytes
        return {**content, "crc32": self.crc32, "member_bytes": member_bytes}

    def require_unchanged(self) -> None:
        """Refuse a file that is not the one that was opened."""
        require_unchanged(self.path, self.state)

    def compared(self, chunks: Iterator[Chunk]) -> Iterator[Chunk]:
        """The same chunks of the map; a ScanFileError after the last where the CRC is wrong."""
        assert self.crc32 is not None
        fault = damaged(f"{self.field} checksum", "wrong", "the CRC in the zip directory")
        fault.file = self.path
        return compared(chunks, self.header.crc32, self.crc32, fault)

    def map(self, stream: BinaryIO) -> NDArray[Any]:
        """Map the frames (M, N, N) from the open file; only where they lie :attr:`in_place`."""
        assert self.data_offset is not None
        return map_array(stream, offset=self.data_offset, dtype=self.dtype, shape=self.shape)

    def disk_blocks(self, block_bytes: int = BLOCK_BYTES) -> Iterator[Chunk]:
        """Blocks along the first disk axis: start, stop, block of shape (stop - start, ...).

        Byte order is native; axes are the disk's. A member's checksum is compared at its end.
        """
        rows, *rest = self.disk_shape
        row_bytes = math.prod(rest) * self.dtype.itemsize
        step = max(1, block_bytes // row_bytes)
        with opened(self.path, self.state) as stream:
            numbers = None
            if self.crc32 is not None:
                archive = ZipArchive(stream, self.path)
                numbers = archive.open_array(self.field)[1]
                if self.crc32 != archive.members[self.field].CRC:
                    raise changed_file("modified since it was opened")
            else:
                stream.seek(self.header.size)
            read = stream.read if numbers is None else numbers.read
            for start in range(0, rows, step):
                stop = min(start + step, rows)
                raw = read((stop - start) * row_bytes)
                block = np.frombuffer(raw, self.header.dtype).reshape(stop - start, *rest)
                yield start, stop, block.astype(self.dtype, copy=False)
            if numbers is not None:
                numbers.finish()

    def frame_blocks(self, block_bytes: int = BLOCK_BYTES) -> Iterator[Chunk]:
        """Blocks of whole frames, C order; only where :attr:`frame_by_frame` holds."""
        for start, stop, block in self.disk_blocks(block_bytes):
            yield start, stop, np.ascontiguousarray(block.transpose(self.axes))

    def blocks(self) -> Iterator[tuple[int, NDArray[Any]]]:
        """All values in the order of the file: number of the first frame, part of the stack."""
        for start, _, block in self.disk_blocks():
            yield start if self.frame_by_frame else 0, block.transpose(self.axes)

    def scattered_into(self, out: NDArray[Any]) -> Iterator[Chunk]:
        """Write everything into ``out`` (M, N, N) in the order of the file, block by block."""
        on_disk = out.transpose(np.argsort(self.axes))
        for first, last, block in self.disk_blocks():
            on_disk[first:last] = block
            yield first, last, block

    def sample(self, spread: NDArray[np.intp]) -> NDArray[Any]:
        """Those frames of a stack with frames stored last, else as many first ones."""
        chosen = np.empty((len(spread), *self.shape[1:]), self.dtype)
        if not self.frame_by_frame:
            on_disk = chosen.transpose(np.argsort(self.axes))
            for start, stop, block in self.disk_blocks():
                on_disk[start:stop] = block.take(spread, axis=self.axes[0])
            return chosen
        for start, stop, block in self.frame_blocks(chosen.nbytes):
            chosen[start : min(stop, len(chosen))] = block[: len(chosen) - start]
            if stop >= len(chosen):
                break
        return chosen

    def load(self) -> NDArray[Any]:
        """Read everything into memory, which grows with bytes that are really there.

        A ScanFileError says that it is damaged, or too large for the memory there is.
        """
        try:
            raw = bytearray()
            for _, _, block in self.disk_blocks():
                raw += block.data
            whole = memoryview(raw).toreadonly()
            on_disk = np.frombuffer(whole, self.dtype).reshape(self.disk_shape)
            return np.ascontiguousarray(on_disk.transpose(self.axes))
        except MemoryError as error:
            raise ScanFileError(
                self.field,
                f"{self.data_bytes} bytes, more than fits in memory",
                "frames that fit",
                action="Use --option sidecar=auto or a directory (sidecar='auto')",
                file=self.path,
            ) from error


def compared(
    chunks: Iterator[Chunk], header_crc32: int, crc32: int, fault: ScanFileError
) -> Iterator[Chunk]:
    """The same chunks of a mapped array, contiguous and in order; ``fault`` where the CRC differs.

    ``header_crc32`` is the checksum of what lies before the numbers, ``crc32`` that of both as the
    file has it; they are compared after the last chunk.
    """
    seen = header_crc32
    for start, stop, block in chunks:
        yield start, stop, block
        seen = zlib.crc32(block.reshape(-1).view(np.uint8).data, seen)
    if seen != crc32:
        raise fault


def stack_in_archive(archive: ZipArchive, key: str, order: AxisOrder) -> StoredStack:
    """Find a stack in an open ``.npz``, reading only headers.

    A ScanKeyError, ScanFileError or ScanError says that it lacks the member, or that this is
    damaged or no stack of frames.
    """
    assert archive.path is not None and archive.state is not None, "an archive in memory"
    archive.require(key)
    header, start = archive.header(key), archive.data_offset(key)
    axes: tuple[int, ...] = (2, 0, 1) if order == "frames_last" else (0, 1, 2)
    stack = StoredStack(
        archive.path,
        archive.state,
        key,
        header,
        archive.members[key].CRC,
        None if start is None else start + header.size,
        tuple(2 - axis for axis in axes) if header.fortran_order else axes,
    )
    require_frames(header.shape, key, stack)
    # Blocks are read a frame at a time, at least.
    archive.require_moderate(key, stack.data_bytes // stack.disk_shape[0])
    return stack


def stack_in_npy(stream: BinaryIO, path: Path) -> StoredStack:
    """Find a stack in an open ``.npy`` file, reading only its header; errors as above."""
    state = FileState.of(os.fstat(stream.fileno()))
    header = read_npy_header(stream.read, "file")
    needed = header.size + header.data_bytes
    if state.size < needed:
        raise damaged("file", f"{state.size} bytes", f"{needed} bytes")
    axes = (2, 1, 0) if header.fortran_order else (0, 1, 2)
    stack = StoredStack(path, state, path.stem, header, None, header.size, axes)
    require_frames(header.shape, path.stem, stack)
    return stack


def require_frames(shape: tuple[int, ...], field: str, stack: StoredStack | None = None) -> None:
    """Refuse what is no (M, N, N) or (M, N, N, 1), has no frames, or frames that are not square."""
    found = f"{field} shape", shape_text(shape)
    if len(shape) != 3 and not (len(shape) == 4 and shape[3] == 1):
        raise ScanError(*found, "(M, N, N)")
    frames, height, width = shape[:3] if stack is None else stack.shape
    if frames < 1 or height < 1:
        raise ScanError(*found, "(M, N, N) with M, N >= 1")
    if height != width:
        raise ScanError(*found, "(M, N, N)", action="Crop or pad the frames to squares")
