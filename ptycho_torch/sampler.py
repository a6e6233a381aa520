"""In which order samples are visited: a function of (seed, epoch), not of workers or ranks.

Owns the order, its division among ranks, and where a resumed epoch starts. Knows no data.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset, DistributedSampler

from ptycho_torch.data.config import check_integer


def epoch_order(size: int, seed: int, epoch: int, *, shuffle: bool) -> NDArray[np.int64]:
    """The order of one epoch, int64, shape (size,)."""
    if not shuffle:
        return np.arange(size)
    return np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(size)


class EpochSampler(DistributedSampler[Any]):
    """Sample indices of one rank, in the order of (seed, epoch).

    Rank r of W visits positions r, r + W, ... of the epoch's order. Lightning leaves the sampler
    of a loader alone when it is a ``DistributedSampler``.

    Parameters
    ----------
    dataset
        What is sampled; its length counts.
    num_replicas, rank
        Ranks, and which one this is.
    shuffle
        Draw a new order every epoch; else the order of the dataset.
    seed
        Seed of the order.
    even
        True (training): every rank visits equally many samples, each at most once; up to W - 1
        samples at the end of the order are left out. False (evaluation): every sample exactly
        once, and ranks may differ by one.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        *,
        num_replicas: int = 1,
        rank: int = 0,
        shuffle: bool = True,
        seed: int = 0,
        even: bool = True,
    ) -> None:
        check_integer("seed", seed, minimum=0)
        super().__init__(
            dataset,
            num_replicas=num_replicas,
            rank=rank,
            shuffle=shuffle,
            seed=seed,
            drop_last=even,
        )
        self.even = even
        self.consumed = 0

    def resume(self, epoch: int, consumed: int) -> None:
        """Start ``epoch`` after the first ``consumed`` samples of its order, once."""
        self.set_epoch(epoch)
        self.consumed = consumed

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch; another epoch than the one resumed starts at its beginning."""
        if epoch != self.epoch:
            self.consumed = 0
        super().set_epoch(epoch)

    def _remaining(self) -> NDArray[np.int64]:
        size = len(self.dataset)  # type: ignore[arg-type]
        order = epoch_order(size, self.seed, self.epoch, shuffle=self.shuffle)[self.consumed :]
        if self.even:
            order = order[: len(order) - len(order) % self.num_replicas]
        return order[self.rank :: self.num_replicas]

    def __iter__(self) -> Iterator[int]:
        return iter(self._remaining().tolist())

    def __len__(self) -> int:
        left = max(0, len(self.dataset) - self.consumed)  # type: ignore[arg-type]
        if self.even:
            return left // self.num_replicas
        return (left - self.rank + self.num_replicas - 1) // self.num_replicas
