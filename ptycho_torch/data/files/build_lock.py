"""One builder at a time, on one machine or many.

Owns the lock beside a file that is being built: who waits for whom, how long, and what becomes of
the lock of a process that died. Knows nothing of what is built.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ptycho_torch.data.errors import (
    CacheLockTimeoutError,
    PtychoTorchError,
    ScanFileError,
)
from ptycho_torch.data.files.atomic_write import cannot_write

if TYPE_CHECKING:
    from filelock import BaseFileLock

logger = logging.getLogger(__name__)

LOCK_TIMEOUT_S = 600.0
"""Seconds that :func:`build_lock` waits for another builder unless told otherwise."""

_SLOWEST_BYTES_PER_S = 10e6
_WAIT_REPORT_S = 30.0
# Network file systems may keep written bytes to themselves for half a minute.
_NAMELESS_LOCK_AGE_S = 120.0
_NO_FLOCK = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP)


@contextlib.contextmanager
def build_lock(target: str | os.PathLike[str], timeout_s: float = LOCK_TIMEOUT_S) -> Iterator[None]:
    """Hold the right to build ``target``: one process or thread at a time, on one or many machines.

    The lock is a file beside ``target``, removed at the end. The kernel releases it when its
    process dies; on file systems without kernel locks the mere existence of a file is the lock,
    which the next process on the same machine takes over from a dead one. After the wait another
    process may have built the target: look again before building.

    Parameters
    ----------
    target
        The file to be built; need not exist.
    timeout_s
        Seconds to wait for another holder. While waiting, a log line names the holder.

    Raises
    ------
    CacheLockTimeoutError
        Another process held the lock all the time; the message names it.
    ScanFileError
        The lock file cannot be made: no such directory, or no permission to write in it.
    """
    path = Path(os.path.realpath(target))
    if not path.parent.is_dir():  # filelock would make it
        raise ScanFileError("directory", "missing", "there", file=path.parent)
    try:
        lock = _acquire(path, timeout_s)
    except PtychoTorchError:
        raise
    except OSError as error:
        raise cannot_write(target, error) from error
    except BaseException:
        _remove_free_lock(path)
        raise
    try:
        yield
    finally:
        _remove_held_lock(lock)


def build_timeout_s(nbytes: int) -> float:
    """Seconds to wait for a builder that reads so many bytes from the slowest of disks."""
    return LOCK_TIMEOUT_S + nbytes / _SLOWEST_BYTES_PER_S


def _acquire(path: Path, timeout_s: float) -> BaseFileLock:
    from filelock import FileLock, SoftFileLock, Timeout

    lock: BaseFileLock = FileLock(_lock_path(path), fallback_to_soft=False, poll_interval=0.02)
    deadline = time.monotonic() + timeout_s
    wait_s = 0.0
    nameless: tuple[int, int] | None = None
    nameless_since = 0.0
    while True:
        try:
            lock.acquire(timeout=max(0.0, wait_s))
        except Timeout as error:
            holder = _read_holder(lock.lock_file)
            if time.monotonic() >= deadline:
                raise CacheLockTimeoutError(
                    "build lock",
                    f"held by {holder} for more than {timeout_s:g} s",
                    "a build that ends",
                    action=f"Wait for it, end that process, or remove {lock.lock_file}",
                    file=path,
                ) from error
            logger.info("waiting for %s, which %s is building", path, holder)
            wait_s = min(_WAIT_REPORT_S, deadline - time.monotonic())
            if isinstance(lock, SoftFileLock):
                found = _nameless_lock(lock.lock_file)
                if found is None or found != nameless:
                    nameless, nameless_since = found, time.monotonic()
                elif time.monotonic() - nameless_since >= _NAMELESS_LOCK_AGE_S:
                    # Two waiters may do this at once, and then both build: the same file twice.
                    logger.info("%s: its maker died before it wrote its name", lock.lock_file)
                    with contextlib.suppress(OSError):
                        Path(lock.lock_file).unlink()
        except OSError as error:
            if isinstance(lock, SoftFileLock) or error.errno not in _NO_FLOCK:
                raise
            with contextlib.suppress(OSError):
                if Path(lock.lock_file).stat().st_size == 0:
                    Path(lock.lock_file).unlink()
            logger.info("%s: no kernel locks here (%s); using a lock file", path, error.strerror)
            lock = SoftFileLock(path.with_name(f".{path.name}.soft.lock"), poll_interval=0.02)
        else:
            try:
                if not isinstance(lock, SoftFileLock):
                    _write_holder(lock.lock_file)
            except BaseException:
                _remove_held_lock(lock)
                raise
            return lock


def _remove_held_lock(lock: BaseFileLock) -> None:
    # Removed while held: a waiter that then gets the lock of the removed file notices it and
    # starts over. Left in place, it would shut out other users of a shared directory.
    try:
        with contextlib.suppress(OSError):
            Path(lock.lock_file).unlink()
    finally:
        lock.release()


def _remove_free_lock(path: Path) -> None:
    """Remove the lock file of a target, interrupted while it was taken, unless somebody has it."""
    from filelock import FileLock

    lock = FileLock(_lock_path(path), fallback_to_soft=False)
    with contextlib.suppress(Exception):
        if Path(lock.lock_file).exists():
            lock.acquire(timeout=0)
            _remove_held_lock(lock)


def _lock_path(path: Path) -> Path:
    return path.with_name(f".{path.name}.lock")


def _nameless_lock(lock_file: str) -> tuple[int, int] | None:
    """What tells an empty lock file from another; None when it is not there or not empty.

    Its maker died between making it and writing its name, and filelock never takes over what has
    no name.
    """
    try:
        status = os.lstat(lock_file)
    except OSError:
        return None
    return None if status.st_size else (status.st_ino, status.st_ctime_ns)


def _write_holder(lock_file: str) -> None:
    """Say who holds the lock, in the form filelock's soft lock has: process id, then host."""
    with contextlib.suppress(OSError), Path(lock_file).open("r+b") as handle:
        handle.write(f"{os.getpid()}\n{socket.gethostname()}\n".encode(errors="replace"))
        handle.truncate()


def _read_holder(lock_file: str) -> str:
    try:
        with Path(lock_file).open("rb") as handle:
            lines = handle.read(1024).decode(errors="replace").split("\n")
    except OSError:
        lines = []
    if len(lines) < 3 or not lines[0].isdigit():
        return "an unknown process"
    return f"host {lines[1]}, pid {lines[0]}"
