"""Specimens by name: random ones, different for every seed in phase and in amplitude, and the star.

Owns how two fields become an object. What the fields look like is ``specimen_fields``'s. Knows no
scan: size and random generator come in.
"""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.data.config import check_choice
from ptycho_torch.simulation import specimen_fields as fields
from ptycho_torch.simulation.star import EDGE_SIGMA_PX, draw_star

Specimen = Literal[
    "star", "shapes", "cells", "dead_leaves", "grf", "siemens", "text", "texture", "mixed"
]
Field = Callable[[tuple[int, int], int, np.random.Generator], NDArray[np.float64]]

PHASE_SPAN_RAD = (0.5, 1.8)
"""Between what the largest phase of a random specimen is drawn; the smallest is 0."""
ABSORBED_SPAN = (0.1, 0.6)
"""Between what the largest share of the amplitude that it absorbs is drawn; the smallest is 0."""

RANDOM = MappingProxyType[str, Field](
    {
        "shapes": fields.shapes,
        "cells": fields.cells,
        "dead_leaves": fields.dead_leaves,
        "grf": fields.gaussian,
        "siemens": fields.siemens,
        "text": fields.text,
        "texture": fields.texture,
    }
)
"""What ``"mixed"`` draws from."""


def draw_specimen(
    name: Specimen, shape: tuple[int, int], N: int, rng: np.random.Generator
) -> NDArray[np.complex64]:
    """Draw an object.

    Parameters
    ----------
    name
        ``"star"``: a Siemens star in phase and a word in amplitude, the same for every seed, with
        cells where the seed says. The others differ between seeds in phase and in amplitude:
        ``"shapes"`` (ellipses, rectangles, triangles), ``"cells"``, ``"dead_leaves"`` (discs of
        all sizes that cover each other), ``"grf"`` (Gaussian random field of one length),
        ``"siemens"`` (a star of any number of spokes anywhere), ``"text"``, ``"texture"``
        (1 / f noise, folded), and ``"mixed"``: one of these seven.
    shape
        (H, W), pixels.
    N
        Side of a frame in pixels, from which features take their size.
    rng
        Draws everything.

    Returns
    -------
    NDArray
        (H, W) complex64: modulus in (0.39, 1], phase in [0, 1.8] rad. Edges are some two pixels
        wide: sharper ones would make bilinear interpolation a poor model.

    Raises
    ------
    OptionError
        There is no such specimen.
    """
    check_choice("specimen", name, Specimen)
    if name == "star":
        return draw_star(shape, 3 * N // 8, rng)
    kind = str(rng.choice(list(RANDOM))) if name == "mixed" else name
    first, second = (_soft(RANDOM[kind](shape, N, rng)) for _ in range(2))
    # A thin specimen shows one thickness in both, a grown one two things: all between are drawn.
    shared = rng.uniform()
    absorbed = rng.uniform(*ABSORBED_SPAN) * _spread(shared * first + (1 - shared) * second)
    phase = rng.uniform(*PHASE_SPAN_RAD) * first
    obj: NDArray[np.complex64] = ((1 - absorbed) * np.exp(1j * phase)).astype(np.complex64)
    return obj


def _soft(field: NDArray[np.float64]) -> NDArray[np.float64]:
    from scipy import ndimage

    return _spread(ndimage.gaussian_filter(field, EDGE_SIGMA_PX))


def _spread(field: NDArray[np.float64]) -> NDArray[np.float64]:
    """The field from 0 to 1."""
    low, high = field.min(), field.max()
    spread: NDArray[np.float64] = (field - low) / max(high - low, 1e-12)
    return spread
