"""What a few frames say about a detector: its bad pixels, and where the zero frequency is.

Owns the estimates and their thresholds. Works on a sample of frames in memory; knows no files.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]

HOT_RATIO = 10.0
"""How far a hot pixel is above the third brightest of its 24 neighbours. Frames of a probe that
fills half of its array or less vary more slowly than that, at their brightest peak too."""
HOT_COUNTS = 10.0
DEAD_COUNTS = 25.0
"""What a pixel's neighbours saw over the sample where a pixel that saw nothing is dead: so few
counts, e ** -25, no sample of frames has by chance."""


@dataclass(frozen=True, eq=False)
class PixelEstimates:
    """Bad pixels (H, W) as frames show them, by what is wrong, and the mean frame without them."""

    invalid: Mask
    hot: Mask
    dead: Mask
    mean: NDArray[np.float64]

    @classmethod
    def of(cls, frames: NDArray[Any], known: Mask | None = None) -> PixelEstimates:
        """Judge a sample of frames (n, H, W), the pixels ``known`` to be bad left out.

        Invalid are NaN and infinity in any frame, and where all frames have one negative value or
        the largest integer of their dtype. Hot pixels are far above their neighbours in the mean
        and in the median over frames; dead ones are 0 in all frames amid light.
        """
        invalid = _invalid(frames)
        left_out = invalid if known is None else invalid | known
        values = np.where(left_out, 0, np.maximum(frames, 0)).astype(np.float32)
        mean = values.mean(axis=0, dtype=np.float64)
        median = np.median(values, axis=0).astype(np.float64)
        hot = ~left_out
        for level in (mean, median):
            hot &= level > HOT_RATIO * _third_of_neighbours(level) + HOT_COUNTS
        # Seven pixels wide: around three dead rows 28 of 49 are lit, at the edge of a beamstop 21.
        light = _ranked(np.where(hot, 0, mean), 22, size=7, mode="constant")
        lit = light * len(frames) >= DEAD_COUNTS
        dead = ~left_out & lit & (values.max(axis=0) == 0)
        return cls(invalid, hot, dead, np.where(hot, 0, mean))


def saturated(block: NDArray[Any], limit: float) -> Mask:
    """Pixels (H, W) that reach ``limit`` in any frame (n, H, W)."""
    found: Mask = np.any(block >= limit, axis=0)
    return found


def centre_of(mean: NDArray[np.float64], bad: Mask) -> tuple[int, int]:
    """Pixel of the zero frequency in a mean frame (H, W): about which it is most symmetric.

    The centre of mass says where to look, within a quarter of the frame; the point about which the
    amplitude is most like itself turned by 180 degrees is the centre.
    """
    level = np.sqrt(np.where(bad, 0, mean))
    from scipy.ndimage import median_filter

    filled = np.where(bad, median_filter(level, 5), level)
    mass = filled**2
    rows, columns = np.indices(mean.shape)
    total = mass.sum() or 1.0
    about = (rows * mass).sum() / total, (columns * mass).sum() / total
    shape = tuple(2 * n for n in mean.shape)
    # The self-convolution at 2 c is the correlation with the frame turned about c.
    likeness = np.fft.irfft2(np.fft.rfft2(filled, shape) ** 2, shape)
    for axis, (centre, n) in enumerate(zip(about, mean.shape, strict=True)):
        far = np.abs(np.arange(2 * n) / 2 - centre) > max(2.0, n / 8)
        likeness[(far, slice(None)) if axis == 0 else (slice(None), far)] = -np.inf
    peak = np.unravel_index(np.argmax(likeness), shape)
    row, column = (_nearest(int(p), c) for p, c in zip(peak, about, strict=True))
    return row, column


def _nearest(doubled: int, about: float) -> int:
    """Half of a number; of a half pixel, the side where the centre of mass is."""
    low = doubled // 2
    return low + 1 if doubled % 2 and about > low + 0.5 else low


def _invalid(frames: NDArray[Any]) -> Mask:
    low, high = frames.min(axis=0), frames.max(axis=0)  # both carry a NaN through
    if frames.dtype.kind == "f":
        found: Mask = ~np.isfinite(low) | ~np.isfinite(high)
    else:
        found = (low == high) & (high == np.iinfo(frames.dtype).max)
    if frames.dtype.kind != "u":
        found |= (low == high) & (high < 0)
    return found


def _third_of_neighbours(level: NDArray[np.float64]) -> NDArray[np.float64]:
    around = np.ones((5, 5), bool)
    around[2, 2] = False
    return _ranked(level, -3, footprint=around)


def _ranked(level: NDArray[np.float64], rank: int, **window: Any) -> NDArray[np.float64]:
    from scipy.ndimage import (
        rank_filter,  # here, because a worker that is spawned estimates nothing
    )

    ranked: NDArray[np.float64] = rank_filter(level, rank, **window)
    return ranked
