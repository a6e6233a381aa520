"""The classes that Ptychodus calls to train a network and to reconstruct with it.

Owns the order of its calls and the folder of a run. Settings become the options of a
:class:`~ptycho_torch.PtychoDataModule`, of a network and of a Lightning Trainer, which do the work.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from itertools import count
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from numpy.typing import NDArray

from ptycho_torch.api.placing import Note, notes_of, object_shape
from ptycho_torch.api.scans import scan_of_arrays, training_scans, without_mean_phase
from ptycho_torch.config_params import (
    DataConfig,
    DatagenConfig,
    InferenceConfig,
    ModelConfig,
    TrainingConfig,
    check_settings,
)
from ptycho_torch.data.config import GroupingConfig, check_choice
from ptycho_torch.data.errors import OptionError, ScanFileError, naming
from ptycho_torch.data.raw_data import RawData
from ptycho_torch.datamodule import PtychoDataModule
from ptycho_torch.legacy_params import to_grouping_config
from ptycho_torch.model import PtychoPINN_Lightning, Settings, network_options, settings_of

logger = logging.getLogger(__name__)

Orchestration = Literal["lightning"]
Device = Literal["cuda", "cpu"]


class DataloaderFormats(Enum):
    """Kinds of data loaders: one."""

    LIGHTNING = "lightning_only_module"


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


class PtychoDataLoader:
    """Scans to train on, or one to reconstruct.

    Parameters
    ----------
    data_dir
        Folder of training files, as Ptychodus exports them.
    config_manager
        The settings.
    data_format
        The one kind there is.
    output_dir
        Folder in which the folder of the run is made, or None.

    Attributes
    ----------
    scans
        What was read.
    output_dir
        The run's own folder, new; or None.

    Raises
    ------
    ScanFileNotFoundError, ScanFileError, ScanKeyError, ScanError
        A training file is at fault, or there is none.
    """

    def __init__(
        self,
        data_dir: str | Path,
        config_manager: ConfigManager,
        data_format: DataloaderFormats = DataloaderFormats.LIGHTNING,
        output_dir: str | Path | None = None,
    ) -> None:
        DataloaderFormats(data_format)
        config_manager.check()
        self._hold(training_scans(data_dir), config_manager)
        self.output_dir = None if output_dir is None else _new_folder(Path(output_dir))

    @classmethod
    def from_np(
        cls,
        diff_patterns: NDArray[Any],
        probe: NDArray[Any],
        positions: NDArray[Any],
        config_manager: ConfigManager,
    ) -> PtychoDataLoader:
        """One scan to reconstruct; arguments as of :func:`~ptycho_torch.api.scans.scan_of_arrays`.

        Parameters
        ----------
        diff_patterns, probe, positions
            Counts (M, N, N), modes (P, N, N), and positions (M, 2) as (y, x) in object pixels.
        config_manager
            The settings.

        Raises
        ------
        OptionError, ScanError
            The arrays do not belong together, or values cannot be.
        """
        loader = cls.__new__(cls)
        loader._hold([scan_of_arrays(diff_patterns, probe, positions)], config_manager)
        loader.output_dir = None
        return loader

    def _hold(self, scans: list[RawData], config_manager: ConfigManager) -> None:
        self.scans = scans
        self.config_manager = config_manager

    def training_data(self) -> PtychoDataModule:
        """Batches to train on; frames drawn from every scan validate, where they make groups.

        A strip at the end of a scan has no seed positions: those of training lie within bounds.
        """
        config, training = self.config_manager, self.config_manager.training_config
        supervised = config.model_config.mode == "Supervised"
        scans = self.scans
        if supervised and config.data_config.phase_subtraction:
            scans = [without_mean_phase(scan) for scan in scans]
        one = config.data_config.C == 1
        options: dict[str, Any] = {
            "batch_size": training.batch_size,
            "num_workers": training.num_workers,
            "grouping": to_grouping_config(
                config.data_config, {"groups_per_seed": None} if one else None
            ),
            "ground_truth": "object" if supervised else "none",
            "patch_positions": "scan",
            "cache": "off",
        }
        share = training.finetune_val_split
        data = PtychoDataModule(scans, split="frames", val_fraction=share, **options)
        try:
            data.setup("fit")
        except OptionError as error:
            # Too few or too sparse; what else is wrong is said once more here.
            data = PtychoDataModule(scans, split="none", **options)
            data.setup("fit")
            logger.warning("validation uses the training groups: %s", error)
        return data

    def prediction_data(self, known: Sequence[Note]) -> PtychoDataModule:
        """Every frame of the one scan, once.

        Parameters
        ----------
        known
            What :func:`~ptycho_torch.api.placing.notes_of` gave of scans whose object is known.
        """
        (scan,) = self.scans
        # An object says which canvas to stitch on; nothing else is taken from it.
        canvas = np.ones(object_shape(scan, known), np.complex64)
        canvas.flags.writeable = False
        return PtychoDataModule(
            RawData.sharing(scan, objectGuess=canvas),
            batch_size=self.config_manager.inference_config.batch_size,
            grouping=GroupingConfig(gridsize=1),
            split="none",
            ground_truth="none",
            cache="off",
        )


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
        trainer = pl.Trainer(
            accelerator=accelerator(self.config_manager.training_config.device),
            devices=1,
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


def _new_folder(parent: Path) -> Path:
    """A folder that was not there, named after the moment."""
    name = time.strftime("run_%Y%m%d_%H%M%S")
    for number in count(1):
        folder = parent / (name if number == 1 else f"{name}_{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return folder
    raise AssertionError
