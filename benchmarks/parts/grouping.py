"""Positions become groups: cost against their number."""

from __future__ import annotations

from functools import partial

import numpy as np

from benchmarks.bench import Bench
from benchmarks.figures import Part, Target
from benchmarks.measure import Spread, seconds_of
from ptycho_torch.data.grouping import (
    GroupingRequest,
    legacy_groups,
    neighbor_table,
    sample_then_group,
)

K = 6
GRIDSIZE = 2
AREA_PER_POSITION_PX2 = 25.0
"""Neighbours are some five pixels apart, whatever the size of the scan."""


def run(bench: Bench) -> Part:
    part = Part("h", f"Grouping: K = {K}, C = {GRIDSIZE**2}, one group per position")
    sizes = bench.pick([10_000, 100_000, 1_000_000], [500, 2_000, 8_000])
    names = ("grouping", "of that: neighbours", "list of all groups, for the cache")
    medians: dict[str, list[float]] = {name: [] for name in names}
    for M in sizes:
        side = np.sqrt(M * AREA_PER_POSITION_PX2)
        x, y = np.random.default_rng(M).uniform(0, side, (2, M))
        request = GroupingRequest(
            n_frames=M, n_groups=M, gridsize=GRIDSIZE, neighbor_count=K, seed=0
        )
        works = (
            partial(sample_then_group, x, y, request),
            partial(neighbor_table, x, y, K),
            partial(legacy_groups, x, y, GRIDSIZE, K),
        )
        seconds: dict[str, list[float]] = {name: [] for name in names}
        for _ in range(bench.repetitions(2 if M > 500_000 else 5)):
            for name, work in zip(names, works, strict=True):
                seconds[name].append(seconds_of(work))
        for name in names:
            against = None if name == names[0] else (names[0], seconds[names[0]])
            part.duration(name, f"{M:,} positions", seconds[name], against)
            medians[name].append(Spread.of(seconds[name]).median)
        groups = sample_then_group(x, y, request)
        distinct = (np.diff(np.sort(groups, axis=1), axis=1) > 0).all()
        part.checks[f"groups hold different frames: {M:,} positions"] = bool(distinct)
    for name in names:
        slope = float(np.polyfit(np.log(sizes), np.log(medians[name]), 1)[0])
        part.plain(f"{name}: exponent of M", f"{sizes[0]:,} to {sizes[-1]:,}", slope, "")
        if name == names[0]:
            what = f"grouping {sizes[-1]:,} positions, K = {K}, C = {GRIDSIZE**2}"
            part.targets.append(Target(what, "<=", 10, medians[name][-1], "s"))
            what = "grouping: exponent of its cost in M (1 is linear)"
            part.targets.append(Target(what, "<=", 1.1, slope))
    return part
