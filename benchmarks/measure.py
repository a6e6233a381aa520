"""Timing in turns: A B C, B C A, C A B ... so that drift of the machine hits every side.

Knows nothing of what is measured.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Spread:
    """Repetitions of one figure: median, quartiles and how many."""

    median: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        low, median, high = (float(value) for value in np.quantile(values, (0.25, 0.5, 0.75)))
        return cls(median, low, high, len(values))


def seconds_of(work: Callable[[], object]) -> float:
    """Seconds of one call, without the release of its result."""
    start = time.perf_counter()
    result = work()
    elapsed = time.perf_counter() - start
    del result
    return elapsed


def in_turns(
    works: Mapping[str, Callable[[], object]], repetitions: int, *, warm_ups: int = 1
) -> dict[str, list[float]]:
    """Seconds of every call; repetition i of one work ran beside repetition i of the others."""
    for _ in range(warm_ups):
        for work in works.values():
            work()
    names = list(works)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for repetition in range(repetitions):
        gc.collect()
        start = repetition % len(names)
        for name in names[start:] + names[:start]:
            seconds[name].append(seconds_of(works[name]))
    return seconds


def quotient(above: Sequence[float], below: Sequence[float]) -> Spread:
    """Spread of the quotients of what was measured side by side."""
    return Spread.of([a / b for a, b in zip(above, below, strict=True)])
