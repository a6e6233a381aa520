"""A quiet Trainer, and where the time of its steps went."""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.profilers import SimpleProfiler

_FETCH = "[_TrainingEpochLoop].train_dataloader_next"
_EPOCH = "run_training_epoch"


@dataclass(frozen=True)
class StepTimes:
    """Times of an epoch: seconds per step, and how many of them it waited for the batch."""

    step: float
    wait: float

    @property
    def share(self) -> float:
        """Share of the step spent waiting."""
        return self.wait / self.step


class _Ends(Callback):
    """Waits for the GPU where an epoch begins and ends: what is queued is not done."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        _wait(pl_module)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if trainer.is_last_batch:
            _wait(pl_module)


def _wait(module: LightningModule) -> None:
    if module.device.type == "cuda":
        torch.cuda.synchronize(module.device)


def quiet(model: LightningModule, data: Any, **options: Any) -> Trainer:
    """Train with a data module or a loader; nothing is shown, nothing written."""
    source = "datamodule" if hasattr(data, "train_dataloader") else "train_dataloaders"
    options.setdefault("accelerator", "cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = Trainer(
            devices=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            limit_val_batches=0,
            callbacks=[_Ends()],
            **options,
        )
        trainer.fit(model, **{source: data})
    return trainer


def fit(model: LightningModule, data: Any, **options: Any) -> StepTimes:
    """Train two epochs and measure the second: the first also pays for what happens once.

    Parameters
    ----------
    data
        A data module, or a loader.
    options
        Of the Trainer.
    """
    profiler = SimpleProfiler()
    trainer = quiet(model, data, max_epochs=2, profiler=profiler, **options)
    fetched = profiler.recorded_durations[_FETCH]
    epochs = profiler.recorded_durations[_EPOCH]
    # Lightning asks for as many batches as an epoch has, or, where it does not know their number,
    # for one more.
    asked = len(fetched) // 2
    steps = int(trainer.global_step // 2) or int(trainer.num_training_batches)
    return StepTimes(step=epochs[1] / steps, wait=sum(fetched[asked:]) / steps)


def silence() -> None:
    """Keep Lightning's announcements of devices and products out of the report."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
