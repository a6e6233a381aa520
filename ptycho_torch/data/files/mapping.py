"""Arrays mapped from a file, and noticing when that file changes under the map.

Owns opening, file state and private maps. Knows no formats.
"""

from __future__ import annotations

import errno
import math
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.data.errors import (
    PtychoTorchError,
    ScanFileError,
    ScanFileNotFoundError,
)


@dataclass(frozen=True)
class FileState:
    """What tells one version of a file from another without reading it.

    Parameters
    ----------
    size
        Bytes.
    mtime_ns
        Modification time, nanoseconds.
    inode
        Number of the file in its file system: it changes when another file takes the name.
    """

    size: int
    mtime_ns: int
    inode: int

    @classmethod
    def of(cls, status: os.stat_result) -> FileState:
        """The state in a stat result."""
        return cls(status.st_size, status.st_mtime_ns, status.st_ino)

    def changes(self, now: FileState) -> str:
        """What differs now, for messages; empty when nothing does."""
        if now.size != self.size:
            return f"{now.size} bytes, was {self.size}"
        if now.inode != self.inode:
            return "another file of the same name"
        return "" if now.mtime_ns == self.mtime_ns else "modified since it was opened"


@contextmanager
def opened(path: Path, expected: FileState | None = None) -> Iterator[BinaryIO]:
    """Open a file to read bytes; system errors become ours, in one line.

    Parameters
    ----------
    path
        The file.
    expected
        State at an earlier opening: the file must not have changed since.

    Raises
    ------
    ScanFileNotFoundError
        There is no such file.
    ScanFileError
        It cannot be read, or it changed.
    """
    try:
        with open(path, "rb") as stream:
            if expected is not None:
                require_unchanged(path, expected, FileState.of(os.fstat(stream.fileno())))
            yield stream
    except PtychoTorchError:
        raise
    except FileNotFoundError as error:
        raise _missing(path) from error
    except OSError as error:
        raise unreadable(path, error) from error


def unreadable(path: object, error: OSError) -> ScanFileError:
    """The one-line form of an operating system error while reading."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    return ScanFileError("file", f"unreadable ({reason})", "a readable file", file=path)


def _missing(path: object) -> ScanFileNotFoundError:
    return ScanFileNotFoundError(
        "file", "missing", "a scan file", action="Check the path", file=path
    )


def state_of(path: Path) -> FileState:
    """The state of a file now.

    Raises
    ------
    ScanFileNotFoundError, ScanFileError
        It is gone, or cannot be reached.
    """
    try:
        return FileState.of(os.stat(path))
    except FileNotFoundError as error:
        raise _missing(path) from error
    except OSError as error:
        raise unreadable(path, error) from error


def require_unchanged(path: Path, expected: FileState, now: FileState) -> None:
    """Refuse a file that is not the one that was opened.

    Raises
    ------
    ScanFileError
        Size, inode or modification time differ.
    """
    changes = expected.changes(now)
    if changes:
        raise ScanFileError(
            "file", changes, "the file that was opened", action="Open the scan again", file=path
        )


def map_array(
    path: Path,
    state: FileState,
    *,
    offset: int,
    dtype: np.dtype[Any],
    shape: tuple[int, ...],
) -> NDArray[Any]:
    """Map an array privately: writing to it changes this process's copy alone, never the file.

    Parameters
    ----------
    path, state
        The file, and its state when it was checked.
    offset
        First byte of the numbers. It need not be a multiple of the item size, so the array may be
        unaligned.
    dtype, shape
        Of the array, C order.

    Raises
    ------
    ScanFileError
        The file changed or is too short for the array.
    """
    with opened(path, state) as stream:
        needed = offset + math.prod(shape) * dtype.itemsize
        if state.size < needed:
            raise ScanFileError(
                "file", f"{state.size} bytes", f"at least {needed} bytes", file=path
            )
        start = offset - offset % mmap.ALLOCATIONGRANULARITY
        access = mmap.ACCESS_COPY
        while True:
            try:
                pages = mmap.mmap(stream.fileno(), needed - start, access=access, offset=start)
                break
            except OSError as error:
                # A writable private map counts against the memory limit of the system where a
                # read-only one does not: a file larger than memory may be refused the first.
                if access == mmap.ACCESS_READ or error.errno != errno.ENOMEM:
                    raise
                access = mmap.ACCESS_READ
    return np.ndarray(shape, dtype, buffer=pages, offset=offset - start)


@contextmanager
def read_here_and_there(array: NDArray[Any]) -> Iterator[None]:
    """Ask the kernel to read no further than what is touched, as long as the block lasts.

    Else every page that is touched brings in its neighbours, megabytes of them on some disks.
    """
    base: Any = array
    while isinstance(base, np.ndarray) and base.base is not None:
        base = base.base
    can = isinstance(base, mmap.mmap) and hasattr(base, "madvise")
    if can:
        base.madvise(mmap.MADV_RANDOM)
    try:
        yield
    finally:
        if can:
            base.madvise(mmap.MADV_NORMAL)
