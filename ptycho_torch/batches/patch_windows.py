"""Ground-truth patches cut from whole objects: windows gathered, then interpolated.

The torch twin of :mod:`ptycho_torch.data.patches`, the same code on CPU and CUDA. Knows tensors
only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ptycho_torch.batches.buffers import BufferPool, block_length, uninitialised

WINDOW_BYTES = 2 * 2**20
"""Bytes of windows gathered at a time, so that interpolation finds them in the CPU's cache."""


@dataclass(frozen=True)
class ObjectStack:
    """Objects of one precision below each other in one tensor: patches of all are one gather.

    Attributes
    ----------
    pixels
        complex64 or complex128, (H, W); around every object lie zeros, wide enough for each patch.
    tops, heights
        First row and rows of every scan's object with its margin, int64, (S,).
    own
        Whether a scan's object is in this stack, bool, (S,).
    margin
        Zeros on every side of an object, in pixels.
    """

    pixels: Tensor
    tops: Tensor
    heights: Tensor
    own: Tensor
    margin: int

    def to(self, device: torch.device | str) -> ObjectStack:
        """Copy to ``device``."""
        names = ("pixels", "tops", "heights", "own")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})


def stack_objects(objects: Mapping[int, Tensor], N: int, scans: int | None = None) -> ObjectStack:
    """Stack objects for patches of N x N pixels.

    Parameters
    ----------
    objects
        By the number of their scan, complex, (H, W), all of one dtype.
    N
        Pixels along a patch's side.
    scans
        How many scans there are; None: those that have an object here.
    """
    margin = N + 1 + N // 2
    scans = len(objects) if scans is None else scans
    width = max(obj.shape[1] for obj in objects.values()) + 2 * margin
    height = sum(obj.shape[0] + 2 * margin for obj in objects.values())
    # NumPy's zeros take no memory until they are written to: most margins never do.
    pixels = torch.from_numpy(np.zeros((height, width), next(iter(objects.values())).numpy().dtype))
    tops = torch.zeros(scans, dtype=torch.int64)
    heights, own = torch.full_like(tops, height), torch.zeros(scans, dtype=torch.bool)
    top = 0
    for scan, obj in objects.items():
        rows, columns = obj.shape
        pixels[top + margin : top + margin + rows, margin : margin + columns] = obj
        tops[scan], heights[scan], own[scan] = top, rows + 2 * margin, True
        top += rows + 2 * margin
    return ObjectStack(pixels, tops, heights, own, margin)


def cut_patches(
    stacks: tuple[ObjectStack, ...],
    scan_id: Tensor,
    origins: Tensor,
    N: int,
    pool: BufferPool | None = None,
) -> Tensor:
    """Cut the patches of every group, bilinear in the objects, zero outside.

    Parameters
    ----------
    stacks
        The objects of all scans, one stack for each precision.
    scan_id
        int64, (B,): which object.
    origins
        Where pixel (N // 2, N // 2) of each patch sits in the object without its margin, (x, y),
        float32, (B, C, 2), in object pixels.
    N
        Pixels along a patch's side.
    pool
        Lends the memory of Y on the CPU.

    Returns
    -------
    Y
        complex64, (B, N, N, C), a view of contiguous (B, C, N, N).
    """
    Y = _cut(stacks[0], scan_id, origins, N, pool)
    for stack in stacks[1:]:
        own = stack.own[scan_id][:, None, None, None]
        Y = torch.where(own, _cut(stack, scan_id, origins, N, pool), Y)
    return Y.permute(0, 2, 3, 1)


def _cut(
    stack: ObjectStack, scan_id: Tensor, origins: Tensor, N: int, pool: BufferPool | None
) -> Tensor:
    """Patches from one stack, complex64, (B, C, N, N)."""
    groups, channels = origins.shape[:2]
    windows = _windows(stack.pixels, N)
    # The sample coordinate j + origin is rounded to the object's precision: see data.patches.
    origins = origins.reshape(-1, 2).to(windows.dtype)
    corners = origins.floor()
    x_weights, y_weights = _weights(origins, corners, N)
    numbers = _window_numbers(stack, scan_id, corners.long(), N)
    patches = uninitialised((len(origins), N, 2 * N), windows.device, pool)
    step = block_length(len(origins), 8 * (N + 1) ** 2, windows.device, WINDOW_BYTES)
    window_memory, line_memory = (
        windows.new_empty((step, side, 2 * (N + 1))) for side in (N + 1, N)
    )
    for start in range(0, len(origins), step):
        block = slice(start, start + step)
        out = patches[block]
        window, lines = window_memory[: len(out)], line_memory[: len(out)]
        # An indexed view would be copied element by element; this copies window by window.
        torch.index_select(windows, 0, numbers[block], out=window)
        torch.lerp(window[:, :-1], window[:, 1:], y_weights[block], out=lines)
        left, right = lines[..., :-2], lines[..., 2:]
        if lines.dtype == out.dtype:
            torch.lerp(left, right, x_weights[block], out=out)
        else:
            out.copy_(torch.lerp(left, right, x_weights[block]))
    return torch.view_as_complex(patches.view(groups, channels, N, N, 2))


def _windows(obj: Tensor, N: int) -> Tensor:
    """Every (N + 1, N + 1) window of an object as a view, real, (W, N + 1, 2 * (N + 1)).

    Real and imaginary parts alternate along the last axis, so one column is a step of two numbers
    and the inner axis is as long as vectorised arithmetic likes it. A window is numbered by its
    corner; those at the end of a row run on into the next row.
    """
    height, width = obj.shape
    rows_of_pairs = torch.view_as_real(obj).reshape(height, 2 * width)
    shape = ((height - N) * width - N, N + 1, 2 * (N + 1))
    return rows_of_pairs.as_strided(shape, (2, 2 * width, 1))


def _window_numbers(stack: ObjectStack, scan_id: Tensor, corners: Tensor, N: int) -> Tensor:
    """Which window has its corner at (x, y), int64, (L,); patches far outside use the margin."""
    height, width = stack.pixels.shape
    columns, rows = (corners + (stack.margin - N // 2)).clamp_min(0).t()
    columns = columns.clamp_max(width - N - 1)
    if len(stack.tops) == 1:
        rows = rows.clamp_max(height - N - 1)
    else:
        channels = len(corners) // max(1, len(scan_id))
        tops, last = (
            of_scan[scan_id][:, None].expand(-1, channels).flatten()
            for of_scan in (stack.tops, stack.heights - (N + 1))
        )
        rows = tops + rows.clamp_max(last)
    numbers: Tensor = rows * width + columns
    return numbers


def _weights(origins: Tensor, corners: Tensor, N: int) -> tuple[Tensor, Tensor]:
    """Weights of the right taps, (L, 1, 2 * N), and of the lower taps, (L, N, 1)."""
    pixels = torch.arange(2 * N, device=origins.device)
    columns, rows = (pixels // 2).to(origins.dtype), pixels[:N].to(origins.dtype)
    (x, y), (corner_x, corner_y) = origins.t()[:, :, None], corners.t()[:, :, None]
    x_weights = (columns + x) - (columns + corner_x)
    y_weights = (rows + y) - (rows + corner_y)
    return x_weights[:, None, :], y_weights[:, :, None]
