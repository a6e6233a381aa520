"""Time to the first batch: open, group, gather."""

from __future__ import annotations

from itertools import product
from pathlib import Path

from benchmarks.bench import Bench
from benchmarks.child import Child
from benchmarks.figures import Part, Target
from benchmarks.measure import Spread
from benchmarks.scans import drop_pages, remove_caches

BATCH = 64


def run(bench: Bench) -> Part:
    part = Part("a", "Time to the first batch (64 groups of 4 frames), imports apart")
    sizes = bench.pick([(1_000, 64), (10_000, 64), (100_000, 32)], [(100, 16), (200, 16)])
    target = bench.pick((10_000, 64), (200, 16))
    for name, seconds in bench.child.import_seconds.items():
        part.duration(f"import {name}", "once a process", [seconds])
    for size in sizes:
        _one_size(bench, part, *size, is_target=size == target)
    return part


def _one_size(bench: Bench, part: Part, M: int, N: int, *, is_target: bool) -> None:
    scan, child = bench.scan(M, N), bench.child
    cases = list(product((False, True), (False, True)))
    total: dict[tuple[bool, bool], list[float]] = {case: [] for case in cases}
    opening: dict[bool, list[float]] = {False: [], True: []}
    child.call("first_batch", scan=str(scan), batch_size=BATCH)
    for _ in range(bench.repetitions(5)):
        # Without a cache first: each of these runs leaves one for those that want it.
        for cached, cold in cases:
            result = _first_batch(child, scan, cached=cached, cold=cold)
            total[cached, cold].append(result["total"])
            opening[cold].append(result["open"])
    size = f"M = {M:,}, N = {N}"
    against = ("no cache, warm", total[False, False])
    for (cached, cold), seconds in total.items():
        case = f"{size}, {'with' if cached else 'no'} cache, {'cold' if cold else 'warm'} pages"
        itself = (cached, cold) == (False, False)
        part.duration("open + group + first batch", case, seconds, None if itself else against)
    for cold, seconds in opening.items():
        case = f"{size}, {'cold' if cold else 'warm'} pages"
        part.duration("of that: open", case, seconds, unit="ms")
    if is_target:
        for cached, limit in ((False, 0.5), (True, 0.1)):
            what = f"open + group + first batch, {size}, {'with' if cached else 'no'} cache"
            median = Spread.of(total[cached, False]).median
            part.targets.append(Target(what, "<=", limit, median, "s"))


def _first_batch(child: Child, scan: Path, *, cached: bool, cold: bool) -> dict[str, float]:
    if not cached:
        remove_caches(scan)
    if cold:
        drop_pages(scan.parent)
    return child.call("first_batch", scan=str(scan), batch_size=BATCH)
