"""Building a sidecar: one builder, a temporary name, checked, synced, renamed.

Owns the writing side of :mod:`ptycho_torch.data.sidecar`.
"""

from __future__ import annotations

import errno
import logging
import os
import secrets
import shutil
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ptycho_torch.data.errors import ScanFileError, describe
from ptycho_torch.data.locking import DEFAULT_TIMEOUT_S, exclusive
from ptycho_torch.data.sidecar import (
    Sidecar,
    SidecarPolicy,
    encode_header,
    encode_record,
    past_mtime_ns,
    read_sidecar,
    sidecar_paths,
)
from ptycho_torch.data.stack_source import StackSource

logger = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
_NO_ENTRY = (errno.EACCES, errno.EPERM, errno.EROFS)


def build_sidecar(
    source: StackSource,
    policy: SidecarPolicy,
    *,
    progress: Progress | None = None,
    timeout_s: float = DEFAULT_TIMEOUT_S,
) -> Sidecar:
    """Convert a stack into its sidecar, or take the one another process has just made.

    Raises
    ------
    ScanFileError
        The scan is damaged, or no place takes the sidecar.
    CacheLockTimeoutError
        Another process builds it and did not finish in time.
    """
    *preferred, last = sidecar_paths(source, policy)
    for path in preferred:
        if _writable(path.parent):
            try:
                return _build_at(path, source, progress, timeout_s)
            except PermissionError:
                pass
        logger.info("%s: read-only; the sidecar goes to %s", path.parent, last.parent)
    try:
        last.parent.mkdir(parents=True, exist_ok=True)
        return _build_at(last, source, progress, timeout_s)
    except OSError as error:
        if isinstance(error, ScanFileError):
            raise
        raise _unwritable(last, error) from error


def _writable(directory: Path) -> bool:
    return os.access(directory, os.W_OK | os.X_OK)


def _unwritable(path: Path, error: OSError) -> ScanFileError:
    reason = os.strerror(error.errno) if error.errno else str(error)
    return ScanFileError(
        describe(
            path,
            "sidecar",
            f"not written ({reason})",
            "a directory with space and permission",
            "Give another directory, or sidecar='off'",
        )
    )


def _build_at(
    path: Path, source: StackSource, progress: Progress | None, timeout_s: float
) -> Sidecar:
    """Build under the lock; PermissionError when the directory takes no files."""
    try:
        with exclusive(path, timeout_s=timeout_s):
            ready = read_sidecar(path, source) if path.exists() else None
            if ready is not None:
                return ready
            _remove_leftovers(path)
            _require_space(path, source)
            logger.info("%s: converting %s of %s", path, source.field, source.path)
            _write(path, source, progress)
            built = read_sidecar(path, source)
    except OSError as error:
        if isinstance(error, ScanFileError):
            raise
        if error.errno in _NO_ENTRY:
            raise PermissionError(error.errno, error.strerror) from error
        raise _unwritable(path, error) from error
    if built is None:
        raise ScanFileError(
            describe(path, "sidecar", "not as it was written", "a readable file", "Check the disk")
        )
    return built


def _remove_leftovers(path: Path) -> None:
    """Remove what a killed builder left; the lock is ours, so nobody else is writing."""
    for leftover in path.parent.glob(f".{_glob_literal(path.name)}.*.tmp"):
        with suppress(OSError):
            leftover.unlink()


def _glob_literal(name: str) -> str:
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)


def _require_space(path: Path, source: StackSource) -> None:
    with suppress(OSError):
        free = shutil.disk_usage(path.parent).free
        if free < source.data_bytes:
            raise ScanFileError(
                describe(
                    path.parent,
                    "free space",
                    f"{free >> 20} MiB",
                    f"{(source.data_bytes >> 20) + 1} MiB for the sidecar of {source.path.name}",
                    "Free some, give another directory, or sidecar='off'",
                )
            )


def _write(path: Path, source: StackSource, progress: Progress | None) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "x+b") as stream:
            header = encode_header(source)
            stream.write(header)
            crc32 = zlib.crc32(header)
            if source.frame_by_frame:
                crc32 = _write_frames(stream, source, crc32, progress)
            else:
                crc32 = _write_transposed(stream, source, crc32, progress)
            mtime_ns = past_mtime_ns()
            stream.write(encode_record(source, len(header), crc32, mtime_ns))
            stream.flush()
            os.fsync(stream.fileno())
        os.utime(temporary, ns=(mtime_ns, mtime_ns))
        os.replace(temporary, path)
        _sync_directory(path.parent)
    finally:
        with suppress(OSError):
            temporary.unlink()


def _write_frames(
    stream: BinaryIO, source: StackSource, crc32: int, progress: Progress | None
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
    stream: BinaryIO, source: StackSource, crc32: int, progress: Progress | None
) -> int:
    """Scatter pixel planes over all frames through a map of the file."""
    start = stream.tell()
    stream.flush()
    # Room must be there first: a map of a file with holes dies of a bus error on a full disk.
    os.posix_fallocate(stream.fileno(), start, source.data_bytes)
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


def _sync_directory(directory: Path) -> None:
    """Make the rename durable where directories can be synced."""
    with suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
