"""One builder at a time across processes and nodes.

Owns the lock beside a file that several processes may want to build. Knows nothing of what is
built.
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

import filelock

from ptycho_torch.data.errors import CacheLockTimeoutError, describe

logger = logging.getLogger(__name__)

DEFAULT_TIMEOUT_S = 1800.0
# A build seldom takes longer; whoever waits longer is told for whom.
_PATIENCE_S = 5.0
_NO_NATIVE_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)


@contextlib.contextmanager
def exclusive(target: Path, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> Iterator[None]:
    """Hold the lock of ``target`` while the body runs.

    The lock is ``<target>.lock`` in the same directory, so that it holds for every node that sees
    the target. It is the operating system's lock where the file system has one, which a dying
    process lets go; else a marker file, which the next process on the same machine takes over when
    its holder is dead.

    Parameters
    ----------
    target
        The file to be built.
    timeout_s
        Seconds to wait for another holder.

    Raises
    ------
    CacheLockTimeoutError
        Another process, named in the message, held it all the time.
    OSError
        The directory takes no lock file: missing, read-only, no permission.
    """
    lock_path = target.with_name(target.name + ".lock")
    lock = _acquire(lock_path, timeout_s)
    try:
        yield
    finally:
        # Removed while still held: a process that waits notices that its file is gone and starts
        # over, so no two hold the lock, and no lock file stays in the user's directory.
        with contextlib.suppress(OSError):
            if isinstance(lock, filelock.UnixFileLock):
                lock_path.unlink()
        lock.release()


def _acquire(lock_path: Path, timeout_s: float) -> filelock.BaseFileLock:
    lock: filelock.BaseFileLock = filelock.FileLock(lock_path)
    deadline = time.monotonic() + timeout_s
    while True:
        left_s = deadline - time.monotonic()
        try:
            lock.acquire(timeout=min(max(left_s, 0.0), _PATIENCE_S), poll_interval=0.02)
        except filelock.Timeout as error:
            if left_s > _PATIENCE_S:
                logger.info("waiting for %s, held by %s", lock_path, holder(lock_path))
                continue
            raise CacheLockTimeoutError(
                describe(
                    lock_path,
                    "lock",
                    f"held by {holder(lock_path)} for over {timeout_s:g} s",
                    "a free lock",
                    "Wait for that process, or end it",
                )
            ) from error
        except (NotImplementedError, OSError) as error:
            native = isinstance(lock, filelock.SoftFileLock)
            if native or getattr(error, "errno", errno.ENOSYS) not in _NO_NATIVE_LOCKS:
                raise
            lock = filelock.SoftFileLock(lock_path)
            continue
        if not isinstance(lock, filelock.SoftFileLock):
            _sign(lock_path)
        return lock


def _sign(lock_path: Path) -> None:
    """Write the holder's name into the lock file, in the form of filelock's soft lock."""
    with contextlib.suppress(OSError):
        descriptor = os.open(lock_path, os.O_WRONLY | os.O_TRUNC)
        try:
            os.write(descriptor, f"{os.getpid()}\n{socket.gethostname()}\n".encode())
        finally:
            os.close(descriptor)


def holder(lock_path: Path) -> str:
    """Who holds a lock, for messages: ``process 4242 on node7``."""
    try:
        words = lock_path.read_bytes()[:200].decode(errors="replace").split()
    except OSError:
        words = []
    if not words or not words[0].isdigit():
        return "an unknown process"
    return f"process {words[0]}" + (f" on {words[1]}" if len(words) > 1 else "")
