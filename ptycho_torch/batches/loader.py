"""The DataLoader of a stage: batches asked for whole, one built ahead, resumable.

Owns how batches get from the dataset to the loop. Worker processes are PyTorch's. Knows no devices.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

from torch.utils.data import DataLoader, Dataset

from ptycho_torch.batches.build_ahead import Builder, BuiltAhead
from ptycho_torch.data.errors import ScanFileError


def same(batch: Any) -> Any:
    """Return the batch as it is: a dataset asked for a list of indices gives a finished batch."""
    return batch


class GroupLoader(DataLoader[Any]):
    """A DataLoader that finishes its batches in a thread, one ahead of a loop that computes.

    The order is the one in force when the first batch is asked for: Lightning makes an iterator
    before it says which epoch it is for.

    The empty state tells Lightning that a run may resume in the middle of an epoch;
    :meth:`PtychoDataModule.state_dict` has the place itself, which holds for another number of
    workers or ranks, as the state of a loader would not.

    Attributes
    ----------
    has_place
        A data module has set the sampler to the place where a checkpoint stood.

    Parameters
    ----------
    dataset
        Gives what it is asked for with a list of indices.
    finish
        Turns what the dataset gives, one after the other, into the loop's batches.
    passes_indices
        The dataset gives back the indices it is asked for, so without workers nobody asks it.
    check_files
        Called when an epoch starts and when its last batch is ready. It raises where a scan is not
        the one that was opened; True says that what was read since it was last called may be wrong.
    **options
        As of :class:`torch.utils.data.DataLoader`.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        *,
        finish: Callable[[Iterator[Any]], Iterator[Any]] = iter,
        passes_indices: bool = False,
        check_files: Callable[[], bool] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(dataset, **{"collate_fn": same, **options})
        self.finish = finish
        self.passes_indices = passes_indices
        self.check_files = check_files
        self.has_place = False
        self._builder: Builder | None = None

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        if self._builder is not None:
            # Workers that persist serve one iteration at a time.
            self._builder.stop(wait=True, overtaken=True)
            self._builder = None
        if self.check_files is not None:
            self.check_files()
        builder = Builder(lambda: self._looked_at(self.finish(self._items())))
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
        """Take nothing from a checkpoint; warn where the data module has not taken the place."""
        if not self.has_place:
            self.has_place = True  # once is enough
            warnings.warn(
                "the checkpoint holds no place in the epoch for this loader: a run that stopped in "
                "the middle of an epoch repeats some batches and omits others; save and resume "
                "with trainer.fit(model, datamodule=data), which keeps the place",
                stacklevel=2,
            )

    def _looked_at(self, items: Iterator[Any]) -> Iterator[Any]:
        """The items; where files changed meanwhile, an error in place of the last."""
        # The sampler's length is that of a whole epoch, even where a resumed one has less.
        samples = getattr(self.sampler, "remaining", len(self.sampler))  # type: ignore[arg-type]
        last = -(-samples // (self.batch_size or 1))
        for number, item in enumerate(items, start=1):
            if number == last and self.check_files is not None and self.check_files():
                raise ScanFileError(
                    "sidecar",
                    "changed during an epoch, whose batches may be wrong",
                    "at rest",
                    action="Go on from the last checkpoint",
                )
            yield item

    def _items(self) -> Iterator[Any]:
        if self.passes_indices and not self.num_workers:
            assert self.batch_sampler is not None
            # A generator: Lightning's samplers start anew whenever their iterator is asked for one.
            return (indices for indices in self.batch_sampler)
        return super().__iter__()
