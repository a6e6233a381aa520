"""The Fourier error as a metric that Lightning logs: one number of all batches and ranks.

Owns the sums over batches. The definition stands in ``ptycho_torch.fourier_error``.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric

from ptycho_torch.fourier_error import error_of_sums


class FourierError(Metric):
    """Fourier error of all frames together, summed in float64 over batches and ranks."""

    full_state_update = False
    residual: Tensor
    energy: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("residual", "energy"):
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, residual: Tensor, energy: Tensor) -> None:
        """Add the two sums of a batch, as ``fourier_sums`` gives them."""
        self.residual += residual.detach()
        self.energy += energy.detach()

    def compute(self) -> Tensor:
        """The error of everything added so far, a float64 scalar."""
        return error_of_sums(self.residual, self.energy)
