"""Ground-truth patches cut from an object."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from scipy.ndimage import map_coordinates
from torch import Tensor
from torch.nn.functional import grid_sample

from benchmarks.bench import Bench
from benchmarks.figures import Part, Target
from benchmarks.measure import in_turns
from ptycho_torch.batches.buffers import BufferPool
from ptycho_torch.batches.patch_windows import cut_patches, stack_objects
from ptycho_torch.data.patches import reference_patches

CHANNELS = 4
SCIPY_PATCHES = 16
CALLS = 8
"""Calls timed together: a single one would mostly wake threads that slept meanwhile."""


def run(bench: Bench) -> Part:
    part = Part("e", "Patches cut from a complex object, positions in, complex64 patches out")
    for N, count in bench.pick([(64, 256), (128, 64), (256, 16)], [(16, 32)]):
        _one(bench, part, N, count)
    return part


def _one(bench: Bench, part: Part, N: int, count: int) -> None:
    random = np.random.default_rng(N)
    side = 600 + N
    obj = random.random((side, side, 2)).astype(np.float32).view(np.complex64)[..., 0]
    positions = random.uniform(N // 2, side - N // 2 - 2, (count, 2)).astype(np.float32)
    x, y = np.ascontiguousarray(positions.T)
    obj_tensor = torch.from_numpy(obj)
    stack = stack_objects({0: obj_tensor}, N)
    origins = torch.from_numpy(positions).view(-1, CHANNELS, 2)
    scan_id = torch.zeros(len(origins), dtype=torch.int64)
    planes = torch.view_as_real(obj_tensor).permute(2, 0, 1)[None].contiguous()
    grid = _grid(torch.from_numpy(positions), N, side)

    pool = BufferPool()  # as a dataset has it

    def ours() -> Tensor:
        return cut_patches((stack,), scan_id, origins, N, pool)

    def sampled() -> Tensor:
        found = _sample(planes, _grid(torch.from_numpy(positions), N, side))
        return torch.complex(found[:, 0], found[:, 1])

    works: dict[str, tuple[Callable[[], object], int]] = {
        "torch, cut_patches": (ours, count),
        "NumPy, reference_patches": (lambda: reference_patches(obj, x, y, N), count),
        "torch grid_sample": (sampled, count),
        "torch grid_sample, ready grid, real planes out": (lambda: _sample(planes, grid), count),
        "scipy map_coordinates, order 1": (
            lambda: _mapped(obj, x[:SCIPY_PATCHES], y[:SCIPY_PATCHES], N),
            min(SCIPY_PATCHES, count),
        ),
    }
    repeated = {name: _repeated(work) for name, (work, _) in works.items()}
    seconds = in_turns(repeated, bench.repetitions(15))
    # Per patch: scipy gets fewer of them.
    each = {name: [value / works[name][1] / CALLS for value in seconds[name]] for name in works}
    against = ("torch grid_sample", each["torch grid_sample"])
    case = f"N = {N}, {count} patches, object {side} x {side}"
    for name, values in each.items():
        part.rate(name, case, values, 1, "patches/s", None if name == against[0] else against)
    truth = reference_patches(obj, x, y, N)
    cut = ours().permute(0, 3, 1, 2).reshape(count, N, N).numpy()
    part.checks[f"torch and NumPy patches agree to 1e-6: {case}"] = _near(cut, truth, 1e-6)
    part.checks[f"grid_sample agrees to 1e-3: {case}"] = _near(sampled().numpy(), truth, 1e-3)
    few = truth[:SCIPY_PATCHES]
    scipy_found = _mapped(obj, x[:SCIPY_PATCHES], y[:SCIPY_PATCHES], N)
    part.checks[f"map_coordinates agrees to 1e-3: {case}"] = _near(scipy_found, few, 1e-3)
    if bench.pick(64, 16) == N:
        rate, ratio = part.figures[-len(works)].value.median, part.figures[-len(works)].ratio
        assert ratio is not None
        part.targets.append(Target(f"patches, N = {N}", ">=", 1e5, rate, "patches/s"))
        part.targets.append(
            Target(f"patches, N = {N}, against grid_sample", ">=", 15, ratio.median, "times")
        )


def _repeated(work: Callable[[], object]) -> Callable[[], None]:
    def calls() -> None:
        # As in a loop, patches live until the next ones are there.
        for _ in range(CALLS):
            made = work()  # noqa: F841

    return calls


def _grid(positions: Tensor, N: int, side: int) -> Tensor:
    """Where grid_sample looks, in its own coordinates from -1 to 1: (L, N, N, 2)."""
    taps = torch.arange(N) - N // 2
    axes = (positions[:, :, None] + taps) * (2 / (side - 1)) - 1
    rows = axes[:, 1, :, None].expand(-1, N, N)
    columns = axes[:, 0, None, :].expand(-1, N, N)
    return torch.stack([columns, rows], dim=-1)


def _sample(planes: Tensor, grid: Tensor) -> Tensor:
    """Real and imaginary part of the patches, (L, 2, N, N)."""
    every = planes.expand(len(grid), *planes.shape[1:])
    return grid_sample(every, grid, mode="bilinear", align_corners=True)


def _mapped(obj: np.ndarray, x: np.ndarray, y: np.ndarray, N: int) -> np.ndarray:
    taps = np.arange(N) - N // 2
    found = np.empty((len(x), N, N), np.complex64)
    for patch, column, row in zip(found, x, y, strict=True):
        where = np.meshgrid(row + taps, column + taps, indexing="ij")
        patch.real = map_coordinates(obj.real, where, order=1)
        patch.imag = map_coordinates(obj.imag, where, order=1)
    return found


def _near(found: np.ndarray, truth: np.ndarray, tolerance: float) -> bool:
    return bool(np.abs(found - truth).max() <= tolerance)
