"""The DataLoader of a stage: batches asked for whole, and resumable through the data module."""

from __future__ import annotations

from typing import Any

from torch.utils.data import DataLoader


def same(batch: Any) -> Any:
    """The identity: a dataset that is asked for a list of indices gives a finished batch."""
    return batch


class GroupLoader(DataLoader[Any]):
    """A DataLoader whose place in an epoch its data module keeps.

    The empty state tells Lightning that a run may be resumed in the middle of an epoch; the place
    itself is in :meth:`PtychoDataModule.state_dict`, which survives another number of workers or
    ranks where the state of a loader does not.
    """

    def state_dict(self) -> dict[str, Any]:
        """Nothing: the data module has it."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Nothing to load."""
