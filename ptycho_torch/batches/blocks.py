"""Samples in blocks that lie together on disk, and when each block is read.

Owns how long blocks are, and how many are mixed. Knows no frames, only their numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

BLOCK_BYTES = 4 * 2**20
"""Bytes of frames in a block at least: disks and networks read so much at once at full speed."""

OPEN_BYTES = 256 * 2**20
"""Bytes of the frames that are visited at a time."""

FEWEST_MIXED = 8
"""Blocks at least that are visited at a time."""

AHEAD = 2
"""Blocks that are asked for before the first of their samples is visited."""

ReadSoon = Callable[[NDArray[np.int64]], object]


@dataclass(frozen=True)
class Blocks:
    """Samples as they lie on disk, cut into blocks.

    Attributes
    ----------
    as_stored
        All samples in the order of their first frames, (size,).
    length
        Samples in a block.
    mixed
        Blocks whose samples are mixed with each other.
    read_soon
        Called with the samples of a block shortly before the first of them is visited.
    """

    as_stored: NDArray[np.int64]
    length: int
    mixed: int
    read_soon: ReadSoon

    @classmethod
    def of_groups(
        cls, numbers: NDArray[np.integer], frame_bytes: int, read_soon: ReadSoon
    ) -> Blocks:
        """Blocks of groups, whose frames have these numbers, (size, C).

        Frames between two blocks are read for both. Where groups reach far, as into the next line
        of a raster, blocks are longer, so that these frames are a third of what is read.
        """
        first = numbers.min(axis=1)
        reach = int(np.median(numbers.max(axis=1) - first)) if len(first) else 0
        most = OPEN_BYTES // frame_bytes
        length = max(1, BLOCK_BYTES // frame_bytes, min(2 * reach, most // FEWEST_MIXED))
        mixed = max(FEWEST_MIXED, most // (length + reach))
        return cls(np.argsort(first, kind="stable"), length, mixed, read_soon)

    def visited(self, order: NDArray[np.int64]) -> Iterator[int]:
        """Yield the samples of an order; have each block read before its first sample comes."""
        block_of = np.empty(len(self.as_stored), np.int64)
        block_of[self.as_stored] = np.arange(len(block_of)) // self.length
        blocks, at = np.unique(block_of[order], return_index=True)
        starts = blocks[np.argsort(at)] * self.length
        for number, (first, stop) in enumerate(pairwise([*np.sort(at), len(order)])):
            for start in starts[number + AHEAD if number else 0 : number + AHEAD + 1]:
                self.read_soon(self.as_stored[start : start + self.length])
            yield from order[first:stop].tolist()
