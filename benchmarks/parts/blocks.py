"""Order by blocks against order by samples, frames on disk, memory for a quarter of them."""

from __future__ import annotations

import shutil

from benchmarks.bench import Bench
from benchmarks.figures import Part, Target
from benchmarks.measure import quotient
from benchmarks.scans import drop_pages

BATCH = 64
OWN = 64 << 20
"""Bytes for what the process itself holds beside the pages of the file."""


def run(bench: Bench) -> Part:
    M, N = bench.pick((100_000, 64), (400, 16))
    skip, most_seconds = bench.pick((12_000, 10.0), (64, 0.2))
    scan = bench.shelf.raster(M, N)
    file_bytes = scan.stat().st_size
    limit = bench.pick(file_bytes // 4 + OWN, 0)
    bench.child.call("first_batch", scan=str(scan), batch_size=BATCH)  # leaves a cache
    per_group: dict[str, list[float]] = {"samples": [], "blocks": []}
    limited = []
    for turn in range(bench.repetitions(3)):
        for order in ("samples", "blocks") if turn % 2 == 0 else ("blocks", "samples"):
            drop_pages(scan.parent)
            found = bench.child.call(
                "limited_epoch",
                scan=str(scan),
                order=order,
                limit=limit,
                skip=skip,
                most_seconds=most_seconds,
                batch_size=BATCH,
            )
            per_group[order].append(found["seconds"] / found["groups"])
            limited.append(found["limited"])
    shutil.rmtree(scan.parent)
    memory = f"{limit >> 20:,} MiB of memory" if all(limited) else "memory not limited"
    part = Part("k", f"Order by blocks, cold pages, {memory}")
    case = f"raster, M = {M:,}, N = {N}, C = 4, B = {BATCH}, file of {file_bytes >> 20:,} MiB"
    part.rate("epoch, order of samples", case, per_group["samples"], 1, "groups/s")
    against = ("order of samples", per_group["samples"])
    part.rate("epoch, order of blocks", case, per_group["blocks"], 1, "groups/s", against)
    ratio = quotient(per_group["samples"], per_group["blocks"]).median
    part.targets.append(Target("order of blocks, in groups/s by samples", ">=", 3.0, ratio))
    return part
