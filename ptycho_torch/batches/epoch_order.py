"""Orders of samples, drawn from (seed, epoch): samples one by one, or blocks that lie together.

Knows neither data nor ranks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Order = Literal["samples", "blocks"]

MIXED = 64
"""Blocks whose samples are mixed with each other."""


@dataclass(frozen=True)
class Blocks:
    """Samples as they lie on disk, cut into blocks.

    Attributes
    ----------
    as_stored
        All samples in the order of their first frames, (size,).
    length
        Samples in a block.
    """

    as_stored: NDArray[np.int64]
    length: int


def epoch_order(
    size: int, seed: int, epoch: int, *, shuffle: bool, blocks: Blocks | None = None
) -> NDArray[np.int64]:
    """Return the sample indices of one epoch in the order of their visit, int64, (size,).

    With ``blocks``, these are drawn at random, and the samples of :data:`MIXED` at a time mixed:
    as many blocks, not the whole of the data, are read at a time.
    """
    if not shuffle:
        return np.arange(size)
    random = np.random.Generator(np.random.Philox(key=[seed, epoch]))
    if blocks is None:
        return random.permutation(size)
    starts = random.permutation(np.arange(0, size, blocks.length))
    mixed = []
    for first in range(0, len(starts), MIXED):
        pool = [blocks.as_stored[at : at + blocks.length] for at in starts[first : first + MIXED]]
        mixed.append(random.permutation(np.concatenate(pool)))
    return np.concatenate(mixed) if mixed else np.arange(0)
