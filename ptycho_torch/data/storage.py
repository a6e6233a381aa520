"""Where a stack of square frames lies: in memory, mapped in its file, or unpacked from it.

Owns one class for each place. Knows no meaning of the numbers; :mod:`ptycho_torch.data.frames`
adds that.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

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
from ptycho_torch.data.errors import ScanFileError
from ptycho_torch.data.files.frame_source import FrameSource
from ptycho_torch.data.files.mapping import (
    FileState,
    opened,
    read_here_and_there,
    require_unchanged,
)
from ptycho_torch.data.files.stored_stack import BLOCK_BYTES, Chunk, FramesIdentity, Progress

logger = logging.getLogger(__name__)


class Storage(ABC):
    """Where frames (M, N, N) of native byte order lie; one class for each kind of place.

    Each answers the same questions, and differs from this one where it says so.
    """

    path: Path | None = None
    field = "frames"
    frame_by_frame = True
    shape: tuple[int, int, int]
    dtype: np.dtype[Any]
    identity: FramesIdentity
    _stack: FrameSource | None = None
    _frames: NDArray[Any] | None = None
    watched: tuple[tuple[Path, FileState], ...] = ()
    """Other files of the scan, refused like that of the frames once they change."""

    def array(self, progress: Progress | None = None) -> NDArray[Any]:
        """All frames, made ready on first use."""
        if self._frames is None:
            self._frames = self._made_ready(progress)
            self._frames.flags.writeable = False
        return self._frames

    @abstractmethod
    def _made_ready(self, progress: Progress | None) -> NDArray[Any]:
        """The frames as an array, when it is first asked for."""

    @contextmanager
    def anew(self) -> Iterator[NDArray[Any]]:
        """All frames as the file that was opened holds them; else a ScanFileError at the end.

        What another process writes into the file meanwhile is noticed, and what this one does to
        its own array does not count.
        """
        yield self.array()

    def chunks(
        self, chunk_bytes: int, check: bool, chosen: NDArray[np.integer] | None = None
    ) -> Iterator[Chunk]:
        """Frames in order, in bounded memory, read :meth:`anew`; ``chosen``: only those.

        ``check``: the checksum of all frames is compared too.
        """
        with self.anew() as frames:
            yield from chunks_of(frames, chunk_bytes, chosen)

    def blocks(self) -> Iterator[tuple[int, NDArray[Any]]]:
        """All values in the order of the file: number of the first frame, part of the stack."""
        return ((start, block) for start, _, block in self.chunks(BLOCK_BYTES, False))

    def sample(self, spread: NDArray[np.intp]) -> NDArray[Any]:
        """As many frames as in ``spread``, exactly those where they can be reached at random."""
        frames = self.array()
        with read_here_and_there(frames):
            return rows_of(frames, spread)

    @property
    def source(self) -> FrameSource | NDArray[Any]:
        """What the array is made from."""
        return self.array() if self._stack is None else self._stack

    @abstractmethod
    def check_unchanged(self) -> bool:
        """Refuse a scan that was replaced or written to since it was opened.

        True where a sidecar was, whose frames are no longer believed.
        """

    def sidecar_paths(self) -> list[Path]:
        """Every sidecar that there is of this stack, whole or not."""
        return []

    def verify_sidecar(self, path: Path) -> None:
        """Compare a sidecar, every byte read, with the file that it should be made from."""
        require_whole(path, self._stack)


class InMemory(Storage):
    """Frames that are an array of this process."""

    def __init__(self, frames: NDArray[Any]) -> None:
        # A view, so that the array itself stays its owner's to write to.
        self._given = frames.view()
        count, height, width = frames.shape
        self.shape, self.dtype = (count, height, width), frames.dtype
        text = frames.dtype.str
        self.identity = FramesIdentity(None, frames.nbytes, None, text, self.shape, None)

    def _made_ready(self, progress: Progress | None) -> NDArray[Any]:
        return self._given

    def check_unchanged(self) -> bool:
        """Nothing to refuse: there is no file."""
        return False


class _InFile(Storage):
    """What frames in a file share, mapped or unpacked; another process makes its own array."""

    def __init__(self, stack: FrameSource, frames: NDArray[Any] | None = None) -> None:
        self._stack: FrameSource = stack
        self._frames = frames
        self.path = stack.path
        self.field = stack.field
        self.shape = stack.shape
        self.dtype = stack.dtype
        self.frame_by_frame = stack.frame_by_frame
        self.identity = stack.identity()

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_frames": None}

    def blocks(self) -> Iterator[tuple[int, NDArray[Any]]]:
        return self._stack.blocks()

    def check_unchanged(self) -> bool:
        self._stack.require_unchanged()
        for path, state in self.watched:
            require_unchanged(path, state)
        return False


class _Mapped(_InFile):
    """Frames that are mapped where they lie; a bare ``.npy`` has no checksum."""

    def _made_ready(self, progress: Progress | None) -> NDArray[Any]:
        with self.anew() as frames:
            return frames

    @contextmanager
    def anew(self) -> Iterator[NDArray[Any]]:
        with opened(self._stack.path, self._stack.state) as stream:
            yield self._stack.map(stream)

    def chunks(
        self, chunk_bytes: int, check: bool, chosen: NDArray[np.integer] | None = None
    ) -> Iterator[Chunk]:
        chunks, stack = super().chunks(chunk_bytes, check, chosen), self._stack
        # A write may hide behind the time of a file that was young when it was opened.
        if self.identity.crc32 is None or not (check or not stack.state.settled):
            return chunks
        if chosen is not None:  # the rest of the array is read too, and not given
            return chain(chunks, (every for every in self.chunks(chunk_bytes, True) if False))
        return stack.compared(chunks)


class _Unpacked(_InFile):
    """Frames that cannot be mapped where they lie, converted once into a sidecar or into memory.

    They are streamed and sampled straight from the file until an array is there.
    """

    def __init__(self, stack: FrameSource, policy: SidecarPolicy) -> None:
        super().__init__(stack)
        self._policy = policy
        self._sidecar: Sidecar | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_sidecar": None}

    def _made_ready(self, progress: Progress | None) -> NDArray[Any]:
        self._find_sidecar()
        if self._sidecar is None and self._policy not in ("off", "readonly"):
            self._sidecar = build_sidecar(self._stack, self._policy, progress)
        return self._sidecar.frames if self._sidecar else self._stack.load()

    def _find_sidecar(self) -> None:
        if self._policy != "off":
            self.check_unchanged()
            self._sidecar = find_sidecar(self._stack, self._policy)
            self._frames = self._sidecar.frames if self._sidecar else None

    @contextmanager
    def anew(self) -> Iterator[NDArray[Any]]:
        self.array()
        sidecar = self._sidecar
        with super().anew() as frames:
            yield frames
        if sidecar is not None and not sidecar.unchanged():
            found = "sidecar", "changed while it was read", "at rest"
            raise ScanFileError(*found, action="Try again", file=sidecar.path)

    def chunks(
        self, chunk_bytes: int, check: bool, chosen: NDArray[np.integer] | None = None
    ) -> Iterator[Chunk]:
        self.check_unchanged()
        if self._frames is None:
            self._find_sidecar()
        if self._frames is None and self.frame_by_frame and chosen is None:
            return self._stack.frame_blocks(min(chunk_bytes, BLOCK_BYTES))
        chunks = super().chunks(chunk_bytes, check, chosen)
        compare = check and chosen is None and self._sidecar
        return compare.compared(chunks) if compare else chunks

    def sample(self, spread: NDArray[np.intp]) -> NDArray[Any]:
        """Those frames of an array, else what the file gives without reading all of it."""
        return self._stack.sample(spread) if self._frames is None else super().sample(spread)

    def check_unchanged(self) -> bool:
        """As for every file; a sidecar that vanished or changed is dropped and made again."""
        super().check_unchanged()
        if self._sidecar is None or self._sidecar.unchanged():
            return False
        logger.warning("%s: changed or removed while in use; dropped", self._sidecar.path)
        self._frames = self._sidecar = None
        return True

    def sidecar_paths(self) -> list[Path]:
        if self._policy == "off":
            return []
        places = sidecar_places(self._stack, self._policy)
        return [path for path in places if path.exists()]


def in_file(stack: FrameSource, stream: BinaryIO, policy: SidecarPolicy) -> Storage:
    """Frames of an open file: mapped where they can be, else unpacked on first use."""
    if stack.in_place:
        return _Mapped(stack, stack.map(stream))
    return _Unpacked(stack, policy)


def rows_of(stored: NDArray[Any], chosen: NDArray[np.integer]) -> NDArray[Any]:
    """Copy some frames, (len(chosen), N, N), of an array that may be unaligned."""
    if not stored.flags.c_contiguous:
        return np.asarray(stored[chosen])
    # numpy.take copies the whole of an unaligned array before it takes anything; bytes are
    # always aligned.
    flat = stored.reshape(len(stored), -1).view(np.uint8)
    return flat.take(chosen, axis=0).view(stored.dtype).reshape(-1, *stored.shape[1:])


def chunks_of(
    stored: NDArray[Any], chunk_bytes: int, chosen: NDArray[np.integer] | None = None
) -> Iterator[Chunk]:
    """Parts of an array (M, N, N), each of about ``chunk_bytes`` and at least one frame.

    They are views; of the frames ``chosen``, (L,), they are copies.
    """
    step = max(1, chunk_bytes // max(1, stored[0].nbytes))
    count = len(stored) if chosen is None else len(chosen)
    for start in range(0, count, step):
        stop = min(start + step, count)
        part = stored[start:stop] if chosen is None else rows_of(stored, chosen[start:stop])
        yield start, stop, part
