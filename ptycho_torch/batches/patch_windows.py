"""Ground-truth patches cut from whole objects: windows gathered, then interpolated.

The torch twin of :mod:`ptycho_torch.data.patches`, the same code on CPU and CUDA. Knows tensors
only.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ptycho_torch.batches.buffers import BufferPool, uninitialised

WINDOW_BYTES = 2 * 2**20
"""Bytes of windows gathered at a time, so that interpolation finds them in the CPU's cache."""


def padded_object(obj: Tensor, N: int) -> tuple[Tensor, int]:
    """Surround an object with zeros, wide enough for every patch of N x N pixels.

    Parameters
    ----------
    obj
        complex, (H, W).
    N
        Pixels along a patch's side.

    Returns
    -------
    padded
        (H + 2 * margin, W + 2 * margin), the dtype of ``obj``.
    margin
        Zeros on every side, in pixels.
    """
    margin = N + 1 + N // 2
    padded = obj.new_zeros((obj.shape[0] + 2 * margin, obj.shape[1] + 2 * margin))
    padded[margin:-margin, margin:-margin] = obj
    return padded, margin


def cut_patches(
    objects: tuple[Tensor, ...],
    margin: int,
    scan_id: Tensor,
    origins: Tensor,
    N: int,
    pool: BufferPool | None = None,
) -> Tensor:
    """Cut the patches of every group, bilinear in the objects, zero outside.

    Parameters
    ----------
    objects
        One padded object per scan, complex64 or complex128, (H', W').
    margin
        Zeros on every side of the objects, in pixels: see :func:`padded_object`.
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
    groups, channels = origins.shape[:2]
    if len(objects) == 1:
        patches = _cut_one(objects[0], margin, origins.reshape(-1, 2), N, pool)
        return patches.view(groups, channels, N, N).permute(0, 2, 3, 1)
    patches = origins.new_empty((groups, channels, N, N), dtype=torch.complex64)
    for index, obj in enumerate(objects):
        rows = (scan_id == index).nonzero().squeeze(1)
        if len(rows):
            cut = _cut_one(obj, margin, origins[rows].reshape(-1, 2), N)
            patches[rows] = cut.view(len(rows), channels, N, N)
    return patches.permute(0, 2, 3, 1)


def _cut_one(
    obj: Tensor, margin: int, origins: Tensor, N: int, pool: BufferPool | None = None
) -> Tensor:
    """Patches of one object, complex64, (L, N, N), at origins (L, 2)."""
    windows = _windows(obj, N)
    # The sample coordinate j + origin is rounded to the object's precision: see data.patches.
    origins = origins.to(windows.dtype)
    corners = origins.floor()
    x_weights, y_weights = _weights(origins, corners, N)
    numbers = _window_numbers(corners.long() + (margin - N // 2), obj.shape, N)
    patches = uninitialised((len(origins), N, 2 * N), obj.device, pool)
    step = max(1, len(origins))
    if obj.device.type == "cpu":
        step = max(1, WINDOW_BYTES // (8 * (N + 1) ** 2))
    window_memory, line_memory = (
        windows.new_empty((min(step, len(origins)), side, 2 * (N + 1))) for side in (N + 1, N)
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
    return torch.view_as_complex(patches.view(len(origins), N, N, 2))


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


def _window_numbers(corners: Tensor, shape: torch.Size, N: int) -> Tensor:
    """Which window has its corner at (x, y), int64, (L,); patches far outside use the margin."""
    height, width = shape
    columns = corners[:, 0].clamp(0, width - N - 1)
    rows = corners[:, 1].clamp(0, height - N - 1)
    return rows * width + columns


def _weights(origins: Tensor, corners: Tensor, N: int) -> tuple[Tensor, Tensor]:
    """Weights of the right taps, (L, 1, 2 * N), and of the lower taps, (L, N, 1)."""
    pixels = torch.arange(2 * N, device=origins.device)
    columns, rows = (pixels // 2).to(origins.dtype), pixels[:N].to(origins.dtype)
    (x, y), (corner_x, corner_y) = origins.t()[:, :, None], corners.t()[:, :, None]
    x_weights = (columns + x) - (columns + corner_x)
    y_weights = (rows + y) - (rows + corner_y)
    return x_weights[:, None, :], y_weights[:, :, None]
