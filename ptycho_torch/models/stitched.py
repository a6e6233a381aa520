"""Predicted patches become one object while a Trainer predicts.

Owns the callback that adds each batch and lets go of it, and the sum over ranks. Knows no file.
"""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
from torch import Tensor

from ptycho_torch.batches.batch import PtychoBatch
from ptycho_torch.physics import Stitcher


class Stitched(pl.Callback):
    """Stitches what a model's ``predict_step`` gives, weighted by the probe's light.

    Parameters
    ----------
    shape
        (H, W) of the object, pixels.
    """

    def __init__(self, shape: tuple[int, int]) -> None:
        self._stitcher = Stitcher(shape)

    def on_predict_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: PtychoBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Add the patches of a batch."""
        self._stitcher.add(outputs["patches"], outputs["positions_px"], probe=batch.probe)

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Add up what the ranks have; every rank has the object then."""
        self._stitcher.all_reduce()

    def object(self) -> Tensor:
        """(H, W) complex64; 0 where no patch lies. Once: it takes the memory of the sums."""
        return self._stitcher.object(in_place=True)
