"""Positions of grouped frames relative to their group's centre."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

AnyArray = NDArray[Any]


def centred_coords(
    prefix: str, x: AnyArray, y: AnyArray, nn_indices: NDArray[np.integer]
) -> dict[str, AnyArray]:
    """Three arrays of groups, named after ``prefix``.

    Parameters
    ----------
    prefix
        ``"coords"`` or ``"coords_start"``.
    x, y
        Positions, shape (M,), object pixels.
    nn_indices
        Grouped frames, shape (B, C).

    Returns
    -------
    coords
        ``<prefix>_nn`` (B, 1, 2, C), (x, y) on axis 2; ``<prefix>_offsets`` (B, 1, 2, 1), their
        mean over C; ``<prefix>_relative`` (B, 1, 2, C) = -(nn - offsets). dtype of ``x``.
    """
    groups, channels = nn_indices.shape
    nn = np.empty((groups, 1, 2, channels), dtype=np.result_type(x, y))
    nn[:, 0, 0] = x[nn_indices]
    nn[:, 0, 1] = y[nn_indices]
    # What ndarray.mean does, to the bit, without its checks: this runs once a batch.
    offsets = np.add.reduce(nn, axis=3, keepdims=True)
    offsets /= channels
    return {
        f"{prefix}_nn": nn,
        f"{prefix}_offsets": offsets,
        f"{prefix}_relative": -(nn - offsets),
    }
