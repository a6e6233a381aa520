"""A stack of square frames, stored once and mapped: M frames of N x N numbers of one dtype.

Owns lazy access: in-place maps, sidecars of compressed members, streaming in bounded memory. Knows
no meaning of the numbers; :mod:`ptycho_torch.data.frames` adds that for diffraction frames.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ptycho_torch.data.caches.sidecar import (
    Sidecar,
    SidecarPolicy,
    check_policy,
    find_sidecar,
    require_whole,
    sidecar_directories,
    sidecar_name,
)
from ptycho_torch.data.caches.sidecar_build import build_sidecar
from ptycho_torch.data.errors import ScanError
from ptycho_torch.data.files.mapping import (
    map_array,
    read_here_and_there,
    require_unchanged,
    state_of,
)
from ptycho_torch.data.files.npy_header import shape_text
from ptycho_torch.data.files.stored_stack import (
    BLOCK_BYTES,
    AxisOrder,
    FramesIdentity,
    StackSource,
    StoredChecksum,
    check_square,
    member_source,
    npy_source,
)

logger = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
CHUNK_BYTES = 16 << 20

_Stack = TypeVar("_Stack", bound="FrameStack")


class FrameStack:
    """M square frames behind one interface, wherever they are stored.

    Made by :meth:`from_array`, :meth:`from_npy` or :meth:`from_npz`. Pickling sends the way to the
    file, never the numbers (an array in memory excepted); the other process opens it again when it
    first needs it, and refuses a file that changed meanwhile.
    """

    allowed_kinds = "fiuc"

    def __init__(
        self,
        source: StackSource | None,
        array: NDArray[Any] | None = None,
        sidecar: SidecarPolicy | str = "auto",
    ) -> None:
        self._source = source
        self._array = array
        self._policy = check_policy(sidecar)
        self._sidecar: Sidecar | None = None
        file, field = (None, "frames") if source is None else (source.path, source.field)
        if self.dtype.kind not in self.allowed_kinds or self.dtype.itemsize > 16:
            raise ScanError(f"{field} dtype", self.dtype, self._dtype_wish(), file=file)
        if self.dtype.kind == "f" and self.dtype.itemsize > 8:
            raise ScanError(f"{field} dtype", self.dtype, self._dtype_wish(), file=file)

    @classmethod
    def from_array(cls: type[_Stack], array: ArrayLike, **options: Any) -> _Stack:
        """Wrap an array (M, N, N) or (M, N, N, 1); kept without a copy when byte order is native.

        Raises
        ------
        ScanError
            Another rank or dtype, no frames, or frames that are not square.
        """
        stack = np.asarray(array)
        if stack.ndim == 4 and stack.shape[3] == 1:
            stack = stack[..., 0]
        if stack.ndim != 3:
            raise ScanError("frames shape", shape_text(stack.shape), "(M, N, N)")
        check_square(stack.shape, None, "frames")
        native = stack.astype(stack.dtype.newbyteorder("="), copy=False)
        return cls(None, native, **options)

    @classmethod
    def from_npy(cls: type[_Stack], path: str | Path, **options: Any) -> _Stack:
        """Map an ``.npy`` file in place.

        Fortran order or foreign byte order cannot be mapped; such a file is converted in memory
        when it is first used.

        Raises
        ------
        ScanError, ScanFileError, ScanFileNotFoundError
            Missing, damaged, or not a stack of square frames.
        """
        return cls(npy_source(Path(path)), sidecar="off", **options)

    @classmethod
    def from_npz(
        cls: type[_Stack],
        path: str | Path,
        member: str,
        *,
        sidecar: SidecarPolicy | str = "auto",
        axis_order: AxisOrder = "frames_first",
        **options: Any,
    ) -> _Stack:
        """Find a stack in an ``.npz``, reading headers alone.

        A stored member is mapped in place. One that is compressed, big-endian, Fortran-ordered or
        has its frames on the last axis is converted once, on first use of :attr:`stored`, into a
        sidecar ``.npy``.

        Parameters
        ----------
        path, member
            The archive and the key in it.
        sidecar
            ``"auto"``: beside the scan, or in the user's cache directory where that is read-only;
            a path: in that directory; ``"readonly"``: use one that is there, never write;
            ``"off"``: convert in memory.
        axis_order
            ``"frames_last"`` for members stored as (N, N, M).

        Raises
        ------
        ScanError, ScanFileError, ScanFileNotFoundError
            Missing, damaged, or not a stack of square frames.
        """
        source = member_source(Path(path), member, order=axis_order)
        return cls(source, sidecar=sidecar, **options)

    @classmethod
    def from_archive(cls, archive, key, *, sidecar="auto", axis_order="frames_first", **options):
        return cls.from_npz(archive.path, key, sidecar=sidecar, axis_order=axis_order, **options)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(M, N, N)."""
        if self._source is not None:
            return self._source.shape
        assert self._array is not None
        frames, height, width = self._array.shape
        return frames, height, width

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of the stored values, native byte order."""
        if self._source is not None:
            return self._source.dtype
        assert self._array is not None
        return self._array.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of all frames as stored values."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def path(self) -> Path | None:
        """The file the frames come from, or None."""
        return None if self._source is None else self._source.path

    @property
    def field(self) -> str:
        """Name of the stack in its file."""
        return "frames" if self._source is None else self._source.field

    @property
    def frame_by_frame(self) -> bool:
        """Whole frames follow each other in the file."""
        return self._source is None or self._source.frame_by_frame

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        where = "memory" if self.path is None else str(self.path)
        return f"{type(self).__name__}({shape_text(self.shape)} {self.dtype}, {where})"

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        if self._source is not None:
            state["_array"] = state["_sidecar"] = None
        return state

    @property
    def stored(self) -> NDArray[Any]:
        """All frames (M, N, N) as stored values, mapped; made ready on first use.

        Writing into the array changes a private copy, never the file. A map in place may be
        unaligned in memory, because zip members start anywhere.
        """
        if self._array is None:
            self.prepare()
        assert self._array is not None
        return self._array

    def prepare(self, progress: Progress | None = None) -> None:
        """Make :attr:`stored` ready: map, or convert once into the sidecar.

        Parameters
        ----------
        progress
            Called with (bytes done, bytes in all) while converting.

        Raises
        ------
        ScanFileError
            The file changed or is damaged; no space or permission for the sidecar.
        CacheLockTimeoutError
            Another process holds the sidecar's lock for too long.
        """
        source = self._source
        if self._array is not None or source is None:
            return
        if source.in_place:
            assert source.data_offset is not None
            self._array = map_array(
                source.path,
                source.state,
                offset=source.data_offset,
                dtype=source.dtype,
                shape=source.shape,
            )
            return
        if self._policy != "off":
            require_unchanged(source.path, source.state, state_of(source.path))
            sidecar = find_sidecar(source, self._policy)
            if sidecar is None and self._policy != "readonly":
                sidecar = build_sidecar(source, self._policy, progress)
            if sidecar is not None:
                self._array, self._sidecar = sidecar.map(), sidecar
                return
        self._array = source.load()

    def rows(self, indices: ArrayLike) -> NDArray[Any]:
        """Copy some frames, (len(indices), N, N), as stored values."""
        stored = self.stored
        chosen = np.asarray(indices, dtype=np.intp)
        if not stored.flags.c_contiguous:
            return np.asarray(stored[chosen])
        # numpy.take copies the whole of an unaligned array before it takes anything; bytes are
        # always aligned.
        flat = stored.reshape(len(stored), -1).view(np.uint8)
        return flat.take(chosen, axis=0).view(stored.dtype).reshape(-1, *stored.shape[1:])

    def chunks(
        self, chunk_bytes: int = CHUNK_BYTES, *, check: bool = False
    ) -> Iterator[tuple[int, int, NDArray[Any]]]:
        """Stream all frames in order, in bounded memory.

        Parameters
        ----------
        chunk_bytes
            Size of a block, at least one frame.
        check
            Hold a mapped array against its checksum too, which is known after the last block; what
            is unpacked always is.

        Yields
        ------
        start, stop, block
            ``block`` (stop - start, N, N) holds frames start to stop as stored values.

        Raises
        ------
        ScanFileError
            The file is damaged.
        """
        source = self._source
        if self._array is None and source is not None and not source.in_place:
            sidecar = None if self._policy == "off" else find_sidecar(source, self._policy)
            if sidecar is None and source.frame_by_frame:
                yield from source.frame_blocks(min(chunk_bytes, BLOCK_BYTES))
                return
        stored = self.stored
        checksum = self.checksum() if check else None
        step = max(1, chunk_bytes // max(1, self.nbytes // len(self)))
        for start in range(0, len(self), step):
            stop = min(start + step, len(self))
            yield start, stop, stored[start:stop]
            if checksum is not None:
                checksum = checksum.after(stored[start:stop])
        if checksum is not None:
            checksum.require()

    def blocks(self) -> Iterator[tuple[int, NDArray[Any]]]:
        """Stream all values in the order of the file, in bounded memory, writing nothing.

        Yields
        ------
        start, block
            ``block`` (n, N, N) holds frames from number ``start`` on; where frames are stored last,
            a part of every frame.
        """
        source = self._source
        if source is None:
            yield from ((start, block) for start, _, block in self.chunks())
            return
        for start, _, block in source.disk_blocks():
            yield start if self.frame_by_frame else 0, block.transpose(source.axes)

    def sample(self, n: int = 8) -> NDArray[Any]:
        """A few frames (n or fewer, N, N) without a sidecar and without reading everything.

        They are spread over the scan where frames can be reached at random, and the first ones of
        a compressed member. Only a compressed member with frames on its last axis is read whole.
        """
        source = self._source
        count = min(n, len(self))
        spread = np.linspace(0, len(self) - 1, count).astype(np.intp)
        if self._array is not None or source is None or source.in_place:
            with read_here_and_there(self.stored):
                return self.rows(spread)
        if source.frame_by_frame:
            first = np.empty((count, *self.shape[1:]), self.dtype)
            for start, stop, block in source.frame_blocks(first.nbytes):
                first[start : min(stop, count)] = block[: count - start]
                if stop >= count:
                    break
            return first
        chosen = np.empty((count, *self.shape[1:]), self.dtype)
        on_disk = chosen.transpose(np.argsort(source.axes))
        for start, stop, block in source.disk_blocks():
            on_disk[start:stop] = block.take(spread, axis=source.axes[0])
        return chosen

    def identity(self) -> FramesIdentity:
        """What tells this stack from another, without reading frames."""
        source = self._source
        text = self.dtype.str
        if source is None:
            return FramesIdentity(None, self.nbytes, None, text, self.shape, None)
        crc = None if source.member is None else source.member.crc32
        state = source.state
        return FramesIdentity(str(source.path), state.size, state.mtime_ns, text, self.shape, crc)

    def check_unchanged(self) -> None:
        """Notice a scan replaced or cut since it was opened, before the map reads past its end.

        A sidecar that vanished or changed is dropped: the next use of :attr:`stored` makes it
        again.

        Raises
        ------
        ScanFileError, ScanFileNotFoundError
            The scan is not the file that was opened.
        """
        if self._source is None:
            return
        require_unchanged(self._source.path, self._source.state, state_of(self._source.path))
        if self._sidecar is not None and not self._sidecar.unchanged():
            logger.warning("%s: changed or removed while in use; dropped", self._sidecar.path)
            self._array = self._sidecar = None

    def checksum(self) -> StoredChecksum | None:
        """What the file says of the array that :attr:`stored` maps; None where it says nothing.

        What was read into memory was held against its checksum then.
        """
        if self._sidecar is not None:
            return self._sidecar.checksum()
        in_place = self._source is not None and self._source.in_place
        return self._source.checksum() if self._source is not None and in_place else None

    def sidecar_paths(self) -> list[Path]:
        """Every sidecar that there is of this stack, whole or not."""
        if self._source is None or self._source.in_place or self._policy == "off":
            return []
        name = sidecar_name(self._source)
        places = [place / name for place in sidecar_directories(self._source, self._policy)]
        return [path for path in places if path.exists()]

    def verify_sidecar(self, path: Path) -> None:
        """Hold a sidecar against this stack, every byte read.

        Raises
        ------
        ScanFileError, ScanFileNotFoundError
            Missing, damaged, or made from something else.
        """
        require_whole(path, self._source)

    @classmethod
    def _dtype_wish(cls) -> str:
        return "an integer, floating or complex dtype of at most 16 bytes"
