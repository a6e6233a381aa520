"""Made-up probes: the defocused lens that simulated scans have by default, and many drawn ones.

Owns what a probe looks like. Knows no scan: size and random generator come in.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.data.errors import OptionError

APERTURE = 0.17
"""Radius of the lens in reciprocal space, as a share of N."""
REACH = 0.2
"""How far from the centre of the spot defocus sends the edge of the lens, as a share of N."""


def make_probe(
    N: int,
    n_modes: int = 1,
    *,
    aperture: float = APERTURE,
    reach: tuple[float, float] = (REACH, REACH),
    turn_rad: float = 0.0,
    stop: float = 0.0,
    mode_power: float = 0.4,
) -> NDArray[np.complex128]:
    """A defocused round lens with a soft edge, and incoherent modes of falling power.

    Higher modes are lower ones times a polynomial, made orthogonal.

    Parameters
    ----------
    N
        Pixels along a side.
    n_modes
        P, at most N.
    aperture
        Radius of the lens in reciprocal space, as a share of N.
    reach
        How far defocus sends the edge of the lens along each of two perpendicular axes, shares of
        N; the sign is that of the defocus, and two that differ are astigmatism.
    turn_rad
        Angle between the first of these axes and x.
    stop
        Radius of an opaque stop before the lens, as a share of the aperture's.
    mode_power
        Power of a mode as a share of that of the mode before.

    Returns
    -------
    NDArray
        (P, N, N) complex128, around pixel (N // 2, N // 2), the sum of all intensities 1.

    Raises
    ------
    OptionError
        There are more modes than ``N``.
    """
    if n_modes > N:
        raise OptionError("n_modes", n_modes, f"at most N = {N}")
    frequency = np.fft.fftfreq(N) * N
    radius = np.hypot(frequency[:, None], frequency[None, :])
    edge = aperture * N
    lens = 0.5 * (1 + np.tanh((edge - radius) / (0.02 * N)))
    if stop:
        lens *= 0.5 * (1 + np.tanh((radius - stop * edge) / (0.02 * N)))
    curvature = np.pi * (sum(reach) / 2) / edge * radius**2
    if reach[0] != reach[1]:
        angle = np.arctan2(frequency[:, None], frequency[None, :])
        astigmatism = np.pi * (reach[0] - reach[1]) / 2 / edge
        curvature += astigmatism * radius**2 * np.cos(2 * (angle - turn_rad))
    wave = np.fft.fftshift(np.fft.ifft2(lens * np.exp(1j * curvature)))
    return _with_modes(wave, n_modes, mode_power)


def random_probe(N: int, n_modes: int, rng: np.random.Generator) -> NDArray[np.complex128]:
    """A lens of drawn aperture (0.11 to 0.2 N), defocus of either sign, astigmatism and stop.

    Light reaches at most 0.26 N from the centre by defocus and astigmatism together; every second
    lens is a zone plate, with a stop before it. The modes after the first have 0.15 to 0.5 times
    the power of the one before. Returns (P, N, N) complex128, the sum of all intensities 1.
    """
    reach = rng.uniform(0.08, 0.22) * rng.choice((-1.0, 1.0))
    astigmatism = rng.uniform(-0.04, 0.04)
    zone_plate = rng.random() < 0.5
    return make_probe(
        N,
        n_modes,
        aperture=rng.uniform(0.11, 0.2),
        reach=(reach + astigmatism, reach - astigmatism),
        turn_rad=rng.uniform(0, math.pi),
        stop=rng.uniform(0.25, 0.5) if zone_plate else 0.0,
        mode_power=rng.uniform(0.15, 0.5),
    )


def _with_modes(
    wave: NDArray[np.complex128], n_modes: int, mode_power: float
) -> NDArray[np.complex128]:
    N = len(wave)
    y, x = np.indices((N, N)) / N - 0.5
    raw = [wave * (4 * x) ** ((k + 1) // 2) * (4 * y) ** (k // 2) for k in range(n_modes)]
    columns = np.reshape(raw, (n_modes, N * N)).T
    modes, triangle = np.linalg.qr(columns)
    # The phase of a column of Q is the linear algebra library's choice; take the wave's own.
    diagonal = np.diagonal(triangle)
    power = mode_power ** np.arange(n_modes)
    modes = modes * (diagonal / np.abs(diagonal) * np.sqrt(power / power.sum()))
    return np.ascontiguousarray(modes.T).reshape(n_modes, N, N)
