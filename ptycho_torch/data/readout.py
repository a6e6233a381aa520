"""How stored frames (H, W) become frames (N, N): window, bins, orientation, dark and bad pixels.

Owns the arithmetic, once every choice is made: applied to frames, masks and pixel sizes alike.
Frames keep their zero frequency at (N//2, N//2). Chooses nothing.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO, TypeVar

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.data.files.frame_source import FrameSource
from ptycho_torch.data.files.mapping import FileState
from ptycho_torch.data.files.stored_stack import BLOCK_BYTES, Chunk, FramesIdentity

ORIENTATIONS: Mapping[str, tuple[bool, bool, bool]] = MappingProxyType(
    {
        "as stored": (False, False, False),
        "fliplr": (False, False, True),
        "flipud": (False, True, False),
        "rot180": (False, True, True),
        "transpose": (True, False, False),
        "rot90": (True, True, False),
        "rot270": (True, False, True),
        "antitranspose": (True, True, True),
    }
)
"""The eight orientations: whether axes are swapped, then rows and columns reversed. The names are
NumPy's: ``rot90`` is ``numpy.rot90(frame)``, counter-clockwise with the first row on top."""

_Geometry = TypeVar("_Geometry")


def composed(first: str, then: str) -> str:
    """The orientation that is one after the other."""
    (swap, *reverse), (swap_then, *reverse_then) = ORIENTATIONS[first], ORIENTATIONS[then]
    if swap_then:
        reverse.reverse()
    both = (swap != swap_then, *(a != b for a, b in zip(reverse, reverse_then, strict=True)))
    return next(name for name, steps in ORIENTATIONS.items() if steps == both)


@dataclass(frozen=True, eq=False)
class Readout:
    """Every choice made: what turns stored frames (H, W) into frames (N, N) of ``dtype``.

    ``first`` is the stored pixel where the window of ``size * bin`` pixels begins, outside the
    detector where it is negative; ``centre`` the stored pixel of the zero frequency. ``bad`` and
    ``dark`` are (H, W) or None; ``hot`` and ``dead`` count estimated pixels in ``bad``. Pixels
    wholly outside hold ``pad_value`` and count as measured; with None they are bad.
    """

    frame_shape: tuple[int, int]
    stored_dtype: np.dtype[Any]
    dtype: np.dtype[Any]
    size: int
    first: tuple[int, int]
    bin: int
    orientation: str
    centre: tuple[int, int]
    pad_value: float | None
    bad: NDArray[np.bool_] | None
    dark: NDArray[Any] | None
    zeroed: bool
    hot: int = 0
    dead: int = 0

    @property
    def changes_frames(self) -> bool:
        """Whether frames come out unlike they are stored."""
        same_window = self.frame_shape == (self.size, self.size) and self.first == (0, 0)
        same = same_window and self.bin == 1 and self.orientation == "as stored"
        return self.zeroed or self.dark is not None or not same

    @property
    def bad_pixels(self) -> NDArray[np.bool_] | None:
        """Bad pixels (N, N), None where there are none: a bin with any bad pixel is bad."""
        bad = self._turned(self._bad_bins())
        return bad if bad.any() else None

    def apply(self, block: NDArray[Any]) -> NDArray[Any]:
        """Frames (n, N, N) from stored ones (n, H, W), C order."""
        if not self.changes_frames:
            return block
        rows, columns = self._inside()
        seen = block[:, rows, columns]
        if self.dark is not None:
            seen = seen.astype(self.dtype) - self.dark[rows, columns]
        if seen.dtype.kind != "u":
            seen = np.maximum(seen, 0)
        if self.bad is not None:
            # Sentinels and NaN: they would be what a sum or a scale is made of.
            seen = np.where(self.bad[rows, columns], np.zeros((), seen.dtype), seen)
        whole = np.zeros((len(block), *self._window()), self.dtype)
        whole[:, self._shifted(rows, 0), self._shifted(columns, 1)] = seen
        bins = self._in_bins(whole).sum(axis=(2, 4), dtype=self.dtype)
        bins[:, self._bad_bins()] = 0
        if self.pad_value:
            bins[:, self._outside().all(axis=(1, 3))] = self.pad_value
        return np.ascontiguousarray(self._turned(bins))

    def corrected(self, geometry: _Geometry) -> _Geometry:
        """The geometry of these frames from that of the stored ones.

        In the far field the object pixel grows where the detector is cropped, shrinks where it is
        padded and stays where it is binned; in the near field it only grows with the bins.
        """
        given: Any = geometry
        bins = (float(self.bin), float(self.bin))
        height, width = (n / (self.size * self.bin) for n in self.frame_shape)
        near = getattr(given, "near_field", False)
        correct: _Geometry = replace(
            given,
            detector_pixel_m=self._scaled(given.detector_pixel_m, bins),
            object_pixel_m=self._scaled(given.object_pixel_m, bins if near else (height, width)),
        )
        return correct

    def through(self, source: FrameSource) -> FrameSource:
        """The source read out so: itself where nothing changes."""
        return ReadOutFrames(source, self) if self.changes_frames else source

    def digest(self) -> str:
        """Of everything that the frames depend on."""
        digest = hashlib.sha256()
        window = self.frame_shape, self.size, self.first, self.bin, self.orientation
        digest.update(repr((window, self.pad_value, self.dtype.str)).encode())
        for array in (self.bad, self.dark):
            digest.update(b"-" if array is None else np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def _scaled(self, pixel: Any, factors: tuple[float, float]) -> Any:
        if pixel is None:
            return None
        row, column = np.broadcast_to(np.asarray(pixel, dtype=np.float64), 2) * factors
        if ORIENTATIONS[self.orientation][0]:
            row, column = column, row
        return float(row) if row == column else (float(row), float(column))

    def _window(self) -> tuple[int, int]:
        return self.size * self.bin, self.size * self.bin

    def _inside(self) -> tuple[slice, slice]:
        """The part of the window that the detector has."""
        rows, columns = (
            slice(max(0, first), max(0, min(n, first + side)))
            for first, n, side in zip(self.first, self.frame_shape, self._window(), strict=True)
        )
        return rows, columns

    def _shifted(self, part: slice, axis: int) -> slice:
        return slice(part.start - self.first[axis], part.stop - self.first[axis])

    def _in_bins(self, whole: NDArray[Any]) -> NDArray[Any]:
        """(..., N * b, N * b) as (..., N, b, N, b)."""
        n, b = self.size, self.bin
        return whole.reshape(*whole.shape[:-2], n, b, n, b)

    def _outside(self) -> NDArray[np.bool_]:
        outside = np.ones(self._window(), bool)
        rows, columns = self._inside()
        outside[self._shifted(rows, 0), self._shifted(columns, 1)] = False
        return self._in_bins(outside)

    def _bad_bins(self) -> NDArray[np.bool_]:
        outside, bad = self._outside(), np.zeros(self._window(), bool)
        if self.bad is not None:
            rows, columns = self._inside()
            bad[self._shifted(rows, 0), self._shifted(columns, 1)] = self.bad[rows, columns]
        every, some = outside.all(axis=(1, 3)), outside.any(axis=(1, 3))
        unknown = some if self.pad_value is None else np.logical_and(some, ~every)
        return np.logical_or(self._in_bins(bad).any(axis=(1, 3)), unknown)

    def _turned(self, frames: NDArray[Any]) -> NDArray[Any]:
        """Turn (..., N, N) about its zero frequency.

        Where N is even the first row has no partner: as frequency -N/2 it is its own, and stays.
        """
        swap, *reverse = ORIENTATIONS[self.orientation]
        if swap:
            frames = frames.swapaxes(-1, -2)
        for axis, reversed_ in zip((-2, -1), reverse, strict=True):
            if reversed_:
                frames = np.flip(frames, axis)
                frames = frames if self.size % 2 else np.roll(frames, 1, axis)
        return frames


@dataclass(frozen=True, eq=False)
class ReadOutFrames:
    """The frames of a source as a detector is read out; itself a source of frames."""

    source: FrameSource
    readout: Readout
    in_place: bool = False
    frame_by_frame: bool = True

    @property
    def path(self) -> Path:
        """The source's."""
        return self.source.path

    @property
    def state(self) -> FileState:
        """The source's."""
        return self.source.state

    @property
    def field(self) -> str:
        """The source's."""
        return self.source.field

    @property
    def label(self) -> str:
        """The source's, and a digest."""
        return f"{self.source.label}-{self.readout.digest()[:8]}"

    @property
    def shape(self) -> tuple[int, int, int]:
        """(M, N, N)."""
        return self.source.shape[0], self.readout.size, self.readout.size

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the frames that come out."""
        return self.readout.dtype

    @property
    def data_bytes(self) -> int:
        """Bytes of all frames."""
        return math.prod(self.shape) * self.dtype.itemsize

    def identity(self) -> FramesIdentity:
        """The source's, without its checksum, which is of other bytes; and both digests."""
        of, dtype = self.source.identity(), self.dtype.str
        made_by = f"{of.made_by or of.crc32} {self.readout.digest()}"
        return FramesIdentity(
            of.path, of.size, of.mtime_ns, dtype, self.shape, None, made_by=made_by
        )

    def made_from(self) -> dict[str, Any]:
        """What a sidecar of these frames records."""
        return {**self.source.made_from(), "readout": self.readout.digest()}

    def require_unchanged(self) -> None:
        """Refuse files that are not those that were opened."""
        self.source.require_unchanged()

    def map(self, stream: BinaryIO) -> NDArray[Any]:
        """Refuse: nothing lies in a file as it comes out."""
        raise ValueError("frames that are read out cannot be mapped; unpack them")

    def compared(self, chunks: Iterator[Chunk]) -> Iterator[Chunk]:
        """The same chunks."""
        return chunks

    def blocks(self) -> Iterator[tuple[int, NDArray[Any]]]:
        """All frames in order: number of the first, frames (n, N, N)."""
        return ((start, block) for start, _, block in self.frame_blocks())

    def frame_blocks(self, block_bytes: int = BLOCK_BYTES) -> Iterator[Chunk]:
        """Frames in order; those of a source with frames stored last go through memory."""
        if not self.source.frame_by_frame:
            for start, frame in enumerate(self.source.load()):
                yield start, start + 1, self.readout.apply(frame[None])
            return
        for start, stop, block in self.source.frame_blocks(block_bytes):
            yield start, stop, self.readout.apply(block)

    def sample(self, spread: NDArray[np.intp]) -> NDArray[Any]:
        """A few frames."""
        return self.readout.apply(self.source.sample(spread))

    def load(self) -> NDArray[Any]:
        """All frames in memory."""
        out = np.empty(self.shape, self.dtype)
        for start, stop, block in self.frame_blocks():
            out[start:stop] = block
        return out
