"""Orders of samples, drawn from (seed, epoch): samples one by one, or blocks that lie together.

Knows neither data nor ranks.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.batches.blocks import Blocks

Order = Literal["samples", "blocks"]


def epoch_order(
    size: int, seed: int, epoch: int, *, shuffle: bool, blocks: Blocks | None = None
) -> NDArray[np.int64]:
    """Return the sample indices of one epoch in the order of their visit, int64, (size,).

    With ``blocks``, these are drawn at random, and each begins when the one before it has been open
    for as long as a block takes to visit: as many as are mixed are open at a time, never the whole
    of the data, and the disk is read at an even pace.
    """
    if not shuffle:
        return np.arange(size)
    random = np.random.Generator(np.random.Philox(key=[seed, epoch]))
    if blocks is None:
        return random.permutation(size)
    begins = random.permutation(-(-size // blocks.length))
    visits = np.repeat(begins, blocks.length)[:size] + blocks.mixed * random.random(size)
    return blocks.as_stored[np.argsort(visits, kind="stable")]
