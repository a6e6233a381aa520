"""Far-field ptychography as plain differentiable functions on tensors.

Owns the forward model: a patch of the object is lit by the probe, the exit wave travels to the
detector, and its amplitude is what a frame holds. Also owns the adjoint that puts patches back.
Knows no batch, no model, no file: positions are in object pixels, in the order (x, y), and pixel
(N // 2, N // 2) of a patch sits on object row y, column x.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional

from ptycho_torch.data.errors import OptionError


def object_shape_for(positions_px: ArrayLike, N: int) -> tuple[int, int]:
    """Size of the smallest object that starts at (0, 0) and holds every patch of a scan.

    Parameters
    ----------
    positions_px
        (..., 2), order (x, y), object pixels.
    N
        Frame size in pixels.

    Returns
    -------
    (H, W) in pixels. The row and column after the patch are counted in: the bilinear formula reads
    them at sub-pixel positions.

    Raises
    ------
    OptionError
        There is no position, or one of them is not finite.
    """
    positions = np.asarray(positions_px, dtype=np.float64).reshape(-1, 2)
    if len(positions) == 0 or not np.isfinite(positions).all():
        found = "empty" if len(positions) == 0 else "not finite everywhere"
        raise OptionError("positions", found, "finite positions in pixels")
    last = np.floor(positions.max(axis=0)).astype(int) - N // 2 + N
    width, height = (max(N, int(corner) + 1) for corner in last)
    return height, width


def object_patches(obj: Tensor, positions_px: Tensor, N: int) -> Tensor:
    """Cut one bilinear patch of the object for every position; outside the object is 0.

    Parameters
    ----------
    obj
        Object (H, W), complex.
    positions_px
        (..., 2), order (x, y), object pixels, floating point.
    N
        Frame size in pixels.

    Returns
    -------
    Tensor
        (..., N, N), dtype of ``obj``. Differentiable with respect to object and positions.

    Examples
    --------
    >>> obj = torch.arange(16.0).reshape(4, 4).to(torch.complex64)
    >>> object_patches(obj, torch.tensor([[1.5, 2.0]]), 2)[0].real
    tensor([[4.5000, 5.5000],
            [8.5000, 9.5000]])
    """
    index, fx, fy = _windows(obj.shape, positions_px, N, obj.real.dtype)
    # One ring of zeros stands for everything outside: window indices are clamped onto it.
    ringed = functional.pad(obj, (1, 1, 1, 1)).reshape(-1)
    patches: Tensor = _CutPatches.apply(ringed, fx, fy, index)  # type: ignore[no-untyped-call]
    return patches.reshape(*positions_px.shape[:-1], N, N)


def illuminate(probe: Tensor, patches: Tensor) -> Tensor:
    """Exit waves: every mode of the probe times every patch.

    Parameters
    ----------
    probe
        (..., P, N, N), complex: P incoherent modes. Leading axes broadcast against the batch.
    patches
        (..., C, N, N), complex.

    Returns
    -------
    Tensor
        (..., C, P, N, N).
    """
    return probe.unsqueeze(-4) * patches.unsqueeze(-3)


def diffract(exit_waves: Tensor) -> Tensor:
    """Amplitude on the far-field detector, modes added as intensities, zero frequency at N // 2.

    Parameters
    ----------
    exit_waves
        (..., P, N, N), complex.

    Returns
    -------
    Tensor
        (..., N, N), real: sqrt(sum over modes of |F(exit wave)|^2), F unitary, so that the sum of
        its squares is the photon count that the probe's units carry.
    """
    waves = torch.fft.fft2(exit_waves, norm="ortho")
    # Both branches have gradient 0, not NaN, where the amplitude is 0.
    if waves.shape[-3] == 1:
        amplitude = waves.squeeze(-3).abs()
    else:
        amplitude = torch.linalg.vector_norm(waves, dim=-3)
    centred: Tensor = torch.fft.fftshift(amplitude, dim=(-2, -1))
    return centred


def stitch(
    patches: Tensor,
    positions_px: Tensor,
    shape: tuple[int, int],
    weights: Tensor | None = None,
) -> Tensor:
    """Put patches back where they were cut: the adjoint of ``object_patches`` over its weight.

    At integer positions this is the weighted mean of the patches that cover a pixel, so patches
    of an object give that object back. At sub-pixel positions each value is shared among the four
    pixels it was read from, which smooths by less than one pixel.

    Parameters
    ----------
    patches
        (..., N, N), complex or real.
    positions_px
        (..., 2), order (x, y), object pixels.
    shape
        (H, W) of the result, pixels.
    weights
        Real and >= 0, broadcastable to ``patches``, e.g. the probe's intensity; None means 1.

    Returns
    -------
    Tensor
        (H, W), dtype of ``patches``; 0 where nothing was put. Differentiable.
    """
    N = patches.shape[-1]
    real = patches.real.dtype if patches.is_complex() else patches.dtype
    index, fx, fy = _windows(shape, positions_px, N, real)
    if weights is None:
        weights = torch.ones((), dtype=real, device=patches.device)
    weights = weights.to(real).expand(patches.shape).reshape(-1, N, N)
    size = (shape[0] + 2) * (shape[1] + 2)
    total = _put_patches(weights * patches.reshape(-1, N, N), fx, fy, index, size)
    weight = _put_patches(weights, fx, fy, index, size)
    # A pixel touched only by rounding-sized weights holds no information: 0, not noise over noise.
    covered = weight > torch.finfo(real).eps * weight.max()
    mean = torch.where(covered, total, 0) / torch.where(covered, weight, 1)
    return mean.reshape(shape[0] + 2, shape[1] + 2)[1:-1, 1:-1]


def _windows(
    shape: tuple[int, ...], positions_px: Tensor, N: int, real: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Flat indices of (N + 1, N + 1) windows in the object with its ring of zeros, and fractions.

    Returns the index (n, N + 1, N + 1) int64 and the fractions of x and y, each (n, 1, 1).
    """
    positions = positions_px.reshape(-1, 2)
    corner = torch.floor(positions.detach())
    fx, fy = (positions - corner).to(real).unbind(-1)
    height, width = shape
    steps = torch.arange(N + 1, device=positions.device) - N // 2 + 1
    first = corner.to(torch.int64)
    rows = (first[:, 1, None] + steps).clamp_(0, height + 1)
    columns = (first[:, 0, None] + steps).clamp_(0, width + 1)
    index = (rows * (width + 2))[:, :, None] + columns[:, None, :]
    return index, fx[:, None, None], fy[:, None, None]


class _CutPatches(Function):
    """Gather windows and interpolate; the backward is one ``index_add``.

    Written out because autograd's own backward of the slices in the interpolation fills four
    window-sized arrays with zeros, which doubles the time of a training step on a CPU. Gathering
    by flat index keeps the backward at the size of the object: that of an indexed ``unfold`` view
    allocates the whole unfolded object.
    """

    @staticmethod
    def forward(ctx: Any, ringed: Tensor, fx: Tensor, fy: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(ringed, fx, fy, index)
        rows = _lerp(_gather(ringed, index), fy, dim=1)
        return _lerp(rows, fx, dim=2)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        ringed, fx, fy, index = ctx.saved_tensors
        grad_object = grad_x = grad_y = None
        if ctx.needs_input_grad[0]:
            grad_object = _put_patches(grad, fx, fy, index, ringed.numel())
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
    """(1 - fraction) * value + fraction * next value along ``dim``, which gets one shorter."""
    size = values.shape[dim] - 1
    first, second = values.narrow(dim, 0, size), values.narrow(dim, 1, size)
    if not values.is_complex():
        return torch.lerp(first, second, fraction)
    # torch.lerp of real numbers is several times faster than that of complex ones.
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


def _put_patches(patches: Tensor, fx: Tensor, fy: Tensor, index: Tensor, size: int) -> Tensor:
    """Adjoint of gather and interpolation: (n, N, N) patches added into a flat (size,) object."""
    windows = _spread(_spread(patches, fx, dim=2), fy, dim=1)
    flat = windows.new_zeros(size)
    return flat.index_add(0, index.reshape(-1), windows.reshape(-1))
