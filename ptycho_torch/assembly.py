"""The hot path: frames and indices become a batch.

The same code on CPU and CUDA. No I/O, no options, no loop over samples; knows tensors alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from ptycho_torch.batch import PtychoBatch
from ptycho_torch.buffers import BufferPool

BLOCK_BYTES = 2 * 2**20
"""Bytes of X gathered and scaled at a time, so that the second pass finds them in the cache."""

ONE_PASS_BYTES = 24 * 2**20
"""Batches of X up to this size are gathered and scaled in one pass, into fresh memory."""

PATCHES_PER_BLOCK = 64
"""Patches cut at a time: their windows stay in the processor's cache at N = 64."""


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
        As in :class:`~ptycho_torch.batch.PtychoBatch`.
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
    return PtychoBatch(
        X=X,
        coords_nominal=selection.coords_nominal,
        global_offsets=selection.global_offsets,
        local_offsets=selection.local_offsets,
        nn_indices=selection.nn_indices,
        scan_id=selection.scan_id,
        probe=probe_of_groups(tables.probes, selection.scan_id),
        scale=selection.scale,
        Y=Y,
        batch_size=[groups],
    )


def probe_of_groups(probes: Tensor, scan_id: Tensor) -> Tensor:
    """The probe of every group, complex64, (B, P, N, N): a view where there is one scan.

    Parameters
    ----------
    probes
        complex64, (S, P, N, N).
    scan_id
        int64, (B,).
    """
    if len(probes) == 1:
        return probes.expand(len(scan_id), *probes.shape[1:])
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
    rows = inverse.flatten()
    weights = scale[:, None].expand(-1, channels).reshape(-1)
    on_cpu = frames.device.type == "cpu"
    shape = (len(rows), *frames.shape[1:])
    nbytes = 4 * math.prod(shape)
    if on_cpu and nbytes > ONE_PASS_BYTES:
        X = torch.empty(shape) if pool is None else pool.take(shape)
        step = max(1, BLOCK_BYTES * len(rows) // nbytes)
        for start in range(0, len(rows), step):
            block = slice(start, start + step)
            _scale(frames.index_select(0, rows[block]), weights[block], counts, out=X[block])
    elif on_cpu and frames.dtype == torch.float32 and not counts:
        # A bag of one weighted row: gather and scale in one pass, the same product bit for bit.
        X = embedding_bag(
            rows.view(-1, 1),
            frames.view(len(frames), -1),
            per_sample_weights=weights.view(-1, 1),
            mode="sum",
        )
    else:
        X = _scale(frames.index_select(0, rows), weights, counts)
    return X.view(groups, channels, *frames.shape[1:]).permute(0, 2, 3, 1)


def _scale(gathered: Tensor, weights: Tensor, counts: bool, out: Tensor | None = None) -> Tensor:
    """Weight * float32(amplitude) of stored frames (L, N, N)."""
    if counts or gathered.dtype == torch.float64:
        gathered = gathered.to(torch.float32)
    if counts:
        _sqrt_(gathered)
    return torch.mul(gathered, weights.view(-1, 1, 1), out=out)


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
    rows_of_pairs = torch.view_as_real(obj).view(height, 2 * width)
    windows = rows_of_pairs.unfold(0, N + 1, 1).unfold(1, 2 * (N + 1), 2)
    # The coordinate j + origin is rounded to the object's precision: see data.patches.
    origins = origins.to(rows_of_pairs.dtype)
    first = origins.floor()
    pixels = torch.arange(N, dtype=origins.dtype, device=origins.device)
    weights = (pixels + origins[:, :, None]) - (pixels + first[:, :, None])
    x_weights = weights[:, 0].repeat_interleave(2, dim=1)[:, None, :]
    y_weights = weights[:, 1, :, None]
    corner = first.long() + (margin - N // 2)
    columns = corner[:, 0].clamp(0, windows.shape[1] - 1)
    rows = corner[:, 1].clamp(0, windows.shape[0] - 1)
    shape = (len(origins), N, 2 * N)
    if pool is not None and obj.device.type == "cpu":
        out = pool.take(shape)
    else:
        out = torch.empty(shape, dtype=torch.float32, device=obj.device)
    step = PATCHES_PER_BLOCK if obj.device.type == "cpu" else max(1, len(origins))
    for start in range(0, len(origins), step):
        block = slice(start, start + step)
        taken = windows[rows[block], columns[block]]
        lines = torch.lerp(taken[:, :-1], taken[:, 1:], y_weights[block])
        if lines.dtype == out.dtype:
            torch.lerp(lines[..., :-2], lines[..., 2:], x_weights[block], out=out[block])
        else:
            out[block] = torch.lerp(lines[..., :-2], lines[..., 2:], x_weights[block])
    return torch.view_as_complex(out.view(len(origins), N, N, 2))


def padded_object(obj: Tensor, N: int) -> tuple[Tensor, int]:
    """An object with a margin of zeros wide enough for every patch, and the margin's width."""
    margin = N + 1 + N // 2
    padded = obj.new_zeros((obj.shape[0] + 2 * margin, obj.shape[1] + 2 * margin))
    padded[margin:-margin, margin:-margin] = obj
    return padded, margin
