"""What users say about a detector, and what its frames say where users leave it to them.

Owns the options and the choices that follow; :mod:`ptycho_torch.data.readout` has the arithmetic.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ptycho_torch.data.config import check_integer
from ptycho_torch.data.errors import NotSquareError, OptionError, ScanError
from ptycho_torch.data.files.frame_source import FrameSource
from ptycho_torch.data.files.npy_header import shape_text
from ptycho_torch.data.pixel_estimates import PixelEstimates, centre_of, saturated
from ptycho_torch.data.readout import ORIENTATIONS, Readout

logger = logging.getLogger(__name__)

Centre = Literal["keep", "estimate"] | tuple[int, int]

_SIZE = "Add --size N (size=N)"
_SAMPLE_BYTES = 16 << 20
_SAMPLE_RUNS, _RUN = 8, 8


@dataclass(frozen=True, eq=False)
class Detector:
    """How stored frames (H, W) become frames (N, N) with the zero frequency at (N//2, N//2).

    In this order: dark, bad pixels, window, bins, orientation. Positions stay what they are.

    Parameters
    ----------
    size
        N, in pixels after binning. None: of square frames, all; ``centre`` is then ``"keep"``.
    centre
        Stored pixel (row, column) of the zero frequency; ``"keep"``: (H//2, W//2);
        ``"estimate"``: by mass and point symmetry of the mean frame, and logged.
    bin
        So many pixels along each axis are summed into one.
    orientation
        One of :data:`~ptycho_torch.data.readout.ORIENTATIONS`, named as NumPy's functions.
    pad_value
        Value of pixels outside the detector, which count as measured; None: they are bad pixels.
    dark
        Mean frame without light, (H, W) or one number, subtracted; what is then negative is 0.
    saturation
        A pixel that reaches it in any frame is bad; all frames are read once to know.
    bad_pixels
        Bad pixels of the frames as stored, (H, W), True or not 0 = bad, beside the file's.

    Raises
    ------
    OptionError
        A value that cannot work.
    """

    size: int | None = None
    centre: Centre = "keep"
    bin: int = 1
    orientation: str = "as stored"
    pad_value: float | None = 0
    dark: NDArray[Any] | None = None
    saturation: float | None = None
    bad_pixels: NDArray[Any] | None = None

    def __post_init__(self) -> None:
        if self.size is not None:
            check_integer("size", self.size, minimum=1)
        check_integer("bin", self.bin, minimum=1)
        if self.orientation not in ORIENTATIONS:
            wanted = "one of " + ", ".join(ORIENTATIONS)
            raise OptionError("orientation", repr(self.orientation), wanted)
        _check_centre(self.centre, self.size)
        for name, value in (("pad_value", self.pad_value), ("saturation", self.saturation)):
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise OptionError(name, value, "a finite number >= 0")
        if self.dark is not None:
            object.__setattr__(self, "dark", np.asarray(self.dark))
        if self.bad_pixels is not None:
            mask = np.asarray(self.bad_pixels)
            if mask.ndim != 2 or mask.dtype.kind not in "biu":
                found = f"{shape_text(mask.shape)} {mask.dtype}"
                raise OptionError("bad_pixels", found, "(H, W) of bool or integers, 0 = good")
            object.__setattr__(self, "bad_pixels", mask != 0)

    def from_corner(self) -> Detector:
        """The same for frames whose reader moves the zero frequency from (0, 0) to the centre.

        Dark and bad pixels are of frames as stored, and move with them.
        """
        return replace(self, dark=_centred(self.dark), bad_pixels=_centred(self.bad_pixels))

    def readout(
        self,
        frames: FrameSource | NDArray[Any],
        *,
        bad_pixels: ArrayLike | None = None,
        dark: ArrayLike | None = None,
    ) -> Readout:
        """Make every choice for these frames, from a sample of them.

        Parameters
        ----------
        frames
            A source, or an array (M, H, W).
        bad_pixels
            (H, W), True = bad, as the file has it.
        dark
            (H, W), as the file has it; the detector's own goes first.

        Raises
        ------
        ScanError, OptionError
            Mask or dark have another shape than the frames; frames that are not square, or do not
            divide into bins, without a ``size``.
        """
        shape = frames.shape[1], frames.shape[2]
        known = np.zeros(shape, bool)
        for mask in (bad_pixels, self.bad_pixels):
            known |= False if mask is None else _plane("bad_pixels", mask, shape) != 0
        used = dark if self.dark is None else self.dark
        level = None if used is None else _plane("dark", used, shape)
        seen = PixelEstimates.of(_sample(frames), known)
        bad = seen.invalid | seen.hot | seen.dead | known
        full = np.zeros(shape, bool)
        if self.saturation is not None:
            for block in _blocks(frames):
                full |= saturated(block, self.saturation)
        _report(frames, seen, int((full & ~bad).sum()))
        bad |= full
        centre = self._centre(frames, seen, bad)
        size = self._size(shape)
        first = tuple(c - (size // 2) * self.bin - (self.bin - 1) // 2 for c in centre)
        whole = self.size is None and self.bin == 1
        if self.size is None and not whole and min(first) < 0:
            text = "bins about the zero frequency: the first row and column lie partly outside the "
            logger.warning(text + "detector and are bad; size %d leaves them out", size - 1)
        dtype = self._dtype(frames.dtype, level)
        if dtype.kind in "iu" and self.pad_value and self.pad_value % 1:
            raise OptionError("pad_value", self.pad_value, f"a whole number, as {dtype} frames are")
        return Readout(
            frame_shape=shape,
            stored_dtype=frames.dtype,
            dtype=dtype,
            size=size,
            first=(0, 0) if whole else (first[0], first[1]),
            bin=self.bin,
            orientation=self.orientation,
            centre=centre,
            pad_value=self.pad_value,
            bad=bad if bad.any() else None,
            dark=level,
            zeroed=bool(seen.invalid.any()),
            hot=int(seen.hot.sum()),
            dead=int(seen.dead.sum()),
        )

    def _centre(
        self, frames: FrameSource | NDArray[Any], seen: PixelEstimates, bad: NDArray[np.bool_]
    ) -> tuple[int, int]:
        height, width = frames.shape[1:]
        if self.centre == "keep":
            return height // 2, width // 2
        if self.centre == "estimate":
            row, column = centre_of(seen.mean, bad)
            logger.info("centre found at (%d, %d) of %d x %d", row, column, height, width)
            return row, column
        row, column = self.centre
        if not (0 <= row < height and 0 <= column < width):
            raise OptionError("centre", self.centre, f"a pixel of {height} x {width}")
        return int(row), int(column)

    def _size(self, shape: tuple[int, int]) -> int:
        if self.size is not None:
            return self.size
        if shape[0] != shape[1] or shape[0] % self.bin:
            found = "frames", shape_text(shape), f"squares that divide by bin = {self.bin}"
            raise NotSquareError(*found, action=_SIZE)
        return shape[0] // self.bin

    def _dtype(self, stored: np.dtype[Any], dark: NDArray[Any] | None) -> np.dtype[Any]:
        """One that holds the sum of a bin; whole numbers stay whole where the dark is."""
        if stored.kind == "f" or (dark is not None and dark.dtype.kind == "f"):
            return np.result_type(stored, np.float32) if stored.kind == "f" else np.dtype("f4")
        if dark is not None:
            # Signed, because what is below the dark is negative for a moment; of 64 bits too.
            signed = np.promote_types(stored, np.int32)
            stored = np.dtype(np.int64) if signed.kind == "f" else signed
        if self.bin == 1:
            return stored
        most = int(np.iinfo(stored).max) * self.bin**2
        kinds = "u2 u4 u8" if stored.kind == "u" else "i2 i4 i8"
        for name in kinds.split():
            if np.iinfo(name).max >= most:
                return np.dtype(name)
        return np.dtype(kinds.split()[-1])


def _check_centre(centre: Centre, size: int | None) -> None:
    if isinstance(centre, str):
        fits = centre in ("keep", "estimate")
    else:
        fits = len(centre) == 2 and all(isinstance(c, int | np.integer) for c in centre)
    if not fits:
        raise OptionError("centre", repr(centre), "keep, estimate or (row, column)")
    if centre != "keep" and size is None:
        raise OptionError("size", None, "a size where the centre moves", action=_SIZE)


def _centred(plane: NDArray[Any] | None) -> NDArray[Any] | None:
    return plane if plane is None or plane.ndim == 0 else np.fft.fftshift(plane)


def _plane(name: str, values: ArrayLike, shape: tuple[int, int]) -> NDArray[Any]:
    array = np.asarray(values)
    if name == "dark" and array.ndim == 0:
        array = np.full(shape, array)
    if array.shape != shape:
        raise ScanError(f"{name} shape", shape_text(array.shape), f"{shape_text(shape)}, as frames")
    return array


def _blocks(frames: FrameSource | NDArray[Any]) -> Iterator[NDArray[Any]]:
    if isinstance(frames, np.ndarray):
        return (frames[i : i + 1] for i in range(len(frames)))
    return (block for _, block in frames.blocks())


def _sample(frames: FrameSource | NDArray[Any]) -> NDArray[Any]:
    """Some frames in a few runs over the scan: files hold neighbours together."""
    count = frames.shape[0]
    frame_bytes = max(1, math.prod(frames.shape[1:]) * frames.dtype.itemsize)
    most = max(4, min(_SAMPLE_RUNS * _RUN, _SAMPLE_BYTES // frame_bytes))
    if count <= most:
        spread = np.arange(count)
    else:
        run = max(1, most // _SAMPLE_RUNS)
        starts = np.linspace(0, count - run, min(_SAMPLE_RUNS, most)).astype(np.intp)
        spread = np.unique(starts[:, None] + np.arange(run))
    return frames[spread] if isinstance(frames, np.ndarray) else frames.sample(spread)


def _report(frames: FrameSource | NDArray[Any], seen: PixelEstimates, saturated: int) -> None:
    counts = {name: int(getattr(seen, name).sum()) for name in ("invalid", "hot", "dead")}
    counts["saturated"] = saturated
    found = ", ".join(f"{n} {name}" for name, n in counts.items() if n)
    if found:
        where = "frames" if isinstance(frames, np.ndarray) else frames.path
        logger.warning("%s: bad pixels found: %s", where, found)
