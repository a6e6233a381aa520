"""Fourier ring correlation: down to which detail two images of an object agree.

Owns apodisation, rings, the half-bit threshold and the crossing, in NumPy. Knows no model and no
file. Source: M. van Heel and M. Schatz, J. Struct. Biol. 151 (2005) 250,
https://doi.org/10.1016/j.jsb.2005.05.009.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ptycho_torch.data.errors import OptionError
from ptycho_torch.data.geometry import Pixel, pair
from ptycho_torch.results.metrics import FLAT, paired

_FEWEST = 4


class RingCorrelation(NamedTuple):
    """The curve of two images, the threshold beside it, and where the curve falls below.

    Attributes
    ----------
    frequency
        Of every ring, (R,), cycles per pixel, up to 0.5; the mean, frequency 0, has no ring.
    correlation
        In [-1, 1]; 0 in a ring where one of the images has nothing.
    threshold
        Half a bit of information per pixel.
    half_period_px
        Half a period, pixels, where the curve, once it has risen above the threshold, falls below
        it: the size of the smallest detail. 1, for an even side, where it stays above: pixels end
        before detail does. Infinite where it never rises above.
    half_period_nm
        The same in nanometres, or None where the size of a pixel is unknown.
    """

    frequency: NDArray[np.float64]
    correlation: NDArray[np.float64]
    threshold: NDArray[np.float64]
    half_period_px: float
    half_period_nm: float | None


def fourier_ring_correlation(
    reconstruction: ArrayLike,
    truth: ArrayLike,
    mask: ArrayLike | None = None,
    *,
    pixel_m: Pixel | None = None,
) -> RingCorrelation:
    """Correlation of two complex images in rings of the Fourier plane.

    Both are cut to the mask's bounding box; what differs from their mean over the mask is faded to
    the box's edge by a Hann window and 0 outside the mask. One phase factor for all rings brings
    the reconstruction to the truth, and the real part counts, so that noise averages to 0.

    Parameters
    ----------
    reconstruction, truth
        Complex, (H, W).
    mask
        Boolean, (H, W): the pixels that count; None takes all.
    pixel_m
        Side of an object pixel in metres, or (height, width), of which the larger counts.

    Returns
    -------
    RingCorrelation

    Raises
    ------
    OptionError
        Shapes differ, no pixel counts, or the box has fewer than 4 pixels on a side.

    Examples
    --------
    >>> image = np.random.default_rng(0).normal(size=(64, 64)) + 0j
    >>> fourier_ring_correlation(image, image, pixel_m=5e-9).half_period_nm
    5.0
    """
    a, b, weights = boxed(reconstruction, truth, mask)
    return correlation_of_rings(ring_sums(a, b, weights), weights.shape, pixel_m)


def boxed(
    reconstruction: ArrayLike, truth: ArrayLike, mask: ArrayLike | None
) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.float64]]:
    """Two images in the bounding box of a mask, and their weights: a Hann window, 0 off the mask.

    Raises
    ------
    OptionError
        As ``fourier_ring_correlation``.
    """
    a, b, chosen = paired(reconstruction, truth, mask)
    if a.ndim != 2:
        raise OptionError("reconstruction shape", a.shape, "(H, W)")
    rows, columns = (np.flatnonzero(chosen.any(axis=axis)) for axis in (1, 0))
    box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    shape = chosen[box].shape
    if min(shape) < _FEWEST:
        raise OptionError("box of the mask", shape, f"at least {_FEWEST} pixels a side, for rings")
    # The zeros of a window lie just outside the box.
    down, along = (np.hanning(side + 2)[1:-1] for side in shape)
    return a[box], b[box], np.outer(down, along) * chosen[box]


def ring_sums(
    a: NDArray[Any], b: NDArray[Any], weights: NDArray[np.float64]
) -> NDArray[np.complex128]:
    """Sums over every ring of F(a)* F(b), |F(a)|^2, |F(b)|^2 and independent pixels, (4, R).

    Those of several images of one shape add up.
    """
    one, other = (_spectrum(image, weights) for image in (a, b))
    # A window blurs the Fourier plane, and fewer of its pixels are independent.
    share = np.square(weights).sum() ** 2 / (weights.size * np.square(weights**2).sum())
    powers = np.abs(one) ** 2, np.abs(other) ** 2
    products = np.stack([one.conj() * other, *powers, np.full(weights.shape, share)])
    number, last = _rings(weights.shape)
    sums = np.zeros((last + 1, 4), dtype=np.complex128)
    np.add.at(sums, number, np.moveaxis(products, 0, -1))
    return sums[1:].T


def correlation_of_rings(
    sums: NDArray[np.complex128], shape: tuple[int, ...], pixel_m: Pixel | None = None
) -> RingCorrelation:
    """The curve of what ``ring_sums`` returned for an image of a shape, or of several summed."""
    cross, power = sums[0], np.sqrt(sums[1].real * sums[2].real)
    turned = (cross * np.exp(-1j * np.angle(cross.sum()))).real
    # An empty ring correlates with nothing; what is no number stays none.
    correlation = np.where(power == 0, 0, turned) / np.where(power == 0, 1, power)
    frequency = np.arange(1, len(cross) + 1) / min(shape)
    threshold = half_bit(sums[3].real)
    period_px = _half_period(frequency, correlation - threshold)
    sides = pair(pixel_m)
    period_nm = None if sides is None else period_px * max(sides) * 1e9
    return RingCorrelation(frequency, correlation, threshold, period_px, period_nm)


def half_bit(pixels: ArrayLike) -> NDArray[np.float64]:
    """The half-bit threshold of rings of so many independent pixels, 1 where there is but one.

    It is the correlation of two images of which each has a signal-to-noise ratio of
    (sqrt(2) - 1) / 2, so that their sum carries half a bit per pixel.
    """
    root = np.sqrt(np.maximum(np.asarray(pixels, dtype=np.float64), 1))
    threshold: NDArray[np.float64] = (0.2071 + 1.9102 / root) / (1.2071 + 0.9102 / root)
    return threshold


def _rings(shape: tuple[int, ...]) -> tuple[NDArray[np.int64], int]:
    """Ring of every frequency of ``numpy.fft.fft2``, and the last; 0: the mean, and beyond Nyquist.

    A ring is as wide as one step of frequency along the shorter side.
    """
    down, along = (np.fft.fftfreq(side) for side in shape)
    number = np.rint(np.hypot(down[:, None], along) * min(shape)).astype(np.int64)
    last = min(shape) // 2
    return np.where(number <= last, number, 0), last


def _spectrum(image: NDArray[Any], weights: NDArray[np.float64]) -> NDArray[np.complex128]:
    values = np.where(weights > 0, image, 0).astype(np.complex128)
    faded = (values - (values * weights).sum() / weights.sum()) * weights
    if np.linalg.norm(faded) ** 2 <= FLAT * np.linalg.norm(values * weights) ** 2:
        return np.zeros_like(faded)
    return np.fft.fft2(faded)


def _half_period(frequency: NDArray[np.float64], above: NDArray[np.float64]) -> float:
    """Half a period where a curve, once it has been positive, goes through 0."""
    risen = np.flatnonzero(above >= 0)
    if not risen.size:
        return float("inf")
    fallen = np.flatnonzero(above[risen[0] :] < 0)
    if not fallen.size:
        return float(0.5 / frequency[-1])
    high = risen[0] + fallen[0]
    crossing = np.interp(0.0, above[[high, high - 1]], frequency[[high, high - 1]])
    return float(0.5 / crossing)
