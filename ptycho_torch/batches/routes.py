"""The ways a batch takes from the dataset to the loop.

Owns who gathers what where: worker processes, this process, or the device. Every route gives the
same numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch.utils.data import Dataset

from ptycho_torch.batches.dataset import PtychoDataset
from ptycho_torch.batches.packing import Pack
from ptycho_torch.batches.selection import FrameSelection
from ptycho_torch.batches.simulated_scans import SimulatedScans


@dataclass(frozen=True)
class Route:
    """What the DataLoader asks for, and what becomes of it.

    Attributes
    ----------
    source
        The DataLoader's dataset; worker processes ask it, where there are some.
    finish
        Turns what the source gives, one after the other, into what the loop gets, in this process.
    """

    source: Dataset[Any]
    finish: Callable[[Iterator[Any]], Iterator[Any]] = iter

    @property
    def passes_indices(self) -> bool:
        """The source only gives back the indices it is asked for."""
        return isinstance(self.source, Indices)

    def then(self, last: Callable[[Iterator[Any]], Iterator[Any]]) -> Route:
        """The same way with one more step, in this process."""
        return replace(self, finish=lambda items: last(self.finish(items)))


class Finished(Dataset[Pack]):
    """A dataset's batches without their probes, which live on the device once a scan."""

    def __init__(self, dataset: PtychoDataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitems__(self, indices: Sequence[int]) -> Pack:
        batch = self.dataset.__getitems__(indices).exclude("probe")
        return Pack.of(dict(batch.items()), large=("X", "Y"))


class Selections(Dataset[FrameSelection]):
    """A dataset before its assembly: indices, and each frame once."""

    def __init__(
        self, dataset: PtychoDataset, stage: str, *, gather: bool, pin: bool = False
    ) -> None:
        self.dataset = dataset
        self.stage = stage
        self.gather = gather
        self.pin = pin

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitems__(self, indices: Sequence[int]) -> FrameSelection:
        self.dataset.check_unchanged(indices)
        selection = self.select(indices)
        return self.select(indices) if self.dataset.check_unchanged(indices) else selection

    def select(self, indices: Sequence[int]) -> FrameSelection:
        """Indices and frames of some groups; whether files changed is not asked."""
        selection = self.dataset.select(indices, gather=self.gather, pin=self.pin)
        selection = replace(selection, stage=self.stage)
        return selection.pin_memory() if self.pin else selection


class Indices(Dataset[Sequence[int]]):
    """A dataset as its indices: workers read the frames into the page cache and send nothing.

    This process gathers a batch from the page cache ten times as fast as a finished batch travels
    through shared memory.
    """

    def __init__(self, dataset: PtychoDataset, *, read: bool) -> None:
        self.dataset = dataset
        self.read = read

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitems__(self, indices: Sequence[int]) -> Sequence[int]:
        if self.read:
            self.dataset.check_unchanged(indices)
            self.dataset.read_ahead(indices)
        return indices


def finished_by_workers(dataset: PtychoDataset, *, probes: bool) -> Route:
    """Workers hand over finished batches."""
    return Route(dataset if probes else Finished(dataset))


def gathered_here(dataset: PtychoDataset, *, workers: bool) -> Route:
    """Workers read frames from disk; this process gathers and scales them."""
    # What workers have not read yet should not hold up what they have.
    finish = partial(dataset.batches, planned=1) if workers else dataset.batches
    return Route(Indices(dataset, read=workers), finish)


def selected_by_workers(dataset: PtychoDataset, stage: str, *, gather: bool) -> Route:
    """Workers hand over indices, and each frame once unless all live on the device."""
    return Route(Selections(dataset, stage, gather=gather))


def selected_here(
    dataset: PtychoDataset, stage: str, *, gather: bool, workers: bool, device: torch.device
) -> Route:
    """Workers read frames from disk; this process copies each once, ready for the device."""
    here = Selections(dataset, stage, gather=gather, pin=device.type == "cuda")
    return Route(Indices(dataset, read=workers and gather), partial(map, here.select))


def simulated_here(dataset: SimulatedScans, device: torch.device) -> Route:
    """Batches are made by this process; there is nothing for workers to read.

    For a GPU they are made when they are sent, beside the step.
    """
    made = dataset.unmade if device.type == "cuda" else dataset.simulated
    return Route(Indices(dataset, read=False), partial(map, made))
