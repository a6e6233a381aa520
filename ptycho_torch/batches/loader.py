"""The DataLoader of a stage: batches asked for whole, one built ahead, resumable.

Owns how batches get from the dataset to the loop. Worker processes are PyTorch's. Knows no devices.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch.utils.data import DataLoader, Dataset

from ptycho_torch.batches.build_ahead import Builder, BuiltAhead


def same(batch: Any) -> Any:
    """Return the batch as it is: a dataset asked for a list of indices gives a finished batch."""
    return batch


class GroupLoader(DataLoader[Any]):
    """A DataLoader that finishes its batches in a thread, one ahead of a loop that computes.

    The empty state tells Lightning that a run may resume in the middle of an epoch;
    :meth:`PtychoDataModule.state_dict` has the place itself, which holds for another number of
    workers or ranks, as the state of a loader would not.

    Parameters
    ----------
    dataset
        Gives what it is asked for with a list of indices.
    finish
        Turns what the dataset gives, one after the other, into the loop's batches.
    passes_indices
        The dataset gives back the indices it is asked for, so without workers nobody asks it.
    before_epoch
        Called when an epoch starts, to look once whether the data are still there.
    **options
        As of :class:`torch.utils.data.DataLoader`.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        *,
        finish: Callable[[Iterator[Any]], Iterator[Any]] = iter,
        passes_indices: bool = False,
        before_epoch: Callable[[], None] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(dataset, **{"collate_fn": same, **options})
        self.finish = finish
        self.passes_indices = passes_indices
        self.before_epoch = before_epoch
        self._builder: Builder | None = None

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        if self._builder is not None:
            # Workers that persist serve one iteration at a time.
            self._builder.stop(wait=True, overtaken=True)
            self._builder = None
        if self.before_epoch is not None:
            self.before_epoch()
        if self.passes_indices and not self.num_workers:
            assert self.batch_sampler is not None
            items = _later(self.batch_sampler)
        else:
            items = super().__iter__()
        builder = Builder(self.finish(items))
        if self.num_workers:
            self._builder = builder
        return BuiltAhead(builder)

    def __getstate__(self) -> dict[str, Any]:
        """Leave a running iteration behind: a copy starts its own."""
        return {**self.__dict__, "_builder": None, "_iterator": None}

    def state_dict(self) -> dict[str, Any]:
        """Say nothing: the data module has the place."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take nothing from a checkpoint."""


def _later(source: Iterable[Any]) -> Iterator[Any]:
    """The items of ``source`` in the order that is in force when the first is asked for."""
    yield from source
