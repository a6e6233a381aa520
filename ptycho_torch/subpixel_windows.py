"""Cutting patches at sub-pixel positions out of an object, and adding them back.

Owns the bilinear windows, their gradient and their adjoint. The object comes with one ring of zeros
around it, which stands for everything outside. Knows no probe and no detector.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional


def windows_at(
    shape: tuple[int, ...],
    positions_px: Tensor,
    N: int,
    real: torch.dtype,
    *,
    stacked: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Where the pixels of every patch, and one row and column more, lie in the ringed object.

    Parameters
    ----------
    shape
        (H, W) of the object, without its ring of zeros.
    positions_px
        (..., 2), order (x, y), object pixels.
    N
        Side of a patch, pixels.
    real
        dtype of the fractions.
    stacked
        True: the first axis of the positions counts objects of one shape, which lie one after
        another in memory, each with its ring.

    Returns
    -------
    index, fx, fy
        Flat indices (n, N + 1, N + 1) int64, clamped onto the ring; fractions of x and y, each
        (n, 1, 1).
    """
    positions = positions_px.reshape(-1, 2)
    corner = torch.floor(positions.detach())
    fx, fy = (positions - corner).to(real).unbind(-1)
    height, width = shape
    steps = torch.arange(N + 1, device=positions.device) - N // 2 + 1
    first = corner.to(torch.int64)
    rows = (first[:, 1, None] + steps).clamp_(0, height + 1)
    columns = (first[:, 0, None] + steps).clamp_(0, width + 1)
    if stacked:
        patches_each = positions_px.shape[1:-1].numel()
        objects = torch.arange(positions_px.shape[0], device=positions.device)
        rows = rows + (objects * (height + 2)).repeat_interleave(patches_each)[:, None]
    index = (rows * (width + 2))[:, :, None] + columns[:, None, :]
    return index, fx[:, None, None], fy[:, None, None]


class CutPatches(Function):
    """Gather windows and interpolate; the backward is one ``index_add``.

    Autograd's own backward of the slices in the interpolation fills four window-sized arrays with
    zeros, which doubles the time of a training step on a CPU. Gathering by flat index keeps the
    backward at the size of the object: that of an indexed ``unfold`` view allocates the whole
    unfolded object.
    """

    @staticmethod
    def forward(ctx: Any, ringed: Tensor, fx: Tensor, fy: Tensor, index: Tensor) -> Tensor:
        """Patches (n, N, N) of the flat ringed object; index and fractions as ``windows_at``."""
        ctx.save_for_backward(ringed, fx, fy, index)
        rows = _lerp(_gather(ringed, index), fy, dim=1)
        return _lerp(rows, fx, dim=2)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients with respect to the object and both fractions."""
        ringed, fx, fy, index = ctx.saved_tensors
        grad_object = grad_x = grad_y = None
        if ctx.needs_input_grad[0]:
            grad_object = put_patches(grad, fx, fy, index, ringed.numel())
        if ctx.needs_input_grad[1] or ctx.needs_input_grad[2]:
            windows = _gather(ringed, index)
            slope_x = _lerp(windows.diff(dim=2), fy, dim=1)
            slope_y = _lerp(windows.diff(dim=1), fx, dim=2)
            grad_x = (grad.conj() * slope_x).sum(dim=(1, 2), keepdim=True).real
            grad_y = (grad.conj() * slope_y).sum(dim=(1, 2), keepdim=True).real
        return grad_object, grad_x, grad_y, None


def _gather(flat: Tensor, index: Tensor) -> Tensor:
    # index_select is the fastest gather of complex rows of one on CPU, and index_add its inverse.
    return flat.index_select(0, index.reshape(-1)).reshape(index.shape)


def _lerp(values: Tensor, fraction: Tensor, dim: int) -> Tensor:
    """(1 - fraction) * value + fraction * next value along ``dim``, which loses one place."""
    size = values.shape[dim] - 1
    first, second = values.narrow(dim, 0, size), values.narrow(dim, 1, size)
    if not values.is_complex():
        return torch.lerp(first, second, fraction)
    # torch.lerp is several times faster on real numbers than on complex ones.
    real_view = torch.lerp(
        torch.view_as_real(first), torch.view_as_real(second), fraction.unsqueeze(-1)
    )
    return torch.view_as_complex(real_view)


def _spread(values: Tensor, fraction: Tensor, dim: int) -> Tensor:
    """Adjoint of ``_lerp``: share each value between its pixel and the next along ``dim``."""
    second = values * fraction
    padding = [0, 0] * (values.ndim - 1 - dim) + [0, 1]
    shared = functional.pad(values - second, padding)
    shared.narrow(dim, 1, values.shape[dim]).add_(second)
    return shared


def put_patches(patches: Tensor, fx: Tensor, fy: Tensor, index: Tensor, size: int) -> Tensor:
    """The adjoint of ``CutPatches``: patches added into a flat object of zeros.

    Parameters
    ----------
    patches
        (n, N, N), real or complex.
    fx, fy, index
        As ``windows_at`` gives them.
    size
        Pixels of the object with its ring.

    Returns
    -------
    Tensor
        (size,), dtype of ``patches``.
    """
    return add_patches(patches.new_zeros(size), patches, fx, fy, index)


def add_patches(flat: Tensor, patches: Tensor, fx: Tensor, fy: Tensor, index: Tensor) -> Tensor:
    """Add patches, as ``put_patches`` does, into a flat object (size,) that is there already."""
    windows = _spread(_spread(patches, fx, dim=2), fy, dim=1)
    return flat.index_add_(0, index.reshape(-1), windows.reshape(-1))
