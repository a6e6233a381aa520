"""Epoch throughput of the data module's loader."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import Any

import torch

from benchmarks.bench import Bench
from benchmarks.data import data_module
from benchmarks.figures import Part
from benchmarks.floors import Floor
from benchmarks.measure import in_turns

EPOCH_BYTES = 256 << 20
"""Bytes of X in an epoch: enough that its start does not count."""


@dataclass(frozen=True)
class Case:
    """One point of the grid; the others vary the first in what is worth knowing."""

    N: int = 64
    gridsize: int = 2
    batch_size: int = 64
    workers: int = 0
    patches: bool = False
    assemble_on: str = "auto"

    def __str__(self) -> str:
        parts = [
            f"N = {self.N}",
            f"gridsize {self.gridsize}",
            f"batch {self.batch_size}",
            f"{self.workers} workers",
            "X and Y" if self.patches else "X",
        ]
        return ", ".join(parts + ([f"assembled on {self.assemble_on}"] * (not self._is_auto)))

    @property
    def _is_auto(self) -> bool:
        return self.assemble_on == "auto"


def _cases() -> list[Case]:
    base = Case()
    large = replace(base, N=256)
    sent = replace(base, assemble_on="worker")
    return [
        base,
        *(replace(base, workers=workers) for workers in (1, 2)),
        *(replace(base, batch_size=size) for size in (16, 256)),
        *(replace(base, gridsize=gridsize) for gridsize in (1, 3)),
        replace(base, patches=True),
        replace(base, patches=True, workers=2),
        replace(base, patches=True, gridsize=3),
        replace(base, N=128),
        replace(base, N=128, workers=2, batch_size=256),
        large,
        replace(large, workers=2),
        replace(large, batch_size=16),
        replace(large, patches=True, batch_size=16),
        *(replace(sent, workers=workers) for workers in (1, 2)),
        replace(sent, N=256, workers=2),
    ]


def run(bench: Bench) -> Part:
    part = Part("b", "Epoch throughput of the loader, page cache warm")
    for case in bench.pick(_cases(), _cases()[:3]):
        _one(bench, part, case)
    return part


def _one(bench: Bench, part: Part, case: Case) -> None:
    full = {64: 10_000, 128: 2_500, 256: 640}
    M, N = bench.pick((full[case.N], case.N), (100, 16))
    options: dict[str, Any] = {"ground_truth": "object"} if case.patches else {}
    group_bytes = case.gridsize**2 * N * N * 4
    with warnings.catch_warnings():
        # Lightning warns of more workers than cores, which is what this measures.
        warnings.simplefilter("ignore")
        data = data_module(
            bench.scan(M, N),
            gridsize=case.gridsize,
            n_groups=min(M, EPOCH_BYTES // group_bytes),
            batch_size=bench.pick(case.batch_size, min(case.batch_size, 16)),
            num_workers=case.workers,
            assemble_on=case.assemble_on,
            **options,
        )
        loader = data.train_dataloader()
    dataset = data.dataset("train")
    floor = Floor(dataset, loader.batch_size, also_bytes=2 * group_bytes if case.patches else 0)

    def epoch() -> int:
        return sum(len(batch) for batch in loader)

    seconds = in_turns({"loader": epoch, "floor": floor.gather}, bench.repetitions(5))
    against = ("index_select(out=)", seconds["floor"])
    payload = len(dataset) * group_bytes * (3 if case.patches else 1)
    part.rate("epoch", str(replace(case, N=N)), seconds["loader"], len(dataset), "groups/s")
    part.rate("epoch", str(replace(case, N=N)), seconds["loader"], payload / 1e9, "GB/s", against)
    part.checks[f"every group comes once: {replace(case, N=N)}"] = _covers(loader, len(dataset))


def _covers(loader: Any, size: int) -> bool:
    seen = torch.cat([batch.nn_indices for batch in loader])
    return len(seen) == size
