"""The DataLoader of a stage: batches asked for whole, one built ahead, resumable.

Owns how batches get from the dataset to the loop: worker processes are PyTorch's; the batch after
the one in use is built by a thread of this process while the loop computes. Knows no devices.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch.utils.data import DataLoader

AHEAD = 1
"""Batches that wait, finished, for the loop; one more is being built, one is in use."""

WORTH_A_THREAD_S = 0.001
"""A loop that computes this long between batches gets a thread that builds the next meanwhile; for
a faster one, handing a batch from thread to thread would take longer than building it."""


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
        What becomes of the items of the DataLoader, one after the other: they themselves unless
        set.
    passes_indices
        The dataset gives back the indices it is asked for, so that without workers nobody needs
        to be asked.
    before_epoch
        Called when an epoch starts, to look once whether its data are still there.
    """

    finish: Callable[[Iterator[Any]], Iterator[Any]] = staticmethod(iter)
    passes_indices: bool = False
    before_epoch: Callable[[], None] | None = None
    _builder: _Builder | None = None

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
        builder = _Builder(self.finish(items))
        if self.num_workers:
            self._builder = builder
        return _BuiltAhead(builder)

    def __getstate__(self) -> dict[str, Any]:
        """A copy starts its own iterations."""
        return {**self.__dict__, "_builder": None, "_iterator": None}

    def state_dict(self) -> dict[str, Any]:
        """Nothing: the data module has it."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Nothing to load."""


def _start_thread() -> ThreadPoolExecutor:
    """A thread in which torch computes on one core: the others are the loop's.

    Two teams of torch's threads on the same cores wait for each other at every operation.
    """
    thread = ThreadPoolExecutor(1, thread_name_prefix="ptycho-torch-loader")
    # A thread takes over the general setting when it is first asked for it, and what it then sets
    # is its own, but becomes the general setting too.
    thread.submit(torch.get_num_threads).result()
    thread.submit(torch.set_num_threads, 1).result()
    torch.set_num_threads(torch.get_num_threads())
    return thread


def _later(source: Iterable[Any]) -> Iterator[Any]:
    """The items of ``source`` in the order that is in force when the first is asked for."""
    yield from source


class _End:
    """Stands, as a class, where there is no item any more: a future cannot carry StopIteration."""


class _Builder:
    """Items finished where they are asked for, or by a thread at most ``AHEAD`` + 1 before that.

    The thread is an executor's: the interpreter waits for it on its way out. A thread that still
    computes when the interpreter is gone takes the process down with it.
    """

    def __init__(self, items: Iterator[Any]) -> None:
        self._items = items
        self._thread: ThreadPoolExecutor | None = None
        self._pending: deque[Future[Any]] = deque()
        self._handed_over = math.inf
        self._over = False
        self._stopped = False
        self._overtaken = False

    def next(self) -> Any:
        """The next item.

        Raises
        ------
        StopIteration
            There is none.
        RuntimeError
            Another iteration has taken the workers over.
        """
        if self._overtaken:
            raise RuntimeError(
                "another iteration over this loader has started; its workers serve one at a time: "
                "make a second loader, or use num_workers=0"
            )
        if self._thread is None:
            computed_s = time.perf_counter() - self._handed_over
            if computed_s < WORTH_A_THREAD_S:
                item = self._build()
                self._handed_over = time.perf_counter()
                return _unless_end(item)
            self._thread = _start_thread()
            self._submit(self._thread)
        item = self._pending.popleft().result() if self._pending else _End
        if item is not _End:
            self._submit(self._thread)
        return _unless_end(item)

    def stop(self, *, wait: bool, overtaken: bool = False) -> None:
        """Build no more; wait until the thread is gone, or not."""
        if not self._stopped:
            self._overtaken = overtaken
        self._over = self._stopped = True
        self._pending.clear()
        if self._thread is not None:
            self._thread.shutdown(wait=wait, cancel_futures=True)

    def _submit(self, thread: ThreadPoolExecutor) -> None:
        while len(self._pending) < AHEAD + 1:
            self._pending.append(thread.submit(self._build))

    def _build(self) -> Any:
        """The next item; from the end or an error on, ``_End``."""
        if self._over:
            return _End
        try:
            return next(self._items)
        except BaseException as ended:
            self._over = True
            if isinstance(ended, StopIteration):
                return _End
            raise


def _unless_end(item: Any) -> Any:
    if item is _End:
        raise StopIteration
    return item


class _BuiltAhead(Iterator[Any]):
    """What a loop iterates; dropping it in the middle of an epoch ends the thread."""

    def __init__(self, builder: _Builder) -> None:
        self._builder = builder

    def __next__(self) -> Any:
        try:
            return self._builder.next()
        except BaseException:
            self._builder.stop(wait=False)
            raise

    def __del__(self) -> None:
        self._builder.stop(wait=False)
