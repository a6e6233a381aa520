"""Sidecars: frames that cannot be mapped where they lie, converted once into a stored NPZ beside.

Owns making, finding and trusting a sidecar: member ``frames``, aligned, and ``made_from.json``,
which says what it was made from. Knows no meaning of the frames.

Trust: record and sizes are checked at every opening. The numbers are compared with their CRC when
the sidecar is built, on demand, and whenever the file's modification time is not the one the
builder gave it, as after any write or copy; otherwise opening costs milliseconds.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.data.caches import names
from ptycho_torch.data.caches.building import PlaceRefusedError, built_at_first
from ptycho_torch.data.caches.names import SidecarPolicy
from ptycho_torch.data.errors import PtychoTorchError, ScanFileError, ScanFileNotFoundError
from ptycho_torch.data.files.atomic_write import atomic_zip, write_stored
from ptycho_torch.data.files.build_lock import NoKernelLocksError, build_timeout_s
from ptycho_torch.data.files.frame_source import FrameSource
from ptycho_torch.data.files.mapping import FileState, map_array, opened, state_of
from ptycho_torch.data.files.stored_stack import Chunk, Progress, StoredStack, compared
from ptycho_torch.data.files.zip_archive import ZipArchive

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1
_FRAMES, _RECORD = "frames", "made_from.json"
_MAX_RECORD_BYTES = 4096
# Where a sidecar begins: name of the first member, and the extra field that aligns it.
_START = bytes(30) + b"frames.npy\xff\xff"
_BLOCK_BYTES = 4 << 20


@dataclass(frozen=True, eq=False)
class Sidecar:
    """A sidecar whose record was believed: its file as it was then, and its frames (M, N, N),
    mapped.

    ``header_crc32`` is the checksum of the header before the numbers, ``crc32`` that of both.
    """

    path: Path
    state: FileState
    frames: NDArray[Any]
    header_crc32: int
    crc32: int

    def compared(self, chunks: Iterator[Chunk]) -> Iterator[Chunk]:
        """Chunks of the frames; a ScanFileError after the last where they are not as written."""
        action = "Remove it: it is made again"
        fault = ScanFileError(
            "sidecar checksum", "wrong", "the CRC of its frames", action=action, file=self.path
        )
        return compared(chunks, self.header_crc32, self.crc32, fault)

    def unchanged(self) -> bool:
        """Whether the file is still the one that was checked."""
        try:
            return not self.state.changes(state_of(self.path))
        except PtychoTorchError:
            return False


def sidecar_places(stack: FrameSource, policy: SidecarPolicy) -> list[Path]:
    """Where the sidecar of a stack may lie, best place first."""
    return names.sidecar_places(stack.path, stack.label, policy)


def find_sidecar(stack: FrameSource, policy: SidecarPolicy) -> Sidecar | None:
    """The sidecar of a stack if there is one and it can be believed.

    A damaged or outdated one is left alone and reported by one warning.
    """
    for path in sidecar_places(stack, policy):
        try:
            return _believed(path, stack)
        except ScanFileNotFoundError:
            continue
        except PtychoTorchError as error:
            logger.warning("sidecar not used: %s", error)
    return None


def require_whole(path: Path, stack: FrameSource | None = None) -> None:
    """Check a sidecar in full, its numbers included, whatever its times are.

    ``stack`` is what it should have been made from; None: it is checked against its own record. A
    ScanFileNotFoundError, ScanFileError or ScanKeyError says what is wrong with it.
    """
    with opened(path) as stream:
        archive = ZipArchive(stream, path)
        record = _record(archive)
        if stack is not None:
            _require_source(record, stack)
        _require_numbers(archive)


def build_sidecar(
    stack: FrameSource, policy: SidecarPolicy, progress: Progress | None = None
) -> Sidecar | None:
    """Convert a stack into its sidecar, or take the one another process has just made.

    None where no file system has kernel locks, so that none is kept.

    Raises
    ------
    ScanFileError, CacheLockTimeoutError
        The scan is damaged or no place takes the sidecar; another process is too slow to build it.
    """
    places = sidecar_places(stack, policy)

    def build(place: Path, why: str) -> Sidecar:
        for path in places:  # another process may have built meanwhile
            with suppress(PtychoTorchError):
                return _believed(path, stack)
        return _built(place, stack, progress, why)

    try:
        timeout_s = build_timeout_s(stack.data_bytes)
        return built_at_first(places, policy, timeout_s, _require_replaceable, build)
    except PlaceRefusedError as error:
        if not isinstance(error.__cause__, NoKernelLocksError):
            raise
        logger.info("%s: %s unpacked into memory: %s", stack.path, stack.field, error)
        return None


def _require_replaceable(path: Path) -> None:
    """Refuse to write over a file whose start and members do not show that it is a sidecar."""
    with suppress(ScanFileNotFoundError), opened(path) as stream:
        start = stream.read(len(_START))
        shown = not start or start[30:] == _START[30:]
        with suppress(PtychoTorchError):
            shown = shown or set(ZipArchive(stream, path).members) == {_FRAMES, _RECORD}
        if not shown:
            raise ScanFileError("file", "another program's", "a sidecar or no file")


def _built(path: Path, stack: FrameSource, progress: Progress | None, why: str) -> Sidecar:
    _require_space(path, stack)
    because = f" ({why})" if why else ""
    logger.info("%s: converting %s of %s%s", path, stack.field, stack.path, because)
    mtime_ns = _past_mtime_ns()
    with atomic_zip(path, locked=True) as archive:
        handle: Any = archive.fp
        if isinstance(stack, StoredStack) and not stack.frame_by_frame:
            blocks = _scattered(stack, handle, progress)
        else:
            blocks = (block for _, _, block in _reported(stack.frame_blocks(), stack, progress))
        write_stored(archive, _FRAMES, stack.dtype, stack.shape, blocks)
        record = {"format": FORMAT_VERSION, "source": stack.made_from(), "mtime_ns": mtime_ns}
        archive.writestr(zipfile.ZipInfo(_RECORD), json.dumps(record, sort_keys=True))
        archive.close()
        handle.flush()
        os.utime(handle.name, ns=(mtime_ns, mtime_ns))
    return _believed(path, stack)


def _believed(path: Path, stack: FrameSource) -> Sidecar:
    state = state_of(path)
    try:
        return _checked(path, stack)
    except ScanFileError:
        if not state.changes(state_of(path)):
            raise
        # Another process has just found a copy of it whole, and said so in its time.
        return _checked(path, stack)


def _checked(path: Path, stack: FrameSource) -> Sidecar:
    with opened(path) as stream:
        archive = ZipArchive(stream, path)
        record = _record(archive)
        _require_source(record, stack)
        header, offset = archive.header(_FRAMES), archive.data_offset(_FRAMES)
        if offset is None or (header.dtype, header.shape) != (stack.dtype, stack.shape):
            raise ScanFileError(_FRAMES, header, "the stored frames of its record")
        state = FileState.of(os.fstat(stream.fileno()))
        copied = state.mtime_ns != record.get("mtime_ns")
        if copied:
            _require_numbers(archive)
        frames = map_array(
            stream, offset=offset + header.size, dtype=header.dtype, shape=stack.shape
        )
    if copied:
        # Copied or touched, but whole: say so in the file, or every opening would read it all.
        with suppress(OSError, TypeError, ValueError, OverflowError):
            os.utime(path, ns=(state.mtime_ns, record["mtime_ns"]))
            state = replace(state, mtime_ns=record["mtime_ns"])
    return Sidecar(path, state, frames, header.crc32, archive.members[_FRAMES].CRC)


def _record(archive: ZipArchive) -> dict[str, Any]:
    archive.require(_RECORD)
    archive.require(_FRAMES)
    stream = archive.open(_RECORD)
    text = stream.read(_MAX_RECORD_BYTES)
    try:
        stream.finish()
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ScanFileError(_RECORD, "damaged", "JSON text", action="Remove it") from error
    if not isinstance(record, dict) or record.get("format") != FORMAT_VERSION:
        raise ScanFileError(_RECORD, "of another version", f"format {FORMAT_VERSION}")
    return record


def _require_source(record: dict[str, Any], stack: FrameSource) -> None:
    if record.get("source") != stack.made_from():
        raise ScanFileError(
            "sidecar",
            "made from another scan, or from an earlier state of this one",
            "one of this scan",
            action="Remove it",
        )


def _require_numbers(archive: ZipArchive) -> None:
    try:
        for _ in archive.open(_FRAMES).blocks():
            pass
    except ScanFileError as error:
        found = "wrong: the file was changed or damaged"
        raise ScanFileError(
            "sidecar checksum", found, "that of its frames", action="Remove it"
        ) from error


def _past_mtime_ns() -> int:
    """A time before any later write can carry, whole in seconds for coarse file systems."""
    return (int(time.time()) // 2 - 2) * 2 * 10**9


def _require_space(path: Path, stack: FrameSource) -> None:
    try:
        free = shutil.disk_usage(path.parent).free
    except OSError:
        return
    if free < stack.data_bytes:
        raise ScanFileError(
            "free space",
            f"{free >> 20} MiB",
            f"{(stack.data_bytes >> 20) + 1} MiB for the sidecar of {stack.path.name}",
            action="Free some, give another directory, or --option sidecar=off (sidecar='off')",
            file=path.parent,
        )


def _scattered(
    stack: StoredStack, handle: IO[bytes], progress: Progress | None
) -> Iterator[NDArray[Any]]:
    """Scatter pixel planes over all frames through a map of the file, and give them in order.

    The numbers are already where they are then written: the archive needs to see them to know
    their checksum.
    """
    start = handle.tell()
    handle.flush()
    # Room must be there first: a map of a file with holes dies of a bus error on a full disk.
    _fill_with_zeros(handle, start, stack.data_bytes)
    out = np.memmap(handle, stack.dtype, "r+", offset=start, shape=stack.shape)
    for _ in _reported(stack.scattered_into(out), stack, progress):
        pass
    handle.seek(start)
    step = max(1, _BLOCK_BYTES // max(1, out[0].nbytes))
    for first in range(0, len(out), step):
        yield out[first : first + step].copy()


def _reported(
    blocks: Iterator[Chunk], stack: FrameSource, progress: Progress | None
) -> Iterator[Chunk]:
    done = 0
    for first, last, block in blocks:
        yield first, last, block
        done += block.nbytes
        if progress is not None:
            progress(done, stack.data_bytes)


def _fill_with_zeros(handle: IO[bytes], start: int, size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(handle.fileno(), start, size)
        return
    for done in range(0, size, 1 << 20):
        handle.write(bytes(min(1 << 20, size - done)))
    handle.flush()
