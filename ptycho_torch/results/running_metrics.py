"""Figures of merit as torchmetrics: of all batches and ranks together.

Owns what they keep between batches. Definitions stand in ``metrics`` and ``ring_correlation``; a
figure here is theirs of all images as one. Images of one metric share one global phase, as patches
of one object do: the objects of several scans need a metric each.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from ptycho_torch.data.errors import OptionError
from ptycho_torch.data.geometry import Pixel
from ptycho_torch.fourier_error import error_of_sums, fourier_sums
from ptycho_torch.results import metrics
from ptycho_torch.results.ring_correlation import boxed, correlation_of_rings, ring_sums


class _Correlation(Metric):
    """The moments of two images, which add up in float64."""

    full_state_update = False
    moments: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("moments", torch.zeros(6, dtype=torch.complex128), dist_reduce_fx="sum")

    def _add(self, a: Tensor, b: Tensor, count: Tensor) -> None:
        sums = (count, a.sum(), b.sum(), a.abs().square().sum(), b.abs().square().sum())
        product = torch.vdot(a.flatten(), b.flatten())
        self.moments += torch.stack([each.to(self.moments) for each in (*sums, product)])

    def _correlation(self) -> complex:
        return metrics.correlation_of_sums(self.moments.cpu().numpy())


class CentredCorrelation(_Correlation):
    """``centred_correlation`` of all images together, in [0, 1]; 0 for flat ones."""

    def update(self, reconstruction: Tensor, truth: Tensor, mask: Tensor | None = None) -> None:
        """Add images.

        Parameters
        ----------
        reconstruction, truth
            Complex, same shape, any axes.
        mask
            Boolean, broadcastable to them: the pixels that count; None takes all.

        Raises
        ------
        OptionError
            Shapes differ.
        """
        self._add(*_counted(reconstruction, truth, mask, torch.complex128))

    def compute(self) -> Tensor:
        """The figure of everything added so far, a float64 scalar."""
        return torch.tensor(abs(self._correlation()), dtype=torch.float64)


class AmplitudePearson(_Correlation):
    """``amplitude_pearson`` of all images together, in [-1, 1]; 0 for flat ones."""

    def update(self, reconstruction: Tensor, truth: Tensor, mask: Tensor | None = None) -> None:
        """Add images; parameters and errors are those of ``CentredCorrelation.update``."""
        a, b, count = _counted(reconstruction, truth, mask, torch.complex128)
        self._add(a.abs(), b.abs(), count)

    def compute(self) -> Tensor:
        """The figure of everything added so far, a float64 scalar."""
        return torch.tensor(self._correlation().real, dtype=torch.float64)


class PhasePearson(Metric):
    """``phase_pearson`` of all images together, in [-1, 1]; 0 for flat ones.

    The global phase is known only once all pixels are, so it keeps those that count, 32 bytes each.
    """

    full_state_update = False
    pixels: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        # A rank that saw no image sends an empty list of this type.
        self.set_dtype(torch.float64)
        self.add_state("pixels", [], dist_reduce_fx="cat")

    def update(self, reconstruction: Tensor, truth: Tensor, mask: Tensor | None = None) -> None:
        """Add images; parameters and errors are those of ``CentredCorrelation.update``."""
        _same_shape(reconstruction, truth)
        both = torch.stack([reconstruction.detach(), truth.detach()], dim=-1)
        if mask is not None:
            both = both[mask.expand(truth.shape)]
        self.pixels.append(torch.view_as_real(both.to(torch.complex128)).flatten())

    def compute(self) -> Tensor:
        """The figure of everything added so far, a float64 scalar."""
        # A list, or one tensor of all ranks.
        if not len(self.pixels):
            return torch.zeros((), dtype=torch.float64)
        a, b = dim_zero_cat(self.pixels).cpu().numpy().view(np.complex128).reshape(-1, 2).T
        return torch.tensor(metrics.phase_pearson(a, b) if a.size else 0.0, dtype=torch.float64)


class FourierRingCorrelation(Metric):
    """``fourier_ring_correlation`` of images, whose rings add up.

    Parameters
    ----------
    shape
        (H, W), pixels, of the images, or of the bounding box of every mask.
    pixel_m
        Side of an object pixel in metres, or (height, width).
    """

    full_state_update = False
    sums: Tensor

    def __init__(self, shape: tuple[int, int], pixel_m: Pixel | None = None) -> None:
        super().__init__()
        self.shape, self.pixel_m = tuple(shape), pixel_m
        rings = torch.zeros(4, min(shape) // 2, dtype=torch.complex128)
        self.add_state("sums", rings, dist_reduce_fx="sum")

    def update(self, reconstruction: Tensor, truth: Tensor, mask: Tensor | None = None) -> None:
        """Add images.

        Parameters
        ----------
        reconstruction, truth
            Complex, (..., H, W).
        mask
            Boolean, broadcastable to them: the pixels that count; None takes all.

        Raises
        ------
        OptionError
            Shapes differ, or the box of a mask has another shape than the metric.
        """
        _same_shape(reconstruction, truth)
        counted = torch.ones_like(truth, dtype=torch.bool) if mask is None else mask
        every = (reconstruction, truth, counted.expand(truth.shape))
        stacks = (each.detach().cpu().numpy().reshape(-1, *each.shape[-2:]) for each in every)
        for images in zip(*stacks, strict=True):
            a, b, weights = boxed(*images)
            if weights.shape != self.shape:
                raise OptionError("box of the mask", weights.shape, self.shape)
            self.sums += torch.from_numpy(ring_sums(a, b, weights)).to(self.sums)

    def compute(self) -> dict[str, Tensor]:
        """The fields of ``RingCorrelation`` as float64 tensors; no nanometres without a pixel."""
        found = correlation_of_rings(self.sums.cpu().numpy(), self.shape, self.pixel_m)
        named = found._asdict()
        return {
            name: torch.as_tensor(value, dtype=torch.float64)
            for name, value in named.items()
            if value is not None
        }


class FrameNRMSE(Metric):
    """``frame_nrmse`` of all frames together: the Fourier error."""

    full_state_update = False
    sums: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("sums", torch.zeros(2, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, modelled: Tensor, measured: Tensor, mask: Tensor | None = None) -> None:
        """Add frames.

        Parameters
        ----------
        modelled, measured
            Amplitudes, real, same shape, any axes.
        mask
            Boolean, broadcastable to them: the pixels that count; None takes all.

        Raises
        ------
        OptionError
            Shapes differ.
        """
        model, frames, _ = _counted(modelled, measured, mask, torch.float64)
        self.sums += torch.stack(fourier_sums(model, frames))

    def compute(self) -> Tensor:
        """The figure of everything added so far, a float64 scalar."""
        residual, energy = self.sums
        error: Tensor = error_of_sums(residual, energy)
        return error


def _same_shape(a: Tensor, b: Tensor) -> None:
    if a.shape != b.shape:
        raise OptionError("reconstruction shape", tuple(a.shape), f"{tuple(b.shape)}, the truth's")


def _counted(
    a: Tensor, b: Tensor, mask: Tensor | None, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Two images, 0 where the mask is, and how many pixels count; nothing waits for a GPU."""
    _same_shape(a, b)
    a, b = a.detach().to(dtype), b.detach().to(dtype)
    if mask is None:
        return a, b, torch.tensor(a.numel(), device=a.device)
    counted = mask.expand(b.shape)
    zero = torch.zeros((), dtype=dtype, device=a.device)
    return torch.where(counted, a, zero), torch.where(counted, b, zero), counted.sum()
