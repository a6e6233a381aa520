"""The specimen that simulated scans have by default: something a person recognises in a picture.

Star and word are the same for every seed, only the cells move: ``specimens`` has those that differ.
Knows no scan: size and random generator come in.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.simulation.letters import glyph

SPOKES = 16
CELLS = 40
PHASE_RANGE_RAD = 1.2
EDGE_SIGMA_PX = 1.0

WORD = "PTYCHO"


def draw_star(
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
    from scipy import ndimage

    phase = PHASE_RANGE_RAD * ndimage.gaussian_filter(
        _siemens_star(shape, min(shape) - 2 * margin), EDGE_SIGMA_PX
    )
    absorbed = np.maximum(0.6 * _word(shape, shape[1] - 2 * margin), 0.4 * _cells(shape, rng))
    amplitude = 1 - ndimage.gaussian_filter(absorbed, EDGE_SIGMA_PX)
    obj: NDArray[np.complex64] = (amplitude * np.exp(1j * phase)).astype(np.complex64)
    return obj


def _siemens_star(shape: tuple[int, int], diameter: float) -> NDArray[np.float64]:
    y, x = np.indices(shape) - (np.reshape(shape, (2, 1, 1)) - 1) / 2
    radius, angle = np.hypot(y, x), np.arctan2(y, x)
    outer = 0.44 * diameter
    spokes = (np.sin(SPOKES * angle) > 0) & (radius < outer) & (radius > 0.12 * outer)
    ring = np.abs(radius - 1.09 * outer) < 0.03 * outer
    star: NDArray[np.bool_] = spokes | ring | (radius < 0.05 * outer)
    return star.astype(np.float64)


def _word(shape: tuple[int, int], width: float) -> NDArray[np.float64]:
    glyphs = np.hstack([np.pad(glyph(letter), ((0, 0), (0, 1))) for letter in WORD])[:, :-1]
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
