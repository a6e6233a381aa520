"""PtychoPINN under the name and with the arguments that Ptychodus has for it.

Owns how Ptychodus' settings become options of the network and of its optimizer, and how a
checkpoint keeps them. What the network is, :mod:`ptycho_torch.models.pinn` knows.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch

from ptycho_torch.config_params import (
    DataConfig,
    InferenceConfig,
    ModelConfig,
    TrainingConfig,
    from_plain,
    plain,
)
from ptycho_torch.data.config import check_choice
from ptycho_torch.data.errors import OptionError, ScanFileError, naming
from ptycho_torch.models.pinn import PtychoPINN

logger = logging.getLogger(__name__)

Mode = Literal["Unsupervised", "Supervised"]
LossFunction = Literal["Poisson", "MAE"]
Scheduler = Literal["Default", "Exponential", "Cosine"]
Settings = tuple[DataConfig, ModelConfig, TrainingConfig, InferenceConfig]
_Config = TypeVar("_Config", DataConfig, ModelConfig, TrainingConfig, InferenceConfig)

CHANNELS_PER_SCALE = 8
"""Channels of the network's width for each step of ``n_filters_scale``."""


class PtychoPINN_Lightning(PtychoPINN):
    """The network that Ptychodus trains and loads; its checkpoints hold the settings too.

    :class:`~ptycho_torch.models.pinn.PtychoPINN` loads them as well, and this class loads those of
    ``ptycho-torch fit``.

    Parameters
    ----------
    model_config, data_config, training_config, inference_config
        Settings, or their plain form as checkpoints hold it; None: the defaults.
    objects
        What is known of the objects trained on, as :func:`~ptycho_torch.api.base_api` notes it.
    **network
        Options of the network, as checkpoints hold them; they win over the settings.

    Raises
    ------
    OptionError
        A setting has no translation.
    """

    loss_name = "train_loss"
    val_loss_name = "val_loss"

    def __init__(
        self,
        model_config: ModelConfig | Mapping[str, Any] | None = None,
        data_config: DataConfig | Mapping[str, Any] | None = None,
        training_config: TrainingConfig | Mapping[str, Any] | None = None,
        inference_config: InferenceConfig | Mapping[str, Any] | None = None,
        objects: list[list[float]] | None = None,
        **network: Any,
    ) -> None:
        model = _config(ModelConfig, model_config)
        training = _config(TrainingConfig, training_config)
        data = _config(DataConfig, data_config)
        inference = _config(InferenceConfig, inference_config)
        # What starts with "_" is Lightning's note of how the command line built the network.
        given = {name: value for name, value in network.items() if not name.startswith("_")}
        super().__init__(**{**network_options(model, training), **given})
        self.training_config = training
        # Plain values in the place of the dataclasses that Lightning has found here.
        self.hparams.update(
            data_config=plain(data),
            model_config=plain(model),
            training_config=plain(training),
            inference_config=plain(inference),
            objects=objects or [],
        )

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]
        cls, checkpoint_path: str | Path, **settings: Any
    ) -> PtychoPINN_Lightning:
        """The network of a checkpoint, of Ptychodus or of ``ptycho-torch fit``, on the CPU.

        Parameters
        ----------
        checkpoint_path
            The file; only tensors and plain values are read of it.
        **settings
            ``model_config`` and the like, which win over those in the file.

        Raises
        ------
        ScanFileError
            The file holds another network.
        """
        settings = {"map_location": "cpu", **settings}
        with naming(checkpoint_path):
            loaded: PtychoPINN_Lightning = super().load_from_checkpoint(
                checkpoint_path, weights_only=True, _instantiator=None, **settings
            )
        return loaded

    def configure_optimizers(self) -> Any:
        """The network's optimizer, its learning rate changed at every step as the settings say."""
        found = super().configure_optimizers()
        optimizer = found["optimizer"] if isinstance(found, Mapping) else found
        epochs = self.training_config.epochs + self.training_config.epochs_fine_tune
        steps = max(1.0, self.trainer.estimated_stepping_batches / epochs)
        factor = partial(rate_factor, self.training_config, steps)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }


def network_options(model: ModelConfig, training: TrainingConfig) -> dict[str, Any]:
    """Options of PtychoPINN that the settings ask for.

    Raises
    ------
    OptionError
        A word that is none of the choices, or ``nll`` switched off beside the Poisson loss.
    """
    check_choice("mode", model.mode, Mode)
    check_choice("loss_function", model.loss_function, LossFunction)
    check_choice("scheduler", training.scheduler, Scheduler)
    if model.loss_function == "Poisson" and not training.nll:
        action = "Set loss_function to MAE for a loss that is no likelihood"
        raise OptionError("nll", False, "True beside the Poisson loss", action=action)
    return {
        "width": round(CHANNELS_PER_SCALE * model.n_filters_scale),
        "loss": "poisson" if model.loss_function == "Poisson" else "amplitude_mae",
        "supervised_weight": 1.0 if model.mode == "Supervised" else 0.0,
        "learn_intensity": model.intensity_scale_trainable,
        "learning_rate": training.learning_rate,
        "schedule": "constant",
    }


def rate_factor(training: TrainingConfig, steps_per_epoch: float, step: int) -> float:
    """Learning rate at a step of the optimizer, in units of ``learning_rate``.

    It rises in a straight line over ``warmup_epochs``, then stays ("Default") or falls to
    ``min_lr_ratio`` at the end of ``epochs``; fine-tuning epochs follow at ``fine_tune_gamma``.

    Parameters
    ----------
    training
        The settings.
    steps_per_epoch, step
        Steps of the optimizer, the first of them 0.
    """
    epoch = step / steps_per_epoch
    if epoch >= training.epochs:
        return training.fine_tune_gamma
    if epoch < training.warmup_epochs:
        return (step + 1) / (training.warmup_epochs * steps_per_epoch + 1)
    done = (epoch - training.warmup_epochs) / max(1, training.epochs - training.warmup_epochs)
    if training.scheduler == "Exponential":
        return float(max(training.min_lr_ratio, 1e-3) ** done)
    if training.scheduler == "Cosine":
        least = training.min_lr_ratio
        return least + (1 - least) * (1 + math.cos(math.pi * done)) / 2
    return 1.0


def settings_of(checkpoint: Mapping[str, Any]) -> Settings:
    """The settings that a checkpoint holds, or what its network and grouping say of them.

    Parameters
    ----------
    checkpoint
        What ``torch.load`` gave.

    Raises
    ------
    ScanFileError
        It is the checkpoint of something else.
    """
    network = checkpoint.get("hyper_parameters")
    if not isinstance(network, Mapping) or not {"width", "loss"} <= set(network):
        raise ScanFileError("hyper_parameters", "those of another model", "PtychoPINN's")
    if "model_config" in network:
        return (
            from_plain(DataConfig, network["data_config"]),
            from_plain(ModelConfig, network["model_config"]),
            from_plain(TrainingConfig, network["training_config"]),
            from_plain(InferenceConfig, network["inference_config"]),
        )
    grouping = checkpoint.get("datamodule_hyper_parameters", {}).get("grouping") or {}
    side, count = grouping.get("gridsize", 2), grouping.get("neighbor_count", 6)
    data = DataConfig(C=side**2, grid_size=(side, side), K=count)
    model = ModelConfig(
        mode="Supervised" if network.get("supervised_weight") else "Unsupervised",
        loss_function="Poisson" if network["loss"] == "poisson" else "MAE",
        n_filters_scale=network["width"] / CHANNELS_PER_SCALE,
        C_model=side**2,
        C_forward=side**2,
        decoder_last_amp_channels=side**2,
    )
    training = TrainingConfig(learning_rate=network.get("learning_rate", 1e-3))
    return data, model, training, InferenceConfig()


def _config(kind: type[_Config], given: _Config | Mapping[str, Any] | None) -> _Config:
    if given is None:
        return kind()
    return from_plain(kind, given) if isinstance(given, Mapping) else given
