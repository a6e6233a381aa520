"""Frames in datasets of HDF5 files: one or several, some or all of them, in any order.

Owns the plan of which frames are read together, so that each chunk is unpacked as seldom as can be
in bounded memory. Knows no meaning of the numbers.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ptycho_torch.data.errors import ScanError, ScanFileError
from ptycho_torch.data.files.hdf5 import Hdf5File, opened_hdf5
from ptycho_torch.data.files.hdf5_array import Hdf5Array
from ptycho_torch.data.files.mapping import FileState, map_array, require_unchanged
from ptycho_torch.data.files.npy_header import shape_text
from ptycho_torch.data.files.stored_stack import BLOCK_BYTES, Chunk, FramesIdentity
from ptycho_torch.data.files.zip_archive import MODERATE_BYTES

logger = logging.getLogger(__name__)

_MOST_BLOCK_BYTES = 96 << 20


@dataclass(frozen=True, eq=False)
class Hdf5Stack:
    """Frames (M, H, W) in HDF5: a :class:`~ptycho_torch.data.files.frame_source.FrameSource`.

    ``index`` (M,) are their numbers in the datasets ``parts``, one after the other, None for all;
    of a raster (rows, columns, H, W) they are counted row by row. With ``corner`` the zero
    frequency is moved from (0, 0) to (H//2, W//2).
    """

    path: Path
    state: FileState
    parts: tuple[Hdf5Array, ...]
    index: NDArray[np.int64] | None = None
    corner: bool = False
    in_place: bool = field(init=False)
    frame_by_frame: bool = field(default=True, init=False)

    def __post_init__(self) -> None:
        first = self.parts[0]
        whole = self.index is None and not self.corner and len(self.parts) == 1
        square = first.shape[-1] == first.shape[-2]
        here = first.path == self.path and first.offset is not None
        object.__setattr__(self, "in_place", whole and square and here)

    @classmethod
    def of(
        cls,
        file: Hdf5File,
        names: str | Sequence[str],
        *,
        index: ArrayLike | None = None,
        corner: bool = False,
    ) -> Hdf5Stack:
        """Find frames in an open file, reading only headers.

        ScanKeyError, ScanFileError, ScanError: a dataset is missing, no stack of frames of real
        numbers, or unlike the others; the index names frames that are not there.
        """
        parts = tuple(map(file.dataset, [names] if isinstance(names, str) else names))
        if not parts:
            raise ScanError("frames", "no dataset", "at least one")
        for part in parts:
            _require_frames(part, parts[0])
        stack = cls(file.path, file.state, parts)
        if index is not None:
            stack = cls(file.path, file.state, parts, _numbers(index, len(stack)), corner)
        elif corner:
            stack = cls(file.path, file.state, parts, None, corner)
        missing = sum(part.nbytes - part.written_bytes for part in parts)
        if missing > 0:
            logger.warning("%s: %s: %d bytes never written", file.path, stack.field, missing)
        return stack

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def field(self) -> str:
        """Name of the first dataset."""
        return self.parts[0].name

    @property
    def label(self) -> str:
        """Last part of the name and a digest of what else the frames depend on."""
        last = "".join(c if c.isalnum() else "_" for c in self.field.rsplit("/", 1)[-1])[:40]
        return f"{last}-{self.digest()[:8]}"

    @property
    def shape(self) -> tuple[int, int, int]:
        """(M, H, W)."""
        count = sum(map(_count, self.parts)) if self.index is None else len(self.index)
        return count, self.parts[0].shape[-2], self.parts[0].shape[-1]

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype in native byte order."""
        return self.parts[0].dtype

    @property
    def data_bytes(self) -> int:
        """Bytes of all frames."""
        return math.prod(self.shape) * self.dtype.itemsize

    def digest(self) -> str:
        """Of datasets, files and their states, index and place of the zero frequency."""
        content: list[Any] = [
            [part.path.name, part.state.size, part.state.mtime_ns, part.name, list(part.shape)]
            for part in (each for one in self.parts for each in (one, *one.sources))
        ]
        content += [self.dtype.str, self.corner]
        digest = hashlib.sha256(json.dumps(content).encode())
        digest.update(b"all" if self.index is None else self.index.astype("<i8").tobytes())
        return digest.hexdigest()

    def identity(self) -> FramesIdentity:
        """File, its state, and the digest."""
        size, mtime_ns = self.state.size, self.state.mtime_ns
        text, made_by = self.dtype.str, self.digest()
        return FramesIdentity(
            str(self.path), size, mtime_ns, text, self.shape, None, made_by=made_by
        )

    def made_from(self) -> dict[str, Any]:
        """What a sidecar of these frames records."""
        shape = list(self.shape)
        return {
            "field": self.field[-200:],
            "dtype": self.dtype.str,
            "shape": shape,
            "digest": self.digest(),
        }

    def require_unchanged(self) -> None:
        """Refuse files that are not those that were opened."""
        require_unchanged(self.path, self.state)
        for part in {part.path: part for part in self.parts}.values():
            require_unchanged(part.path, part.state)
        for part in self.parts:
            part.require_sources()

    def map(self, stream: BinaryIO) -> NDArray[Any]:
        """Map the frames from the open file; only where they lie in place."""
        offset = self.parts[0].offset
        assert offset is not None
        return map_array(stream, offset=offset, dtype=self.dtype, shape=self.shape)

    def compared(self, chunks: Iterator[Chunk]) -> Iterator[Chunk]:
        """The same chunks: HDF5 has no checksum of contiguous numbers."""
        return chunks

    def blocks(self) -> Iterator[tuple[int, NDArray[Any]]]:
        """All frames in order: number of the first, frames (n, H, W)."""
        return ((start, block) for start, _, block in self.frame_blocks())

    def frame_blocks(self, block_bytes: int = BLOCK_BYTES) -> Iterator[Chunk]:
        """Frames in order, in whole chunks where that fits in memory, else in parts of them."""
        with _Reader(self) as reader:
            for start, stop in self.cuts(block_bytes):
                numbers = np.arange(start, stop) if self.index is None else self.index[start:stop]
                yield start, stop, reader.rows(numbers)

    def sample(self, spread: NDArray[np.intp]) -> NDArray[Any]:
        """Exactly those frames."""
        with _Reader(self) as reader:
            return reader.rows(spread if self.index is None else self.index[spread])

    def load(self) -> NDArray[Any]:
        """All frames in memory; refused where most of them were never written."""
        written = sum(part.written_bytes for part in self.parts)
        if self.data_bytes > max(MODERATE_BYTES, 4 * written):
            found = f"{self.data_bytes} bytes, {written} of them written"
            raise ScanFileError(self.field, found, "frames that were measured", file=self.path)
        try:
            out = np.empty(self.shape, self.dtype)
        except MemoryError as error:
            action = "Use --option sidecar=auto or a directory (sidecar='auto')"
            found = f"{self.data_bytes} bytes, more than fits in memory"
            raise ScanFileError(
                self.field, found, "frames that fit", action=action, file=self.path
            ) from error
        for start, stop, block in self.frame_blocks():
            out[start:stop] = block
        return out

    def cuts(self, block_bytes: int) -> list[tuple[int, int]]:
        """Which frames are read together: begin and end of each block, pure arithmetic."""
        step, count = self._step(block_bytes), len(self)
        if self.index is None or np.any(np.diff(self.index) < 0):
            edges = np.arange(0, count, step)
        else:
            # In order but not all: where the next chunks begin, the next block does.
            edges = np.flatnonzero(np.diff(self.index // step, prepend=-1))
        ends = [*edges[1:].tolist(), count]
        return [
            (start, min(start + step, end))
            for first, end in zip(edges.tolist(), ends, strict=True)
            for start in range(first, end, step)
        ]

    def _step(self, block_bytes: int) -> int:
        """Frames in a block: whole chunks, or as many as fit."""
        part, frame_bytes = self.parts[0], max(1, math.prod(self.shape[1:]) * self.dtype.itemsize)
        deep = _chunk_depth(part)
        most = max(1, _MOST_BLOCK_BYTES // frame_bytes)
        if deep > most:
            logger.warning("%s: chunks of %d frames are unpacked repeatedly", self.path, deep)
            return most
        return min(most // deep, max(1, block_bytes // frame_bytes // deep)) * deep


class _Reader:
    """Frames by their numbers, one file open at a time."""

    def __init__(self, stack: Hdf5Stack) -> None:
        self._stack = stack
        self._held = ExitStack()
        self._file: Hdf5File | None = None
        self._at: Hdf5Array | None = None
        self._starts = np.cumsum([0, *map(_count, stack.parts)])

    def __enter__(self) -> _Reader:
        return self

    def __exit__(self, *raised: Any) -> None:
        self._held.__exit__(*raised)

    def rows(self, numbers: NDArray[np.integer]) -> NDArray[Any]:
        """Frames (len(numbers), H, W), each read once."""
        wanted, place = np.unique(numbers, return_inverse=True)
        found = np.empty((len(wanted), *self._stack.shape[1:]), self._stack.dtype)
        edges = [0, *(np.flatnonzero(np.diff(wanted) != 1) + 1).tolist(), len(wanted)]
        for first, last in pairwise(edges):
            if first < last:
                self._run(int(wanted[first]), found[first:last])
        if self._stack.corner:
            found = np.fft.fftshift(found, axes=(1, 2))
        in_order = len(numbers) == len(wanted) and bool(np.all(np.diff(place) == 1))
        return found if in_order else found[place]

    def _run(self, start: int, out: NDArray[Any]) -> None:
        """Read frames that follow each other, part by part."""
        done = 0
        while done < len(out):
            number = int(np.searchsorted(self._starts, start + done, side="right")) - 1
            part, inside = self._stack.parts[number], start + done - int(self._starts[number])
            stop = min(_count(part), inside + len(out) - done)
            self._read(part, inside, out[done : done + stop - inside])
            done += stop - inside

    def _read(self, part: Hdf5Array, start: int, out: NDArray[Any]) -> None:
        self._read_rows(part, start, out)
        part.require_sources()

    def _read_rows(self, part: Hdf5Array, start: int, out: NDArray[Any]) -> None:
        read = self._part(part)
        if len(part.shape) == 3:
            read((slice(start, start + len(out)),), out)
            return
        columns, done = part.shape[1], 0
        while done < len(out):
            row, column = divmod(start + done, columns)
            rows = (len(out) - done) // columns if column == 0 else 0
            if rows:
                selected = slice(row, row + rows), slice(0, columns)
            else:
                selected = (
                    slice(row, row + 1),
                    slice(column, min(columns, column + len(out) - done)),
                )
            shape = tuple(s.stop - s.start for s in selected)
            n = math.prod(shape)
            read(selected, out[done : done + n].reshape(*shape, *out.shape[1:]))
            done += n

    def _part(self, part: Hdf5Array) -> Callable[[tuple[slice, ...], NDArray[Any]], None]:
        if part != self._at:
            if self._file is None or self._file.path != part.path:
                self._held.close()
                self._file = self._held.enter_context(opened_hdf5(part.path, part.state))
            self._at, self._read_part = part, self._file.part_reader(part.name)
        return self._read_part


def _count(part: Hdf5Array) -> int:
    return math.prod(part.shape[:-2])


def _chunk_depth(part: Hdf5Array) -> int:
    """Frames that begin and end with chunks."""
    if part.chunks is None:
        return 1
    if len(part.shape) == 3:
        return part.chunks[0]
    rows, columns = part.chunks[:2]
    return columns if rows == 1 and part.shape[1] % columns == 0 else rows * part.shape[1]


def _require_frames(part: Hdf5Array, first: Hdf5Array) -> None:
    if len(part.shape) not in (3, 4) or 0 in part.shape:
        wanted = "(M, H, W) or (rows, columns, H, W)"
        raise ScanError(f"{part.name} shape", shape_text(part.shape), wanted)
    if part.dtype.kind not in "fiu":
        raise ScanError(f"{part.name} dtype", part.dtype, "real numbers")
    if (part.dtype, part.shape[-2:]) != (first.dtype, first.shape[-2:]):
        found = f"{part.dtype} frames of {shape_text(part.shape[-2:])}"
        wanted = f"{first.dtype} frames of {shape_text(first.shape[-2:])}, as in {first.name}"
        raise ScanError(part.name, found, wanted)


def _numbers(index: ArrayLike, count: int) -> NDArray[np.int64]:
    numbers = np.array(index)
    if numbers.ndim != 1 or not len(numbers) or numbers.dtype.kind not in "iu":
        raise ScanError("frame index", shape_text(numbers.shape), "integers (M,)")
    if numbers.min() < 0 or numbers.max() >= count:
        raise ScanError("frame index", f"up to {numbers.max()}", f"within 0 to {count - 1}")
    numbers = numbers.astype(np.int64)
    numbers.flags.writeable = False
    return numbers
