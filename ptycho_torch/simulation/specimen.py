"""A made-up specimen and probe for simulated scans: something a person recognises in a picture.

Owns what the object and the probe look like. Knows no scan: sizes and random generator come in.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ptycho_torch.data.errors import OptionError

SPOKES = 16
CELLS = 40
PHASE_RANGE_RAD = 1.2
EDGE_SIGMA_PX = 1.0

# Five columns by seven rows a letter, a row as the bits of a number.
_LETTERS = (
    (0x1E, 0x11, 0x11, 0x1E, 0x10, 0x10, 0x10),
    (0x1F, 0x04, 0x04, 0x04, 0x04, 0x04, 0x04),
    (0x11, 0x11, 0x0A, 0x04, 0x04, 0x04, 0x04),
    (0x0E, 0x11, 0x10, 0x10, 0x10, 0x11, 0x0E),
    (0x11, 0x11, 0x11, 0x1F, 0x11, 0x11, 0x11),
    (0x0E, 0x11, 0x11, 0x11, 0x11, 0x11, 0x0E),
)


def draw_object(
    shape: tuple[int, int], margin: int, rng: np.random.Generator
) -> NDArray[np.complex64]:
    """A Siemens star in phase; a word, and cells at random places, in amplitude.

    Amplitude and phase show different things, so that crosstalk between them is seen at once.
    Edges are some two pixels wide: sharper ones would make bilinear interpolation a poor model.

    Parameters
    ----------
    shape
        (H, W), pixels.
    margin
        Width in pixels of the border that star and word keep free: no frame shows it well.
    rng
        Draws the cells, which lie anywhere.

    Returns
    -------
    NDArray
        (H, W) complex64, modulus in (0.4, 1], phase in [0, PHASE_RANGE_RAD].
    """
    phase = PHASE_RANGE_RAD * ndimage.gaussian_filter(
        _siemens_star(shape, min(shape) - 2 * margin), EDGE_SIGMA_PX
    )
    absorbed = np.maximum(0.6 * _word(shape, shape[1] - 2 * margin), 0.4 * _cells(shape, rng))
    amplitude = 1 - ndimage.gaussian_filter(absorbed, EDGE_SIGMA_PX)
    obj: NDArray[np.complex64] = (amplitude * np.exp(1j * phase)).astype(np.complex64)
    return obj


def make_probe(N: int, n_modes: int = 1) -> NDArray[np.complex128]:
    """A defocused round lens with a soft edge, and incoherent modes of falling power.

    Higher modes are lower ones times a polynomial, made orthogonal: (P, N, N) complex128, the sum
    of all intensities 1.
    """
    if n_modes > N:
        raise OptionError("n_modes", n_modes, f"at most N = {N}")
    frequency = np.fft.fftfreq(N) * N
    radius = np.hypot(frequency[:, None], frequency[None, :])
    aperture = 0.17 * N
    # The curvature sends the edge of the lens to 0.2 N from the centre of the illuminated spot.
    curvature = np.pi * 0.2 / aperture
    lens = 0.5 * (1 + np.tanh((aperture - radius) / (0.02 * N)))
    wave = np.fft.fftshift(np.fft.ifft2(lens * np.exp(1j * curvature * radius**2)))
    y, x = np.indices((N, N)) / N - 0.5
    raw = [wave * (4 * x) ** ((k + 1) // 2) * (4 * y) ** (k // 2) for k in range(n_modes)]
    columns = np.reshape(raw, (n_modes, N * N)).T
    modes, triangle = np.linalg.qr(columns)
    # The phase of a column of Q is the linear algebra library's choice; take the wave's own.
    diagonal = np.diagonal(triangle)
    power = 0.4 ** np.arange(n_modes)
    modes = modes * (diagonal / np.abs(diagonal) * np.sqrt(power / power.sum()))
    return np.ascontiguousarray(modes.T).reshape(n_modes, N, N)


def _siemens_star(shape: tuple[int, int], diameter: float) -> NDArray[np.float64]:
    y, x = np.indices(shape) - (np.reshape(shape, (2, 1, 1)) - 1) / 2
    radius, angle = np.hypot(y, x), np.arctan2(y, x)
    outer = 0.44 * diameter
    spokes = (np.sin(SPOKES * angle) > 0) & (radius < outer) & (radius > 0.12 * outer)
    ring = np.abs(radius - 1.09 * outer) < 0.03 * outer
    star: NDArray[np.bool_] = spokes | ring | (radius < 0.05 * outer)
    return star.astype(np.float64)


def _word(shape: tuple[int, int], width: float) -> NDArray[np.float64]:
    rows = [[[bits >> (4 - j) & 1 for j in range(5)] for bits in letter] for letter in _LETTERS]
    glyphs = np.hstack([np.pad(np.array(letter), ((0, 0), (0, 1))) for letter in rows])[:, :-1]
    size = max(1, round(0.9 * width / glyphs.shape[1]))
    word = np.kron(glyphs, np.ones((size, size)))[: shape[0], : shape[1]]
    canvas = np.zeros(shape)
    top, left = (shape[0] - word.shape[0]) // 2, (shape[1] - word.shape[1]) // 2
    canvas[top : top + word.shape[0], left : left + word.shape[1]] = word
    return canvas


def _cells(shape: tuple[int, int], rng: np.random.Generator) -> NDArray[np.float64]:
    """Round cells with a membrane and a nucleus, above and below the word."""
    y, x = np.indices(shape)
    canvas = np.zeros(shape)
    rows = rng.uniform(-0.36, 0.36, CELLS) * shape[0] % shape[0]
    columns = rng.uniform(0, shape[1], CELLS)
    radii = rng.uniform(0.02, 0.05, CELLS) * min(shape)
    for row, column, radius in zip(rows, columns, radii, strict=True):
        distance = np.hypot(y - row, x - column)
        canvas[distance < radius] = 0.45
        canvas[(distance < radius) & (distance > radius - 2)] = 1.0
        canvas[distance < 0.35 * radius] = 0.9
    return canvas
