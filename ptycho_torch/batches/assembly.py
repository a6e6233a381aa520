"""The hot path: frames and indices become a batch.

The same code on CPU and CUDA. No I/O, no options, no loop over samples; knows tensors alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from tensordict import TensorDict
from torch import Tensor

from ptycho_torch.batches.batch import PtychoBatch
from ptycho_torch.batches.buffers import BufferPool

BLOCK_BYTES = 4 * 2**20
"""Bytes of X gathered at a time, so that the pass that scales finds them in the cache."""

WINDOW_BYTES = 2 * 2**20
"""Bytes of object windows that patches are cut from at a time, for the same reason."""


@dataclass(frozen=True)
class FrameSelection:
    """A batch before its assembly: indices, and each frame it needs once.

    This is what a worker process hands over when batches are assembled on the device.

    Attributes
    ----------
    frames
        Stored frames, each once, (U, N, N); None where all frames are on the device already.
    inverse
        Where the frames of every group lie in ``frames`` (or among all frames), int64, (B, C).
    coords_nominal, global_offsets, local_offsets, nn_indices, scan_id, scale
        As in :class:`~ptycho_torch.batches.batch.PtychoBatch`.
    origins
        Where object patches are cut, (x, y), float32, (B, C, 2); None without them.
    patches
        Ready-made ground-truth patches, each once like ``frames``, complex64, (U, N, N), or None.
    stage
        Which of a data module's datasets the groups are of.
    """

    frames: Tensor | None
    inverse: Tensor
    coords_nominal: Tensor
    global_offsets: Tensor
    local_offsets: Tensor
    nn_indices: Tensor
    scan_id: Tensor
    scale: Tensor
    origins: Tensor | None = None
    patches: Tensor | None = None
    stage: str = ""

    def __len__(self) -> int:
        return len(self.inverse)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> FrameSelection:
        """Every tensor on ``device``."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> FrameSelection:
        """Every tensor in page-locked memory, so that copies to a GPU overlap its work."""
        return self._map(lambda tensor: tensor.pin_memory())

    def split(self, sizes: list[int]) -> list[FrameSelection]:
        """One selection after the other, of so many groups each; needs all frames in the tables."""
        if self.frames is not None or self.patches is not None:
            raise ValueError("the selection holds frames of its own; expected them in the tables")
        parts = {
            field.name: torch.split(value, sizes)
            for field in fields(self)
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        # Not dataclasses.replace, which takes as long as a third of the rest of a batch's Python.
        return [
            FrameSelection(frames=None, stage=self.stage, **dict(zip(parts, values, strict=True)))
            for values in zip(*parts.values(), strict=True)
        ]

    def _map(self, change: object) -> FrameSelection:
        assert callable(change)
        changed = {
            field.name: change(value)
            for field in fields(self)
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        return replace(self, **changed)


@dataclass(frozen=True)
class DeviceTables:
    """What all batches of a dataset share, on one device.

    Attributes
    ----------
    probes
        Probe modes of every scan, complex64, (S, P, N, N).
    objects
        Whole objects with their margin, one a scan, complex64, (H', W'); empty where no patches
        are cut from them.
    margin
        Zeros added on every side of an object, in pixels.
    counts
        Stored frames are counts: the amplitude is their square root.
    frames
        All frames of all scans, (M, N, N), where they live on the device; else None.
    """

    probes: Tensor
    objects: tuple[Tensor, ...] = ()
    margin: int = 0
    counts: bool = False
    frames: Tensor | None = None

    def to(self, device: torch.device | str) -> DeviceTables:
        """Probes and objects on ``device``; frames are left where they are."""
        return replace(
            self,
            probes=self.probes.to(device),
            objects=tuple(obj.to(device) for obj in self.objects),
        )


def assemble(
    selection: FrameSelection, tables: DeviceTables, pool: BufferPool | None = None
) -> PtychoBatch:
    """Gather, scale and lay out one batch on the device its tensors are on.

    Parameters
    ----------
    selection
        Indices and frames of B groups.
    tables
        What the dataset's batches share, on the same device.
    pool
        Where the memory of X and Y comes from, on the CPU.

    Returns
    -------
    batch
        With batch size [B].
    """
    frames = tables.frames if selection.frames is None else selection.frames
    if frames is None:
        raise ValueError("the selection holds no frames; expected them there or in the tables")
    groups, channels = selection.inverse.shape
    X = gather_scaled(frames, selection.inverse, selection.scale, counts=tables.counts, pool=pool)
    Y: Tensor | None = None
    if selection.patches is not None:
        chosen = selection.patches.index_select(0, selection.inverse.flatten())
        Y = chosen.view(groups, channels, *chosen.shape[1:]).permute(0, 2, 3, 1)
    elif selection.origins is not None:
        Y = cut_patches(
            tables.objects,
            tables.margin,
            selection.scan_id,
            selection.origins,
            frames.shape[-1],
            pool,
        )
    content = {
        "X": X,
        "coords_nominal": selection.coords_nominal,
        "global_offsets": selection.global_offsets,
        "local_offsets": selection.local_offsets,
        "nn_indices": selection.nn_indices,
        "scan_id": selection.scan_id,
        "probe": probe_of_groups(tables.probes, selection.scan_id),
        "scale": selection.scale,
    }
    if Y is not None:
        content["Y"] = Y
    # The class's own constructor checks field by field, which takes three times as long.
    return PtychoBatch.from_tensordict(TensorDict(content, batch_size=[groups]))


def probe_of_groups(probes: Tensor, scan_id: Tensor) -> Tensor:
    """The probe of every group, complex64, (B, P, N, N).

    Of one scan it is copied once and expanded: what a model writes there stays in its batch.

    Parameters
    ----------
    probes
        complex64, (S, P, N, N).
    scan_id
        int64, (B,).
    """
    if len(probes) == 1:
        return probes.clone().expand(len(scan_id), *probes.shape[1:])
    return probes[scan_id]


def gather_scaled(
    frames: Tensor,
    inverse: Tensor,
    scale: Tensor,
    *,
    counts: bool,
    pool: BufferPool | None = None,
) -> Tensor:
    """X of every group: scale * float32(amplitude).

    Parameters
    ----------
    frames
        Stored frames, (U, N, N), any real dtype.
    inverse
        int64, (B, C): rows of ``frames``.
    scale
        float32, (B,).
    counts
        Take the square root.
    pool
        Where the memory of large batches comes from, on the CPU.

    Returns
    -------
    X
        float32, (B, N, N, C), a view of contiguous (B, C, N, N).
    """
    groups, channels = inverse.shape
    shape = (groups, channels, *frames.shape[1:])
    X = _memory(shape, frames.device, pool)
    step = groups
    if frames.device.type == "cpu":
        step = max(1, BLOCK_BYTES // (4 * math.prod(shape[1:])))
    weights = scale.view(-1, 1, 1, 1)
    blocks = [(inverse, weights, X)]
    if step < groups:
        parts = (torch.split(tensor, step) for tensor in (inverse, weights, X))
        blocks = list(zip(*parts, strict=True))
    for rows, factors, out in blocks:
        _gather_block(frames, rows.flatten(), factors, counts, out)
    return X.permute(0, 2, 3, 1)


def _gather_block(frames: Tensor, rows: Tensor, weights: Tensor, counts: bool, out: Tensor) -> None:
    """Weight * float32(amplitude) of stored frames, into ``out`` (b, C, N, N)."""
    if frames.dtype == torch.float32:
        amplitude = out.view(-1, *frames.shape[1:])
        torch.index_select(frames, 0, rows, out=amplitude)
        if counts:
            _sqrt_(amplitude)
        out.mul_(weights)
        return
    gathered = frames.index_select(0, rows).view(out.shape)
    if counts or gathered.dtype == torch.float64:
        gathered = gathered.to(torch.float32)
    if counts:
        _sqrt_(gathered)
    torch.mul(gathered, weights, out=out)


def _memory(shape: tuple[int, ...], device: torch.device, pool: BufferPool | None) -> Tensor:
    """Uninitialised float32 memory, of earlier batches where there is a pool for it."""
    if pool is not None and device.type == "cpu":
        return pool.take(shape)
    return torch.empty(shape, dtype=torch.float32, device=device)


def _sqrt_(values: Tensor) -> None:
    """Correctly rounded square root in place.

    On the CPU torch takes it from a vector library that may err in the last bit; NumPy does not.
    """
    if values.device.type == "cpu":
        array = values.numpy()
        np.sqrt(array, out=array)
    else:
        values.sqrt_()


def cut_patches(
    objects: tuple[Tensor, ...],
    margin: int,
    scan_id: Tensor,
    origins: Tensor,
    N: int,
    pool: BufferPool | None = None,
) -> Tensor:
    """Ground-truth patches of every group, bilinear in the objects, zero outside.

    Parameters
    ----------
    objects
        Objects with a margin of zeros, complex64, (H', W').
    margin
        Width of the margin in pixels, at least N + 1 + N // 2.
    scan_id
        int64, (B,): which object.
    origins
        Where pixel (N // 2, N // 2) of each patch sits, (x, y), float32, (B, C, 2).
    N
        Pixels along a patch's side.
    pool
        Where the memory of Y comes from, on the CPU.

    Returns
    -------
    Y
        complex64, (B, N, N, C), a view of contiguous (B, C, N, N).
    """
    groups, channels = origins.shape[:2]
    if len(objects) == 1:
        patches = _cut_one(objects[0], margin, origins.reshape(-1, 2), N, pool)
    else:
        patches = origins.new_empty((groups, channels, N, N), dtype=torch.complex64)
        for index, obj in enumerate(objects):
            rows = (scan_id == index).nonzero().squeeze(1)
            if len(rows):
                cut = _cut_one(obj, margin, origins[rows].reshape(-1, 2), N)
                patches[rows] = cut.view(len(rows), channels, N, N)
    return patches.view(groups, channels, N, N).permute(0, 2, 3, 1)


def _cut_one(
    obj: Tensor, margin: int, origins: Tensor, N: int, pool: BufferPool | None = None
) -> Tensor:
    """Patches of one object, complex64, (L, N, N), at origins (L, 2)."""
    height, width = obj.shape
    # Rows of interleaved real and imaginary parts: a step of one column is a step of two numbers,
    # and the inner axis is as long as it can be, which is what vectorised arithmetic wants.
    rows_of_pairs = torch.view_as_real(obj).reshape(height, 2 * width)
    # Every window there is, numbered by its corner; those at the end of a row run on into the next.
    windows = rows_of_pairs.as_strided(
        ((height - N) * width - N, N + 1, 2 * (N + 1)), (2, 2 * width, 1)
    )
    # The coordinate j + origin is rounded to the object's precision: see data.patches.
    origins = origins.to(rows_of_pairs.dtype)
    first = origins.floor()
    pixels = torch.arange(2 * N, device=origins.device)
    pair_columns, rows_of_patch = (pixels // 2).to(origins.dtype), pixels[:N].to(origins.dtype)
    (x, y), (first_x, first_y) = origins.t()[:, :, None], first.t()[:, :, None]
    x_weights = ((pair_columns + x) - (pair_columns + first_x))[:, None, :]
    y_weights = ((rows_of_patch + y) - (rows_of_patch + first_y))[:, :, None]
    corner = first.long() + (margin - N // 2)
    columns = corner[:, 0].clamp(0, width - N - 1)
    rows = corner[:, 1].clamp(0, height - N - 1)
    numbers = rows * width + columns
    patches = _memory((len(origins), N, 2 * N), obj.device, pool)
    step = max(1, len(origins))
    if obj.device.type == "cpu":
        step = max(1, WINDOW_BYTES // (8 * (N + 1) ** 2))
    scratch = [
        obj.real.new_empty((min(step, len(origins)), side, 2 * (N + 1))) for side in (N + 1, N)
    ]
    for start in range(0, len(origins), step):
        block = slice(start, start + step)
        out = patches[block]
        taken, lines = (memory[: len(out)] for memory in scratch)
        # An indexed view would be copied element by element, this window by window.
        torch.index_select(windows, 0, numbers[block], out=taken)
        torch.lerp(taken[:, :-1], taken[:, 1:], y_weights[block], out=lines)
        if lines.dtype == out.dtype:
            torch.lerp(lines[..., :-2], lines[..., 2:], x_weights[block], out=out)
        else:
            out.copy_(torch.lerp(lines[..., :-2], lines[..., 2:], x_weights[block]))
    return torch.view_as_complex(patches.view(len(origins), N, N, 2))


def padded_object(obj: Tensor, N: int) -> tuple[Tensor, int]:
    """An object with a margin of zeros wide enough for every patch, and the margin's width."""
    margin = N + 1 + N // 2
    padded = obj.new_zeros((obj.shape[0] + 2 * margin, obj.shape[1] + 2 * margin))
    padded[margin:-margin, margin:-margin] = obj
    return padded, margin
