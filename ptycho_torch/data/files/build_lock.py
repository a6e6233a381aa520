"""One builder at a time, on one machine or many.

Owns the lock beside a file that is being written: who waits for whom, and how long. Knows nothing
of what is written.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ptycho_torch.data.errors import (
    CacheLockTimeoutError,
    PtychoTorchError,
    ScanFileError,
    naming,
    shown,
)
from ptycho_torch.data.files.mapping import NO_WAIT, require_regular

if TYPE_CHECKING:
    from filelock import BaseFileLock

logger = logging.getLogger(__name__)

LOCK_TIMEOUT_S = 600.0
"""Seconds that :func:`build_lock` waits for another builder unless a caller gives another time."""

_SLOWEST_BYTES_PER_S = 10e6
_WAIT_REPORT_S = 30.0
_POLL_S = 0.02
_MODE = 0o644
_CAREFULLY = getattr(os, "O_NOFOLLOW", 0) | NO_WAIT
_TEXT = re.compile(r"(\d{1,10})\n(.{0,255})\n", re.DOTALL)
_NO_FLOCK = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP)


class NoKernelLocksError(ScanFileError):
    """The file system has no locks that the kernel frees when their process dies."""


@contextlib.contextmanager
def build_lock(target: str | os.PathLike[str], timeout_s: float = LOCK_TIMEOUT_S) -> Iterator[None]:
    """Hold the right to write ``target``: one process or thread at a time, on one or many machines.

    The lock is a file beside ``target`` that everybody may read, removed at the end; the kernel
    frees it when its process dies, and the next holder removes the temporary that it left. A waiter
    logs who holds it. After the wait another process may have written the target: look again before
    building.

    Raises
    ------
    CacheLockTimeoutError
        Another process, which the message names, held the lock for ``timeout_s`` seconds.
    NoKernelLocksError, ScanFileError
        The file system knows no kernel locks; no such directory, no permission to write in it, a
        lock that another user left and nobody else may remove, another program's file at its name.
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
    deadline, wait_s = time.monotonic() + timeout_s, 0.0
    while True:
        try:
            _make_lock_file(lock.lock_file)
            lock.acquire(timeout=max(0.0, wait_s))
        except (Timeout, PermissionError) as error:
            if isinstance(error, PermissionError) and _freed(path, lock.lock_file, wait_s, error):
                continue
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
        _remove_left_part(path, lock.lock_file)
        with contextlib.suppress(OSError), Path(lock.lock_file).open("r+b") as handle:
            handle.write(f"{os.getpid()}\n{socket.gethostname()}\n".encode(errors="replace"))
            handle.truncate()
    except BaseException:
        _remove_held_lock(lock)
        raise
    return lock


def _make_lock_file(lock_file: str) -> None:
    """Make the lock file, for everybody to read, or find one; refuse whatever else is there.

    Fails at once where no file can be made: filelock would try again until its timeout.
    """
    for attempts_left in range(9, -1, -1):
        try:
            descriptor = os.open(lock_file, os.O_CREAT | os.O_RDWR | _CAREFULLY, 0o644)
        except FileNotFoundError:
            # Network file systems say so too when another process removes the file meanwhile.
            if not attempts_left:
                raise
            time.sleep(_POLL_S)
        else:
            try:
                _require_ours(descriptor, lock_file)
                # Whatever the umask: others must be able to see whether it is held.
                with contextlib.suppress(OSError, AttributeError):
                    os.fchmod(descriptor, _MODE)
            finally:
                os.close(descriptor)
            return


def _require_ours(descriptor: int, lock_file: str) -> None:
    with naming(lock_file):
        require_regular(os.fstat(descriptor))
        text = os.read(descriptor, 1024).decode(errors="replace")
        if text and not _TEXT.fullmatch(text):
            raise ScanFileError("file", "another program's", "a lock file or none")


def _freed(path: Path, lock_file: str, wait_s: float, denied: PermissionError) -> bool:
    """Wait until a lock file that this user may not write is gone; remove it if its holder died.

    False: it is held still. Where there is none, ``denied`` tells of the directory.
    """
    import fcntl

    end, seen = time.monotonic() + wait_s, False
    while True:
        try:
            descriptor = os.open(lock_file, os.O_RDONLY | _CAREFULLY)
            try:
                _require_ours(descriptor, lock_file)
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove_left_part(path, lock_file)
                Path(lock_file).unlink(missing_ok=True)
            finally:
                os.close(descriptor)
            return True
        except FileNotFoundError:
            if not seen:
                raise denied from None
            return True
        except BlockingIOError:
            seen = True
            if time.monotonic() >= end:
                return False
            time.sleep(_POLL_S)
        except PermissionError as error:
            raise ScanFileError(
                "lock file",
                "another user's, and nobody is seen to hold it",
                "one that this user may read and remove",
                action=f"If no process of that user is building, remove {lock_file}",
                file=path,
            ) from error


def part_of(path: Path) -> Path:
    """Where the holder of a lock writes what then becomes ``path``."""
    return path.with_name(f".{path.name}.part")


def _remove_left_part(path: Path, lock_file: str) -> None:
    """Remove what a dead builder left: it is younger than the lock, which still bears its name."""
    with contextlib.suppress(OSError):
        lock, part = os.stat(lock_file), os.lstat(part_of(path))
        young = lock.st_size and part.st_ctime_ns >= lock.st_mtime_ns
        if young and stat.S_ISREG(part.st_mode):
            part_of(path).unlink()


def _lock_of(path: Path) -> BaseFileLock:
    from filelock import FileLock

    name = path.with_name(f".{path.name}.lock")
    lock: BaseFileLock = FileLock(name, mode=_MODE, fallback_to_soft=False, poll_interval=_POLL_S)
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
            _make_lock_file(lock.lock_file)  # or it is not ours
            lock.acquire(timeout=0)
            _remove_held_lock(lock)


def _holder(lock_file: str) -> str:
    text = ""
    with contextlib.suppress(OSError):
        text = Path(lock_file).read_text(errors="replace")
    found = _TEXT.fullmatch(text)
    return shown(f"host {found[2]}, pid {found[1]}") if found else "an unknown process"
