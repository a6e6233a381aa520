"""Where the numbers of a frame stack lie on disk, and how to stream them.

Owns the way from stored bytes (zip member or ``.npy``, any byte order, any axis order) to blocks of
a C-ordered (M, N, N) array in native byte order. Knows no sidecars and keeps nothing open.
"""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.data.errors import ScanError, ScanFileError
from ptycho_torch.data.files.mapping import FileState, opened
from ptycho_torch.data.files.npy_header import NpyHeader, read_npy_header, shape_text
from ptycho_torch.data.files.zip_archive import (
    STORED,
    MemberStream,
    ZipMember,
    damaged,
    locate,
    read_directory,
)

AxisOrder = Literal["frames_first", "frames_last"]

BLOCK_BYTES = 1 << 20
MODERATE_BYTES = 256 << 20
"""What may be unpacked into memory at once from a file of any size, however small."""


def disk_axes(header: NpyHeader, order: AxisOrder) -> tuple[int, ...]:
    """For each axis of (M, N, N), the axis of the array as its bytes lie on disk, C order."""
    axes: tuple[int, ...] = (2, 0, 1) if order == "frames_last" else (0, 1, 2)
    return tuple(2 - axis for axis in axes) if header.fortran_order else axes


@dataclass(frozen=True)
class FramesIdentity:
    """What tells one stack from another, cheap to get; equal identities mean equal frames.

    Parameters
    ----------
    path
        The file as text, or None for an array in memory.
    size, mtime_ns
        Of the file when it was opened; for an array its bytes, and None.
    dtype, shape
        Of the stack.
    crc32
        Checksum of the stored member where the file carries one.
    """

    path: str | None
    size: int
    mtime_ns: int | None
    dtype: str
    shape: tuple[int, int, int]
    crc32: int | None

    def as_dict(self) -> dict[str, object]:
        """The same as a dict that JSON can hold."""
        return {**vars(self), "shape": list(self.shape)}


@dataclass(frozen=True)
class StoredChecksum:
    """CRC-32 of an array in a file, header and numbers, as far as they have been seen.

    Parameters
    ----------
    path, field
        Named in messages.
    expected
        What the file says.
    seen
        Of the header, then of the numbers too.
    action
        What helps.
    """

    path: Path
    field: str
    expected: int
    seen: int
    action: str = "The file is damaged: copy or write it again"

    def after(self, block: NDArray[Any]) -> StoredChecksum:
        """The same when the next numbers, contiguous, have been seen."""
        return replace(self, seen=zlib.crc32(block.reshape(-1).view(np.uint8).data, self.seen))

    def require(self) -> None:
        """Refuse numbers that are not those the file was written with.

        Raises
        ------
        ScanFileError
            They are not.
        """
        if self.seen != self.expected:
            field, expected = f"{self.field} checksum", "the one kept beside the bytes"
            raise ScanFileError(field, "wrong", expected, action=self.action, file=self.path)


@dataclass(frozen=True)
class StackSource:
    """A stack of square frames in a file: everything a process needs to reach it, small.

    Parameters
    ----------
    path, state
        The file, and its state when its headers were checked.
    field
        Name in messages, e.g. ``diff3d``.
    member
        The zip member, or None for a bare ``.npy``.
    header
        The ``.npy`` header.
    data_offset
        Offset of the first number in the file; None when the member is compressed.
    axes
        See :func:`disk_axes`.
    """

    path: Path
    state: FileState
    field: str
    member: ZipMember | None
    header: NpyHeader
    data_offset: int | None
    axes: tuple[int, ...]

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
        return math.prod(self.shape) * self.dtype.itemsize

    def checksum(self) -> StoredChecksum | None:
        """Of a stored member, its header seen; None for a bare ``.npy``, which has none."""
        if self.member is None or self.data_offset is None:
            return None
        with opened(self.path, self.state) as stream:
            stream.seek(self.data_offset - self.header.size)
            header = stream.read(self.header.size)
        return StoredChecksum(self.path, self.field, self.member.crc32, zlib.crc32(header))

    @contextmanager
    def numbers(self) -> Iterator[MemberStream | _FileStream]:
        """Open the stream of the numbers, headers skipped."""
        with opened(self.path, self.state) as stream:
            if self.member is None:
                stream.seek(self.header.size)
                yield _FileStream(stream, self.path, self.header.data_bytes)
            else:
                numbers = MemberStream(stream, self.member, self.path)
                numbers.read(self.header.size)
                yield numbers

    def disk_blocks(
        self, block_bytes: int = BLOCK_BYTES
    ) -> Iterator[tuple[int, int, NDArray[Any]]]:
        """Blocks along the first disk axis: start, stop, block of shape (stop - start, ...).

        Byte order is native; axes are the disk's.
        """
        rows, *rest = self.disk_shape
        row_bytes = math.prod(rest) * self.dtype.itemsize
        step = max(1, block_bytes // row_bytes)
        with self.numbers() as numbers:
            for start in range(0, rows, step):
                stop = min(start + step, rows)
                raw = numbers.read((stop - start) * row_bytes)
                block = np.frombuffer(raw, self.header.dtype).reshape(stop - start, *rest)
                yield start, stop, block.astype(self.dtype, copy=False)
            numbers.finish()

    def frame_blocks(
        self, block_bytes: int = BLOCK_BYTES
    ) -> Iterator[tuple[int, int, NDArray[Any]]]:
        """Blocks of whole frames, C order; only where :attr:`frame_by_frame` holds."""
        for start, stop, block in self.disk_blocks(block_bytes):
            yield start, stop, np.ascontiguousarray(block.transpose(self.axes))

    def load(self) -> NDArray[Any]:
        """Read everything into memory, which grows with bytes that are really there.

        Raises
        ------
        ScanFileError
            Damaged, or too large for the memory there is.
        """
        try:
            raw = bytearray()
            with self.numbers() as numbers:
                while block := numbers.read(1 << 18):
                    raw += block
                numbers.finish()
            on_disk = np.frombuffer(raw, self.header.dtype).reshape(self.disk_shape)
            return np.ascontiguousarray(on_disk.transpose(self.axes), dtype=self.dtype)
        except MemoryError as error:
            raise ScanFileError(
                self.field,
                f"{self.data_bytes} bytes, more than fits in memory",
                "frames that fit",
                action="Use sidecar='auto' or a directory",
                file=self.path,
            ) from error


class _FileStream:
    """The bytes of a bare ``.npy`` with the reading interface of a zip member."""

    def __init__(self, stream: BinaryIO, path: Path, size: int) -> None:
        self._stream, self._path, self._left = stream, path, size

    def read(self, size: int) -> bytes:
        data = self._stream.read(min(size, self._left))
        if len(data) < min(size, self._left):
            raise damaged(self._path, "file end", "early", f"{self._left} bytes more")
        self._left -= len(data)
        return data

    def finish(self) -> None:
        """Nothing to check: a bare ``.npy`` carries no checksum."""


def member_source(path: Path, field: str, *, order: AxisOrder = "frames_first") -> StackSource:
    """Find a stack in an ``.npz``, reading headers alone.

    Raises
    ------
    ScanFileNotFoundError, ScanFileError
        The file is missing, unreadable or damaged.
    ScanError
        It lacks the member, or that is no stack of frames.
    """
    with opened(path) as stream:
        state = _state(stream)
        member = read_directory(stream, path).get(field)
        if member is None:
            raise ScanError(field, "missing", "an array of that name", file=path)
        header = open_array(stream, member, path)[0]
        start = locate(stream, member, path) if member.method == STORED else None
    offset = None if start is None else start + header.size
    source = _checked(path, state, field, member, header, offset, order)
    # Blocks are read a frame at a time, at least.
    require_moderate(member, source.data_bytes // source.disk_shape[0], state.size, path)
    return source


def npy_source(path: Path) -> StackSource:
    """Find a stack in an ``.npy`` file, reading its header alone; errors as above."""
    with opened(path) as stream:
        state = _state(stream)
        header = read_npy_header(stream.read, path, "file")
    if state.size < header.size + header.data_bytes:
        raise damaged(path, "file", f"{state.size} bytes", f"{header.size + header.data_bytes}")
    return _checked(path, state, path.stem, None, header, header.size, "frames_first")


def open_array(stream: BinaryIO, member: ZipMember, file: object) -> tuple[NpyHeader, MemberStream]:
    """Header of an ``.npy`` member, and the stream standing at its numbers.

    Raises
    ------
    ScanFileError
        Damaged, or the shape does not fit the member's bytes.
    """
    numbers = MemberStream(stream, member, file)
    header = read_npy_header(numbers.read, file, member.key)
    if header.size + header.data_bytes != member.size:
        raise damaged(
            file,
            f"{member.key} {header}",
            f"{member.size - header.size} bytes",
            f"{header.data_bytes} bytes",
        )
    return header, numbers


def require_moderate(member: ZipMember, nbytes: int, file_bytes: int, file: object) -> None:
    """Refuse a compressed member that would take far more memory than its file takes disk.

    Parameters
    ----------
    member
        The member; stored ones are as large as they say.
    nbytes
        Bytes of it that will be in memory at once.
    file_bytes
        Size of the archive.
    file
        Named in messages.

    Raises
    ------
    ScanFileError
        More than twice the archive, and more than :data:`MODERATE_BYTES`.
    """
    most = max(MODERATE_BYTES, 2 * file_bytes)
    if member.method != STORED and nbytes > most:
        raise ScanFileError(
            f"{member.key} size",
            f"{nbytes} bytes, unpacked from {member.compressed_size}",
            f"at most {most} bytes",
            action="If that is meant, write it with np.savez",
            file=file,
        )


def _state(stream: BinaryIO) -> FileState:
    return FileState.of(os.fstat(stream.fileno()))


def _checked(
    path: Path,
    state: FileState,
    field: str,
    member: ZipMember | None,
    header: NpyHeader,
    data_offset: int | None,
    order: AxisOrder,
) -> StackSource:
    shape = header.shape
    if len(shape) != 3 and not (len(shape) == 4 and shape[3] == 1):
        raise ScanError(f"{field} shape", shape_text(shape), "(M, N, N)", file=path)
    source = StackSource(path, state, field, member, header, data_offset, disk_axes(header, order))
    check_square(source.shape, path, field)
    return source


def check_square(shape: tuple[int, ...], file: object, field: str) -> None:
    """Refuse a stack without frames, or with frames that are not square."""
    frames, height, width = shape
    if frames < 1 or height < 1:
        raise ScanError(f"{field} shape", shape_text(shape), "(M, N, N) with M, N >= 1", file=file)
    if height != width:
        raise ScanError(
            f"{field} shape",
            shape_text(shape),
            "(M, N, N)",
            action="Crop or pad the frames to squares",
            file=file,
        )
