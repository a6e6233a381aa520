"""Many scans against one scan of the same frames."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

from benchmarks.bench import Bench
from benchmarks.data import data_module
from benchmarks.figures import Part, Target
from benchmarks.measure import Spread, in_turns

BATCH = 64


def run(bench: Bench) -> Part:
    part = Part("j", "Many scans against one of the same frames, page cache warm")
    scans, frames, N = bench.pick((200, 250, 64), (4, 60, 16))
    one, many = bench.shelf.divided(scans, frames, N)
    _epochs(
        bench,
        part,
        one,
        many,
        f"{scans} scans of {frames}, N = {N}, C = 4, B = {BATCH}, one thread",
    )
    _first_batch(bench, part, many, f"{scans} scans of {frames}, N = {N}", limit=1.0)
    shutil.rmtree(Path(one).parents[1])
    count, few = bench.pick((1_000, 100), (6, 40))
    _, many = bench.shelf.divided(count, few, 16)
    _first_batch(bench, part, many, f"{count:,} scans of {few}, N = 16", limit=4.0)
    return part


def _epochs(bench: Bench, part: Part, one: str, many: str, case: str) -> None:
    groups = bench.pick(20_000, 100)
    loaders = {
        name: data_module(Path(scans), batch_size=BATCH).train_dataloader()
        for name, scans in (("one scan", one), ("many scans", many))
    }

    def epoch(name: str) -> int:
        seen = 0
        for batch in loaders[name]:
            seen += len(batch)
            if seen >= groups:
                break
        return seen

    works = {name: lambda name=name: epoch(name) for name in loaders}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # two that wait for each other measure what else the machine does
    counts = {name: work() for name, work in works.items()}
    seconds = in_turns(works, bench.repetitions(5))
    torch.set_num_threads(threads)
    against = ("one scan", seconds["one scan"])
    for name, values in seconds.items():
        part.rate(
            f"epoch, {name}",
            case,
            values,
            counts[name],
            "groups/s",
            None if name == "one scan" else against,
        )
    ratio = part.figures[-1].ratio
    assert ratio is not None
    part.targets.append(Target(f"{case}, in groups/s of one scan", ">=", 0.5, ratio.median))


def _first_batch(bench: Bench, part: Part, scans: str, case: str, *, limit: float) -> None:
    found = [
        bench.child.call("first_batch", scan=scans, batch_size=BATCH)["total"]
        for _ in range(1 + bench.repetitions(5))
    ]
    # The first of them made the caches.
    part.duration("open + group from cache + first batch", case, found[1:])
    what = f"open + group from cache + first batch, {case}"
    part.targets.append(Target(what, "<=", limit, Spread.of(found[1:]).median, "s"))
