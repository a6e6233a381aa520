"""Building a sidecar: one builder, a temporary name, checked, synced, renamed.

Owns the writing side of :mod:`ptycho_torch.data.caches.sidecar`.
"""

from __future__ import annotations

import logging
import os
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO

import numpy as np

from ptycho_torch.data.caches.sidecar import (
    Sidecar,
    SidecarPolicy,
    encode_header,
    encode_record,
    past_mtime_ns,
    read_sidecar,
    sidecar_directories,
    sidecar_name,
)
from ptycho_torch.data.errors import ScanFileError
from ptycho_torch.data.files.atomic_write import atomic_write, writable_cache_directory
from ptycho_torch.data.files.build_lock import build_lock, build_timeout_s
from ptycho_torch.data.files.stored_stack import StackSource

logger = logging.getLogger(__name__)

Progress = Callable[[int, int], None]


def build_sidecar(
    source: StackSource, policy: SidecarPolicy, progress: Progress | None = None
) -> Sidecar:
    """Convert a stack into its sidecar, or take the one another process has just made.

    Parameters
    ----------
    source
        The stack.
    policy
        ``"auto"``: beside the scan, or in the user's cache where that cannot be written; or a
        directory.
    progress
        Called with (bytes done, bytes in all).

    Raises
    ------
    ScanFileError
        The scan is damaged, or no place takes the sidecar.
    CacheLockTimeoutError
        Another process builds it and did not finish in time.
    """
    path = _place(source, policy) / sidecar_name(source)
    with build_lock(path, build_timeout_s(source.data_bytes)):
        # Whoever looked before already reported what is wrong with it.
        built = read_sidecar(path, source, report=False)
        if built is None:
            _require_space(path, source)
            logger.info("%s: converting %s of %s", path, source.field, source.path)
            _write(path, source, progress)
            built = read_sidecar(path, source)
    if built is None:
        raise ScanFileError(
            "sidecar",
            "not as it was written",
            "a readable file",
            action="Check the disk",
            file=path,
        )
    return built


def _place(source: StackSource, policy: SidecarPolicy) -> Path:
    directory = sidecar_directories(source, policy)[0]
    if not isinstance(policy, Path):
        return writable_cache_directory(directory)
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ScanFileError(
            "sidecar directory",
            f"not made ({error.strerror})",
            "a directory that can be written",
            action="Give another, or sidecar='off'",
            file=directory,
        ) from error
    return directory


def _require_space(path: Path, source: StackSource) -> None:
    try:
        free = shutil.disk_usage(path.parent).free
    except OSError:
        return
    if free < source.data_bytes:
        raise ScanFileError(
            "free space",
            f"{free >> 20} MiB",
            f"{(source.data_bytes >> 20) + 1} MiB for the sidecar of {source.path.name}",
            action="Free some, give another directory, or sidecar='off'",
            file=path.parent,
        )


def _write(path: Path, source: StackSource, progress: Progress | None) -> None:
    with atomic_write(path) as stream:
        header = encode_header(source)
        stream.write(header)
        write = _write_frames if source.frame_by_frame else _write_transposed
        crc32 = write(stream, source, zlib.crc32(header), progress)
        mtime_ns = past_mtime_ns()
        stream.write(encode_record(source, len(header), crc32, mtime_ns))
        stream.flush()
        os.utime(stream.name, ns=(mtime_ns, mtime_ns))


def _write_frames(
    stream: IO[bytes], source: StackSource, crc32: int, progress: Progress | None
) -> int:
    done = 0
    for _, _, block in source.frame_blocks():
        stream.write(block.data)
        crc32 = zlib.crc32(block.data, crc32)
        done += block.nbytes
        if progress is not None:
            progress(done, source.data_bytes)
    return crc32


def _write_transposed(
    stream: IO[bytes], source: StackSource, crc32: int, progress: Progress | None
) -> int:
    """Scatter pixel planes over all frames through a map of the file."""
    start = stream.tell()
    stream.flush()
    # Room must be there first: a map of a file with holes dies of a bus error on a full disk.
    _fill_with_zeros(stream, start, source.data_bytes)
    out = np.memmap(stream, source.dtype, "r+", offset=start, shape=source.shape)
    on_disk = out.transpose(np.argsort(source.axes))
    done = 0
    for first, last, block in source.disk_blocks():
        on_disk[first:last] = block
        done += block.nbytes
        if progress is not None:
            progress(done, source.data_bytes)
    out.flush()
    step = max(1, (4 << 20) // max(1, out[0].nbytes))
    for first in range(0, len(out), step):
        crc32 = zlib.crc32(out[first : first + step].data, crc32)
    del on_disk, out
    stream.seek(0, os.SEEK_END)
    return crc32


def _fill_with_zeros(stream: IO[bytes], start: int, size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(stream.fileno(), start, size)
        return
    for done in range(0, size, 1 << 20):
        stream.write(bytes(min(1 << 20, size - done)))
    stream.flush()
