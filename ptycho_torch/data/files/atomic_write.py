"""Files that appear whole or not at all.

Owns writing under a temporary name and renaming. Must not know what the files hold.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.data.errors import PtychoTorchError, ScanFileError, naming
from ptycho_torch.data.files.build_lock import (
    NoKernelLocksError,
    build_lock,
    cannot_write,
    part_of,
)
from ptycho_torch.data.files.mapping import require_name, require_regular
from ptycho_torch.data.files.npy_header import encode_npy_header

ALIGNMENT = 64
"""Array data start at multiples of this many bytes, as NumPy's own .npy files do."""


@contextlib.contextmanager
def atomic_write(
    path: str | os.PathLike[str], *, locked: bool = False, replace: bool = True
) -> Iterator[IO[bytes]]:
    """Write a file so that readers see the old content or the new one, never a part.

    Parameters
    ----------
    path
        The file to create or replace, a regular one. Where it is a symbolic link, its target is.
    locked
        The caller holds :func:`~ptycho_torch.data.files.build_lock.build_lock` of ``path``; else
        it is taken here. Where the file system has no kernel locks, two writers at once do not
        meet, and the later one wins.
    replace
        False: a file that is there when the block ends stays, and the new one is not kept.

    Yields
    ------
    IO[bytes]
        A seekable handle, open for reading and writing; its ``name`` is the temporary path beside
        ``path``. When the block ends the content is synced to disk and renamed; when it raises,
        ``path`` is as it was. What a killed writer left is replaced by the next one.

    ScanFileError: it cannot be written. CacheLockTimeoutError: another process writes too long.
    """
    require_name(path)
    target = Path(os.path.realpath(path))
    temporary, alone = part_of(target), True
    with naming(path), contextlib.ExitStack() as held:
        if not locked:
            try:
                held.enter_context(build_lock(target))
            except NoKernelLocksError:
                alone = False
        if os.path.exists(target):
            require_regular(target.stat())
        # What a dead writer left there is gone with its lock: this is another program's.
        if not alone or os.path.lexists(temporary):
            temporary = temporary.with_suffix(f".{secrets.token_hex(4)}.part")
        try:
            with temporary.open("xb+") as handle:
                yield handle
                handle.flush()
                _keep_mode(handle, target)
                os.fsync(handle.fileno())
            _publish(temporary, target, replace)
            _sync_directory(target.parent)
        except BaseException as error:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            if isinstance(error, OSError) and not isinstance(error, PtychoTorchError):
                raise cannot_write(path, error) from error
            raise


@contextlib.contextmanager
def atomic_zip(
    path: str | os.PathLike[str], *, locked: bool = False, replace: bool = True
) -> Iterator[zipfile.ZipFile]:
    """A new zip archive that appears whole or not at all: :func:`atomic_write` for archives."""
    with atomic_write(path, locked=locked, replace=replace) as handle:
        archive = zipfile.ZipFile(handle, "w")
        try:
            yield archive
            archive.close()
        except BaseException:
            # Closing would fail where an entry is still open, and hide what went wrong before.
            archive.fp = None
            raise


def write_stored(
    archive: zipfile.ZipFile,
    key: str,
    dtype: np.dtype[Any],
    shape: tuple[int, ...],
    blocks: Iterable[NDArray[Any]],
) -> None:
    """Write an array as a stored ``.npy`` member ``key`` whose numbers readers can map, aligned.

    ``blocks`` are the array in contiguous parts along its first axis, in order.
    """
    entry = zipfile.ZipInfo(f"{key}.npy")
    position = archive.fp.tell() if archive.fp is not None else 0
    # An extra field is (id, length, bytes); zipfile adds a 20-byte zip64 field of its own.
    padding = -(position + 30 + len(entry.filename.encode()) + 20 + 4) % ALIGNMENT
    entry.extra = b"\xff\xff" + padding.to_bytes(2, "little") + bytes(padding)
    with archive.open(entry, "w", force_zip64=True) as member:
        member.write(encode_npy_header(dtype, shape))
        for block in blocks:
            if block.nbytes:
                member.write(block.reshape(-1).view(np.uint8).data)


def _publish(temporary: Path, target: Path, replace: bool) -> None:
    """Give a whole file its name; with ``replace`` False only where nothing has it."""
    linked = False
    if not replace:
        try:
            try:
                os.link(temporary, target)  # fails where the name is taken, as no rename does
                linked = True
            except FileExistsError:
                raise
            except OSError:
                # No hard links here. An empty file of ours is all that the rename then replaces.
                os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        except FileExistsError as error:
            found, action = "there by now", "It was left alone: give another name"
            raise ScanFileError("file", found, "a new file", action=action) from error
    if linked:
        temporary.unlink()
    else:
        temporary.replace(target)


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
