"""Stacks of square frames behind one face, wherever they lie: diffraction frames and patches.

Owns the access to stored values, and for diffraction frames the step to amplitude, taken where
frames are used, so that integer frames stay integer on disk and in memory. Knows no positions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ptycho_torch.data.caches.names import SidecarPolicy, check_policy
from ptycho_torch.data.config import check_choice
from ptycho_torch.data.errors import ScanError, naming
from ptycho_torch.data.files.frame_source import FrameSource
from ptycho_torch.data.files.mapping import FileState, opened
from ptycho_torch.data.files.npy_header import shape_text
from ptycho_torch.data.files.stored_stack import (
    AxisOrder,
    Chunk,
    FramesIdentity,
    Progress,
    require_frames,
    stack_in_archive,
    stack_in_npy,
)
from ptycho_torch.data.files.zip_archive import ZipArchive
from ptycho_torch.data.frame_checks import check_bad_pixels, check_frame_values
from ptycho_torch.data.storage import InMemory, Storage, in_file, rows_of

__all__ = [
    "AxisOrder",
    "FrameStack",
    "Frames",
    "FramesIdentity",
    "Progress",
    "StoredAs",
    "check_frame_values",
]

StoredAs = Literal["amplitude", "counts"]
CheckValues = Callable[..., None]
"""``check(block, start=...)`` raises a ScanError where a value cannot be, naming its frame."""

CHUNK_BYTES = 16 << 20

_Stack = TypeVar("_Stack", bound="FrameStack")


class FrameStack:
    """M square frames of N x N numbers of one dtype.

    Made by :meth:`from_array`, :meth:`from_npy`, :meth:`from_npz` or :meth:`from_archive`. Pickling
    sends the way to the file, never the numbers (an array in memory excepted); the other process
    opens it again when it first needs it, and refuses a file that changed meanwhile.

    ``shape`` is (M, N, N) and ``dtype`` that of the stored values in native byte order; ``path`` is
    the file they come from, or None, and ``field`` the name of the stack in it. Whole frames follow
    each other in the file where ``frame_by_frame`` holds.
    """

    allowed_kinds = "fiuc"
    dtype_wish = "an integer, floating or complex dtype of at most 16 bytes"

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self.shape = storage.shape
        self.dtype = storage.dtype
        self.path = storage.path
        self.field = storage.field
        self.frame_by_frame = storage.frame_by_frame
        most = 16 if self.dtype.kind == "c" else 8
        if self.dtype.kind not in self.allowed_kinds or self.dtype.itemsize > most:
            raise ScanError(f"{self.field} dtype", self.dtype, self.dtype_wish)

    @classmethod
    def from_array(cls: type[_Stack], array: ArrayLike, **options: Any) -> _Stack:
        """Wrap an array (M, N, N) or (M, N, N, 1); kept without a copy when byte order is native.

        ScanError: another rank or dtype, no frames, or frames that are not square.
        """
        stack = np.asarray(array)
        require_frames(stack.shape, "frames")
        stack = stack.reshape(stack.shape[:3])
        native = stack.astype(stack.dtype.newbyteorder("="), copy=False)
        return cls(InMemory(native), **options)

    @classmethod
    def from_npy(cls: type[_Stack], path: str | Path, **options: Any) -> _Stack:
        """Map an ``.npy`` file in place; errors as for :meth:`from_archive`.

        Fortran order or foreign byte order cannot be mapped; such a file is converted in memory
        when it is first used.
        """
        file = Path(path).absolute()
        with opened(file) as stream:
            return cls(in_file(stack_in_npy(stream, file), stream, "off"), **options)

    @classmethod
    def from_npz(cls: type[_Stack], path: str | Path, member: str, **options: Any) -> _Stack:
        """Open an ``.npz`` for one stack; options and errors as for :meth:`from_archive`."""
        file = Path(path).absolute()
        with opened(file) as stream:
            return cls.from_archive(ZipArchive(stream, file), member, **options)

    @classmethod
    def from_archive(
        cls: type[_Stack],
        archive: ZipArchive,
        key: str,
        *,
        sidecar: SidecarPolicy | str = "auto",
        axis_order: AxisOrder = "frames_first",
        **options: Any,
    ) -> _Stack:
        """Find a stack in an open ``.npz``, reading only headers.

        A stored member is mapped from the open file. One that is compressed, big-endian,
        Fortran-ordered or has its frames on the last axis is converted once, on first use of
        :attr:`stored`, into a sidecar.

        Parameters
        ----------
        archive, key
            Open from a file, and the member in it.
        sidecar
            ``"auto"``: beside the scan, or in the user's cache directory where that is read-only;
            a path: in that directory; ``"readonly"``: use one that is there, never write;
            ``"off"``: convert in memory.
        axis_order
            ``"frames_last"`` for members stored as (N, N, M).

        ScanKeyError, ScanError, ScanFileError: missing, damaged, or no stack of square frames.
        """
        policy = check_policy(sidecar)
        stack = stack_in_archive(archive, key, axis_order)
        return cls(in_file(stack, archive.stream, policy), **options)

    @classmethod
    def from_source(
        cls: type[_Stack],
        source: FrameSource,
        *,
        sidecar: SidecarPolicy | str = "auto",
        **options: Any,
    ) -> _Stack:
        """Frames of any format: mapped where the source lies in place, else converted as above."""
        policy = check_policy(sidecar)
        with opened(source.path, source.state) as stream:
            require_frames(source.shape, source.field)
            return cls(in_file(source, stream, policy), **options)

    @property
    def source(self) -> FrameSource | NDArray[Any]:
        """Where the frames come from: their source in files, or the array in memory."""
        return self._storage.source

    @property
    def label(self) -> str:
        """What a sidecar of these frames is named by: ``field``, and what tells it from others."""
        source = self.source
        return self.field if isinstance(source, np.ndarray) else source.label

    @property
    def nbytes(self) -> int:
        """Bytes of all frames as stored values."""
        return self._storage.identity.nbytes

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        where = "memory" if self.path is None else str(self.path)
        return f"{type(self).__name__}({shape_text(self.shape)} {self.dtype}, {where})"

    @property
    def stored(self) -> NDArray[Any]:
        """All frames (M, N, N) as stored values, mapped, read-only; made ready on first use.

        A map in place may be unaligned in memory, because zip members start anywhere.
        """
        return self.mapped.view()

    @property
    def mapped(self) -> NDArray[Any]:
        """The array under :attr:`stored`, the same object until the frames are mapped anew."""
        return self._storage.array()

    def prepare(self, progress: Progress | None = None) -> None:
        """Make :attr:`stored` ready: map, or convert once into the sidecar.

        ScanFileError: the file changed or is damaged; no space or permission for the sidecar.
        CacheLockTimeoutError: another process holds the sidecar's lock for too long.
        """
        self._storage.array(progress)

    def rows(self, indices: ArrayLike) -> NDArray[Any]:
        """Copy some frames, (len(indices), N, N), as stored values."""
        return rows_of(self.stored, np.asarray(indices, dtype=np.intp))

    def chunks(
        self,
        chunk_bytes: int = CHUNK_BYTES,
        *,
        check: bool = False,
        chosen: NDArray[np.integer] | None = None,
    ) -> Iterator[Chunk]:
        """Stream frames in order, in bounded memory: start, stop, (stop - start, N, N) stored.

        They are all frames, or those of the indices ``chosen``, (L,), read from the file anew. A
        block has about ``chunk_bytes``, at least one frame. ``check`` compares all of a mapped
        array with its checksum too, known after the last block; what is unpacked always is. A file
        that is damaged, or not the one that was opened, is a ScanFileError.
        """
        return self._storage.chunks(chunk_bytes, check, chosen)

    def blocks(self) -> Iterator[tuple[int, NDArray[Any]]]:
        """Stream all values in the order of the file, in bounded memory, writing nothing.

        Each block (n, N, N) comes with the number of its first frame; where frames are stored
        last, it holds a part of every frame.
        """
        return self._storage.blocks()

    def sample(self, n: int = 8) -> NDArray[Any]:
        """A few frames (n or fewer, N, N) without a sidecar and without reading everything.

        They are spread over the scan where frames can be reached at random, and the first ones of
        a compressed member. Only a compressed member with frames on its last axis is read whole.
        """
        spread = np.linspace(0, len(self) - 1, min(n, len(self))).astype(np.intp)
        return self._storage.sample(spread)

    def identity(self) -> FramesIdentity:
        """What tells this stack from another, without reading frames."""
        return self._storage.identity

    def check_unchanged(self) -> bool:
        """Raise ScanFileError where a scan was replaced or cut, before the map reads past its end.

        A sidecar that vanished or changed is dropped, which gives True; the next use of
        :attr:`stored` makes it.
        """
        return self._storage.check_unchanged()

    def watch(self, files: Iterable[tuple[Path, FileState]]) -> None:
        """Refuse other files of the scan too, once they are not as they were."""
        self._storage.watched = tuple(each for each in files if each[0] != self.path)

    def verify_sidecar(self, path: Path) -> None:
        """Compare a sidecar with this stack, every byte read; raise ScanFileError if it differs."""
        self._storage.verify_sidecar(path)

    def verify_values(self, check: CheckValues, progress: Progress | None = None) -> None:
        """Read the stack and its sidecars to the last byte, and check every block of it.

        ScanFileError: the bytes are not those that were written. ScanError: they are, and ``check``
        refuses a value.
        """
        fault: ScanError | None = None
        done = 0
        for start, block in self.blocks():
            try:
                if fault is None:
                    check(block, start=start)
            except ScanError as error:
                # Of damaged bytes the checksum, known at the end, says more than a value.
                fault = error
            done += block.nbytes
            if progress is not None:
                progress(done, self.nbytes)
        for path in self._storage.sidecar_paths():
            self.verify_sidecar(path)
        if fault is not None:
            raise fault


class Frames(FrameStack):
    """Diffraction frames (M, N, N), zero frequency at the centre, stored once and mapped.

    ``measurement`` says what the stored values are: ``"amplitude"`` = sqrt(counts), or
    ``"counts"``, whose square root is taken on use. :class:`FrameStack` has the constructors.
    """

    allowed_kinds = "fiu"
    dtype_wish = "real numbers: an integer dtype, float16, float32 or float64"

    def __init__(
        self,
        storage: Storage,
        measurement: StoredAs = "amplitude",
        bad_pixels: NDArray[np.bool_] | None = None,
    ) -> None:
        check_choice("measurement", measurement, StoredAs)
        self.measurement: StoredAs = measurement
        super().__init__(storage)
        self.bad_pixels = check_bad_pixels(bad_pixels, self.shape)

    def with_measurement(self, measurement: StoredAs) -> Frames:
        """The same frames, read as another quantity; a map is shared."""
        return Frames(self._storage, measurement, self.bad_pixels)

    def with_bad_pixels(self, bad_pixels: NDArray[np.bool_] | None) -> Frames:
        """The same frames with these pixels bad, bool, (N, N) or (M, N, N), True = bad.

        A bad pixel may hold anything; it counts as 0 everywhere but in :attr:`stored` and
        :meth:`rows`.
        """
        return Frames(self._storage, self.measurement, bad_pixels)

    def take(self, indices: ArrayLike) -> NDArray[Any]:
        """Copy frames ``indices``, shape (n,), as amplitude (n, N, N).

        It has the stored dtype for stored amplitudes, float32 for counts.
        """
        return self.amplitude(self._cleared(self.rows(indices), np.asarray(indices, np.intp)))

    def chunks(
        self,
        chunk_bytes: int = CHUNK_BYTES,
        *,
        check: bool = False,
        chosen: NDArray[np.integer] | None = None,
    ) -> Iterator[Chunk]:
        """As :meth:`FrameStack.chunks`, bad pixels 0."""
        for start, stop, block in super().chunks(chunk_bytes, check=check, chosen=chosen):
            frames = slice(start, stop) if chosen is None else chosen[start:stop]
            yield start, stop, self._cleared(block, frames)

    def blocks(self) -> Iterator[tuple[int, NDArray[Any]]]:
        """As :meth:`FrameStack.blocks`, bad pixels 0."""
        done = 0
        for start, block in super().blocks():
            part: Any = slice(start, start + len(block))
            if not self.frame_by_frame:
                # Part of every frame: some rows of each, or columns where the axes are reversed.
                by_rows = block.shape[1] < self.shape[1] or block.shape[2] == self.shape[2]
                along = slice(done, done + block.shape[1 if by_rows else 2])
                part = (slice(None), along) if by_rows else (slice(None), slice(None), along)
                done = along.stop
            yield start, self._cleared(block, part)

    def sample(self, n: int = 8) -> NDArray[Any]:
        """As :meth:`FrameStack.sample`; pixels that are bad in any frame are 0."""
        sample, bad = super().sample(n), self.bad_pixels
        if bad is None:
            return sample
        return np.where(bad if bad.ndim == 2 else bad.any(axis=0), sample.dtype.type(0), sample)

    def identity(self) -> FramesIdentity:
        """What tells these frames, and what is bad in them, from others."""
        identity, bad = super().identity(), self.bad_pixels
        if bad is None:
            return identity
        made = f"{identity.made_by} {bad.shape} ".encode() + np.packbits(bad).tobytes()
        return replace(identity, made_by=hashlib.sha256(made).hexdigest())

    def _cleared(self, stored: NDArray[Any], part: Any) -> NDArray[Any]:
        """Stored values with 0 in bad pixels; ``part`` is what of (M, N, N) they are."""
        if self.bad_pixels is None:
            return stored
        bad = np.broadcast_to(self.bad_pixels, self.shape)[part]
        return np.where(bad, stored.dtype.type(0), stored)

    def amplitude(self, stored: NDArray[Any]) -> NDArray[Any]:
        """Turn stored values into amplitude; stored amplitudes are returned as they are."""
        if self.measurement == "amplitude":
            return stored
        return np.sqrt(stored.astype(np.float32))

    def verify(self, progress: Progress | None = None) -> NDArray[np.float64]:
        """Read everything: checksums, and that every value is finite and not negative.

        Gives the sum of amplitude ** 2 of each frame, (M,); errors as for :meth:`verify_values`.
        """
        energies = np.zeros(len(self))

        def check(block: NDArray[Any], *, start: int) -> None:
            check_frame_values(block, start=start, field=self.field)
            values = block.astype(np.float64)
            with np.errstate(over="ignore"):
                squares = values if self.measurement == "counts" else values * values
                energies[start : start + len(block)] += squares.sum(axis=(1, 2))

        with naming(self.path):
            self.verify_values(check, progress)
        return energies
