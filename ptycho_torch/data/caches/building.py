"""The right to build a cache at a place: a directory that can be written, and its lock.

Owns what is refused before anything is computed. Knows nothing of what is built.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

from ptycho_torch.data.errors import ScanFileError
from ptycho_torch.data.files.build_lock import build_lock


@contextlib.contextmanager
def building(place: Path, timeout_s: float, *, mode: int | None) -> Iterator[None]:
    """Hold the lock of a cache that is to be written at ``place``.

    ``mode`` are the permissions of its directory, made where it is missing; None: it must be there.
    A ScanFileError says that it cannot be written or has no kernel locks, a CacheLockTimeoutError
    that another process was building for longer than ``timeout_s`` seconds.
    """
    directory = place.parent
    try:
        if mode is not None:
            directory.mkdir(mode, parents=True, exist_ok=True)
        # The superuser could write; whoever took the permission away meant everybody.
        if not directory.stat().st_mode & 0o222:
            raise PermissionError(errno.EACCES, "read-only", str(directory))
    except OSError as error:
        found = f"not usable ({error.strerror or error})"
        raise ScanFileError("directory", found, "one to write in", file=directory) from error
    with build_lock(place, timeout_s):
        yield
