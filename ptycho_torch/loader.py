"""The DataLoader of a stage: batches asked for whole, one built ahead, resumable.

Owns how batches get from the dataset to the loop: worker processes are PyTorch's; the batch after
the one in use is built by a thread of this process while the loop computes. Knows no devices.
"""

from __future__ import annotations

import math
import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from torch.utils.data import DataLoader

AHEAD = 1
"""Batches that wait, finished, for the loop; one more is being built, one is in use."""

WORTH_A_THREAD_S = 0.001
"""A loop that computes this long between batches gets a thread that builds the next meanwhile; for
a faster one, handing a batch from thread to thread would take longer than building it."""

_WAIT_S = 0.1


def same(batch: Any) -> Any:
    """The identity: a dataset that is asked for a list of indices gives a finished batch."""
    return batch


class GroupLoader(DataLoader[Any]):
    """A DataLoader that finishes its batches in a thread, one ahead of a loop that computes.

    The empty state tells Lightning that a run may be resumed in the middle of an epoch; the place
    itself is in :meth:`PtychoDataModule.state_dict`, which survives another number of workers or
    ranks where the state of a loader does not.

    Attributes
    ----------
    finish
        What becomes of each item of the DataLoader: the identity unless set.
    before_epoch
        Called when an epoch starts, to look once whether its data are still there.
    """

    finish: Callable[[Any], Any] = staticmethod(same)
    before_epoch: Callable[[], None] | None = None
    _builder: _Builder | None = None

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        if self._builder is not None:
            # Workers that persist are asked by one thread at a time.
            self._builder.end()
            self._builder = None
        if self.before_epoch is not None:
            self.before_epoch()
        self._builder = _Builder(super().__iter__(), self.finish)
        return _BuiltAhead(self._builder)

    def state_dict(self) -> dict[str, Any]:
        """Nothing: the data module has it."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Nothing to load."""


class _End:
    """What the thread sends last: the exception that ended it, or None."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


class _Builder:
    """The thread that builds: at most ``AHEAD`` + 1 items before they are asked for."""

    def __init__(self, items: Iterator[Any], finish: Callable[[Any], Any]) -> None:
        self._items = items
        self._finish = finish
        self._ready: queue.Queue[Any] = queue.Queue(maxsize=AHEAD)
        self._stop = threading.Event()
        self._handed_over = math.inf
        self._thread = threading.Thread(target=self._run, name="ptycho-torch-loader", daemon=True)

    def next(self) -> Any:
        """The next item, or an :class:`_End`."""
        if self._thread.ident is None:
            computed_s = time.perf_counter() - self._handed_over
            if computed_s < WORTH_A_THREAD_S:
                item = self._build()
                self._handed_over = time.perf_counter()
                return item
            self._thread.start()
        return self._ready.get()

    def _build(self) -> Any:
        try:
            return self._finish(next(self._items))
        except StopIteration:
            return _End(None)

    def stop(self) -> None:
        """Build no more."""
        self._stop.set()

    def end(self) -> None:
        """Build no more, and wait until the thread is gone."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        item: Any = None
        while not isinstance(item, _End):
            try:
                item = self._build()
            except BaseException as raised:  # handed to the loop, which raises it
                item = _End(raised)
            if not self._put(item):
                return

    def _put(self, item: Any) -> bool:
        while not self._stop.is_set():
            try:
                self._ready.put(item, timeout=_WAIT_S)
            except queue.Full:
                continue
            return True
        return False


class _BuiltAhead(Iterator[Any]):
    """What a loop iterates; dropping it in the middle of an epoch ends the thread."""

    def __init__(self, builder: _Builder) -> None:
        self._builder = builder
        self._done = False

    def __next__(self) -> Any:
        if self._done:
            raise StopIteration
        try:
            item = self._builder.next()
        except BaseException:
            self._done = True
            raise
        if isinstance(item, _End):
            self._done = True
            self._builder.end()
            if item.error is not None:
                raise item.error
            raise StopIteration
        return item

    def __del__(self) -> None:
        self._builder.stop()
