"""Configuration dataclasses of the TensorFlow pipeline.

Owns the three dataclasses, their defaults and their rules: a field's type says what it may be. Also
hands out the two functions of the flat legacy dict. Knows no arrays and no files.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import numbers
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, TypeVar

from ptycho_torch.data.config import check_choice, check_integer, check_seed
from ptycho_torch.data.errors import OptionError, OptionTypeError
from ptycho_torch.legacy_params import (
    Configuration,
    is_configuration,
    to_grouping_config,
    to_legacy_params,
    translated_fields,
    update_legacy_dict,
)

logger = logging.getLogger(__name__)

__all__ = [
    "InferenceConfig",
    "ModelConfig",
    "TrainingConfig",
    "check_number",
    "to_grouping_config",
    "to_inference_config",
    "to_legacy_params",
    "to_lineage_options",
    "to_model_config",
    "to_training_config",
    "update_legacy_dict",
]

ModelType = Literal["pinn", "supervised"]

DEFAULT_TRAINING_GROUPS = 512
"""Groups for training where neither n_groups nor n_images says how many, as in the reference."""

PathLike = str | Path | None

_Config = TypeVar("_Config", "ModelConfig", "TrainingConfig", "InferenceConfig")
_ACTIVATIONS = MappingProxyType({"silu": "swish"})
_POSITIVE = ("probe_scale", "nphotons")
_KINDS: Mapping[str, tuple[Callable[[object], bool], str]] = MappingProxyType(
    {
        "bool": (lambda value: isinstance(value, bool), "True or False"),
        "str": (lambda value: isinstance(value, str) and value != "", "a name"),
        "str | Path": (lambda value: isinstance(value, str | Path), "a path"),
        "PathLike": (lambda value: isinstance(value, PathLike), "a path"),
        "Configuration": (is_configuration, "a ModelConfig"),
    }
)


@dataclass(frozen=True)
class ModelConfig:
    """Settings of the TensorFlow pipeline's models.

    Parameters
    ----------
    N
        Pixels along a frame's side.
    gridsize
        A group has gridsize ** 2 frames.
    model_type
        ``"pinn"`` or ``"supervised"``.
    object_big, probe_big, probe_mask, pad_object, probe_scale, gaussian_smoothing_sigma, \
n_filters_scale, amp_activation
        Passed on to those models under their legacy keys.

    Raises
    ------
    OptionError, OptionTypeError
        A value is out of range or of the wrong type.
    """

    N: int = 64
    gridsize: int = 1
    model_type: ModelType = "pinn"
    object_big: bool = True
    probe_big: bool = True
    probe_mask: bool = False
    pad_object: bool = True
    probe_scale: float = 4.0
    gaussian_smoothing_sigma: float = 0.0
    n_filters_scale: int = 2
    amp_activation: str = "sigmoid"

    def __post_init__(self) -> None:
        _check_fields(self)


@dataclass(frozen=True)
class TrainingConfig:
    """One training run of the TensorFlow pipeline.

    Parameters
    ----------
    model
        A :class:`ModelConfig`, or any dataclass with its field names.
    n_groups
        Groups to draw; None becomes 512, or ``groups_per_seed`` times the frames.
    groups_per_seed
        The torch spelling's ``n_subsample``; counts only without ``n_groups``.
    n_images
        Deprecated spelling of ``n_groups``.
    n_subsample, subsample_seed
        Frames kept **before** grouping, and the seed of that choice; None keeps all.
    neighbor_count
        K: a group is drawn from the K nearest neighbours of its seed position.
    nphotons
        Photons per frame.
    train_data_file, test_data_file, batch_size, nepochs, mae_weight, nll_weight, \
realspace_mae_weight, realspace_weight, enable_oversampling, neighbor_pool_size, \
positions_provided, probe_trainable, intensity_scale_trainable, output_dir, sequential_sampling
        As in the reference.

    Raises
    ------
    OptionError, OptionTypeError
        A value is out of range, of the wrong type, or contradicts another.
    """

    model: Configuration = field(default_factory=ModelConfig)
    train_data_file: PathLike = None
    test_data_file: PathLike = None
    batch_size: int = 16
    nepochs: int = 50
    mae_weight: float = 0.0
    nll_weight: float = 1.0
    realspace_mae_weight: float = 0.0
    realspace_weight: float = 0.0
    nphotons: float = 1e9
    n_groups: int | None = None
    n_images: int | None = None
    n_subsample: int | None = None
    subsample_seed: int | None = None
    neighbor_count: int = 4
    enable_oversampling: bool = False
    neighbor_pool_size: int | None = None
    positions_provided: bool = True
    probe_trainable: bool = False
    intensity_scale_trainable: bool = True
    output_dir: PathLike = "training_outputs"
    sequential_sampling: bool = False
    groups_per_seed: int | None = None

    def __post_init__(self) -> None:
        _check_fields(self)
        _take_n_images(self)
        if self.n_groups is None and self.groups_per_seed is None:
            object.__setattr__(self, "n_groups", DEFAULT_TRAINING_GROUPS)


@dataclass(frozen=True)
class InferenceConfig:
    """One inference run of the TensorFlow pipeline; fields as in :class:`TrainingConfig`.

    Parameters
    ----------
    model, model_path, test_data_file
        The model to run, its file, and the scan to run it on.
    n_groups
        Groups to draw; None means all.
    n_images, n_subsample, subsample_seed, neighbor_count, enable_oversampling, \
neighbor_pool_size, debug, output_dir, groups_per_seed
        As in the reference.

    Raises
    ------
    OptionError, OptionTypeError
        A value is out of range, of the wrong type, or contradicts another.
    """

    model: Configuration
    model_path: str | Path
    test_data_file: str | Path
    n_groups: int | None = None
    n_images: int | None = None
    n_subsample: int | None = None
    subsample_seed: int | None = None
    neighbor_count: int = 4
    enable_oversampling: bool = False
    neighbor_pool_size: int | None = None
    debug: bool = False
    output_dir: PathLike = "inference_outputs"
    groups_per_seed: int | None = None

    def __post_init__(self) -> None:
        _check_fields(self)
        _take_n_images(self)


def to_model_config(
    data: Configuration, model: Configuration, overrides: Mapping[str, Any] | None = None
) -> ModelConfig:
    """The model's settings from PtychoPINN's torch DataConfig and ModelConfig.

    Parameters
    ----------
    data, model
        Dataclasses of the torch spelling. ``silu`` is the flat dict's ``swish``; a probe mask, an
        array there, is True here; fields without a counterpart are left out and logged.
    overrides
        Values by the names here, which win.

    Raises
    ------
    OptionError, OptionTypeError
        A value has no translation, C is not the grid's, or an override has no field.
    """
    values = {**translated_fields(data), **translated_fields(model)}
    channels = values.get("gridsize", 1) ** 2
    if values.get("C", channels) != channels:
        raise OptionError("C", values["C"], f"{channels}, the frames of a group of grid_size")
    changes = {"probe_mask": values.get("probe_mask") is not None}
    if isinstance(values.get("probe_mask"), bool):
        changes = {}
    if "amp_activation" in values:
        name = values["amp_activation"]
        values["amp_activation"] = _ACTIVATIONS.get(str(name).lower(), name)
    return _built(ModelConfig, {**values, **changes}, overrides)


def to_training_config(
    model: ModelConfig,
    data: Configuration,
    pt_model: Configuration,
    training: Configuration,
    overrides: Mapping[str, Any] | None = None,
) -> TrainingConfig:
    """A training run from PtychoPINN's torch dataclasses.

    Parameters
    ----------
    model
        What :func:`to_model_config` gives.
    data, pt_model, training
        DataConfig, ModelConfig and TrainingConfig of the torch spelling. The data's
        ``n_subsample`` becomes ``groups_per_seed``; more than one needs oversampling, which is
        then on.
    overrides
        Values by the names here, which win: ``n_groups``, ``nphotons``, ``n_subsample``, files.

    Raises
    ------
    OptionError, OptionTypeError
        As for :func:`to_model_config`.
    """
    values = {
        **translated_fields(data),
        **translated_fields(pt_model),
        **translated_fields(training),
    }
    if "nphotons" not in {**values, **(overrides or {})}:
        logger.warning("nphotons is not said; %g is taken", TrainingConfig.nphotons)
    return _built(TrainingConfig, {**values, **_oversampling(values), "model": model}, overrides)


def to_inference_config(
    model: ModelConfig,
    data: Configuration,
    inference: Configuration,
    overrides: Mapping[str, Any] | None = None,
) -> InferenceConfig:
    """An inference run from PtychoPINN's torch dataclasses.

    Parameters
    ----------
    model, data, overrides
        As for :func:`to_training_config`; the overrides say ``model_path`` and ``test_data_file``.
    inference
        InferenceConfig of the torch spelling.

    Raises
    ------
    OptionError, OptionTypeError
        As for :func:`to_model_config`; a path is missing.
    """
    values = {**translated_fields(data), **translated_fields(inference)}
    for name in ("model_path", "test_data_file"):
        if {**values, **(overrides or {})}.get(name) is None:
            raise OptionError(name, "missing", "a path", action=f"Pass overrides={{{name!r}: ...}}")
    return _built(InferenceConfig, {**values, **_oversampling(values), "model": model}, overrides)


def to_lineage_options(config: TrainingConfig | InferenceConfig) -> dict[str, dict[str, Any]]:
    """Keyword arguments of PtychoPINN's torch dataclasses, by class name.

    ``DataConfig(**options["DataConfig"])`` and so on; what is not named keeps their default.
    """
    values = dataclasses.asdict(config)
    model = values.pop("model")
    data = {name: model[name] for name in ("N", "probe_scale")}
    data |= {"grid_size": (model["gridsize"],) * 2, "C": model["gridsize"] ** 2}
    data["K"] = values["neighbor_count"]
    if values["groups_per_seed"] is not None:
        data["n_subsample"] = values["groups_per_seed"]
    names = ("object_big", "probe_big", "n_filters_scale", "amp_activation")
    network = {name: model[name] for name in names} | dict.fromkeys(
        ("C_model", "C_forward"), data["C"]
    )
    network["mode"] = "Unsupervised" if model["model_type"] == "pinn" else "Supervised"
    if network["amp_activation"] == "swish":
        network["amp_activation"] = "silu"
    options = {"DataConfig": data, "ModelConfig": network}
    if isinstance(config, TrainingConfig):
        network["intensity_scale_trainable"] = config.intensity_scale_trainable
        run = {
            "epochs": config.nepochs,
            "batch_size": config.batch_size,
            "nll": config.nll_weight > 0,
        }
        options["TrainingConfig"] = run
    return options


def check_number(name: str, value: object, *, positive: bool = False) -> float:
    """Return ``value`` as float when it is finite and >= 0, or > 0; refuse anything else.

    Raises
    ------
    OptionError, OptionTypeError
        It is out of range, or no number.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise OptionTypeError(name, repr(value), "a number")
    number = float(value)
    if not math.isfinite(number) or number < 0 or (positive and number == 0):
        raise OptionError(name, number, f"a finite number {'> 0' if positive else '>= 0'}")
    return number


def _built(
    kind: type[_Config], values: dict[str, Any], overrides: Mapping[str, Any] | None
) -> _Config:
    names = {entry.name for entry in dataclasses.fields(kind)}
    unknown = sorted(set(overrides or {}) - names)
    if unknown:
        raise OptionError("override", unknown[0], "one of " + ", ".join(sorted(names)))
    left_out = sorted(set(values) - names)
    logger.info("%s has no field for %s", kind.__name__, ", ".join(left_out))
    kept = {name: value for name, value in values.items() if name in names and value is not None}
    return kind(**{**kept, **(overrides or {})})


def _oversampling(values: Mapping[str, Any]) -> dict[str, Any]:
    return {"enable_oversampling": True} if values.get("groups_per_seed", 1) > 1 else {}


def _check_fields(config: Configuration) -> None:
    for entry in dataclasses.fields(config):
        name, kind, value = entry.name, str(entry.type), getattr(config, entry.name)
        if kind in _KINDS:
            fits, expected = _KINDS[kind]
            if not fits(value):
                raise OptionTypeError(name, repr(value), expected)
        elif kind == "float":
            check_number(name, value, positive=name in _POSITIVE)
        elif kind == "ModelType":
            check_choice(name, value, ModelType)
        elif name == "subsample_seed":
            check_seed(name, value)
        else:
            check_integer(name, value, minimum=1, optional=kind != "int")


def _take_n_images(config: TrainingConfig | InferenceConfig) -> None:
    n_images, n_groups = config.n_images, config.n_groups
    if n_images is None:
        return
    warnings.warn(
        f"n_images={n_images} is the deprecated spelling of n_groups; write n_groups={n_images}",
        DeprecationWarning,
        stacklevel=4,
    )
    if n_groups not in (None, n_images):
        expected = f"n_groups = {n_groups}, of which it is another spelling"
        raise OptionError("n_images", n_images, expected, action="Drop n_images")
    object.__setattr__(config, "n_groups", n_images)
