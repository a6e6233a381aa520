"""What every part gets: scans, sizes and repetitions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from benchmarks.child import Child
from benchmarks.scans import Shelf

_Choice = TypeVar("_Choice")


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
        """The process that has imported everything and measures in forks of itself."""
        if self._child is None:
            self._child = Child()
        return self._child

    def close(self) -> None:
        """End the child."""
        if self._child is not None:
            self._child.close()
