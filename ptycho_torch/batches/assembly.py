"""The hot path: frames and indices become a batch.

Gather, scale, lay out; the same code on CPU and CUDA. Does no I/O, takes no options and loops over
no samples; knows tensors only.
"""

from __future__ import annotations

import math
from types import MappingProxyType

import numpy as np
import torch
from tensordict import TensorDict
from torch import Tensor

from ptycho_torch.batches.bad_pixels import spread
from ptycho_torch.batches.batch import PtychoBatch
from ptycho_torch.batches.buffers import BufferPool, block_length, uninitialised
from ptycho_torch.batches.frame_bank import FrameBank
from ptycho_torch.batches.patch_windows import cut_patches
from ptycho_torch.batches.selection import FrameSelection
from ptycho_torch.batches.tables import DeviceTables

BLOCK_BYTES = 4 * 2**20
"""Bytes of X gathered at a time, so that the pass that scales finds them in the CPU's cache."""

_SIGNED = MappingProxyType(
    {torch.uint16: torch.int16, torch.uint32: torch.int32, torch.uint64: torch.int64}
)
"""Not every torch gathers unsigned integers on a GPU; as signed ones they have the same bits."""


def assemble(
    selection: FrameSelection, tables: DeviceTables, pool: BufferPool | None = None
) -> PtychoBatch:
    """Gather, scale and lay out one batch, of batch size [B], on the device its tensors are on.

    Parameters
    ----------
    selection
        Indices and frames of B groups.
    tables
        What all batches of the dataset share, on the same device.
    pool
        Lends the memory of X and Y on the CPU.
    """
    frames = tables.frames if selection.frames is None else selection.frames
    if frames is None:
        raise ValueError("the selection holds no frames; expected them there or in the tables")
    bad = selection.bad_pixels
    if bad is None and tables.bad_pixels is not None:
        bad = spread(tables.bad_pixels, selection.scan_id)
    X = gather_scaled(
        frames, selection.inverse, selection.scale, counts=tables.counts, pool=pool, bad_pixels=bad
    )
    content = {
        "X": X,
        "coords_nominal": selection.coords_nominal,
        "global_offsets": selection.global_offsets,
        "local_offsets": selection.local_offsets,
        "nn_indices": selection.nn_indices,
        "scan_id": selection.scan_id,
        "probe": probe_of_groups(tables.probes, selection.scan_id, pool),
        "scale": selection.scale,
    }
    if bad is not None:
        content["bad_pixels"] = bad
    if selection.frame_photons is not None:
        content["frame_photons"] = selection.frame_photons
    if selection.patches is not None and selection.patch_rows is not None:
        content["Y"] = gather_patches(selection.patches, selection.patch_rows)
    elif selection.origins is not None:
        N = frames.shape[-1]
        content["Y"] = cut_patches(tables.objects, selection.scan_id, selection.origins, N, pool)
    # The class's own constructor checks field by field, which takes three times as long.
    return PtychoBatch.from_tensordict(TensorDict(content, batch_size=[len(selection)]))


def probe_of_groups(probes: Tensor, scan_id: Tensor, pool: BufferPool | None = None) -> Tensor:
    """The probe of every group, complex64, (B, P, N, N).

    With one scan, the probe is copied once per batch and broadcast, so a model that writes to it
    changes only its own batch.

    Parameters
    ----------
    probes
        complex64, (S, P, N, N).
    scan_id
        int64, (B,).
    pool
        Lends the memory of the probes of several scans on the CPU.
    """
    if len(probes) == 1:
        return probes.clone().expand(len(scan_id), *probes.shape[1:])
    shape = (len(scan_id), *probes.shape[1:], 2)
    out = torch.view_as_complex(uninitialised(shape, probes.device, pool))
    return torch.index_select(probes, 0, scan_id, out=out)


def gather_patches(patches: Tensor, rows: Tensor) -> Tensor:
    """Y of every group from ready-made patches, (B, N, N, C), in their dtype.

    Parameters
    ----------
    patches
        complex64, (U, N, N).
    rows
        int64, (B, C): rows of ``patches``.
    """
    chosen = patches.index_select(0, rows.flatten())
    return chosen.view(*rows.shape, *patches.shape[1:]).permute(0, 2, 3, 1)


def gather_scaled(
    frames: Tensor | FrameBank,
    inverse: Tensor,
    scale: Tensor,
    *,
    counts: bool,
    pool: BufferPool | None = None,
    bad_pixels: Tensor | None = None,
) -> Tensor:
    """X of every group: scale * float32(amplitude).

    Parameters
    ----------
    frames
        Stored frames, (U, N, N), any real dtype; a bank where they lie apart.
    inverse
        int64, (B, C): rows of ``frames``.
    scale
        float32, (B,).
    counts
        The frames are counts: take their square root.
    pool
        Lends the memory of X on the CPU.
    bad_pixels
        bool, (B, N, N): where X is 0 whatever the frames hold.

    Returns
    -------
    X
        float32, (B, N, N, C), a view of contiguous (B, C, N, N).
    """
    groups, channels = inverse.shape
    X = uninitialised((groups, channels, *frames.shape[1:]), frames.device, pool)
    weights = scale.view(-1, 1, 1, 1)
    step = block_length(groups, 4 * math.prod(X.shape[1:]), frames.device, BLOCK_BYTES)
    bad = torch.empty(groups, 0) if bad_pixels is None else bad_pixels
    blocks = [(inverse, weights, X, bad)]
    if step < groups:
        parts = (torch.split(tensor, step) for tensor in (inverse, weights, X, bad))
        blocks = list(zip(*parts, strict=True))
    for rows, factors, out, mask in blocks:
        masked = None if bad_pixels is None else mask.unsqueeze(1)
        _gather_block(frames, rows.flatten(), factors, counts, out, masked)
    return X.permute(0, 2, 3, 1)


def _gather_block(
    frames: Tensor | FrameBank,
    rows: Tensor,
    weights: Tensor,
    counts: bool,
    out: Tensor,
    bad: Tensor | None,
) -> None:
    """Weight * float32(amplitude) of stored frames, into ``out`` (b, C, N, N)."""
    direct = frames.dtype == torch.float32
    gathered = out if direct else torch.empty(out.shape, dtype=frames.dtype, device=out.device)
    stored = gathered.view(-1, *frames.shape[1:])
    if isinstance(frames, Tensor):
        bits = _SIGNED.get(frames.dtype, frames.dtype)
        torch.index_select(frames.view(bits), 0, rows, out=stored.view(bits))
    else:
        frames.gather(rows, stored)
    if counts or bad is not None or gathered.dtype == torch.float64:
        gathered = gathered.to(torch.float32)
    if bad is not None:
        gathered.masked_fill_(bad, 0)
    if counts:
        _sqrt_(gathered)
    torch.mul(gathered, weights, out=out)


def _sqrt_(values: Tensor) -> None:
    """Correctly rounded square root in place.

    Torch's vector library on the CPU may err in the last bit; NumPy does not.
    """
    if values.device.type == "cpu":
        array = values.numpy()
        np.sqrt(array, out=array)
    else:
        values.sqrt_()
