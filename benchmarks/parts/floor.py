"""How near the hot path comes to a bare copy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.data import BatchSampler, DataLoader

from benchmarks.bench import Bench
from benchmarks.data import data_module
from benchmarks.figures import Part, Target
from benchmarks.floors import Floor
from benchmarks.measure import in_turns, quotient
from ptycho_torch.batches.assembly import assemble, gather_scaled
from ptycho_torch.batches.buffers import BufferPool

BARE = "index_select(out=)"


def run(bench: Bench) -> Part:
    part = Part("c", "Against the floor: the same bytes, 4 frames a group, page cache warm")
    sizes = bench.pick(
        [(10_000, 64, 64), (2_500, 128, 64), (640, 256, 16), (640, 256, 64)], [(200, 16, 16)]
    )
    for number, (M, N, batch_size) in enumerate(sizes):
        _one(bench, part, M, N, batch_size, is_target=number == 0)
    return part


def _one(bench: Bench, part: Part, M: int, N: int, batch_size: int, *, is_target: bool) -> None:
    data = data_module(bench.scan(M, N), batch_size=batch_size)
    dataset, loader = data.dataset("train"), data.train_dataloader()
    floor = Floor(dataset, batch_size)
    tables = dataset.tables
    selections = [dataset.select(batch.tolist(), gather=False) for batch in floor.batches]
    plain: DataLoader[Any] = DataLoader(
        dataset,
        batch_sampler=_Batches(floor.batches),
        collate_fn=_same,
    )

    def each(make: Callable[[Any], Any], items: list[Any]) -> Callable[[], None]:
        def work() -> None:
            # As in a loop, a batch lives until the next one is there.
            for item in items:
                made = make(item)  # noqa: F841

        return work

    pool = BufferPool()  # as a dataset has it

    def gathered(selection: Any) -> Any:
        return gather_scaled(
            floor.frames, selection.inverse, selection.scale, counts=False, pool=pool
        )

    works: dict[str, Callable[[], object]] = {
        "memcpy": floor.copy,
        BARE: floor.gather,
        "X assembly": each(gathered, selections),
        "whole batch from a selection": each(lambda item: assemble(item, tables, pool), selections),
        "dataset[...]": each(dataset.__getitems__, [b.tolist() for b in floor.batches]),
        "torch DataLoader, 0 workers": lambda: sum(len(batch) for batch in plain),
        "data module's loader, 0 workers": lambda: sum(len(batch) for batch in loader),
    }
    seconds = in_turns(works, bench.repetitions(11), warm_ups=2)
    case = f"M = {M:,}, N = {N}, C = 4, B = {batch_size}"
    payload = len(dataset) * 4 * N * N * 4 / 1e9
    for name, values in seconds.items():
        against = None if name == BARE else (BARE, seconds[BARE])
        part.rate(name, case, values, payload, "GB/s", against)
    if is_target:
        for name, limit in (("X assembly", 0.8), ("data module's loader, 0 workers", 0.5)):
            share = quotient(seconds[BARE], seconds[name]).median
            what = f"{name}, {case}, of bare {BARE}"
            part.targets.append(Target(what, ">=", limit, share))
    first = dataset.__getitems__(floor.batches[0].tolist())
    bare = floor.frames[floor.rows[0]] * first.scale[0]
    part.checks[f"the floor moves the same frames: {case}"] = torch.equal(
        first.channels_first().flatten(0, 1), bare
    )


class _Batches(BatchSampler):
    """Batches in a given order."""

    def __init__(self, batches: Any) -> None:
        self._batches = [batch.tolist() for batch in batches]

    def __iter__(self) -> Any:
        return iter(self._batches)

    def __len__(self) -> int:
        return len(self._batches)


def _same(batch: Any) -> Any:
    return batch
