"""Fields that specimens are made of: each a kind of picture, drawn by a generator.

Every function takes the shape (H, W), the side N of a frame in pixels and the generator, and gives
float64 (H, W) of any range. Edges may be sharp.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.simulation.letters import ALPHABET, glyph

_Shape = tuple[int, int]
_Field = NDArray[np.float64]


def shapes(shape: _Shape, N: int, rng: np.random.Generator) -> _Field:
    """Ellipses, rectangles and triangles of any height and turn; what overlaps adds up."""
    canvas = np.zeros(shape)
    for number in range(_count(shape, N, 9)):
        radius = N * rng.uniform(0.05, 0.3)
        window, y, x = _turned(shape, radius, rng)
        x = x / rng.uniform(0.3, 1)
        if number % 3 == 0:
            inside = x**2 + y**2 < radius**2
        elif number % 3 == 1:
            inside = np.maximum(abs(x), abs(y)) < 0.7 * radius
        else:
            inside = np.maximum(abs(x) * 0.87 + y / 2, -y) < radius / 2
        canvas[window] += rng.uniform(0.3, 1) * inside
    return canvas


def cells(shape: _Shape, N: int, rng: np.random.Generator) -> _Field:
    """Cells of wobbly outline, each with a membrane and a nucleus off its centre."""
    canvas = np.zeros(shape)
    for _ in range(_count(shape, N, 14)):
        radius = N * rng.uniform(0.08, 0.22)
        window, y, x = _turned(shape, 1.3 * radius, rng)
        angle = np.arctan2(y, x)
        outline = radius * (
            1 + rng.uniform(0, 0.15) * np.cos(2 * angle) + rng.uniform(0, 0.1) * np.cos(3 * angle)
        )
        distance = np.hypot(y, x) - outline
        shift = 0.3 * radius * rng.uniform(-1, 1, 2)
        nucleus = np.hypot(y - shift[0], x - shift[1]) < radius * rng.uniform(0.2, 0.45)
        body = np.where(nucleus, rng.uniform(0.6, 1), rng.uniform(0.2, 0.5))
        body[distance > -max(2.0, 0.1 * radius)] = rng.uniform(0.6, 1)
        part = canvas[window]
        part[distance < 0] = body[distance < 0]
    return canvas


def dead_leaves(shape: _Shape, N: int, rng: np.random.Generator) -> _Field:
    """Discs that hide each other, as many of a size as images of nature have, until all is covered.

    Lee, Mumford and Huang 2001, https://doi.org/10.1023/A:1011109015675.
    """
    canvas, bare = np.zeros(shape), np.ones(shape, bool)
    low, high, most = max(2.0, 0.06 * N), 0.4 * N, _count(shape, N, 150)
    # The number of discs falls with the cube of their radius; in the end large ones cover the rest.
    radii = 1 / np.sqrt(low**-2 + rng.random(most) * (high**-2 - low**-2))
    for radius in [*radii.tolist(), *[high] * most]:
        window, y, x = _placed(shape, radius, rng)
        fresh = (y**2 + x**2 < radius**2) & bare[window]
        canvas[window][fresh] = rng.random()
        bare[window][fresh] = False
        if radius == high and not bare.any():
            break
    return canvas


def gaussian(shape: _Shape, N: int, rng: np.random.Generator) -> _Field:
    """A Gaussian random field of one correlation length, 0.03 to 0.15 N."""
    from scipy import ndimage

    length = max(1.5, N * rng.uniform(0.03, 0.15))
    noise = ndimage.gaussian_filter(rng.standard_normal(shape), length, mode="wrap")
    # Between its tails: a single peak would leave everything else grey.
    field: _Field = np.tanh(noise / (1.5 * noise.std()))
    return field


def siemens(shape: _Shape, N: int, rng: np.random.Generator) -> _Field:
    """Stars of 6 to 40 spokes, centres anywhere, turned and cut off anywhere."""
    canvas = np.zeros(shape)
    for _ in range(rng.integers(1, 3)):
        centre = rng.uniform(0.2, 0.8, 2) * shape
        y, x = np.indices(shape) - centre[:, None, None]
        radius, angle = np.hypot(y, x), np.arctan2(y, x)
        spokes = rng.integers(6, 41)
        outer = rng.uniform(0.3, 0.7) * min(shape)
        # Where the spokes are narrower than the edges there is nothing to see.
        inner = spokes * rng.uniform(0.8, 1.5)
        inside = (radius > min(inner, 0.5 * outer)) & (radius < outer)
        canvas = np.maximum(canvas, inside & (np.sin(spokes * angle + rng.uniform(0, 6.28)) > 0))
        canvas[abs(radius - outer * 1.1) < 0.04 * outer] = 1
    return canvas


def text(shape: _Shape, N: int, rng: np.random.Generator) -> _Field:
    """Lines of letters and spaces, turned, a dot of a letter two pixels or more."""
    glyphs = np.stack([np.pad(glyph(letter), ((1, 1), (1, 0))) for letter in ALPHABET])
    glyphs = np.concatenate([glyphs, np.zeros_like(glyphs[:1])])
    dot = max(2.0, N * rng.uniform(0.03, 0.08))
    turn = rng.uniform(-0.6, 0.6)
    y, x = np.indices(shape) / dot + rng.uniform(0, 9, (2, 1, 1))
    rows = np.floor(y * np.cos(turn) - x * np.sin(turn)).astype(int)
    columns = np.floor(y * np.sin(turn) + x * np.cos(turn)).astype(int)
    (line, dot_row), (place, dot_column) = np.divmod(rows, 9), np.divmod(columns, 6)
    line, place = line - line.min(), place - place.min()
    letters = rng.integers(len(ALPHABET), size=(line.max() + 1, place.max() + 1))
    letters[rng.random(letters.shape) < 0.2] = len(ALPHABET)
    # The last letter that can be seen is no space, so that there is always something.
    letters[line[shape[0] // 2, shape[1] // 2], place[shape[0] // 2, shape[1] // 2]] = 7
    ink: _Field = glyphs[letters[line, place], dot_row, dot_column].astype(np.float64)
    return ink * rng.uniform(0.5, 1, letters.shape)[line, place]


def texture(shape: _Shape, N: int, rng: np.random.Generator) -> _Field:
    """Noise whose amplitude falls with frequency, as that of natural images; some folded to veins.

    Field 1987, https://doi.org/10.1364/JOSAA.4.002379.
    """
    rows, columns = np.fft.fftfreq(shape[0]), np.fft.rfftfreq(shape[1])
    frequency = np.hypot(rows[:, None], columns)
    # Below one period a frame there is only slow change, which no frame would show.
    falling = np.maximum(frequency, 0.5 / N) ** -rng.uniform(0.9, 1.6)
    noise = np.fft.irfft2(np.fft.rfft2(rng.standard_normal(shape)) * falling, shape)
    noise = (noise - noise.mean()) / noise.std()
    field: _Field = np.tanh(noise / 1.5) if rng.random() < 0.5 else -np.minimum(abs(noise), 2.0)
    return field


def _count(shape: _Shape, N: int, per_frame: int) -> int:
    """How many of a thing to draw, when so many lie in the area of a frame."""
    return max(per_frame, round(per_frame * shape[0] * shape[1] / N**2))


def _placed(
    shape: _Shape, radius: float, rng: np.random.Generator
) -> tuple[tuple[slice, slice], _Field, _Field]:
    """A window (rows, columns) around a drawn place, and y and x of its pixels from there."""
    middle = (rng.uniform(0, 1, 2) * shape).tolist()
    rows, columns = (
        np.arange(max(0, int(at - radius)), min(side, int(at + radius) + 2), dtype=np.float64)
        for at, side in zip(middle, shape, strict=True)
    )
    window = tuple(slice(int(axis[0]), int(axis[-1]) + 1) for axis in (rows, columns))
    return (window[0], window[1]), rows[:, None] - middle[0], columns[None] - middle[1]


def _turned(
    shape: _Shape, radius: float, rng: np.random.Generator
) -> tuple[tuple[slice, slice], _Field, _Field]:
    """The same in axes turned at random."""
    window, y, x = _placed(shape, radius, rng)
    turn = rng.uniform(0, 2 * np.pi)
    return window, y * np.cos(turn) - x * np.sin(turn), y * np.sin(turn) + x * np.cos(turn)
