"""The reference's own call, with its arrays and patches whole in memory."""

from __future__ import annotations

from benchmarks.bench import Bench
from benchmarks.figures import Part, Target
from benchmarks.measure import in_turns
from benchmarks.scans import synthetic_scan


def run(bench: Bench) -> Part:
    part = Part("r", "generate_grouped_data: the reference's arrays, whole in memory")
    M, N, side = bench.pick((2_000, 64, 400), (100, 16, 60))
    scan = synthetic_scan(M, N, side)
    frames = scan.frames.stored

    def grouped(**options: str) -> dict[str, object]:
        return scan.generate_grouped_data(
            N, K=6, nsamples=M, gridsize=2, seed=0, patch_positions="scan"
        )

    result = grouped()
    index = result["nn_indices"]
    works = {
        "generate_grouped_data": grouped,
        "bare gather of its frames": lambda: frames[index],
    }
    seconds = in_turns(works, bench.repetitions(7))
    case = f"M = {M:,}, N = {N}, C = 4, object {side} x {side}, with Y"
    bare = ("bare gather of its frames", seconds["bare gather of its frames"])
    part.duration(bare[0], case, bare[1])
    figure = part.duration("generate_grouped_data", case, seconds["generate_grouped_data"], bare)
    part.targets.append(
        Target(f"generate_grouped_data, {case}", "<=", 2.0, figure.value.median, "s")
    )
    return part
