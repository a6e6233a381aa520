"""The scans of a run as a data module, and the folder that the run writes to."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from enum import Enum
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.api.models import ConfigManager
from ptycho_torch.api.placing import Note, object_shape
from ptycho_torch.api.scans import scan_of_arrays, training_scans, without_mean_phase
from ptycho_torch.data.config import GroupingConfig
from ptycho_torch.data.errors import OptionError
from ptycho_torch.data.raw_data import RawData
from ptycho_torch.datamodule import PtychoDataModule
from ptycho_torch.legacy_params import to_grouping_config

logger = logging.getLogger(__name__)


class DataloaderFormats(Enum):
    """Kinds of data loaders: one."""

    LIGHTNING = "lightning_only_module"


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
