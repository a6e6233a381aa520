"""Files that appear whole or not at all.

Owns: writing under a temporary name and renaming, clearing temporaries that dead processes left,
and where caches go whose own directory cannot be written. Must not know what the files hold.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
import re
import secrets
import socket
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from ptycho_torch.data.errors import PtychoTorchError, ScanFileError

logger = logging.getLogger(__name__)

_FOREIGN_TEMPORARY_AGE_S = 24 * 3600.0
_TEMPORARY = re.compile(
    r"\.ptycho-torch-(?P<place>[0-9a-f]{12})-(?P<pid>\d{1,10})-(?P<start>\d{1,20})-[0-9a-f]{8}\.tmp"
)


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Write a file so that readers see the old content or the new one, never a part.

    Parameters
    ----------
    path
        The file to create or replace. Where it is a symbolic link, its target is replaced.

    Yields
    ------
    IO[bytes]
        A seekable handle, open for reading and writing; its ``name`` is the temporary path, in the
        directory of ``path``, for callers that need to map the file. When the block ends the
        content is synced to disk and renamed to ``path``; when it raises, whatever it raises, the
        temporary is removed and ``path`` is as it was.

    Raises
    ------
    ScanFileError
        The file cannot be written: no space, no permission, a device error.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with atomic_write(Path(folder) / "a.txt") as handle:
    ...         _ = handle.write(b"whole")
    ...     (Path(folder) / "a.txt").read_bytes()
    b'whole'
    """
    target = Path(os.path.realpath(path))
    temporary = target.with_name(_temporary_name())
    try:
        remove_stale_temporaries(target.parent)
        with temporary.open("xb+") as handle:
            yield handle
            handle.flush()
            _keep_mode(handle, target)
            os.fsync(handle.fileno())
        temporary.replace(target)
        _sync_directory(target.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and not isinstance(error, PtychoTorchError):
            raise cannot_write(path, error) from error
        raise


@contextlib.contextmanager
def atomic_zip(path: str | os.PathLike[str]) -> Iterator[zipfile.ZipFile]:
    """A new zip archive that appears whole or not at all: :func:`atomic_write` for archives.

    Raises
    ------
    ScanFileError
        The file cannot be written: no space, no permission, a device error.
    """
    with atomic_write(path) as handle:
        archive = zipfile.ZipFile(handle, "w")
        try:
            yield archive
            archive.close()
        except BaseException:
            # Closing would fail where an entry is still open, and hide what went wrong before.
            archive.fp = None
            raise


def remove_stale_temporaries(directory: Path) -> None:
    """Remove what writers that died before their rename left in ``directory``.

    A temporary of this machine goes when its process is dead; one of another machine, whose
    processes cannot be asked, when nothing has been written to it for a day.
    """
    here = _process_place()
    with contextlib.suppress(OSError), os.scandir(directory) as entries:
        for entry in entries:
            match = _TEMPORARY.fullmatch(entry.name)
            if match is None:
                continue
            with contextlib.suppress(OSError):
                if match["place"] == here:
                    stale = not _process_is_alive(int(match["pid"]), int(match["start"]))
                else:
                    age_s = time.time() - entry.stat(follow_symlinks=False).st_mtime
                    stale = age_s > _FOREIGN_TEMPORARY_AGE_S
                if stale:
                    Path(entry.path).unlink()
                    logger.info("removed %s, left by a process that died", entry.path)


def user_cache_directory(preferred: Path) -> Path:
    """Where the caches that belong into ``preferred`` go when it cannot be written; makes nothing.

    ``$XDG_CACHE_HOME/ptycho-torch`` or ``~/.cache/ptycho-torch``, and in it one directory for each
    original directory, so that scans of the same name do not meet.

    Raises
    ------
    ScanFileError
        There is neither an absolute ``$XDG_CACHE_HOME`` nor a home directory.
    """
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not base.is_absolute():
        try:
            base = Path.home() / ".cache"
        except RuntimeError as error:
            raise ScanFileError(
                "user cache directory", "unknown", "$XDG_CACHE_HOME or a home", file=preferred
            ) from error
    real = os.path.realpath(preferred)
    digest = hashlib.sha256(os.fsencode(real)).hexdigest()[:16]
    return base / "ptycho-torch" / f"{Path(real).name[:64]}-{digest}"


def writable_cache_directory(preferred: Path) -> Path:
    """Return ``preferred`` when files can be made there, else a directory of the user's cache.

    Permission is tried by making a file: permission bits mislead on network file systems. The
    replacement is created, readable to the user alone, and logged.

    Raises
    ------
    ScanFileError
        Neither directory can be written.
    """
    try:
        require_write_permission(preferred)
        _try_writing(preferred)
        return preferred
    except OSError as refused:
        fallback = user_cache_directory(preferred)
        try:
            fallback.mkdir(mode=0o700, parents=True, exist_ok=True)
            _try_writing(fallback)
        except OSError as error:
            raise cannot_write(fallback, error) from error
        logger.info("%s: %s; caches go to %s", preferred, refused.strerror or refused, fallback)
        return fallback


def require_write_permission(directory: Path) -> None:
    """Refuse a directory that nobody may write.

    The superuser could; whoever took the permission away meant everybody.

    Raises
    ------
    OSError
        It has no write permission at all, or cannot be reached.
    """
    if not directory.stat().st_mode & 0o222:
        raise PermissionError(errno.EACCES, "read-only", str(directory))


def _try_writing(directory: Path) -> None:
    probe = directory / _temporary_name()
    try:
        os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    finally:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)


def cannot_write(path: str | os.PathLike[str], error: OSError) -> ScanFileError:
    """The one-line form of an operating system error while writing."""
    reason = error.strerror or str(error)
    return ScanFileError(
        "file",
        f"not written ({reason})",
        "space and permission to write it",
        action="What was there before is untouched",
        file=os.fspath(path),
    )


def _temporary_name() -> str:
    pid = os.getpid()
    return (
        f".ptycho-torch-{_process_place()}-{pid}-{_process_start(pid) or 0}"
        f"-{secrets.token_hex(4)}.tmp"
    )


def _process_place() -> str:
    """Twelve hex digits for where process ids mean something: a host, one boot, one namespace."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text())
    with contextlib.suppress(OSError):
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return hashlib.sha256("\n".join(parts).encode(errors="replace")).hexdigest()[:12]


def _process_start(pid: int) -> int | None:
    """Start time of a process in clock ticks since boot; None where it cannot be known.

    A process that has ended and waits for its parent counts as unknown: it writes no more.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


def _process_is_alive(pid: int, start: int) -> bool:
    if os.name != "posix":
        return True  # elsewhere os.kill(pid, 0) would end the process
    try:
        os.kill(pid, 0)
    except PermissionError:
        pass
    except (ProcessLookupError, OverflowError):
        return False
    return start == 0 or _process_start(pid) == start


def _keep_mode(handle: IO[bytes], target: Path) -> None:
    """Give the new file the permissions of the one it replaces, as a shared directory needs."""
    if hasattr(os, "fchmod"):
        with contextlib.suppress(OSError):
            os.fchmod(handle.fileno(), target.stat().st_mode & 0o777)


def _sync_directory(directory: Path) -> None:
    """Make the rename itself survive a power cut, where the system can."""
    if os.name == "posix":
        # Some network file systems refuse to sync a directory; the file itself is on disk.
        with contextlib.suppress(OSError):
            descriptor = os.open(directory, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
