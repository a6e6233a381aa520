"""Anonymous memory while an epoch is streamed."""

from __future__ import annotations

from benchmarks.bench import Bench
from benchmarks.figures import Part, Target
from benchmarks.measure import Spread
from benchmarks.scans import remove_caches

MIB = 2**20
BATCH = 64


def run(bench: Bench) -> Part:
    part = Part("f", "Peak anonymous memory above the imported interpreter, one epoch")
    sizes = bench.pick([(1_000, 32), (100_000, 32), (1_000, 64), (10_000, 64)], [(100, 16)])
    for M, N in sizes:
        scan = bench.scan(M, N)
        batch = BATCH * 4 * N * N * 4
        peaks: dict[bool, list[float]] = {False: [], True: []}
        for _ in range(bench.repetitions(3)):
            for cached in (False, True):
                if not cached:
                    remove_caches(scan)
                found = bench.child.call("stream_epoch", scan=str(scan), batch_size=BATCH)
                peaks[cached].append(max(1, found["peak_anon"] - found["before_anon"]))
        budget = 64 * MIB + 3 * batch
        case = f"M = {M:,}, N = {N}, C = 4, B = {BATCH}"
        part.plain("frames", case, M * N * N * 4 / MIB, "MiB")
        for cached, values in peaks.items():
            name = f"peak, {'with' if cached else 'no'} cache"
            part.plain(name, case, [value / MIB for value in values], "MiB")
        what = f"peak anonymous memory, {case}, of 64 MiB + 3 batches"
        worst = max(Spread.of(values).median for values in peaks.values())
        part.targets.append(Target(what, "<=", 1.0, worst / budget))
    return part
