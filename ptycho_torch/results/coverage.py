"""How densely a scan covers its object: probe width, step and overlap. Pure functions of arrays."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.data.grouping import neighbor_table


def probe_width_px(probe: NDArray[np.complexfloating]) -> float:
    """Diameter of the disc that has the probe's effective area, in pixels.

    The area is (sum I)**2 / sum I**2 over the intensity I, summed over modes: an evenly lit disc
    gives its own diameter.

    Parameters
    ----------
    probe
        complex, shape (N, N) or (P, N, N).

    Returns
    -------
    width
        Pixels; 0 for a dark probe.
    """
    intensity = np.square(np.abs(probe.astype(np.complex128)))
    if intensity.ndim == 3:
        intensity = intensity.sum(axis=0)
    power = float(np.square(intensity).sum())
    return 2.0 * math.sqrt(float(intensity.sum()) ** 2 / power / math.pi) if power > 0 else 0.0


def nearest_steps(x: NDArray[np.floating], y: NDArray[np.floating]) -> NDArray[np.float64]:
    """Distance from every position to its nearest neighbour, (M,), pixels; NaN for one frame.

    Parameters
    ----------
    x, y
        Positions, shape (M,), object pixels.
    """
    if len(x) < 2:
        return np.full(len(x), math.nan)
    table = neighbor_table(x, y, 1)
    own = np.arange(len(x))
    # At repeated positions the tree may name the twin first.
    nearest = np.where(table[:, 0] == own, table[:, 1], table[:, 0])
    return np.hypot(x[nearest] - x, y[nearest] - y).astype(np.float64)


def nearest_step(x: NDArray[np.floating], y: NDArray[np.floating]) -> float:
    """Median of :func:`nearest_steps`."""
    return float(np.median(nearest_steps(x, y)))


def linear_overlap(width: float, step: float) -> float | None:
    """1 - step / probe width, at least 0; None where either is unknown."""
    if not (width > 0 and math.isfinite(step)):
        return None
    return max(0.0, 1.0 - step / width)
