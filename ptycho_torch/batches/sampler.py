"""The order in which samples are visited: a function of (seed, epoch), not of workers or ranks.

Owns its division among ranks, and where a resumed epoch starts. Knows no data.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch.distributed
from torch.utils.data import Dataset, DistributedSampler, SequentialSampler

from ptycho_torch.batches.blocks import Blocks
from ptycho_torch.batches.epoch_order import epoch_order
from ptycho_torch.data.config import check_integer


class EpochSampler(DistributedSampler[Any], SequentialSampler):
    """Sample indices of one rank, in the order of (seed, epoch).

    Rank r of W visits positions r, r + W, ... of the epoch's order. Lightning does not replace a
    loader's sampler when it is a ``DistributedSampler``, nor a ``SequentialSampler`` when it
    overfits a few batches; a sampler of Lightning's would not know where a resumed epoch starts.

    Parameters
    ----------
    dataset
        What is sampled; only its length is used, and whether it ``goes_on``: then epoch e has the
        samples from e times the length on. Without shuffling, every epoch has those of the first.
    num_replicas, rank
        Ranks, and which one this is; None: those of torch's process group, which may begin after
        the sampler is made, and one rank without a group.
    shuffle
        Draw a new order every epoch; else the order of the dataset.
    seed
        Seed of the order.
    blocks
        Draw blocks of samples instead of samples; None: samples.
    even
        True (training): every rank visits equally many samples, each at most once, and up to W - 1
        samples at the end of the order are left out. False (evaluation): the ranks visit every
        sample exactly once, and their numbers of samples may differ by one.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        *,
        num_replicas: int | None = None,
        rank: int | None = None,
        shuffle: bool = True,
        seed: int = 0,
        even: bool = True,
        blocks: Blocks | None = None,
    ) -> None:
        check_integer("seed", seed, minimum=0)
        super().__init__(
            dataset,
            num_replicas=num_replicas or 1,
            rank=rank or 0,
            shuffle=shuffle,
            seed=seed,
            drop_last=even,
        )
        self.even = even
        self._of_group = num_replicas is None
        self.blocks = blocks
        self.consumed = 0
        self.begun: int | None = None
        """The epoch whose order was asked for last."""

    def resume(self, epoch: int, consumed: int) -> None:
        """Start ``epoch`` after the first ``consumed`` samples of its order, once."""
        self.set_epoch(epoch)
        self.consumed = consumed

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch; any other than the resumed one starts at its beginning."""
        if epoch != self.epoch:
            self.consumed = 0
        super().set_epoch(epoch)

    def is_over(self, consumed: int) -> bool:
        """Whether too few samples for the ranks are left after the first ``consumed``."""
        return len(self.dataset) - consumed < (self.num_replicas if self.even else 1)  # type: ignore[arg-type]

    @property
    def remaining(self) -> int:
        """Samples of this rank that are left in the epoch."""
        return self._share(max(0, len(self.dataset) - self.consumed))  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[int]:
        self.begun = self.epoch
        size = len(self.dataset)  # type: ignore[arg-type]
        order = epoch_order(size, self.seed, self.epoch, shuffle=self.shuffle, blocks=self.blocks)
        if self.shuffle and getattr(self.dataset, "goes_on", False):
            order = order + self.epoch * size
        order = order[self.consumed :]
        share = self._share(len(order))
        mine = order[self.rank :: self.num_replicas][:share]
        return iter(mine.tolist()) if self.blocks is None else self.blocks.visited(mine)

    def __len__(self) -> int:
        """Samples of this rank in a whole epoch, even of a resumed one.

        Trainers count the batches of a resumed epoch from its beginning.
        """
        return self._share(len(self.dataset))  # type: ignore[arg-type]

    def _share(self, size: int) -> int:
        if (
            self._of_group
            and torch.distributed.is_available()
            and torch.distributed.is_initialized()
        ):
            self.num_replicas = torch.distributed.get_world_size()
            self.rank = torch.distributed.get_rank()
        if self.even:
            return size // self.num_replicas
        return (size - self.rank + self.num_replicas - 1) // self.num_replicas
