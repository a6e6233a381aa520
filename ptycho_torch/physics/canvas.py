"""A canvas for each group: its patches laid where they belong, and cut out again.

Owns the weighted mean of overlapping patches, and the two orders of axes in which networks hand
patches over. Knows no probe: a weight is a number per pixel.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from ptycho_torch.data.errors import OptionError, OptionTypeError
from ptycho_torch.subpixel_windows import CutPatches, put_patches, windows_at

Layout = Literal["NCHW", "NHWC"]


def group_canvas(
    patches: Tensor,
    offsets: Tensor,
    *,
    weights: Tensor | None = None,
    size: int | tuple[int, int] | None = None,
    layout: Layout = "NCHW",
) -> Tensor:
    """One canvas for each group: the weighted mean of its patches, laid at sub-pixel offsets.

    At whole offsets ``cut`` gives patches that agree where they overlap back. At sub-pixel
    offsets each value is shared among four pixels, which smooths by less than one pixel.

    Parameters
    ----------
    patches
        (B, C, N, N), or (B, N, N, C) with ``layout="NHWC"``; complex64, complex128, float32 or
        float64. Under autocast cast what a network returns with ``.float()``: there is no
        complex number of 16 bits here.
    offsets
        (B, C, 2), order (x, y), object pixels, floating point: where pixel (N // 2, N // 2) of a
        patch lies, seen from pixel (H // 2, W // 2) of the canvas. Of a batch:
        ``-batch.local_offsets[:, 0].mT``.
    weights
        Real and >= 0, (N, N) or four axes that broadcast to ``patches`` in its layout, e.g. the
        probe's intensity (B, 1, N, N); None means 1.
    size
        Side of the canvas, or (H, W), pixels; what lies outside is lost. None: the smallest
        square that holds every patch of the batch. It follows from the numbers in ``offsets``, so
        a GPU has to be waited for and ``torch.compile`` breaks its graph: give a size there.
    layout
        Order of the axes of ``patches``.

    Returns
    -------
    Tensor
        (B, H, W), dtype of ``patches``; 0 where no patch lies. Differentiable with respect to
        patches, weights and offsets.

    Raises
    ------
    OptionError
        The axes do not fit the layout, the offsets or each other; no size is given and an offset
        is not finite.
    OptionTypeError
        The patches are of 16 bits or no floating-point numbers, or the weights are complex.
    """
    patches = _channels_first(patches, offsets, layout)
    N = patches.shape[-1]
    height, width = _size(offsets, N, size)
    if weights is not None and weights.ndim == 4 and layout == "NHWC":
        weights = weights.movedim(-1, 1)
    weights = full_weights(weights, patches)
    positions = _on_canvas(offsets, height, width)
    return weighted_mean(patches, positions, weights, (height, width))


def cut(canvas: Tensor, offsets: Tensor, N: int, *, layout: Layout = "NCHW") -> Tensor:
    """Bilinear patches of each group's own canvas: the inverse of ``group_canvas``.

    Parameters
    ----------
    canvas
        (B, H, W), complex or real.
    offsets
        (B, C, 2), as ``group_canvas`` takes them.
    N
        Side of a patch, pixels.
    layout
        Order of the axes of the result.

    Returns
    -------
    Tensor
        (B, C, N, N), or (B, N, N, C) with ``layout="NHWC"``, dtype of ``canvas``; what lies
        outside the canvas is 0. Differentiable with respect to canvas and offsets.

    Raises
    ------
    OptionError
        ``canvas`` and ``offsets`` do not have as many groups, or other axes than these.
    """
    _check_layout(layout)
    _check_offsets(offsets)
    groups, frames = offsets.shape[:2]
    if canvas.ndim != 3 or len(canvas) != groups:
        raise OptionError("canvas", tuple(canvas.shape), f"(B, H, W) with B = {groups}, as offsets")
    real = checked_real("canvas", canvas)
    height, width = canvas.shape[1:]
    positions = _on_canvas(offsets, height, width)
    index, fx, fy = windows_at((height, width), positions, N, real, stacked=True)
    ringed = functional.pad(canvas, (1, 1, 1, 1)).reshape(-1)
    patches: Tensor = CutPatches.apply(ringed, fx, fy, index)  # type: ignore[no-untyped-call]
    patches = patches.reshape(groups, frames, N, N)
    return patches.movedim(1, -1) if layout == "NHWC" else patches


def weighted_mean(
    patches: Tensor, positions_px: Tensor, weights: Tensor, shape: tuple[int, int]
) -> Tensor:
    """Mean (B, H, W) of patches (B, C, N, N) at positions (B, C, 2) on objects of one shape."""
    N = patches.shape[-1]
    size = len(patches) * (shape[0] + 2) * (shape[1] + 2)
    index, fx, fy = windows_at(shape, positions_px, N, weights.dtype, stacked=True)
    weights = weights.reshape(-1, N, N)
    total = put_patches(weights * patches.reshape(-1, N, N), fx, fy, index, size)
    weight = put_patches(weights, fx, fy, index, size)
    ringed = (len(patches), shape[0] + 2, shape[1] + 2)
    total, weight = (sums.reshape(ringed)[:, 1:-1, 1:-1] for sums in (total, weight))
    return mean_where_covered(total, weight, weight.amax(dim=(1, 2), keepdim=True))


def mean_where_covered(total: Tensor, weight: Tensor, heaviest: Tensor) -> Tensor:
    """Weighted sums over their weight; 0 where nothing lies, beside the object's largest weight."""
    # A pixel that has only rounding-sized weights holds no information: 0, not noise over noise.
    covered = weight > torch.finfo(weight.dtype).eps * heaviest
    return torch.where(covered, total, 0) / torch.where(covered, weight, 1)


def full_weights(weights: Tensor | None, patches: Tensor) -> Tensor:
    """Weights as a view of the patches' shape (..., N, N) and precision.

    Raises
    ------
    OptionError
        Their axes do not fit.
    OptionTypeError
        They are complex, or the patches are of 16 bits or no floating-point numbers.
    """
    real = checked_real("patches", patches)
    if weights is None:
        weights = torch.ones((), dtype=real, device=patches.device)
    if weights.is_complex():
        raise OptionTypeError("weights", weights.dtype, "real", action="Type: .abs().square()")
    shape = patches.shape
    # Fewer axes would name the last ones: (B, N, N) reads as one weight a frame of every group.
    named = weights.ndim in (0, 2, len(shape))
    if not named or any(
        size not in (1, full)
        for size, full in zip(weights.shape, shape[len(shape) - weights.ndim :], strict=True)
    ):
        expected = f"(N, N), or {len(shape)} axes that broadcast to the patches {tuple(shape)}"
        raise OptionError("weights", tuple(weights.shape), expected)
    return weights.to(real).expand(shape)


def checked_real(field: str, values: Tensor) -> torch.dtype:
    """Type of the real part of values of 32 or 64 bits; OptionTypeError for any other."""
    # torch.compile does not know dtype.to_real().
    real = values.real.dtype if values.is_complex() else values.dtype
    if real not in (torch.float32, torch.float64):
        raise OptionTypeError(
            field,
            values.dtype,
            "complex64, complex128, float32 or float64",
            action="Type: .float()",
        )
    return real


def _channels_first(patches: Tensor, offsets: Tensor, layout: Layout) -> Tensor:
    """Patches as (B, C, N, N); a layout whose axes do not fit is refused."""
    _check_layout(layout)
    _check_offsets(offsets)
    if not _fits(patches, offsets, layout):
        other: Layout = "NHWC" if layout == "NCHW" else "NCHW"
        axes = "(B, C, N, N)" if layout == "NCHW" else "(B, N, N, C)"
        groups, frames = offsets.shape[:2]
        raise OptionError(
            "patches",
            tuple(patches.shape),
            f"{layout}: {axes} with B = {groups}, C = {frames}, as offsets",
            action=f'Type: layout="{other}"' if _fits(patches, offsets, other) else "",
        )
    return patches.movedim(-1, 1) if layout == "NHWC" else patches


def _fits(patches: Tensor, offsets: Tensor, layout: Layout) -> bool:
    if patches.ndim != 4:
        return False
    groups, frames, rows, columns = (
        patches.shape if layout == "NCHW" else patches.movedim(-1, 1).shape
    )
    return (groups, frames) == tuple(offsets.shape[:2]) and rows == columns


def _on_canvas(offsets: Tensor, height: int, width: int) -> Tensor:
    """Offsets as positions, without a constant that has to travel to the device."""
    x, y = offsets.unbind(-1)
    return torch.stack([x + width // 2, y + height // 2], dim=-1)


def _check_layout(layout: str) -> None:
    if layout not in ("NCHW", "NHWC"):
        raise OptionError("layout", repr(layout), '"NCHW" or "NHWC"')


def _check_offsets(offsets: Tensor) -> None:
    if offsets.ndim != 3 or offsets.shape[-1] != 2 or not offsets.is_floating_point():
        raise OptionError(
            "offsets",
            f"{tuple(offsets.shape)} {offsets.dtype}",
            "(B, C, 2) in floating point",
            action="Of a batch: -batch.local_offsets[:, 0].mT",
        )


def _size(offsets: Tensor, N: int, size: int | tuple[int, int] | None) -> tuple[int, int]:
    if size is not None:
        return (size, size) if isinstance(size, int) else size
    if not offsets.numel() or not torch.isfinite(offsets).all():
        found = "not finite everywhere" if offsets.numel() else "empty"
        raise OptionError("offsets", found, "finite offsets in pixels, or a size")
    before = N // 2 - int(offsets.detach().min().floor())
    after = int(offsets.detach().max().ceil()) + N - N // 2
    # size // 2 pixels lie before the centre, and size - size // 2 from it on.
    side = max(2 * before, 2 * after - 1)
    return side, side
