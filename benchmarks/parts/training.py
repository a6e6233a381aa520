"""Waiting for data: in a Trainer, and beside a step that lasts a given time."""

from __future__ import annotations

import hashlib
import statistics
import warnings
from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from benchmarks.bench import Bench
from benchmarks.data import data_module
from benchmarks.figures import Part, Target
from benchmarks.floors import Floor
from benchmarks.measure import Spread, seconds_of
from benchmarks.scans import drop_pages
from benchmarks.trainer import StepTimes, fit
from ptycho_torch import ObjectFit, PtychoDataModule

STEP_S = 0.02
WORKERS = (0, 1, 2)


class Nothing(LightningModule):
    """A model that does nothing, so that only the Trainer and the data take time."""

    def training_step(self, batch: Any, batch_idx: int) -> None:
        return None

    def configure_optimizers(self) -> None:
        return None


def run(bench: Bench) -> Part:
    part = Part("i", "Waiting for data in training")
    _trainers(bench, part)
    sizes = bench.pick([(10_000, 64, 64), (640, 256, 64)], [(200, 16, 16)])
    for size in sizes:
        _warm(bench, part, *size)
    for size in sizes:
        _cold(bench, part, *size)
    _start_methods(bench, part)
    return part


def _trainers(bench: Bench, part: Part) -> None:
    M, N, batch_size = bench.pick((10_000, 64, 64), (100, 16, 16))
    models: dict[str, tuple[Callable[[], LightningModule], int]] = {
        "empty model": (Nothing, M),
        "ObjectFit": (ObjectFit, bench.pick(2_000, 100)),
    }
    for name, (make, groups) in models.items():
        case = f"{name}, N = {N}, C = 4, B = {batch_size}, 0 workers"
        times: list[StepTimes] = []
        floor: list[float] = []
        for _ in range(bench.repetitions(5)):
            data = data_module(bench.scan(M, N), batch_size=batch_size, n_groups=groups)
            bare = Floor(data.dataset("train"), batch_size)
            bare.gather()
            floor.append(seconds_of(bare.gather) / len(bare.batches))
            times.append(fit(make(), data))
        part.plain(f"share of the step spent waiting: {case}", "", [t.share for t in times], "")
        against = ("a bare gather of the batch", floor)
        part.duration(f"wait for a batch: {case}", "", [t.wait for t in times], against, unit="ms")
        part.duration(f"step: {case}", "", [t.step for t in times], unit="ms")
        if name == "empty model":
            waited = Spread.of([t.wait / f for t, f in zip(times, floor, strict=True)]).median
            what = "empty-model Trainer: wait for a batch, in bare gathers of it"
            part.targets.append(Target(what, "<=", 2.0, waited, "times"))


def _warm(bench: Bench, part: Part, M: int, N: int, batch_size: int) -> None:
    case = f"N = {N}, B = {batch_size}, step {STEP_S * 1e3:.0f} ms"
    waits: dict[int, list[float]] = {workers: [] for workers in WORKERS}
    first: dict[int, list[float]] = {workers: [] for workers in WORKERS}
    for _ in range(bench.repetitions(3)):
        for workers in WORKERS:
            found = _waits(bench, M, N, batch_size, workers, bench.pick(40, 6))
            waits[workers] += found["waits"]
            first[workers] += found["first"]
    for workers in WORKERS:
        name = f"wait for a batch, {workers} workers, warm pages"
        figure = part.duration(name, case, waits[workers], unit="ms")
        part.plain(f"{name}: mean", case, 1e3 * statistics.fmean(waits[workers]), "ms")
        part.duration(
            f"first batch of an epoch, {workers} workers", case, first[workers], unit="ms"
        )
        what = f"wait for a batch, {case}, {workers} workers, warm pages"
        part.targets.append(Target(what, "<=", 1.0, figure.value.median, "ms"))


def _cold(bench: Bench, part: Part, M: int, N: int, batch_size: int) -> None:
    case = f"N = {N}, B = {batch_size}, step {STEP_S * 1e3:.0f} ms"
    first: dict[int, list[float]] = {0: [], 2: []}
    means: dict[int, list[float]] = {0: [], 2: []}
    # No more batches than one epoch has: a second one would find warm pages.
    batches = bench.pick(min(40, M // batch_size - 1), 6)
    for _ in range(bench.repetitions(5)):
        for workers in means:
            drop_pages(bench.scan(M, N).parent)
            found = _waits(bench, M, N, batch_size, workers, batches)
            first[workers] += found["first"]
            means[workers].append(statistics.fmean(found["waits"]))
    for workers in means:
        name = f"wait for a batch, {workers} workers, cold pages: mean of a run, the first apart"
        against = ("0 workers", means[0]) if workers else None
        part.duration(name, case, means[workers], against, unit="ms")
        name = f"first batch of an epoch, {workers} workers, cold pages"
        against = ("0 workers", first[0]) if workers else None
        part.duration(name, case, first[workers], against, unit="ms")
    share = Spread.of(means[2]).median / Spread.of(means[0]).median
    what = f"cold pages: wait with 2 workers, of that with 0, {case}"
    part.targets.append(Target(what, "<=", 0.5, share))


def _waits(
    bench: Bench, M: int, N: int, batch_size: int, workers: int, batches: int
) -> dict[str, list[float]]:
    return bench.child.call(
        "waits",
        scan=str(bench.scan(M, N)),
        batch_size=batch_size,
        num_workers=workers,
        step_seconds=bench.pick(STEP_S, 0.001),
        batches=batches,
    )


def _start_methods(bench: Bench, part: Part) -> None:
    """Every start method, every place of assembly: the same batches in the same order."""
    scan = bench.scan(*bench.pick((1_000, 32), (100, 16)))
    expected = _digest(data_module(scan, batch_size=32))
    for method in bench.pick(("fork", "forkserver", "spawn"), ("fork",)):
        for assemble_on in ("auto", "worker"):
            with warnings.catch_warnings():
                # Lightning warns of more workers than cores; their order is all that counts here.
                warnings.simplefilter("ignore")
                data = data_module(
                    scan,
                    batch_size=32,
                    num_workers=2,
                    multiprocessing_context=method,
                    assemble_on=assemble_on,
                )
                found = _digest(data)
            part.checks[f"same batches: {method}, assembled on {assemble_on}"] = found == expected
    part.targets.append(
        Target(
            "start methods whose batches equal those of 0 workers",
            ">=",
            1.0,
            statistics.fmean(
                [
                    float(same)
                    for name, same in part.checks.items()
                    if name.startswith("same batches")
                ]
            ),
            "of all",
        )
    )


def _digest(data: PtychoDataModule) -> str:
    digest = hashlib.sha256()
    for batch in data.train_dataloader():
        for tensor in (batch.channels_first(), batch.nn_indices, batch.local_offsets):
            digest.update(_bytes(tensor))
    return digest.hexdigest()


def _bytes(tensor: Tensor) -> bytes:
    return tensor.contiguous().view(torch.uint8).numpy().tobytes()
