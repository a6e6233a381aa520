"""The Fourier error as a metric that Lightning logs: one number of all batches and ranks.

Owns the sums over batches, and how a step of a model is logged. The definition stands in
``ptycho_torch.fourier_error``.
"""

from __future__ import annotations

from typing import cast

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
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


class LoggedSteps(nn.ModuleDict):
    """Loss and Fourier error of every stage, logged by the same names for every model."""

    def __init__(self) -> None:
        super().__init__({f"{stage}_error": FourierError() for stage in ("train", "val", "test")})

    def log(
        self,
        model: pl.LightningModule,
        stage: str,
        loss: Tensor,
        sums: tuple[Tensor, Tensor],
        batch_size: int,
    ) -> None:
        """Log a batch as ``<stage>_loss`` and ``<stage>_fourier_error``, each one of an epoch.

        Parameters
        ----------
        model
            Logs them.
        stage
            ``"train"``, ``"val"`` or ``"test"``.
        loss
            A scalar; the mean over batches and ranks is logged.
        sums
            What ``fourier_sums`` gives for the batch.
        batch_size
            Its number of groups.
        """
        error = cast("FourierError", self[f"{stage}_error"])
        error(*sums)
        for name, value in ((f"{stage}_loss", loss), (f"{stage}_fourier_error", error)):
            model.log(
                name,
                value,
                on_step=False,
                on_epoch=True,
                batch_size=batch_size,
                prog_bar=True,
                # The error sums over ranks by itself.
                sync_dist=value is loss,
            )
