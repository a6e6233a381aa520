"""The classes that Ptychodus calls to train a network and to reconstruct with it.

Owns the order of its calls. Settings become the options of a
:class:`~ptycho_torch.PtychoDataModule`, of a network and of a Lightning Trainer, which do the work.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from numpy.typing import NDArray

from ptycho_torch.api.data_loader import DataloaderFormats, PtychoDataLoader
from ptycho_torch.api.models import ConfigManager, PtychoModel
from ptycho_torch.api.placing import Note, notes_of
from ptycho_torch.data.config import check_choice
from ptycho_torch.datamodule import PtychoDataModule
from ptycho_torch.model import PtychoPINN_Lightning
from ptycho_torch.models.precision import quickest_precision

__all__ = [
    "ConfigManager",
    "DataloaderFormats",
    "InferenceEngine",
    "PtychoDataLoader",
    "PtychoModel",
    "Trainer",
]

logger = logging.getLogger(__name__)

Orchestration = Literal["lightning"]


class Trainer:
    """A Lightning Trainer with what it trains.

    Parameters
    ----------
    trainer, network, data
        What is brought together.
    output_dir
        The run's folder, for ``metrics.csv``; or None.
    """

    def __init__(
        self,
        trainer: pl.Trainer,
        network: PtychoPINN_Lightning,
        data: PtychoDataModule,
        output_dir: Path | None,
    ) -> None:
        self._trainer = trainer
        self.network = network
        self.data = data
        self.output_dir = output_dir

    @classmethod
    def _from_lightning(
        cls,
        model: PtychoModel,
        dataloader: PtychoDataLoader,
        config_manager: ConfigManager,
        orchestration: Orchestration = "lightning",
    ) -> Trainer:
        """Ready to train in this very process, which callbacks of any class can stay in."""
        check_choice("orchestration", orchestration, Orchestration)
        config_manager.check()
        network, training = model.network, config_manager.training_config
        network.hparams["objects"] = notes_of(dataloader.scans)
        folder = dataloader.output_dir
        best = ModelCheckpoint(dirpath=folder, filename="best", monitor=network.val_loss_name)
        trainer = pl.Trainer(
            max_epochs=training.epochs + training.epochs_fine_tune,
            accelerator=accelerator(training.device),
            devices=1,
            precision=quickest_precision(accelerator(training.device)),
            accumulate_grad_batches=training.accum_steps,
            gradient_clip_val=training.gradient_clip_val,
            callbacks=[] if folder is None else [best],
            enable_checkpointing=folder is not None,
            default_root_dir=folder,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        return cls(trainer, network, dataloader.training_data(), folder)

    def train(
        self, orchestration: Orchestration = "lightning", experiment_name: str = ""
    ) -> PtychoPINN_Lightning:
        """Train, and keep the best checkpoint and ``metrics.csv`` in the run's folder.

        Parameters
        ----------
        orchestration
            Lightning's; there is no other.
        experiment_name
            Folder below the run's for ``metrics.csv``.
        """
        check_choice("orchestration", orchestration, Orchestration)
        if self.output_dir is not None:
            self._trainer.logger = CSVLogger(self.output_dir, name=experiment_name, version="")
        self._trainer.fit(self.network, datamodule=self.data)
        return self.network


class InferenceEngine:
    """Objects from scans, with a trained network.

    Parameters
    ----------
    config_manager
        The settings.
    ptycho_model
        The network.
    """

    def __init__(self, config_manager: ConfigManager, ptycho_model: PtychoModel) -> None:
        self.config_manager = config_manager
        self.network = ptycho_model.network

    def predict_and_stitch(self, data_loader: PtychoDataLoader) -> NDArray[np.complex64]:
        """The object of a scan, (H, W), every frame seen once; 0 where no patch lies.

        Its shape is that of the object that the positions lie in, where
        :func:`~ptycho_torch.api.placing.object_shape` knows it.
        """
        known: Sequence[Note] = self.network.hparams.get("objects", [])
        device = accelerator(self.config_manager.training_config.device)
        trainer = pl.Trainer(
            accelerator=device,
            devices=1,
            precision=quickest_precision(device),
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        return self.network.predict_object(data_loader.prediction_data(known), trainer)


def accelerator(device: str) -> str:
    """Lightning's word for a device; the CPU, with a word in the log, where there is no GPU."""
    if device == "cuda" and torch.cuda.is_available():
        return "gpu"
    if device == "cuda":
        logger.info("device is 'cuda', and there is no GPU: the CPU does the work")
    return "cpu"
