"""One builder at a time, on one machine or many.

Owns the lock beside a file that is being written: who waits for whom, and how long. Knows nothing
of what is written.
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

from ptycho_torch.data.errors import CacheLockTimeoutError, PtychoTorchError, ScanFileError

if TYPE_CHECKING:
    from filelock import BaseFileLock

logger = logging.getLogger(__name__)

LOCK_TIMEOUT_S = 600.0
"""Seconds that :func:`build_lock` waits for another builder unless a caller gives another time."""

_SLOWEST_BYTES_PER_S = 10e6
_WAIT_REPORT_S = 30.0
_POLL_S = 0.02
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)
_NO_FLOCK = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP)


class NoKernelLocksError(ScanFileError):
    """The file system has no locks that the kernel frees when their process dies."""


@contextlib.contextmanager
def build_lock(target: str | os.PathLike[str], timeout_s: float = LOCK_TIMEOUT_S) -> Iterator[None]:
    """Hold the right to write ``target``: one process or thread at a time, on one or many machines.

    The lock is a file beside ``target``, removed at the end; the kernel frees it when its process
    dies. A waiter logs who holds it. After the wait another process may have written the target:
    look again before building.

    Raises
    ------
    CacheLockTimeoutError
        Another process, which the message names, held the lock for ``timeout_s`` seconds.
    NoKernelLocksError, ScanFileError
        The file system knows no kernel locks; no such directory, or no permission to write in it.
    """
    path = Path(os.path.realpath(target))
    if not path.parent.is_dir():  # filelock would make it
        raise ScanFileError("directory", "missing", "there", file=path.parent)
    try:
        lock = _acquired(path, timeout_s)
    except PtychoTorchError:
        raise
    except BaseException as error:
        _remove_free_lock(path)
        if isinstance(error, OSError):
            raise cannot_write(target, error) from error
        raise
    try:
        yield
    finally:
        _remove_held_lock(lock)


def build_timeout_s(nbytes: int) -> float:
    """Seconds to wait for a builder that reads so many bytes from the slowest of disks."""
    return LOCK_TIMEOUT_S + nbytes / _SLOWEST_BYTES_PER_S


def cannot_write(path: str | os.PathLike[str], error: OSError) -> ScanFileError:
    """The one-line form of an operating system error while writing."""
    return ScanFileError(
        "file",
        f"not written ({error.strerror or error})",
        "space and permission to write it",
        action="What was there before is untouched",
        file=os.fspath(path),
    )


def _acquired(path: Path, timeout_s: float) -> BaseFileLock:
    from filelock import Timeout

    lock = _lock_of(path)
    _require_creatable(lock.lock_file)
    deadline, wait_s = time.monotonic() + timeout_s, 0.0
    while True:
        try:
            lock.acquire(timeout=max(0.0, wait_s))
        except Timeout as error:
            holder = _holder(lock.lock_file)
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
        except OSError as error:
            if error.errno not in _NO_FLOCK:
                raise
            with contextlib.suppress(OSError):
                Path(lock.lock_file).unlink()
            found = f"without kernel locks ({error.strerror})"
            raise NoKernelLocksError(
                "file system", found, "one that has them", file=path
            ) from error
        else:
            break
    try:
        with contextlib.suppress(OSError), Path(lock.lock_file).open("r+b") as handle:
            handle.write(f"{os.getpid()}\n{socket.gethostname()}\n".encode(errors="replace"))
            handle.truncate()
    except BaseException:
        _remove_held_lock(lock)
        raise
    return lock


def _require_creatable(lock_file: str) -> None:
    """Fail at once where no file can be made: filelock would try again until its timeout."""
    for attempts_left in range(9, -1, -1):
        try:
            descriptor = os.open(lock_file, os.O_CREAT | os.O_RDWR | _NO_FOLLOW, 0o644)
        except FileNotFoundError:
            # Network file systems say so too when another process removes the file meanwhile.
            if not attempts_left:
                raise
            time.sleep(_POLL_S)
        else:
            os.close(descriptor)
            return


def _lock_of(path: Path) -> BaseFileLock:
    from filelock import FileLock

    name = path.with_name(f".{path.name}.lock")
    lock: BaseFileLock = FileLock(name, fallback_to_soft=False, poll_interval=_POLL_S)
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
    lock = _lock_of(path)
    with contextlib.suppress(Exception):
        if Path(lock.lock_file).exists():
            lock.acquire(timeout=0)
            _remove_held_lock(lock)


def _holder(lock_file: str) -> str:
    try:
        with Path(lock_file).open("rb") as handle:
            lines = handle.read(1024).decode(errors="replace").split("\n")
    except OSError:
        lines = []
    if len(lines) < 3 or not lines[0].isdigit():
        return "an unknown process"
    return f"host {lines[1]}, pid {lines[0]}"
