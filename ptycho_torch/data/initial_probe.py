"""A probe where a scan has none: from its average pattern, an aperture or a Gaussian; and modes.

Owns the first guess of a probe and the making of further modes. No guess is fitted here: which
defocus a scan was taken at, only fits can tell.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.data.config import check_choice, check_integer, check_seed
from ptycho_torch.data.errors import OptionError, ScanError, naming
from ptycho_torch.data.frames import Frames
from ptycho_torch.data.geometry import Geometry
from ptycho_torch.data.scan import Scan

ProbeKind = Literal["average", "gaussian", "aperture"]

AVERAGED_FRAMES = 1024
"""So many frames, spread over the scan, make the average pattern: it hardly changes with more."""
MODE_POWER = 0.05
"""Power of the first added mode, as a share of the first mode's; each further one has half."""
FIELD_SHARE = 0.25
"""Diameter where none is given, in sides of the field."""
FROM_PATTERN = MappingProxyType({"probe_guess": "average pattern"})
"""What the metadata say of a scan whose probe is the average pattern."""


def is_average_pattern(scan: Scan) -> bool:
    """Whether the probe was made of the frames, so that nobody knows its defocus yet."""
    return FROM_PATTERN.items() <= (scan.metadata or {}).items()


def initial_probe(
    frames_or_scan: Scan | Frames | NDArray[Any],
    *,
    kind: ProbeKind = "average",
    n_modes: int = 1,
    geometry: Geometry | None = None,
    defocus: float = 0.0,
    diameter: float | None = None,
    seed: int | None = None,
) -> NDArray[np.complex64]:
    """Guess the probe of a scan from its frames and from what is known of the optics.

    Parameters
    ----------
    frames_or_scan
        The scan, its frames, or amplitudes (M, N, N). Bad pixels of a scan are left out: where
        every frame is bad, the average pattern takes the mean of its ring.
    kind
        ``"average"``: the wave whose diffraction pattern is the average of the frames;
        ``"aperture"``: a disc; ``"gaussian"``: a Gaussian. All have a flat phase before defocus.
    n_modes
        P, the number of incoherent modes; see :func:`add_modes`.
    geometry
        Wavelength and object pixel; diameter and defocus are in metres with it.
    defocus
        How far the wave travels from where its phase is flat. With a geometry in metres, positive
        downstream. Without one in units of N u**2 rad, with u in cycles per pixel: this number
        times N u**2 is added to the phase in reciprocal space, so that positive is upstream.
    diameter
        Of the disc, or the full width of the Gaussian's intensity at half its maximum: metres with
        a geometry, else a fraction of the field's side; None: a quarter of the side.
    seed
        Of random modes; None: Hermite-like modes, which need no seed.

    Returns
    -------
    ndarray
        complex64, (P, N, N), in sqrt(counts): sum |P|**2 over all modes is the mean counts of a
        frame. The probe lies around pixel (N // 2, N // 2).

    Raises
    ------
    OptionError, OptionTypeError
        An option is out of range, or the geometry does not know what is needed.
    ScanError
        The frames are zero throughout, or not finite.

    Examples
    --------
    >>> from ptycho_torch import initial_probe, simulate_scan
    >>> scan = simulate_scan(n_frames=16, N=32, photons=1e4)
    >>> probe = initial_probe(scan, kind="aperture", diameter=0.4, n_modes=2)
    >>> probe.shape, round(float((abs(probe) ** 2).sum() / scan.frame_energies().mean()), 3)
    ((2, 32, 32), 1.0)
    """
    check_choice("kind", kind, ProbeKind)
    check_integer("n_modes", n_modes, minimum=1)
    check_seed("seed", seed)
    pattern = average_pattern(frames_or_scan)
    N = len(pattern)
    pixels = _pixels(geometry, N)
    _check_lengths(kind, defocus, diameter)
    if kind == "average":
        wave = np.sqrt(pattern).astype(np.complex128)
    else:
        width = FIELD_SHARE * N * min(pixels) if diameter is None else diameter
        wave = _centred_transform(_shape(kind, N, pixels, width), np.fft.fft2)
    probe = _centred_transform(wave * np.exp(1j * _defocus(geometry, N, defocus)), np.fft.ifft2)
    power = np.sum(np.abs(probe) ** 2)
    if not power > 0:
        raise OptionError("diameter", diameter or "a quarter of the side", "at least a pixel")
    probe *= np.sqrt(pattern.sum() / power)
    return add_modes(probe[None], n_modes, seed=seed)


def average_pattern(frames_or_scan: Scan | Frames | NDArray[Any]) -> NDArray[np.float64]:
    """Mean counts per pixel, (N, N), without bad pixels; of a long scan, of frames spread over it.

    A ScanError says that the frames are zero throughout.
    """
    source = frames_or_scan
    frames = source.frames if isinstance(source, Scan) else source
    if not isinstance(frames, Frames):
        frames = Frames.from_array(np.asarray(frames))
    n_frames = len(source)
    spread = np.linspace(0, n_frames - 1, min(n_frames, AVERAGED_FRAMES)).astype(np.intp)
    rows = source.file_indices(spread) if isinstance(source, Scan) else spread
    total, seen = np.zeros(frames.shape[1:]), np.zeros(frames.shape[1:])
    for start, stop, block in frames.chunks(chosen=rows):
        counts = frames.amplitude(block).astype(np.float64) ** 2
        good = np.ones(frames.shape[1:], bool)
        if frames.bad_pixels is not None:
            bad = frames.bad_pixels
            good = ~(bad[rows[start:stop]] if bad.ndim == 3 else bad)
        total += np.where(good, counts, 0).sum(axis=0)
        seen += np.broadcast_to(good, counts.shape).sum(axis=0)
    if not np.isfinite(total).all():
        with naming(frames.path):
            found = "NaN or infinite in places"
            raise ScanError(frames.field, found, "finite", action="Name them in bad_pixels")
    if not (total > 0).any():
        with naming(frames.path):
            masked = frames.bad_pixels is not None and frames.bad_pixels.mean() > 0.5
            action = "Most pixels are bad: is 1 good in the mask of the file?" if masked else ""
            raise ScanError(frames.field, "zero throughout", "some signal", action=action)
    return _filled(total, seen)


def add_modes(
    probe: NDArray[np.complexfloating],
    n_modes: int,
    *,
    power: float = MODE_POWER,
    seed: int | None = None,
) -> NDArray[np.complex64]:
    """Modes (P, N, N) beside those that are there, orthogonal to each other, the sum's power kept.

    New modes are the first one times Hermite-like polynomials about its centre, or with a ``seed``
    times random phases; the first of them has ``power`` times the first mode's, each further one
    half of the one before. Enough modes are given back as they are.
    """
    if n_modes <= len(probe):
        return probe.astype(np.complex64)
    modes = [mode.astype(np.complex128) for mode in probe]
    total = sum(float(np.sum(np.abs(mode) ** 2)) for mode in modes)
    factors = _random(modes[0], seed) if seed is not None else _polynomials(modes[0])
    share = power * float(np.sum(np.abs(modes[0]) ** 2))
    while len(modes) < n_modes:
        mode = modes[0] * next(factors)
        for _ in range(2):  # once more: the first pass leaves rounding behind
            for other in modes:
                mode -= other * np.vdot(other, mode) / np.vdot(other, other)
        mode *= np.sqrt(share / np.sum(np.abs(mode) ** 2))
        modes.append(mode)
        share /= 2
    stack = np.stack(modes)
    scale = np.sqrt(total / np.sum(np.abs(stack) ** 2))
    return np.asarray(scale * stack, dtype=np.complex64)


def _polynomials(mode: NDArray[np.complex128]) -> Iterator[NDArray[np.float64]]:
    """x, y, x**2, xy, y**2, ... about the mode's centre, in units of its width."""
    weight = np.abs(mode) ** 2 / np.sum(np.abs(mode) ** 2)
    pixel = np.arange(len(mode), dtype=np.float64)
    axes = []
    for profile in (weight.sum(axis=0), weight.sum(axis=1)):
        centre = profile @ pixel
        axes.append((pixel - centre) / max(np.sqrt(profile @ (pixel - centre) ** 2), 0.5))
    for degree in count(1):
        for of_y in range(degree + 1):
            yield axes[0][None] ** (degree - of_y) * axes[1][:, None] ** of_y


def _random(mode: NDArray[np.complex128], seed: int) -> Iterator[NDArray[np.complex128]]:
    rng = np.random.default_rng(seed)
    while True:
        yield np.exp(2j * np.pi * rng.random(mode.shape))


def _filled(total: NDArray[np.float64], seen: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean counts; a pixel never seen takes the mean of the pixels as far from the centre."""
    N = len(total)
    mean = np.divide(total, seen, out=np.zeros_like(total), where=seen > 0)
    if (seen > 0).all():
        return mean
    offset = np.arange(N) - N // 2
    ring = np.rint(np.hypot(offset[:, None], offset)).astype(np.intp)
    good = np.bincount(ring.ravel(), (seen > 0).ravel())
    profile = np.bincount(ring.ravel(), mean.ravel()) / np.maximum(good, 1)
    return np.where(seen > 0, mean, profile[ring])


def _shape(kind: str, N: int, pixels: tuple[float, float], diameter: float) -> NDArray[Any]:
    """Amplitude (N, N) of a disc or a Gaussian around pixel (N // 2, N // 2)."""
    rows, columns = ((np.arange(N) - N // 2) * pixel for pixel in pixels)
    radius: NDArray[np.float64] = np.hypot(rows[:, None], columns) / diameter
    if kind == "gaussian":
        return np.asarray(np.exp2(-2 * radius**2))
    # The edge falls over one pixel, so that a diameter need not be whole.
    edge = min(pixels) / diameter
    disc: NDArray[np.float64] = np.clip((0.5 - radius) / edge + 0.5, 0, 1)
    return disc


def _defocus(geometry: Geometry | None, N: int, defocus: float) -> NDArray[np.float64]:
    """Phase in reciprocal space, zero frequency at (N // 2, N // 2), rad."""
    u = (np.arange(N) - N // 2) / N
    if geometry is None or defocus == 0:
        return defocus * N * (u[:, None] ** 2 + u**2)
    if geometry.wavelength_m is None:
        raise OptionError("geometry", "without wavelength_m", "one, for a defocus in metres")
    row, column = _pixels(geometry, N)
    squared = (u[:, None] / row) ** 2 + (u / column) ** 2
    return -np.pi * geometry.wavelength_m * defocus * squared


def _pixels(geometry: Geometry | None, N: int) -> tuple[float, float]:
    """Row and column pixel of the probe: metres, or without a geometry sides of the field."""
    if geometry is None:
        return 1 / N, 1 / N
    if geometry.object_pixel_m is None:
        raise OptionError("geometry", "without object_pixel_m", "one, for lengths in metres")
    row, column = np.broadcast_to(geometry.object_pixel_m, 2)
    return float(row), float(column)


def _check_lengths(kind: str, defocus: float, diameter: float | None) -> None:
    if not np.isfinite(defocus):
        raise OptionError("defocus", defocus, "a finite number")
    if diameter is None:
        return
    if kind == "average":
        raise OptionError("diameter", f"{diameter} of an average pattern", "kind='aperture'")
    if not (np.isfinite(diameter) and diameter > 0):
        raise OptionError("diameter", diameter, "a finite number above 0")


def _centred_transform(
    wave: NDArray[Any], transform: Callable[..., NDArray[np.complex128]]
) -> NDArray[np.complex128]:
    """A unitary transform between arrays whose middle is pixel (N // 2, N // 2)."""
    return np.fft.fftshift(transform(np.fft.ifftshift(wave), norm="ortho"))
