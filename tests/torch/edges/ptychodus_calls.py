"""Ptychodus' calls in the order in which it makes them, and a training file as it exports one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from builders import export_training_data

from ptycho_torch import RawData, simulate_scan
from ptycho_torch.api.base_api import (
    ConfigManager,
    DataloaderFormats,
    InferenceEngine,
    PtychoDataLoader,
    PtychoModel,
    Trainer,
)
from ptycho_torch.config_params import DataConfig, InferenceConfig, ModelConfig, TrainingConfig
from ptycho_torch.model import PtychoPINN_Lightning

SETTINGS = {
    "data_config": DataConfig,
    "model_config": ModelConfig,
    "training_config": TrainingConfig,
    "inference_config": InferenceConfig,
}


def small_scan(seed: int = 1, n_frames: int = 49) -> RawData:
    return simulate_scan(n_frames=n_frames, N=16, pattern="jittered_raster", seed=seed)


def export(path: Path, scan: RawData, counts: Any = np.uint16) -> Path:
    """What Ptychodus' export_training_data writes of a scan."""
    intensities = np.rint(scan.diff3d.astype(np.float64) ** 2)
    return export_training_data(path, scan, intensities.astype(counts))


def config(**changes: Any) -> ConfigManager:
    """Defaults, with some fields changed wherever they are; no workers, little training."""
    quick = {"num_workers": 0, "epochs": 1, "n_filters_scale": 1, "n_subsample": 1, **changes}
    made = {
        name: kind(**{key: quick[key] for key in quick if key in kind.__dataclass_fields__})
        for name, kind in SETTINGS.items()
    }
    if "training_batch_size" in quick:
        made["training_config"].batch_size = quick["training_batch_size"]
    return ConfigManager(**made)


def trainer_of(folder: Path, output: Path, settings: ConfigManager) -> Trainer:
    data = PtychoDataLoader(
        data_dir=folder,
        config_manager=settings,
        data_format=DataloaderFormats("lightning_only_module"),
        output_dir=output,
    )
    model = PtychoModel._new_model(model=PtychoPINN_Lightning, config_manager=settings)
    return Trainer._from_lightning(
        model=model, dataloader=data, orchestration="lightning", config_manager=settings
    )


def loaded(checkpoint: Path) -> tuple[ConfigManager, PtychoModel]:
    data, model, training, inference = PtychoModel._extract_configs_from_checkpoint(str(checkpoint))
    settings = {
        "model_config": model,
        "data_config": data,
        "training_config": training,
        "inference_config": inference,
    }
    found = PtychoModel(**settings)
    found.model = PtychoPINN_Lightning.load_from_checkpoint(checkpoint, **settings)
    manager = ConfigManager.from_loaded_model(found)
    manager.validate_arch_compatibility(found)
    return manager, found


def reconstruct(checkpoint: Path, scan: RawData) -> Any:
    manager, model = loaded(checkpoint)
    data = PtychoDataLoader.from_np(
        diff_patterns=np.rint(scan.diff3d.astype(np.float64) ** 2).astype(np.uint16),
        probe=scan.probeGuess.reshape(-1, scan.N, scan.N).astype(complex),
        positions=np.column_stack([scan.ycoords, scan.xcoords]) - 0.5,
        config_manager=manager,
    )
    return InferenceEngine(config_manager=manager, ptycho_model=model).predict_and_stitch(data)
