"""One object of many patches: in one call, or batch by batch in bounded memory.

Owns the sums that stitching needs, their precision, and adding them up over processes. Knows no
batch and no model: patches come with their positions in object pixels, order (x, y).
"""

from __future__ import annotations

import torch
from torch import Tensor, distributed

from ptycho_torch.data.errors import OptionError, OptionTypeError
from ptycho_torch.physics.canvas import full_weights, mean_where_covered, weighted_mean
from ptycho_torch.subpixel_windows import add_patches, windows_at

# Patches are added so many pixels at a time: their windows stay in the processor's cache, and what
# an addition needs does not grow with the batch.
_PIXELS_AT_ONCE = 2**15


def stitch(
    patches: Tensor,
    positions_px: Tensor,
    shape: tuple[int, int],
    weights: Tensor | None = None,
    *,
    probe: Tensor | None = None,
) -> Tensor:
    """Put patches back where they were cut: the adjoint of ``object_patches`` over its weight.

    At integer positions this is the weighted mean of the patches that cover a pixel, so patches
    of an object give that object back. At sub-pixel positions each value is shared among the four
    pixels it was read from, which smooths by less than one pixel.

    Parameters
    ----------
    patches
        (..., N, N), complex or real, of 32 or 64 bits a part.
    positions_px
        (..., 2), order (x, y), object pixels, finite.
    shape
        (H, W) of the result, pixels.
    weights
        Real and >= 0, (N, N) or as many axes as ``patches`` that broadcast to it; None means 1.
    probe
        (P, N, N), or (B, P, N, N) where B is the first axis of ``patches``: the weight is its
        intensity, summed over modes, so that each patch counts where the probe lit it.

    Returns
    -------
    Tensor
        (H, W), dtype of ``patches``; 0 where no patch lies. Differentiable.

    Raises
    ------
    OptionError
        Both weights and a probe are given, axes do not fit, or a position is not finite.
    OptionTypeError
        The patches are of 16 bits or no floating-point numbers, or the weights are complex.
    """
    weights = _weights(patches, positions_px, weights, probe)
    N = patches.shape[-1]
    together = patches.reshape(1, -1, N, N), positions_px.reshape(1, -1, 2)
    return weighted_mean(*together, weights.reshape(1, -1, N, N), shape)[0]


class Stitcher:
    """``stitch`` of any number of batches, in the memory of the object and a part of one batch.

    The mean does not depend on who adds a patch, nor in which order, up to rounding: of ranks
    that each add a part, ``all_reduce`` makes the object of all. A patch that is added twice
    counts twice. That matters with the samplers of several ranks, which repeat samples to give
    each rank as many; it moves the mean, and not its brightness.

    Parameters
    ----------
    shape
        (H, W) of the object, pixels.
    device
        Where the sums lie; patches are brought there. None: the CPU.
    dtype
        complex64 or complex128: of the object, and of the sums, which take 12 or 24 bytes per
        pixel. Those of complex64 were off by 2e-5 where 40,000 patches shared a pixel.

    Raises
    ------
    OptionTypeError
        ``dtype`` is another.
    OptionError
        By any method, after ``object(in_place=True)``.

    Examples
    --------
    >>> stitcher = Stitcher((8, 8))
    >>> for x in (3.0, 5.0):
    ...     stitcher.add(torch.full((1, 4, 4), x + 0j), torch.tensor([[x, 4.0]]))
    >>> stitcher.object()[4].real
    tensor([0., 3., 3., 4., 4., 5., 5., 0.])
    """

    def __init__(
        self,
        shape: tuple[int, int],
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.complex64,
    ) -> None:
        if dtype not in (torch.complex64, torch.complex128):
            raise OptionTypeError("dtype", dtype, "torch.complex64 or torch.complex128")
        self.shape = shape
        ringed = (shape[0] + 2, shape[1] + 2)
        self._sums: tuple[Tensor, Tensor] | None = (
            torch.zeros(ringed, dtype=dtype, device=device),
            torch.zeros(ringed, dtype=dtype.to_real(), device=device),
        )

    @torch.no_grad()
    def add(
        self,
        patches: Tensor,
        positions_px: Tensor,
        *,
        probe: Tensor | None = None,
        weights: Tensor | None = None,
    ) -> None:
        """Add the patches of a batch; arguments and errors as those of ``stitch``."""
        weights = _weights(patches, positions_px, weights, probe)
        total, weight_sum = self._open()
        N = patches.shape[-1]
        if patches.ndim == 2:
            patches, positions_px, weights = patches[None], positions_px[None], weights[None]
        step = max(1, _PIXELS_AT_ONCE // max(1, patches[:1].numel()))
        batch = (patches, positions_px, weights)
        for part in zip(*(torch.split(array, step) for array in batch), strict=True):
            some, positions, weight = (values.to(total.device) for values in part)
            real = weight_sum.dtype
            weight = weight.to(real).reshape(-1, N, N)
            index, fx, fy = windows_at(self.shape, positions, N, real)
            weighted = weight * some.reshape(-1, N, N).to(total.dtype)
            add_patches(total.view(-1), weighted, fx, fy, index)
            add_patches(weight_sum.view(-1), weight, fx, fy, index)

    def object(self, *, in_place: bool = False) -> Tensor:
        """(H, W), the weighted mean of what has been added; 0 where no patch lies.

        Parameters
        ----------
        in_place
            True: the object takes the memory of the sums, and the stitcher ends with that. False:
            it takes 8 or 16 bytes more per pixel, and patches can be added further on.
        """
        total, weight = (sums[1:-1, 1:-1] for sums in self._open())
        obj = total if in_place else torch.empty_like(total, memory_format=torch.contiguous_format)
        heaviest = weight.amax((0, 1))
        # Some rows at a time: the quotient needs three more arrays of its size.
        for some, light, rows in zip(
            *(torch.split(a, 64) for a in (total, weight, obj)), strict=True
        ):
            rows.copy_(mean_where_covered(some, light, heaviest))
        if in_place:
            self._sums = None
        return obj

    def weight(self) -> Tensor:
        """(H, W), real: the sum of the weights in each pixel."""
        return self._open()[1][1:-1, 1:-1].clone()

    def merge(self, other: Stitcher) -> None:
        """Add what another stitcher of the same shape and dtype has added.

        Raises
        ------
        OptionError
            Shape or dtype are not the same.
        """
        sums, others = self._open(), other._open()
        mine, theirs = (self.shape, sums[0].dtype), (other.shape, others[0].dtype)
        if mine != theirs:
            raise OptionError("other", theirs, f"shape and dtype of this one, {mine}")
        for own, more in zip(sums, others, strict=True):
            own += more.to(own.device)

    def all_reduce(self, group: distributed.ProcessGroup | None = None) -> None:
        """Sum over the ranks of a process group: afterwards every rank has the object of all.

        Every rank calls it once, after its last ``add``. Does nothing in a run of one process.
        """
        total, weight = self._open()
        if distributed.is_available() and distributed.is_initialized():
            # As real numbers: not every backend adds complex ones.
            distributed.all_reduce(torch.view_as_real(total), group=group)
            distributed.all_reduce(weight, group=group)

    def _open(self) -> tuple[Tensor, Tensor]:
        """Weighted sum and sum of weights, each with its ring of zeros."""
        if self._sums is None:
            found, expected = "ended by object(in_place=True)", "one that still has its sums"
            raise OptionError("stitcher", found, expected, action="Type: object()")
        return self._sums


def _weights(
    patches: Tensor, positions_px: Tensor, weights: Tensor | None, probe: Tensor | None
) -> Tensor:
    """Weights of the patches' shape, given or from a probe, once all axes fit."""
    if patches.ndim < 2 or positions_px.shape != (*patches.shape[:-2], 2):
        expected = f"one (x, y) for each of the patches {tuple(patches.shape)}"
        raise OptionError("positions", tuple(positions_px.shape), expected)
    if not torch.isfinite(positions_px).all():
        raise OptionError("positions", "not finite everywhere", "finite positions in pixels")
    if probe is None:
        return full_weights(weights, patches)
    if weights is not None:
        raise OptionError("weights", "given beside a probe", "one of the two")
    each = probe.ndim == 4 and patches.ndim > 2 and len(probe) in (1, len(patches))
    if probe.shape[-2:] != patches.shape[-2:] or not (each or probe.ndim == 3):
        expected = f"(P, N, N) or (B, P, N, N) for the patches {tuple(patches.shape)}"
        raise OptionError("probe", tuple(probe.shape), expected)
    intensity = torch.linalg.vector_norm(probe, dim=-3).square()
    if each:
        intensity = intensity.reshape(-1, *[1] * (patches.ndim - 3), *intensity.shape[1:])
    return full_weights(intensity, patches)
