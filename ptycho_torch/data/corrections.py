"""What a user says of a scan that was written another way: units, axes, origin, zero frequency.

Owns the options and their order. :mod:`ptycho_torch.data.plausibility` says when to use which.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Literal, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.data.config import check_choice
from ptycho_torch.data.errors import OptionError
from ptycho_torch.data.files.frame_source import FrameSource
from ptycho_torch.data.frames import Frames
from ptycho_torch.data.geometry import Geometry, pair
from ptycho_torch.data.pixel_estimates import PixelEstimates
from ptycho_torch.data.readout import Readout, ReadOutFrames
from ptycho_torch.data.scan import Scan
from ptycho_torch.data.storage import InMemory, in_file

PositionUnit = Literal["px", "m", "um", "nm"]
ZeroFrequency = Literal["centre", "corner"]
BadPixels = Literal["file", "estimate"]
METRES = MappingProxyType({"m": 1.0, "um": 1e-6, "nm": 1e-9})
SAMPLE_FRAMES = 64
_Scan = TypeVar("_Scan", bound=Scan)


@dataclass(frozen=True)
class Corrections:
    """How a scan differs from the contract; the defaults change nothing.

    In this order: frames (zero frequency, transposed, bad pixels), positions (swapped, to pixels,
    flipped, shifted), probe. A file's object and ready-made patches stay what they are.

    Parameters
    ----------
    position_unit
        Of xcoords and ycoords. Other than ``"px"`` they are divided by the object pixel, and moved
        as by ``shift_origin``.
    pixel_size_m
        Side of an object pixel, metres; None: the geometry's. It becomes the geometry's too.
    swap_xy, flip_x, flip_y
        Exchange the axes of the positions; then reverse one, within the extent of the scan.
    shift_origin
        Move the positions so that the first patch begins at row and column 0 of the object.
    transpose_frames
        Exchange rows and columns of every frame, about its zero frequency.
    zero_frequency
        Where it lies in the file's frames: ``"centre"``, pixel (N // 2, N // 2), or ``"corner"``.
    bad_pixels
        ``"file"``, or ``"estimate"``: hot, dead and full pixels and constant lines of a sample
        of frames too.
    scale_probe
        Multiply the probe so that sum |P|**2 is the mean counts of a frame.

    Raises
    ------
    OptionError
        A word that is none of these, or a pixel that is not a number above 0.
    """

    position_unit: PositionUnit = "px"
    pixel_size_m: float | None = None
    swap_xy: bool = False
    flip_x: bool = False
    flip_y: bool = False
    shift_origin: bool = False
    transpose_frames: bool = False
    zero_frequency: ZeroFrequency = "centre"
    bad_pixels: BadPixels = "file"
    scale_probe: bool = False

    def __post_init__(self) -> None:
        check_choice("position_unit", self.position_unit, PositionUnit)
        check_choice("zero_frequency", self.zero_frequency, ZeroFrequency)
        check_choice("bad_pixels", self.bad_pixels, BadPixels)
        Geometry(object_pixel_m=self.pixel_size_m)

    def of_measurement(self, scan: _Scan) -> _Scan:
        """The scan with frames and positions corrected, its arrays read-only as before."""
        if self == Corrections(scale_probe=self.scale_probe):
            return scan
        scan = scan.sharing(scan, geometry=self._geometry(scan), frames=self._frames(scan))
        places = {"xcoords": (scan.xcoords, scan.ycoords)}
        if not (scan.xcoords_start is scan.xcoords and scan.ycoords_start is scan.ycoords):
            places["xcoords_start"] = (scan.xcoords_start, scan.ycoords_start)
        moved: dict[str, NDArray[Any]] = {}
        for name, (x, y) in places.items():
            moved[name], moved[name.replace("x", "y", 1)] = self._positions(scan, x, y)
        for name in ("xcoords", "ycoords"):
            moved.setdefault(f"{name}_start", moved[name])
        for array in moved.values():
            array.flags.writeable = False
        return scan.sharing(scan, **moved)

    def of_probe(self, scan: _Scan) -> _Scan:
        """The scan with its probe scaled, where that is asked for."""
        power = float(np.sum(np.abs(scan.probeGuess.astype(np.complex128)) ** 2))
        if not self.scale_probe or not power > 0:
            return scan
        counts = float(
            counts_of(scan.frames, scan.frames.sample(SAMPLE_FRAMES)).sum(axis=(1, 2)).mean()
        )
        probe = scan.probeGuess.astype(np.complex128) * np.sqrt(counts / power)
        return scan.replacing_probe(probe.astype(np.complex64), scan.metadata or {})

    def _geometry(self, scan: Scan) -> Geometry | None:
        geometry = scan.geometry
        if self.transpose_frames and geometry is not None:
            sides = (geometry.detector_pixel_m, geometry.object_pixel_m)
            turned = [p[::-1] if isinstance(p, tuple) else p for p in sides]
            geometry = replace(geometry, detector_pixel_m=turned[0], object_pixel_m=turned[1])
        if self.pixel_size_m is None:
            return geometry
        known = replace(geometry or Geometry(), object_pixel_m=self.pixel_size_m)
        return known.for_frames(scan.N)

    def _frames(self, scan: Scan) -> Frames:
        frames = scan.frames
        turn = _Turn(scan.N, frames.dtype, self.zero_frequency == "corner", self.transpose_frames)
        if turn.corner or turn.transpose:
            bad = frames.bad_pixels
            if bad is not None:
                bad = turn.apply(bad.reshape(-1, scan.N, scan.N)).reshape(bad.shape)
            frames = Frames(_turned(frames, turn), frames.measurement, bad)
        if self.bad_pixels == "estimate":
            seen = estimated_bad(frames)
            known = frames.bad_pixels
            if known is not None:
                seen = seen | known
            frames = frames.with_bad_pixels(seen)
        return frames

    def _positions(
        self, scan: Scan, x: NDArray[Any], y: NDArray[Any]
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Positions as the measured ones are moved; their extent is that of the measured ones."""
        given, axes = [scan.xcoords, scan.ycoords], [x.copy(), y.copy()]
        if self.swap_xy:
            given, axes = given[::-1], axes[::-1]
        factors = self._pixels_per_unit(scan)
        shifts = self.shift_origin or self.position_unit != "px"
        flips = (self.flip_x, self.flip_y)
        moved = []
        for own, axis, factor, flip in zip(given, axes, factors, flips, strict=True):
            own_px, px = own * factor, axis * factor
            low, high = own_px.min(), own_px.max()
            px = low + high - px if flip else px
            moved.append(px - low + scan.N // 2 if shifts else px)
        return moved[0], moved[1]

    def _pixels_per_unit(self, scan: Scan) -> tuple[float, float]:
        """Along x and y."""
        if self.position_unit == "px":
            return 1.0, 1.0
        pixel = pair(None if scan.geometry is None else scan.geometry.object_pixel_m)
        if pixel is None:
            raise OptionError(
                "position_unit",
                f"{self.position_unit!r} of a scan whose object pixel is unknown",
                "an object pixel",
                action="Pass --pixel-size METRES (pixel_size_m)",
            )
        return METRES[self.position_unit] / pixel[1], METRES[self.position_unit] / pixel[0]


def counts_of(frames: Frames, stored: NDArray[Any]) -> NDArray[np.float64]:
    """Stored values of these frames as counts."""
    values = stored.astype(np.float64)
    return values if frames.measurement == "counts" else np.square(values)


def estimated_bad(frames: Frames) -> NDArray[np.bool_]:
    """Hot, dead and full pixels and constant lines (N, N) of a sample, those known left out."""
    known = frames.bad_pixels
    if known is not None and known.ndim == 3:
        known = np.asarray(known.any(axis=0))
    counts = counts_of(frames, frames.sample(SAMPLE_FRAMES))
    seen = PixelEstimates.of(counts, known)
    bad: NDArray[np.bool_] = seen.invalid | seen.hot | seen.dead | full(counts)
    for lines in constant_lines(counts):
        bad |= lines
    return bad


def constant_lines(counts: NDArray[np.float64]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Pixels (N, N) of rows, and of columns, that hold one value, not 0, in each of some frames."""
    found = []
    for axis in (2, 1):
        low, high = counts.min(axis=axis, keepdims=True), counts.max(axis=axis, keepdims=True)
        lines = ((high == low) & (low > 0)).all(axis=0) & (len(counts) > 1)
        found.append(np.broadcast_to(lines, counts.shape[1:]))
    return found[0], found[1]


def full(counts: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Pixels (N, N) at the largest integer of 15, 16, 31 or 32 bits, the same in every frame."""
    low, high = counts.min(axis=0), counts.max(axis=0)
    found = np.zeros(low.shape, bool)
    for bits in (15, 16, 31, 32):
        found |= np.abs(low - (2.0**bits - 1)) <= 2.0 ** (bits - 23)
    same: NDArray[np.bool_] = found & (high - low <= 1e-6 * high)
    return same


@dataclass(frozen=True)
class _Turn:
    """Frames to where the contract has them; read out as by a detector."""

    size: int
    dtype: np.dtype[Any]
    corner: bool
    transpose: bool

    def apply(self, block: NDArray[Any]) -> NDArray[Any]:
        if self.corner:
            block = np.fft.fftshift(block, axes=(-2, -1))
        return np.ascontiguousarray(block.swapaxes(-1, -2) if self.transpose else block)

    def digest(self) -> str:
        return hashlib.sha256(f"turn {self.corner} {self.transpose}".encode()).hexdigest()


def _turned(frames: Frames, turn: _Turn) -> Any:
    storage = frames._storage
    source: FrameSource | None = storage._stack
    if source is None:
        return InMemory(turn.apply(storage.array()))
    turned = ReadOutFrames(source, cast("Readout", turn))
    policy: Any = getattr(storage, "_policy", "auto")
    return in_file(turned, cast("Any", None), policy)
