"""Files opened once, arrays mapped from an open file, and noticing that a file changed since.

Owns opening, the state of a file and maps, which nobody can write to. Knows no formats.
"""

from __future__ import annotations

import ctypes
import math
import mmap
import os
import stat
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.data.errors import (
    PtychoTorchError,
    ScanFileError,
    ScanFileNotFoundError,
    naming,
)

_TICK_NS = 2 * 10**9
"""Writes that are closer together may carry one time: file systems count in steps of up to 2 s."""
_READ_AT_ONCE = 128 << 10
"""Bytes to ask for in one call: of more than a device reads at once, kernels drop the rest."""
_BINARY, NO_WAIT = getattr(os, "O_BINARY", 0), getattr(os, "O_NONBLOCK", 0)


@dataclass(frozen=True)
class FileState:
    """What tells one version of a file from another without reading it.

    Device and inode change when another file takes the name; size is in bytes, mtime_ns the time of
    the last modification. A file is ``settled`` where any write from now on carries another time.
    """

    device: int
    inode: int
    size: int
    mtime_ns: int
    settled: bool = field(compare=False)

    @classmethod
    def of(cls, status: os.stat_result) -> FileState:
        """The state in a stat result."""
        settled = status.st_mtime_ns + _TICK_NS < time.time_ns()
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, settled)

    def changes(self, now: FileState) -> str:
        """What differs now, for messages; empty when nothing does."""
        if now.size != self.size:
            return f"{now.size} bytes, was {self.size}"
        if (now.device, now.inode) != (self.device, self.inode):
            return "another file of the same name"
        return "" if now.mtime_ns == self.mtime_ns else "modified since it was opened"


@contextmanager
def opened(path: Path, expected: FileState | None = None) -> Iterator[BinaryIO]:
    """Open a file to read bytes, and name it in every PtychoTorchError raised inside.

    A ScanFileNotFoundError or ScanFileError says that there is none, that it cannot be read, that
    it is not in the state ``expected`` any more, or that it was written to inside the block: what
    was read is of one file at one moment, or refused.
    """
    with naming(path), _reading(), _open(path) as stream:
        state = FileState.of(os.fstat(stream.fileno()))
        if expected is not None:
            _require_same(expected, state)
        yield stream
        _require_same(state, FileState.of(os.fstat(stream.fileno())))


def _open(path: Path) -> BinaryIO:
    require_name(path)
    require_regular(os.stat(path))  # opening a device may set it going, a socket cannot be opened
    # A FIFO that took the name meanwhile would wait for its writer.
    descriptor = os.open(path, os.O_RDONLY | _BINARY | NO_WAIT)
    try:
        require_regular(os.fstat(descriptor))
    except BaseException:
        os.close(descriptor)
        raise
    return os.fdopen(descriptor, "rb")


def require_name(path: str | os.PathLike[str]) -> None:
    """Refuse a path that can lead to no file: the system takes it for a wrong argument."""
    if "\0" in os.fspath(path):
        raise ScanFileNotFoundError(
            "name", "text with a NUL in it", "a name of a file", action="Check the path", file=path
        )


def require_regular(status: os.stat_result) -> None:
    """Refuse what is no regular file, and say what it is."""
    if not stat.S_ISREG(status.st_mode):
        kinds = {stat.S_IFDIR: "a directory", stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket"}
        kind = kinds.get(stat.S_IFMT(status.st_mode), "a device")
        raise ScanFileError("file", kind, "a regular file")


@contextmanager
def _reading() -> Iterator[None]:
    """Turn the operating system's errors into ours, in one line."""
    try:
        yield
    except PtychoTorchError:
        raise
    except FileNotFoundError as error:
        raise ScanFileNotFoundError(
            "file", "missing", "a scan file", action="Check the path"
        ) from error
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise ScanFileError("file", f"unreadable ({reason})", "a readable file") from error


def state_of(path: Path) -> FileState:
    """The state of a file now; ScanFileNotFoundError or ScanFileError where it is out of reach."""
    require_name(path)
    with naming(path), _reading():
        return FileState.of(os.stat(path))


def require_unchanged(path: Path, expected: FileState) -> None:
    """Refuse a path that no longer leads to the file that was opened, as it was then."""
    with naming(path):
        _require_same(expected, state_of(path))


def _require_same(expected: FileState, now: FileState) -> None:
    changes = expected.changes(now)
    if changes:
        raise changed_file(changes)


def changed_file(changes: str) -> ScanFileError:
    """The error of a file that is not the one that was opened."""
    return ScanFileError("file", changes, "the file that was opened", action="Open the scan again")


def map_array(
    stream: BinaryIO, *, offset: int, dtype: np.dtype[Any], shape: tuple[int, ...]
) -> NDArray[Any]:
    """Map an array that nobody can write to, so that every process sees the frames of the file.

    The map needs no open file: ``stream`` may be closed, and no descriptor stays behind. It ends
    when the last array over it goes.

    Parameters
    ----------
    stream, offset
        The open file, and the first byte of the numbers. That need not be a multiple of the item
        size, so the array may be unaligned.
    dtype, shape
        Of the array, C order. A ScanFileError says that the file is too short or cannot be mapped.
    """
    end = offset + math.prod(shape) * dtype.itemsize
    size = os.fstat(stream.fileno()).st_size
    if size < end:
        raise ScanFileError("file", f"{size} bytes", f"at least {end} bytes")
    start = offset - offset % mmap.ALLOCATIONGRANULARITY
    with _reading():
        pages = _pages(stream.fileno(), start, end - start)
    return np.ndarray(shape, dtype, buffer=np.asarray(pages), offset=offset - start)


def _pages(descriptor: int, start: int, length: int) -> Any:
    if os.name == "posix" and ctypes.sizeof(ctypes.c_void_p) == 8:
        return _Pages(descriptor, start, length)
    pages = mmap.mmap(descriptor, length, access=mmap.ACCESS_READ, offset=start)
    return np.frombuffer(pages, np.uint8)


class _Pages:
    """Pages of a file, mapped through libc, which NumPy reads as an array of bytes.

    Python's own mmap keeps a duplicate of the descriptor for as long as the map lives: a thousand
    scans would hold a thousand open files.
    """

    def __init__(self, descriptor: int, start: int, length: int) -> None:
        where, size, number = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
        call = _libc("mmap", where, where, size, number, number, number, ctypes.c_int64)
        address = call(None, length, mmap.PROT_READ, mmap.MAP_PRIVATE, descriptor, start)
        if address == ctypes.c_void_p(-1).value:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        self._place = address, length
        self.__array_interface__ = {
            "version": 3,
            "typestr": "|u1",
            "shape": (length,),
            "data": (address, True),
        }
        unmap = _libc("munmap", number, where, size)
        weakref.finalize(self, unmap, address, length).atexit = False

    def madvise(self, advice: int) -> None:
        """Tell the kernel how the pages will be read."""
        _libc("madvise", ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)(
            *self._place, advice
        )


def _libc(name: str, result: Any, *arguments: Any) -> Any:
    # A symbol of the process itself: no library is loaded.
    prototype = ctypes.CFUNCTYPE(result, *arguments, use_errno=True)
    return prototype((name, ctypes.pythonapi))


def read_soon(array: NDArray[Any]) -> None:
    """Ask the kernel for the pages of mapped, contiguous values; return before they are there."""
    if not (hasattr(mmap, "MADV_WILLNEED") and ctypes.sizeof(ctypes.c_void_p) == 8):
        return
    madvise = _libc("madvise", ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    start = array.__array_interface__["data"][0]
    for address in range(start - start % mmap.PAGESIZE, start + array.nbytes, _READ_AT_ONCE):
        madvise(address, min(_READ_AT_ONCE, start + array.nbytes - address), mmap.MADV_WILLNEED)


@contextmanager
def read_here_and_there(array: NDArray[Any]) -> Iterator[None]:
    """Disable the kernel's read-ahead for a mapped array inside this block.

    Else every page that is touched brings in its neighbours, megabytes of them on some disks.
    """
    base: Any = array
    while isinstance(base, np.ndarray) and base.base is not None:
        base = base.base
    advise = getattr(base, "madvise", None)
    if advise is not None:
        advise(mmap.MADV_RANDOM)
    try:
        yield
    finally:
        if advise is not None:
            advise(mmap.MADV_NORMAL)
