"""A network with its settings, and the settings by themselves.

Owns the rules between settings. What each becomes, :mod:`ptycho_torch.config_params` and
:mod:`ptycho_torch.model` know.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from ptycho_torch.config_params import (
    DataConfig,
    DatagenConfig,
    InferenceConfig,
    ModelConfig,
    TrainingConfig,
    check_settings,
)
from ptycho_torch.data.config import check_choice
from ptycho_torch.data.errors import OptionError, ScanFileError, naming
from ptycho_torch.model import PtychoPINN_Lightning, Settings, network_options, settings_of

Device = Literal["cuda", "cpu"]


@dataclass
class ConfigManager:
    """The settings of a run, together.

    Parameters
    ----------
    data_config, model_config, training_config, inference_config, datagen_config
        See :mod:`ptycho_torch.config_params`.
    """

    data_config: DataConfig = field(default_factory=DataConfig)
    model_config: ModelConfig = field(default_factory=ModelConfig)
    training_config: TrainingConfig = field(default_factory=TrainingConfig)
    inference_config: InferenceConfig = field(default_factory=InferenceConfig)
    datagen_config: DatagenConfig = field(default_factory=DatagenConfig)

    @classmethod
    def from_loaded_model(cls, ptycho_model: PtychoModel) -> ConfigManager:
        """The settings that a model was made with."""
        return cls(
            ptycho_model.data_config,
            ptycho_model.model_config,
            ptycho_model.training_config,
            ptycho_model.inference_config,
        )

    def validate_arch_compatibility(self, ptycho_model: PtychoModel) -> None:
        """Refuse a network that is not the one that the settings describe.

        Raises
        ------
        OptionError
            Its width is another.
        """
        wanted = network_options(self.model_config, self.training_config)["width"]
        found = ptycho_model.network.hparams["width"]
        if found != wanted:
            expected = f"{wanted}, which n_filters_scale={self.model_config.n_filters_scale} gives"
            raise OptionError("the network's width", found, expected)

    def check(self) -> None:
        """Refuse settings that nothing here can follow; log those that change nothing.

        Raises
        ------
        OptionError
            Naming the setting.
        """
        data, model, training = self.data_config, self.model_config, self.training_config
        check_settings(data, model, training, self.inference_config)
        network_options(model, training)
        check_choice("device", training.device, Device)
        frames = data.grid_size[0] * data.grid_size[1]
        channels = {"C": data.C, "C_model": model.C_model, "C_forward": model.C_forward}
        channels["decoder_last_amp_channels"] = model.decoder_last_amp_channels
        for name, value in channels.items():
            if value != frames:
                grid = " x ".join(map(str, data.grid_size))
                raise OptionError(name, value, f"{frames}, the frames of a group of {grid}")
        if training.n_devices != 1:
            action = (
                "Set it to 1; ptycho-torch fit --trainer.devices trains on several, and Ptychodus "
                "opens its checkpoint"
            )
            raise OptionError("n_devices", training.n_devices, "1", action=action)


class PtychoModel:
    """A network with its settings.

    Parameters
    ----------
    model_config, data_config, training_config, inference_config
        See :mod:`ptycho_torch.config_params`.

    Attributes
    ----------
    model
        The network, or None until one is set.
    """

    def __init__(
        self,
        model_config: ModelConfig,
        data_config: DataConfig,
        training_config: TrainingConfig,
        inference_config: InferenceConfig,
    ) -> None:
        self.model_config = model_config
        self.data_config = data_config
        self.training_config = training_config
        self.inference_config = inference_config
        self.model: PtychoPINN_Lightning | None = None

    @property
    def network(self) -> PtychoPINN_Lightning:
        """The network; OptionError where none is set yet."""
        if self.model is None:
            raise OptionError("PtychoModel.model", None, "a network")
        return self.model

    @classmethod
    def _new_model(
        cls, model: type[PtychoPINN_Lightning], config_manager: ConfigManager
    ) -> PtychoModel:
        """A new network of a class, as the settings say."""
        settings: dict[str, Any] = {
            "model_config": config_manager.model_config,
            "data_config": config_manager.data_config,
            "training_config": config_manager.training_config,
            "inference_config": config_manager.inference_config,
        }
        made = cls(**settings)
        made.model = model(**settings)
        return made

    @staticmethod
    def _extract_configs_from_checkpoint(path: str | Path) -> Settings:
        """Settings of data, model, training and inference, read without unpickling anything."""
        with naming(path):
            try:
                content = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
            except OSError as error:
                found = f"unreadable ({error.strerror or error})"
                raise ScanFileError("file", found, "a checkpoint") from error
            except Exception as error:
                # Junk makes torch raise whatever its parsers happen to meet.
                found = "broken, or holds more than tensors and plain values"
                raise ScanFileError("file", found, "a checkpoint of PtychoPINN") from error
            return settings_of(content)
