"""What the measuring process does on request. Arguments and results are JSON."""

from __future__ import annotations

import gc
import itertools
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.anonymous_memory import anonymous_bytes
from benchmarks.data import data_module, grouping_of
from benchmarks.memory_limit import memory_limit
from ptycho_torch import PtychoDataset


def first_batch(scan: str, batch_size: int) -> dict[str, Any]:
    """Seconds to open a scan, to group it, and to have its first batch."""
    start = time.perf_counter()
    dataset = PtychoDataset(scan, grouping=grouping_of(2), ground_truth="none")
    opened = time.perf_counter()
    size = len(dataset)
    grouped = time.perf_counter()
    # Spread over the scan, as the first batch of a shuffled epoch is.
    step = max(1, size // batch_size)
    batch = dataset.__getitems__(list(range(0, size, step))[:batch_size])
    end = time.perf_counter()
    return {
        "open": opened - start,
        "group": grouped - opened,
        "batch": end - grouped,
        "total": end - start,
        "groups": len(batch),
    }


def stream_epoch(scan: str, batch_size: int) -> dict[str, Any]:
    """Iterate one epoch, and say how much anonymous memory there was before it."""
    gc.collect()
    before = anonymous_bytes("self")
    data = data_module(Path(scan), batch_size=batch_size)
    batches = 0
    checksum = 0.0
    for batch in data.train_dataloader():
        batches += 1
        checksum += float(batch.X[0, 0, 0, 0])
    return {"before_anon": before, "batches": batches, "checksum": checksum}


def waits(
    scan: str, batch_size: int, num_workers: int, step_seconds: float, batches: int
) -> dict[str, Any]:
    """Seconds that a loop waits for each batch beside a step that sleeps; first batches apart."""
    # Lightning counts cores before it believes a number of workers.
    warnings.simplefilter("ignore")
    data = data_module(Path(scan), batch_size=batch_size, num_workers=num_workers)
    loader = data.train_dataloader()
    waited: list[float] = []
    first: list[float] = []
    for epoch in itertools.count():
        loader.sampler.set_epoch(epoch)
        iterator = iter(loader)
        chosen = first
        while len(waited) < batches:
            start = time.perf_counter()
            batch = next(iterator, None)
            if batch is None:
                break
            chosen.append(time.perf_counter() - start)
            chosen = waited
            time.sleep(step_seconds)
        if len(waited) >= batches or len(loader) < 2:
            break
    # Workers end with their loader; the process must not leave before them.
    del iterator, loader, data
    gc.collect()
    return {"first": first, "waits": waited}


def limited_epoch(
    scan: str, order: str, limit: int, skip: int, most_seconds: float, batch_size: int
) -> dict[str, Any]:
    """Seconds of an epoch in little memory, after its first ``skip`` groups.

    ``limit`` is for what this process newly holds and for the pages that it reads. Both the groups
    left out and those counted end after ``most_seconds``, too.
    """
    with memory_limit(limit) as limited:
        data = data_module(Path(scan), batch_size=batch_size, order=order)
        batches = iter(data.train_dataloader())
        skipped, _ = _visit(batches, skip, most_seconds)
        groups, seconds = _visit(batches, len(data.dataset("train")), most_seconds)
        del batches
    return {"limited": limited, "skipped": skipped, "groups": groups, "seconds": seconds}


def _visit(batches: Iterator[Any], most: int, most_seconds: float) -> tuple[int, float]:
    start, seen = time.perf_counter(), 0
    for batch in batches:
        seen += len(batch)
        if seen >= most or time.perf_counter() - start > most_seconds:
            break
    return seen, time.perf_counter() - start
