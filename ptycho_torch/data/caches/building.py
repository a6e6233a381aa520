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
def building(place: Path, timeout_s: float, *, make: bool) -> Iterator[None]:
    """Hold the lock of a cache that is to be written at ``place``.

    Parameters
    ----------
    place
        The file.
    timeout_s
        Seconds to wait for another builder.
    make
        Make the directory, readable only to the user, where it is missing.

    Raises
    ------
    ScanFileError
        The directory is missing or cannot be written, or its file system has no kernel locks.
    CacheLockTimeoutError
        Another process was building for longer.
    """
    directory = place.parent
    try:
        if make:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        # The superuser could write; whoever took the permission away meant everybody.
        if not directory.stat().st_mode & 0o222:
            raise PermissionError(errno.EACCES, "read-only", str(directory))
    except FileExistsError as error:
        raise ScanFileError("path", "a file", "a directory", file=directory) from error
    except FileNotFoundError as error:
        raise ScanFileError("directory", "missing", "there", file=directory) from error
    except OSError as error:
        reason = f"not usable ({error.strerror or error})"
        raise ScanFileError("directory", reason, "permission", file=directory) from error
    with build_lock(place, timeout_s):
        yield
