"""What every part is given: scans, sizes and repetitions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.child import Child
from benchmarks.scans import Shelf
from ptycho_torch import GroupingConfig, PtychoDataModule

_Choice = TypeVar("_Choice")

NEIGHBORS = 6
"""K where gridsize is 2; it grows with the gridsize."""


@dataclass
class Bench:
    """One run.

    Parameters
    ----------
    root
        Scratch directory, removed at the end of the run.
    quick
        Tiny sizes: the figures mean nothing, but every line of code runs.
    """

    root: Path
    shelf: Shelf
    quick: bool
    _child: Child | None = None

    def pick(self, full: _Choice, quick: _Choice) -> _Choice:
        """One of two choices of size."""
        return quick if self.quick else full

    def repetitions(self, full: int) -> int:
        """How often to measure."""
        return 2 if self.quick else full

    def scan(self, M: int, N: int) -> Path:
        """A scan of M frames of N x N pixels."""
        return self.shelf.scan(M, N)

    @property
    def child(self) -> Child:
        """A fresh interpreter that has imported everything and measures in forks of itself."""
        if self._child is None:
            self._child = Child()
        return self._child

    def close(self) -> None:
        """End the child."""
        if self._child is not None:
            self._child.close()


def grouping_of(gridsize: int, **options: Any) -> GroupingConfig:
    """Groups of gridsize ** 2 frames."""
    return GroupingConfig(
        gridsize=gridsize,
        neighbor_count=max(NEIGHBORS, gridsize**2),
        **options,
    )


def data_module(scan: Path, *, gridsize: int = 2, **options: Any) -> PtychoDataModule:
    """A data module of one scan, all groups for training, set up."""
    n_groups = options.pop("n_groups", None)
    options.setdefault("ground_truth", "none")
    options.setdefault("patch_positions", "scan")
    data = PtychoDataModule(
        str(scan),
        grouping=grouping_of(gridsize, n_groups=n_groups),
        split="none",
        **options,
    )
    data.setup("fit")
    return data
