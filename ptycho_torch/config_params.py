"""Settings of Ptychodus: the five dataclasses it builds, and what each field is here.

Owns fields, defaults, and the rule for values that nothing here acts on. A field's metadata says
what it is: *used*, *unread* (another value changes nothing, and is logged), or *fixed* (another
value asks for something that is not here, and is refused by name). ``docs/howto/ptychodus.md`` says
why.
Knows no network, no tensors and no files.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, TypeVar

from ptycho_torch.data.errors import OptionError

logger = logging.getLogger(__name__)

Role = Literal["used", "unread", "fixed"]
_Config = TypeVar("_Config", "DataConfig", "ModelConfig", "TrainingConfig", "InferenceConfig")
_UNREAD = MappingProxyType[str, Role]({"role": "unread"})
_FIXED = MappingProxyType[str, Role]({"role": "fixed"})


@dataclass
class DataConfig:
    """What to read of a scan, and how its positions become groups.

    Parameters
    ----------
    C, grid_size
        A group has C frames, (g, g) of a square; C = g * g.
    neighbor_function, K, K_quadrant, min_neighbor_distance, max_neighbor_distance, n_subsample
        Neighbours that make a group with a position, and groups per position: as
        :func:`~ptycho_torch.config_bridge.to_grouping_config` says. Distances in object pixels.
    x_bounds, y_bounds
        Fractions of the scan's extent that seed positions of training lie between.
    phase_subtraction
        Take the mean phase off an object before it becomes labels.
    N, probe_normalize, probe_scale
        Not read: frames and probe say it themselves.
    normalize, scan_pattern, probe_ramp_removal, data_scaling
        Nothing but the default.
    """

    N: int = field(default=128, metadata=_UNREAD)
    C: int = 4
    normalize: str = field(default="Batch", metadata=_FIXED)
    neighbor_function: str = "Nearest"
    scan_pattern: str = field(default="Isotropic", metadata=_FIXED)
    probe_normalize: bool = field(default=True, metadata=_UNREAD)
    x_bounds: tuple[float, float] = (0.1, 0.9)
    y_bounds: tuple[float, float] = (0.1, 0.9)
    min_neighbor_distance: float = 0.0
    max_neighbor_distance: float = 3.0
    K_quadrant: int = 30
    n_subsample: int = 7
    probe_scale: float = field(default=4.0, metadata=_UNREAD)
    K: int = 6
    grid_size: tuple[int, int] = (2, 2)
    probe_ramp_removal: bool = field(default=False, metadata=_FIXED)
    data_scaling: str = field(default="Parseval", metadata=_FIXED)
    phase_subtraction: bool = True


@dataclass
class ModelConfig:
    """The network and its loss.

    Parameters
    ----------
    mode
        ``"Unsupervised"`` or ``"Supervised"``.
    loss_function
        Of unsupervised training: ``"Poisson"`` or ``"MAE"``, of amplitudes.
    n_filters_scale
        Width of the network, in 8 channels.
    intensity_scale_trainable
        Learn one factor of all modelled amplitudes.
    C_model, C_forward, decoder_last_amp_channels
        As ``DataConfig.C``.
    cbam_encoder, use_shared_decoder, batch_norm, intensity_scale, max_position_jitter, \
num_datasets, amp_loss_coeff, phase_loss_coeff, edge_pad, \
decoder_last_c_outer_fraction, decoder_spatial_kernel, offset, amplitude_variance_coeff
        Not read: they describe parts of another network.
    object_big, probe_big, amp_activation, amp_loss, phase_loss, probe_mask, eca_decoder, \
cbam_bottleneck, cbam_decoder, spatial_decoder, eca_encoder, probe_reference_coeff, \
amplitude_variance_loss
        Nothing but the default.
    """

    mode: str = "Unsupervised"
    object_big: bool = field(default=True, metadata=_FIXED)
    probe_big: bool = field(default=True, metadata=_FIXED)
    loss_function: str = "Poisson"
    amp_activation: str = field(default="silu", metadata=_FIXED)
    cbam_encoder: bool = field(default=True, metadata=_UNREAD)
    decoder_last_amp_channels: int = 4
    use_shared_decoder: bool = field(default=False, metadata=_UNREAD)
    intensity_scale_trainable: bool = False
    intensity_scale: float = field(default=10000.0, metadata=_UNREAD)
    max_position_jitter: int = field(default=10, metadata=_UNREAD)
    num_datasets: int = field(default=1, metadata=_UNREAD)
    C_model: int = 4
    C_forward: int = 4
    amp_loss: str | None = field(default=None, metadata=_FIXED)
    phase_loss: str | None = field(default=None, metadata=_FIXED)
    amp_loss_coeff: float = field(default=1.0, metadata=_UNREAD)
    phase_loss_coeff: float = field(default=1.0, metadata=_UNREAD)
    n_filters_scale: float = 2
    probe_mask: Any = field(default=None, metadata=_FIXED)
    eca_decoder: bool = field(default=False, metadata=_FIXED)
    batch_norm: bool = field(default=False, metadata=_UNREAD)
    edge_pad: int = field(default=10, metadata=_UNREAD)
    decoder_last_c_outer_fraction: float = field(default=0.125, metadata=_UNREAD)
    cbam_bottleneck: bool = field(default=False, metadata=_FIXED)
    cbam_decoder: bool = field(default=False, metadata=_FIXED)
    spatial_decoder: bool = field(default=False, metadata=_FIXED)
    decoder_spatial_kernel: int = field(default=7, metadata=_UNREAD)
    eca_encoder: bool = field(default=False, metadata=_FIXED)
    offset: int = field(default=6, metadata=_UNREAD)
    probe_reference_coeff: float = field(default=0.0, metadata=_FIXED)
    amplitude_variance_loss: bool = field(default=False, metadata=_FIXED)
    amplitude_variance_coeff: float = field(default=0.01, metadata=_UNREAD)


@dataclass
class TrainingConfig:
    """A training run.

    Parameters
    ----------
    epochs, epochs_fine_tune
        Passes over the training groups, and those that follow at ``fine_tune_gamma`` times the
        learning rate.
    batch_size, accum_steps, num_workers
        Groups in a batch, batches in a step of the optimizer, processes that read frames.
    learning_rate, scheduler, warmup_epochs, min_lr_ratio, fine_tune_gamma
        Rate of Adam, and how it changes: ``"Default"`` stays, ``"Cosine"`` and ``"Exponential"``
        fall to ``min_lr_ratio`` of it; it rises from 0 during the warm-up.
    gradient_clip_val
        Greatest norm of the gradients; None: any.
    nll
        True beside the Poisson loss, whose negative log-likelihood it is.
    device, n_devices
        ``"cuda"``, which becomes the CPU where there is no GPU, or ``"cpu"``; one of them.
    finetune_val_split
        Share of every training scan that validates.
    notes, model_name
        Kept in the checkpoint.
    strategy, finetune_stage1_epochs and the like
        Not read: one device needs no strategy, and there are no stages.
    framework, orchestrator, enable_staged_finetuning
        Nothing but the default.
    """

    epochs: int = 50
    batch_size: int = 16
    learning_rate: float = 1e-3
    n_devices: int = 1
    num_workers: int = 4
    accum_steps: int = 1
    epochs_fine_tune: int = 0
    fine_tune_gamma: float = 0.1
    gradient_clip_val: float | None = None
    nll: bool = True
    device: str = "cuda"
    strategy: str = field(default="ddp_spawn", metadata=_UNREAD)
    framework: str = field(default="Lightning", metadata=_FIXED)
    orchestrator: str = field(default="Lightning", metadata=_FIXED)
    scheduler: str = "Default"
    warmup_epochs: int = 0
    min_lr_ratio: float = 0.1
    notes: str = ""
    model_name: str = "PtychoPINNv2"
    enable_staged_finetuning: bool = field(default=False, metadata=_FIXED)
    finetune_stage1_epochs: int = field(default=7, metadata=_UNREAD)
    finetune_stage2_epochs: int = field(default=7, metadata=_UNREAD)
    finetune_stage3_epochs: int = field(default=5, metadata=_UNREAD)
    finetune_stage1_lr_decoder: float = field(default=0.1, metadata=_UNREAD)
    finetune_stage2_lr_encoder_top: float = field(default=0.01, metadata=_UNREAD)
    finetune_stage2_lr_decoder: float = field(default=0.05, metadata=_UNREAD)
    finetune_stage2_lr_phase_head: float = field(default=0.1, metadata=_UNREAD)
    finetune_stage3_lr_encoder_bottom: float = field(default=0.005, metadata=_UNREAD)
    finetune_stage3_lr_encoder_top: float = field(default=0.01, metadata=_UNREAD)
    finetune_stage3_lr_decoder: float = field(default=0.02, metadata=_UNREAD)
    finetune_stage3_lr_phase_head: float = field(default=0.05, metadata=_UNREAD)
    finetune_skip_stage3: bool = field(default=True, metadata=_UNREAD)
    finetune_early_stop_patience: int = field(default=3, metadata=_UNREAD)
    finetune_val_split: float = 0.05


@dataclass
class InferenceConfig:
    """How predicted patches become an object.

    Parameters
    ----------
    batch_size
        Frames in a batch.
    middle_trim, experiment_number, pad_eval, window
        Not read: there is one scan, its patches weigh as the probe lights them, and its object has
        the shape of the one that came in.
    patch_weighting
        Nothing but the default.
    """

    batch_size: int = 1000
    middle_trim: int = field(default=32, metadata=_UNREAD)
    experiment_number: int = field(default=0, metadata=_UNREAD)
    patch_weighting: str = field(default="probe", metadata=_FIXED)
    pad_eval: bool = field(default=True, metadata=_UNREAD)
    window: int = field(default=20, metadata=_UNREAD)


@dataclass
class DatagenConfig:
    """Simulation settings: none. :func:`~ptycho_torch.simulate_scan` simulates."""


AnyConfig = DataConfig | ModelConfig | TrainingConfig | InferenceConfig


def roles(config: AnyConfig | type[AnyConfig]) -> dict[str, Role]:
    """What each field is here, by name: used, unread or fixed."""
    return {entry.name: entry.metadata.get("role", "used") for entry in dataclasses.fields(config)}


def check_settings(*configs: AnyConfig) -> None:
    """Refuse values that nothing here can follow, and log those that change nothing, in one line.

    Raises
    ------
    OptionError
        A fixed field has another value than its default.
    """
    unread = []
    for config in configs:
        for entry in dataclasses.fields(config):
            role, value = roles(config)[entry.name], getattr(config, entry.name)
            if role == "fixed" and _differs(value, entry.default):
                action = "Set it back in Ptychodus; docs/howto/ptychodus.md lists every setting"
                raise OptionError(entry.name, repr(value), repr(entry.default), action=action)
            if role == "unread" and _differs(value, entry.default):
                unread.append(f"{entry.name}={value!r}")
    if unread:
        logger.info("settings that change nothing here: %s", ", ".join(unread))


def plain(config: AnyConfig) -> dict[str, Any]:
    """A configuration as numbers, text and lists, as a checkpoint holds it."""
    values = dataclasses.asdict(config)
    return {name: list(v) if isinstance(v, tuple) else v for name, v in values.items()}


def from_plain(kind: type[_Config], values: Mapping[str, Any]) -> _Config:
    """A configuration of what :func:`plain` gave; fields that it does not have are left out."""
    names = roles(kind)
    kept: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in values.items()
        if name in names
    }
    return kind(**kept)


def _differs(value: Any, default: Any) -> bool:
    # A probe mask is an array, which compares element by element.
    return type(value) is not type(default) if default is None else bool(value != default)
