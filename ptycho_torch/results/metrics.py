"""Figures of merit of a reconstruction, in NumPy.

Owns the comparison of a reconstruction with a truth and with measured frames, and says which part
of the object a scan shows. Knows no model and no file.

Frames fix a reconstruction up to one complex factor: a global phase always, and a global amplitude
when the probe is free. The functions here remove that factor. They leave a linear phase ramp, which
object and probe can trade when a fit refines both: a fit that starts from a flat object builds none
up, and removing it would hide a shift of the frames on the detector.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ptycho_torch.data.errors import OptionError
from ptycho_torch.fourier_error import error_of_sums, fourier_sums

ComplexArray = NDArray[np.complexfloating[Any, Any]]

FLAT = 1e-12
"""Variance over mean square up to which values are constant: what single precision rounds away."""


def complex_correlation(
    reconstruction: ArrayLike, truth: ArrayLike, mask: ArrayLike | None = None
) -> float:
    """Modulus of the normalised inner product, |<a, b>| / (|a| |b|); 1 means equal up to a factor.

    Parameters
    ----------
    reconstruction, truth
        Complex, same shape.
    mask
        Boolean, same shape: the pixels that count; None takes all.

    Returns
    -------
    correlation
        In [0, 1].

    Raises
    ------
    OptionError
        Shapes differ, no pixel counts, or one of the arrays is zero on every pixel that counts.
    """
    a, b = _selected(reconstruction, truth, mask)
    norm = float(np.linalg.norm(a) * np.linalg.norm(b))
    if norm == 0.0:
        raise OptionError("reconstruction or truth", "zero on every pixel that counts", "a signal")
    return float(np.abs(np.vdot(a, b)) / norm)


def centred_correlation(
    reconstruction: ArrayLike, truth: ArrayLike, mask: ArrayLike | None = None
) -> float:
    """``complex_correlation`` of what differs from the mean over the mask; 0 for a flat object.

    Parameters
    ----------
    reconstruction, truth, mask
        As in ``complex_correlation``.

    Returns
    -------
    correlation
        In [0, 1].

    Raises
    ------
    OptionError
        Shapes differ, or no pixel counts.

    Examples
    --------
    >>> truth = np.exp(1j * np.linspace(0, 0.5, 64)).reshape(8, 8)
    >>> round(centred_correlation(3j * truth, truth), 6), centred_correlation(truth**0, truth)
    (1.0, 0.0)
    """
    return float(np.abs(correlation_of_sums(moments(*_selected(reconstruction, truth, mask)))))


def amplitude_pearson(
    reconstruction: ArrayLike, truth: ArrayLike, mask: ArrayLike | None = None
) -> float:
    """Pearson correlation of amplitudes, in [-1, 1]; 0 where one of them is constant.

    Parameters and errors are those of ``centred_correlation``.
    """
    a, b = _selected(reconstruction, truth, mask)
    return float(correlation_of_sums(moments(np.abs(a), np.abs(b))).real)


def phase_pearson(
    reconstruction: ArrayLike, truth: ArrayLike, mask: ArrayLike | None = None
) -> float:
    """Pearson correlation of phases, in [-1, 1]; 0 where one of them is constant.

    No global phase changes it: the truth is turned so that its mean is real, the reconstruction so
    that its inner product with the truth is; then phases are taken, in (-pi, pi]. Phases that
    reach round the circle are not unwrapped: they jump there, in the truth as well.

    Parameters and errors are those of ``centred_correlation``.
    """
    a, b = _selected(reconstruction, truth, mask)
    b = b * np.exp(-1j * np.angle(b.mean()))
    a = a * np.exp(1j * np.angle(np.vdot(a, b)))
    return float(correlation_of_sums(moments(np.angle(a), np.angle(b))).real)


def moments(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.complex128]:
    """Count and sums of a, b, |a|^2, |b|^2 and a* b, (6,), which add up over batches."""
    sums = (a.size, a.sum(), b.sum(), np.vdot(a, a), np.vdot(b, b), np.vdot(a, b))
    return np.array(sums, dtype=np.complex128)


def correlation_of_sums(sums: NDArray[np.complex128]) -> complex:
    """Correlation of what differs from the means, of ``moments``; 0 where a or b is constant."""
    count, sum_a, sum_b, power_a, power_b, product = sums
    if count == 0:
        return 0j
    spread_a = (power_a - abs(sum_a) ** 2 / count).real
    spread_b = (power_b - abs(sum_b) ** 2 / count).real
    if spread_a <= FLAT * power_a.real or spread_b <= FLAT * power_b.real:
        return 0j
    shared = product - sum_a.conjugate() * sum_b / count
    return complex(shared / np.sqrt(spread_a * spread_b))


def align(
    reconstruction: ArrayLike, truth: ArrayLike, mask: ArrayLike | None = None
) -> ComplexArray:
    """The reconstruction times the complex factor that brings it closest to the truth.

    Parameters
    ----------
    reconstruction, truth, mask
        As in ``complex_correlation``; the factor is fitted where ``mask`` is True and applied
        everywhere.

    Returns
    -------
    aligned
        Complex, shape of ``reconstruction``.

    Raises
    ------
    OptionError
        Shapes differ, or no pixel counts.
    """
    a, b = _selected(reconstruction, truth, mask)
    power = float(np.vdot(a, a).real)
    factor = np.vdot(a, b) / power if power > 0 else 1.0
    scaled = np.asarray(reconstruction) * factor
    return scaled.astype(np.result_type(np.asarray(reconstruction), np.complex64))


def frame_nrmse(modelled: ArrayLike, measured: ArrayLike, mask: ArrayLike | None = None) -> float:
    """Distance of modelled from measured frames over their root mean square: the Fourier error.

    Parameters
    ----------
    modelled, measured
        Real, same shape, same unit: amplitudes, square roots of counts. Summed in float64.
    mask
        Boolean, broadcastable to the frames: the pixels that count, not the bad ones; None takes
        all.

    Raises
    ------
    OptionError
        Shapes differ, or the measured frames are zero on every pixel that counts.
    """
    model = np.asarray(modelled, dtype=np.float64)
    frames = np.asarray(measured, dtype=np.float64)
    if model.shape != frames.shape:
        raise OptionError("amplitude shape", model.shape, frames.shape)
    if mask is not None:
        model, frames = (np.where(mask, each, 0) for each in (model, frames))
    if not frames.any():
        raise OptionError("measured frames", "all zero", "at least one count")
    return float(error_of_sums(*fourier_sums(model, frames)))


fourier_error = frame_nrmse


def illumination(
    probe: ArrayLike, positions_px: ArrayLike, shape: tuple[int, int]
) -> NDArray[np.float64]:
    """Dose on the object: the probe's intensity, added up at every position, rounded to pixels.

    Parameters
    ----------
    probe
        (N, N) or (P, N, N), complex.
    positions_px
        (M, 2), order (x, y), object pixels.
    shape
        (H, W) of the object.

    Returns
    -------
    NDArray
        (H, W) float64, in the unit of the probe's intensity.
    """
    intensity = np.abs(np.asarray(probe)) ** 2
    intensity = intensity.reshape(-1, *intensity.shape[-2:]).sum(axis=0, dtype=np.float64)
    N = intensity.shape[-1]
    # The border is as wide as a frame, so patches over the edge need no clipping.
    dose = np.zeros((shape[0] + 2 * N, shape[1] + 2 * N))
    corners = np.rint(np.asarray(positions_px, dtype=np.float64)).astype(int) - N // 2 + N
    corners = np.clip(corners, 0, (shape[1] + N, shape[0] + N))
    for column, row in corners:
        dose[row : row + N, column : column + N] += intensity
    return dose[N:-N, N:-N]


def illuminated_mask(
    probe: ArrayLike,
    positions_px: ArrayLike,
    shape: tuple[int, int],
    threshold: float = 0.1,
) -> NDArray[np.bool_]:
    """Where the dose reaches ``threshold`` times its maximum: the pixels that the frames show.

    Parameters
    ----------
    probe, positions_px, shape
        As in ``illumination``.
    threshold
        Fraction of the highest dose, in (0, 1].

    Returns
    -------
    NDArray
        (H, W) bool.

    Raises
    ------
    OptionError
        ``threshold`` is no such fraction.
    """
    if not 0 < threshold <= 1:
        raise OptionError("threshold", threshold, "a fraction in (0, 1]")
    dose = illumination(probe, positions_px, shape)
    mask: NDArray[np.bool_] = dose >= threshold * dose.max()
    return mask


def paired(
    reconstruction: ArrayLike, truth: ArrayLike, mask: ArrayLike | None
) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.bool_]]:
    """Two images and the pixels that count, all of one shape.

    Raises
    ------
    OptionError
        Shapes differ, or no pixel counts.
    """
    a, b = np.asarray(reconstruction), np.asarray(truth)
    if a.shape != b.shape:
        raise OptionError("reconstruction shape", a.shape, f"{b.shape}, the truth's")
    chosen = np.ones(a.shape, dtype=bool) if mask is None else np.asarray(mask, dtype=bool)
    if chosen.shape != a.shape:
        raise OptionError("mask shape", chosen.shape, a.shape)
    if not chosen.any():
        raise OptionError("mask", "empty", "at least one pixel")
    return a, b, chosen


def _selected(
    reconstruction: ArrayLike, truth: ArrayLike, mask: ArrayLike | None
) -> tuple[ComplexArray, ComplexArray]:
    a, b, chosen = paired(reconstruction, truth, mask)
    return a[chosen].astype(np.complex128), b[chosen].astype(np.complex128)
