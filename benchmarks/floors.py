"""What the memory allows: the least work that could make the X of an epoch."""

from __future__ import annotations

import torch
from torch import Tensor

from ptycho_torch import PtychoDataset


class Floor:
    """Copies of the bytes of an epoch into one buffer, nothing else.

    Parameters
    ----------
    dataset
        Its groups, in a shuffled order, are what is gathered.
    batch_size
        Groups copied at a time.
    also_bytes
        Further bytes per group, copied from one place to another.
    """

    def __init__(self, dataset: PtychoDataset, batch_size: int, also_bytes: int = 0) -> None:
        self.frames = dataset.bank.whole()
        order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(0))
        self.batches = order.split(batch_size)
        nn = torch.from_numpy(dataset.index.nn_indices).long()
        self.rows = [nn[batch].flatten() for batch in self.batches]
        # Zeros, not empty: the first write to a page costs more than many copies.
        self.out = torch.zeros((len(self.rows[0]), *self.frames.shape[1:]))
        self._from = torch.zeros(also_bytes * len(self.batches[0]), dtype=torch.uint8)
        self._to = torch.zeros_like(self._from)
        self._also = also_bytes

    def gather(self) -> Tensor:
        """``torch.index_select(out=)`` of every batch."""
        for batch, rows in zip(self.batches, self.rows, strict=True):
            torch.index_select(self.frames, 0, rows, out=self.out[: len(rows)])
            if self._also:
                size = self._also * len(batch)
                self._to[:size].copy_(self._from[:size])
        return self.out

    def copy(self) -> Tensor:
        """As many frames, one after the other: a memcpy of the same bytes."""
        start = 0
        for rows in self.rows:
            stop = start + len(rows)
            if stop > len(self.frames):
                start, stop = 0, len(rows)
            self.out[: len(rows)].copy_(self.frames[start:stop])
            start = stop
        return self.out
