"""What worker processes are asked for when batches are assembled elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch.utils.data import Dataset

from ptycho_torch.batches.assembly import FrameSelection
from ptycho_torch.batches.dataset import PtychoDataset


class Selections(Dataset[FrameSelection]):
    """A dataset seen before its assembly: workers hand over indices and frames."""

    def __init__(self, dataset: PtychoDataset, stage: str, *, gather: bool) -> None:
        self.dataset = dataset
        self.stage = stage
        self.gather = gather

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitems__(self, indices: Sequence[int]) -> FrameSelection:
        return replace(self.dataset.select(indices, gather=self.gather), stage=self.stage)


class Indices(Dataset[Sequence[int]]):
    """A dataset seen as its indices: workers read the frames into the page cache, send nothing.

    A finished batch sent through shared memory moves at a tenth of the speed at which this process
    gathers it from the page cache.
    """

    def __init__(self, dataset: PtychoDataset, *, read: bool) -> None:
        self.dataset = dataset
        self.read = read

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitems__(self, indices: Sequence[int]) -> Sequence[int]:
        if self.read:
            self.dataset.read_ahead(indices)
        return indices
