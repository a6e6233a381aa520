"""What the device allows, and what is left of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from benchmarks.bench import Bench
from benchmarks.data import data_module
from benchmarks.figures import Part, Target
from benchmarks.measure import Spread, in_turns, quotient, seconds_of
from benchmarks.parts.training import Nothing
from benchmarks.trainer import fit, quiet
from ptycho_torch import ObjectFit
from ptycho_torch.batches.assembly import gather_scaled
from ptycho_torch.batches.patch_windows import cut_patches, stack_objects

COPY = "device-to-device copy"
STAR = "data/aps_velociprobe_siemens.npz"
WORTH_HIDING_S = 0.005
"""Building a batch can be hidden behind a step that lasts as long."""

_ON_GPU = MappingProxyType({"accelerator": "gpu"})


def run(bench: Bench) -> Part:
    part = Part("gpu", "On the GPU")
    if not torch.cuda.is_available():
        print("gpu: not measured: no CUDA device")
        return part
    device = torch.device("cuda")
    for batch_size in bench.pick((64, 1024, 4096), (64,)):
        _assembly(bench, part, device, batch_size, is_target=batch_size == bench.pick(1024, 64))
    _patches(bench, part, device)
    for batch_size in bench.pick((64, 1024), (16,)):
        _step(bench, part, batch_size)
        _sent(bench, part, device, batch_size)
    _star(bench, part)
    return part


def _finished(work: Callable[[], object]) -> Callable[[], object]:
    def until_done() -> object:
        result = work()
        torch.cuda.synchronize()
        return result

    return until_done


def _assembly(
    bench: Bench, part: Part, device: torch.device, batch_size: int, *, is_target: bool
) -> None:
    M, N = bench.pick((10_000, 64), (200, 16))
    data = data_module(bench.scan(M, N), batch_size=batch_size)
    dataset = data.dataset("train")
    frames = dataset.bank.copy_to(device)
    generator = torch.Generator().manual_seed(0)
    nn = torch.from_numpy(dataset.index.nn_indices).long()
    count = bench.pick(100, 3)
    # Other groups and another place every time: what stays in the device's cache proves nothing.
    drawn = torch.randint(len(nn), (count, batch_size), generator=generator)
    chosen = [nn[groups].to(device) for groups in drawn]
    every = [groups.flatten() for groups in chosen]
    rows = every[0]
    scale = torch.full((batch_size,), 0.5, device=device)
    out = torch.empty((len(rows), N, N), device=device)
    places = (
        torch.randint(len(frames) - len(rows) + 1, (count,), generator=generator).tolist()
        if (len(frames) > len(rows))
        else [0] * count
    )
    source = frames if len(frames) >= len(rows) else torch.empty_like(out)

    def copies() -> None:
        for place in places:
            out.copy_(source[place : place + len(rows)])

    def gathers() -> None:
        for numbers in every:
            torch.index_select(frames, 0, numbers, out=out)

    def assembled() -> None:
        for groups in chosen:
            gather_scaled(frames, groups, scale, counts=False)

    works = {COPY: copies, "index_select(out=)": gathers, "X assembly": assembled}
    seconds = in_turns(
        {name: _finished(work) for name, work in works.items()}, bench.repetitions(11), warm_ups=3
    )
    # Read and written, as a device's bandwidth is counted.
    moved = 2 * count * rows.numel() * N * N * 4 / 1e9
    case = f"N = {N}, C = 4, B = {batch_size}"
    for name, values in seconds.items():
        part.rate(
            name, case, values, moved, "GB/s", None if name == COPY else (COPY, seconds[COPY])
        )
    if is_target:
        share = quotient(seconds[COPY], seconds["X assembly"]).median
        part.targets.append(
            Target(f"device-resident assembly, {case}, of {COPY}", ">=", 0.8, share)
        )


def _patches(bench: Bench, part: Part, device: torch.device) -> None:
    N, count = bench.pick((64, 4096), (16, 32))
    generator = torch.Generator().manual_seed(0)
    obj = torch.rand((600 + N, 600 + N, 2), generator=generator)
    stack = stack_objects({0: torch.view_as_complex(obj)}, N).to(device)
    origins = (torch.rand((count // 4, 4, 2), generator=generator) * 598 + N // 2).to(device)
    scan_id = torch.zeros(len(origins), dtype=torch.int64, device=device)

    def cut() -> Tensor:
        return cut_patches((stack,), scan_id, origins, N)

    seconds = in_turns({"patches": _finished(cut)}, bench.repetitions(11), warm_ups=3)
    part.rate("patches", f"N = {N}, {count} at a time", seconds["patches"], count, "patches/s")


class _Resident:
    """The same batch, again and again."""

    def __init__(self, batch: Any, count: int) -> None:
        self.batch, self.count = batch, count

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Any]:
        return iter([self.batch] * self.count)


class _Stays(ObjectFit):
    """Takes a batch that is on the device as it is; Lightning makes a new one of it."""

    def transfer_batch_to_device(
        self, batch: Any, device: torch.device, dataloader_idx: int
    ) -> Any:
        return batch


def _step(bench: Bench, part: Part, batch_size: int) -> None:
    M, N = bench.pick((10_000, 64), (200, 16))
    data = data_module(bench.scan(M, N), batch_size=batch_size)
    dataset = data.dataset("train")
    batch = dataset.__getitems__(list(range(batch_size))).to("cuda")
    names = ("one resident batch", "frames on the device", "frames sent")
    steps: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(bench.repetitions(5)):
        for name in names:
            model = _Stays()
            source: Any = _Resident(batch, len(dataset) // batch_size)
            if name == names[0]:
                model.initialize(data.object_shape, data.initial_probe)
            else:
                model = ObjectFit()
                residency = "device" if name == names[1] else "host"
                source = data_module(bench.scan(M, N), batch_size=batch_size, residency=residency)
            steps[name].append(fit(model, source, **_ON_GPU).step)
    case = f"ObjectFit, N = {N}, C = 4, B = {batch_size}"
    for name in names:
        against = None if name == names[0] else (names[0], steps[names[0]])
        part.duration(f"step, {name}", case, steps[name], against, unit="ms")
    if bench.quick or Spread.of(steps[names[0]]).median >= WORTH_HIDING_S:
        slower = quotient(steps[names[1]], steps[names[0]]).median
        part.targets.append(
            Target(f"step, frames on the device, {case}, of {names[0]}", "<=", 1.02, slower)
        )


def _sent(bench: Bench, part: Part, device: torch.device, batch_size: int) -> None:
    """What a scan larger than the device's memory has: every batch brings its frames along."""
    M, N = bench.pick((10_000, 64), (200, 16))
    data = data_module(bench.scan(M, N), batch_size=batch_size, residency="host")
    dataset = data.dataset("train")
    # Groups of a shuffled epoch, whose frames overlap as little as those of the loader.
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(0))
    frames = dataset.select(order[:batch_size].numpy(), pin=True).frames
    assert frames is not None
    there = torch.empty(frames.shape, dtype=frames.dtype, device=device)
    copy = _finished(lambda: there.copy_(frames, non_blocking=True))
    copy()
    copies, steps = [], []
    for _ in range(bench.repetitions(5)):
        copies.append(seconds_of(copy))
        steps.append(fit(Nothing(), data, **_ON_GPU).step)
    case = f"N = {N}, C = 4, B = {batch_size}"
    sent = frames.nbytes / 1e9
    name = "page-locked copy of a batch's frames"
    part.rate(name, case, copies, sent, "GB/s")
    part.rate("frames sent, in an empty-model Trainer", case, steps, sent, "GB/s", (name, copies))


def _star(bench: Bench, part: Part) -> None:
    """From the file to the end of the fit, as ``make real`` does it."""
    path = Path(os.environ.get("PTYCHO_TORCH_DATA", "nowhere")) / STAR
    if not path.is_file():
        print(f"gpu: the star is not measured: PTYCHO_TORCH_DATA has no {STAR}")
        return

    def reconstruct() -> None:
        data = data_module(path, batch_size=16, cache="off")
        model = ObjectFit(learning_rate=0.15, schedule="cosine")
        trainer = quiet(model, data, max_epochs=bench.pick(8, 1), **_ON_GPU)
        errors.append(float(trainer.callback_metrics["train_fourier_error"]))

    errors: list[float] = []
    seconds = [seconds_of(_finished(reconstruct)) for _ in range(bench.repetitions(3))]
    part.duration("ObjectFit of the star, opening and grouping included", "8 epochs", seconds)
    part.plain("relative Fourier error of the star", "8 epochs", errors, "")
    what = "ObjectFit of the star, end to end, without the first"
    part.targets.append(Target(what, "<=", 5.0, Spread.of(seconds[1:]).median, "s"))
