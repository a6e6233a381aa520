"""Where a stack of square frames lies: in memory, mapped in its file, or unpacked from it.

Owns one class for each place. Knows no meaning of the numbers; :mod:`ptycho_torch.data.frames`
adds that.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.data.caches.names import SidecarPolicy
from ptycho_torch.data.caches.sidecar import (
    Sidecar,
    build_sidecar,
    find_sidecar,
    require_whole,
    sidecar_places,
)
from ptycho_torch.data.files.mapping import opened, read_here_and_there, require_unchanged
from ptycho_torch.data.files.stored_stack import (
    BLOCK_BYTES,
    Chunk,
    FramesIdentity,
    Progress,
    StoredStack,
    compared,
)
from ptycho_torch.data.files.zip_archive import damaged

logger = logging.getLogger(__name__)


class Storage(Protocol):
    """What a stack of frames asks of the place it lies in.

    Attributes
    ----------
    path, field
        The file, or None, and the name of the stack in it.
    shape, dtype
        (M, N, N); native byte order.
    frame_by_frame
        Whole frames follow each other where they are stored.
    identity
        What tells this stack from another.
    """

    path: Path | None
    field: str
    shape: tuple[int, int, int]
    dtype: np.dtype[Any]
    frame_by_frame: bool
    identity: FramesIdentity

    def array(self, progress: Progress | None = None) -> NDArray[Any]:
        """All frames, made ready on first use."""

    def chunks(self, chunk_bytes: int, check: bool) -> Iterator[Chunk]:
        """All frames in order, in bounded memory; ``check``: a map's checksum is compared too."""

    def blocks(self) -> Iterator[tuple[int, NDArray[Any]]]:
        """All values in the order of the file: number of the first frame, part of the stack."""

    def sample(self, spread: NDArray[np.intp]) -> NDArray[Any]:
        """As many frames as in ``spread``, exactly those where they can be reached at random."""

    def check_unchanged(self) -> None:
        """Refuse a scan that was replaced or cut since it was opened."""

    def sidecar_paths(self) -> list[Path]:
        """Every sidecar that there is of this stack, whole or not."""

    def verify_sidecar(self, path: Path) -> None:
        """Compare a sidecar with this stack, every byte read."""


class InMemory:
    """Frames that are an array of this process.

    Parameters
    ----------
    frames
        (M, N, N), native byte order.
    """

    path: Path | None = None
    field = "frames"
    frame_by_frame = True

    def __init__(self, frames: NDArray[Any]) -> None:
        self._frames = frames
        count, height, width = frames.shape
        self.shape = count, height, width
        self.dtype = frames.dtype
        self.identity = FramesIdentity(
            None, frames.nbytes, None, frames.dtype.str, self.shape, None
        )

    def array(self, progress: Progress | None = None) -> NDArray[Any]:
        """The array itself."""
        return self._frames

    def chunks(self, chunk_bytes: int, check: bool) -> Iterator[Chunk]:
        """Views of the array, for which nothing vouches."""
        return chunks_of(self._frames, chunk_bytes)

    def blocks(self) -> Iterator[tuple[int, NDArray[Any]]]:
        """Views of the array."""
        return ((start, block) for start, _, block in self.chunks(BLOCK_BYTES, False))

    def sample(self, spread: NDArray[np.intp]) -> NDArray[Any]:
        """Exactly those frames."""
        return rows_of(self._frames, spread)

    def check_unchanged(self) -> None:
        """Nothing to check: there is no file."""

    def sidecar_paths(self) -> list[Path]:
        """None."""
        return []

    def verify_sidecar(self, path: Path) -> None:
        """Check the sidecar against its own record."""
        require_whole(path)


class _InFile:
    """What frames in a file share, mapped or unpacked; another process makes its own array."""

    def __init__(self, stack: StoredStack, frames: NDArray[Any] | None = None) -> None:
        self._stack = stack
        self._frames = frames
        self.path: Path | None = stack.path
        self.field = stack.field
        self.shape = stack.shape
        self.dtype = stack.dtype
        self.frame_by_frame = stack.frame_by_frame
        self.identity = stack.identity()

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_frames": None}

    def blocks(self) -> Iterator[tuple[int, NDArray[Any]]]:
        for start, _, block in self._stack.disk_blocks():
            yield start if self.frame_by_frame else 0, block.transpose(self._stack.axes)

    def check_unchanged(self) -> None:
        require_unchanged(self._stack.path, self._stack.state)

    def sidecar_paths(self) -> list[Path]:
        return []

    def verify_sidecar(self, path: Path) -> None:
        require_whole(path, self._stack)


class Mapped(_InFile):
    """Frames that are mapped where they lie."""

    def array(self, progress: Progress | None = None) -> NDArray[Any]:
        """The map; another process makes it again on first use."""
        if self._frames is None:
            with opened(self._stack.path, self._stack.state) as stream:
                self._frames = self._stack.map(stream)
        return self._frames

    def chunks(self, chunk_bytes: int, check: bool) -> Iterator[Chunk]:
        """Views of the map; a bare ``.npy`` has no checksum."""
        chunks, stack = chunks_of(self.array(), chunk_bytes), self._stack
        if not check or stack.crc32 is None:
            return chunks
        fault = damaged(f"{stack.field} checksum", "wrong", "the CRC in the zip directory")
        fault.file = stack.path
        return compared(chunks, stack.header.crc32, stack.crc32, fault)

    def sample(self, spread: NDArray[np.intp]) -> NDArray[Any]:
        """Exactly those frames, read without their neighbours."""
        frames = self.array()
        with read_here_and_there(frames):
            return rows_of(frames, spread)


class Unpacked(_InFile):
    """Frames that cannot be mapped where they lie, converted once into a sidecar or into memory.

    Parameters
    ----------
    stack
        Where they lie.
    policy
        Where the sidecar goes, if anywhere.
    """

    def __init__(self, stack: StoredStack, policy: SidecarPolicy) -> None:
        super().__init__(stack)
        self._policy = policy
        self._sidecar: Sidecar | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_sidecar": None}

    def array(self, progress: Progress | None = None) -> NDArray[Any]:
        """The sidecar's map, or an array in memory."""
        if self._frames is None and not self._has_sidecar():
            if self._policy not in ("off", "readonly"):
                self._sidecar = build_sidecar(self._stack, self._policy, progress)
            self._frames = self._sidecar.frames if self._sidecar else self._stack.load()
        assert self._frames is not None
        return self._frames

    def _has_sidecar(self) -> bool:
        if self._policy == "off":
            return False
        require_unchanged(self._stack.path, self._stack.state)
        self._sidecar = find_sidecar(self._stack, self._policy)
        self._frames = self._sidecar.frames if self._sidecar else None
        return self._sidecar is not None

    def chunks(self, chunk_bytes: int, check: bool) -> Iterator[Chunk]:
        """Views of the array where there is one, else straight from the file."""
        if self.frame_by_frame and self._frames is None and not self._has_sidecar():
            return self._stack.frame_blocks(min(chunk_bytes, BLOCK_BYTES))
        chunks = chunks_of(self.array(), chunk_bytes)
        return self._sidecar.compared(chunks) if check and self._sidecar else chunks

    def sample(self, spread: NDArray[np.intp]) -> NDArray[Any]:
        """Exactly those frames of an array or of frames stored last, else the first ones."""
        if self._frames is not None:
            with read_here_and_there(self._frames):
                return rows_of(self._frames, spread)
        chosen = np.empty((len(spread), *self.shape[1:]), self.dtype)
        if not self.frame_by_frame:
            on_disk = chosen.transpose(np.argsort(self._stack.axes))
            for start, stop, block in self._stack.disk_blocks():
                on_disk[start:stop] = block.take(spread, axis=self._stack.axes[0])
            return chosen
        for start, stop, block in self._stack.frame_blocks(chosen.nbytes):
            chosen[start : min(stop, len(chosen))] = block[: len(chosen) - start]
            if stop >= len(chosen):
                break
        return chosen

    def check_unchanged(self) -> None:
        """As for every file; a sidecar that vanished or changed is dropped and made again."""
        super().check_unchanged()
        if self._sidecar is not None and not self._sidecar.unchanged():
            logger.warning("%s: changed or removed while in use; dropped", self._sidecar.path)
            self._frames = self._sidecar = None

    def sidecar_paths(self) -> list[Path]:
        """Every sidecar that there is of this stack, whole or not."""
        if self._policy == "off":
            return []
        return [path for path in sidecar_places(self._stack, self._policy) if path.exists()]


def rows_of(stored: NDArray[Any], chosen: NDArray[np.intp]) -> NDArray[Any]:
    """Copy some frames, (len(chosen), N, N), of an array that may be unaligned."""
    if not stored.flags.c_contiguous:
        return np.asarray(stored[chosen])
    # numpy.take copies the whole of an unaligned array before it takes anything; bytes are
    # always aligned.
    flat = stored.reshape(len(stored), -1).view(np.uint8)
    return flat.take(chosen, axis=0).view(stored.dtype).reshape(-1, *stored.shape[1:])


def chunks_of(stored: NDArray[Any], chunk_bytes: int) -> Iterator[Chunk]:
    """Views of an array (M, N, N), each of about ``chunk_bytes`` and at least one frame."""
    step = max(1, chunk_bytes // max(1, stored[0].nbytes))
    for start in range(0, len(stored), step):
        stop = min(start + step, len(stored))
        yield start, stop, stored[start:stop]
