"""The parts, by letter; each has ``run(bench) -> Part``."""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType

from benchmarks.bench import Bench
from benchmarks.figures import Part
from benchmarks.parts import (
    blocks,
    conversion,
    disk,
    first_batch,
    floor,
    gpu,
    grouping,
    many_scans,
    memory,
    network,
    patches,
    peers,
    reference_call,
    throughput,
    training,
)

PARTS: MappingProxyType[str, Callable[[Bench], Part]] = MappingProxyType(
    {
        "a": first_batch.run,
        "b": throughput.run,
        "c": floor.run,
        "d": peers.run,
        "e": patches.run,
        "f": memory.run,
        "g": disk.run,
        "h": grouping.run,
        "i": training.run,
        "j": many_scans.run,
        "k": blocks.run,
        "l": conversion.run,
        "m": network.run,
        "r": reference_call.run,
        "gpu": gpu.run,
    }
)
