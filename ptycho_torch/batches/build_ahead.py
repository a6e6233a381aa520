"""Items built one ahead of a loop that computes, by a thread of this process.

Owns the thread. Knows nothing of what is built.
"""

from __future__ import annotations

import math
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch

AHEAD = 1
"""Finished items that wait for the loop; one more is being built, one is in use."""

WORTH_A_THREAD_S = 0.001
"""If the loop computes longer than this between items, a thread builds the next one meanwhile; for
a faster loop, handing an item from thread to thread would take longer than building it."""


class _End:
    """Stands, as a class, for the end of the items: a future cannot carry StopIteration."""


class Builder:
    """Builds items where they are asked for, or in a thread at most ``AHEAD`` + 1 before that.

    An executor runs the thread, so the interpreter waits for it on its way out: a thread that still
    computes when the interpreter is gone takes the process down with it.

    Parameters
    ----------
    start
        Gives an iterator that builds the next item whenever it is asked for one. Called when the
        first item is asked for, and by whoever asks: worker processes start in the caller's thread.
    """

    def __init__(self, start: Callable[[], Iterator[Any]]) -> None:
        self._start: Callable[[], Iterator[Any]] | None = start
        self._items: Iterator[Any] = iter(())
        self._thread: ThreadPoolExecutor | None = None
        self._pending: deque[Future[Any]] = deque()
        self._handed_over = math.inf
        self._over = False
        self._stopped = False
        self._overtaken = False
        self._process = os.getpid()

    def next(self) -> Any:
        """Hand over the next item.

        Raises
        ------
        StopIteration
            There is none.
        RuntimeError
            Another iteration has taken the workers over, or this process was forked in the middle
            of this one: its thread and its workers are the parent's.
        """
        if self._process != os.getpid():
            raise RuntimeError(
                "this iteration belongs to another process, which was forked in the middle of it: "
                "make a new iterator of the loader in this process"
            )
        if self._overtaken:
            raise RuntimeError(
                "another iteration over this loader has started; its workers serve one at a time: "
                "make a second loader, or use num_workers=0"
            )
        if self._start is not None and not self._over:
            # ``start`` may hold what holds this builder; workers end with the last reference.
            start, self._start = self._start, None
            self._items = start()
        item = self._next_or_end()
        if item is _End:
            raise StopIteration
        return item

    def stop(self, *, wait: bool, overtaken: bool = False) -> None:
        """Build nothing more.

        Parameters
        ----------
        wait
            Return only once the thread is gone.
        overtaken
            Another iteration takes over: :meth:`next` says so from now on.
        """
        if not self._stopped:
            self._overtaken = overtaken
        self._over = self._stopped = True
        self._pending.clear()
        if self._thread is not None and self._process == os.getpid():
            self._thread.shutdown(wait=wait, cancel_futures=True)

    def _next_or_end(self) -> Any:
        if self._thread is None:
            computed_s = time.perf_counter() - self._handed_over
            if computed_s < WORTH_A_THREAD_S:
                item = self._build()
                self._handed_over = time.perf_counter()
                return item
            self._thread = _start_thread()
            self._submit(self._thread)
        item = self._pending.popleft().result() if self._pending else _End
        if item is not _End:
            self._submit(self._thread)
        return item

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


class BuiltAhead(Iterator[Any]):
    """What a loop iterates; dropping it in the middle of an epoch ends the thread.

    Parameters
    ----------
    builder
        Builds the items.
    """

    def __init__(self, builder: Builder) -> None:
        self._builder = builder

    def __next__(self) -> Any:
        try:
            return self._builder.next()
        except BaseException:
            self._builder.stop(wait=False)
            raise

    def __del__(self) -> None:
        self._builder.stop(wait=False)


def _start_thread() -> ThreadPoolExecutor:
    """Start a thread in which torch computes on one core and leaves the others to the loop.

    Two teams of torch's threads on the same cores wait for each other at every operation.
    """
    thread = ThreadPoolExecutor(1, thread_name_prefix="ptycho-torch-loader")
    # A thread takes over the process default when it first asks for it; ask before it is changed.
    thread.submit(torch.get_num_threads).result()
    thread.submit(torch.set_num_threads, 1).result()
    # torch.set_num_threads also changes the process default, so we restore it.
    torch.set_num_threads(torch.get_num_threads())
    return thread
