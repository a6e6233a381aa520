"""Configuration dataclasses of the TensorFlow pipeline, and the flat legacy dict they become.

Owns the three dataclasses, their defaults and rules, the renamed keys, and the translation of the
torch spelling (grid_size, K, epochs, nll, mode). Takes any dataclass with these field names. Knows
no arrays and no files; there is no global dict: callers pass their own.
"""

from __future__ import annotations

import dataclasses
import math
import numbers
import warnings
from collections.abc import MutableMapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, TypeGuard

from ptycho_torch.data.config import check_choice, check_integer, check_seed
from ptycho_torch.data.errors import OptionError, OptionTypeError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

ModelType = Literal["pinn", "supervised"]

DEFAULT_TRAINING_GROUPS = 512
"""Groups for training where neither n_groups nor n_images says how many, as in the reference."""

LEGACY_KEYS = MappingProxyType(
    {
        "object_big": "object.big",
        "probe_big": "probe.big",
        "probe_mask": "probe.mask",
        "probe_trainable": "probe.trainable",
        "intensity_scale_trainable": "intensity_scale.trainable",
        "positions_provided": "positions.provided",
        "output_dir": "output_prefix",
        "train_data_file": "train_data_file_path",
        "test_data_file": "test_data_file_path",
    }
)
"""Fields that have another name in the flat legacy dict."""

TORCH_SPELLING = MappingProxyType(
    {
        "grid_size": "gridsize",
        "K": "neighbor_count",
        "epochs": "nepochs",
        "nll": "nll_weight",
        "mode": "model_type",
    }
)
"""Fields of the torch spelling, and the fields here that mean the same."""

_MODEL_TYPES = MappingProxyType({"Unsupervised": "pinn", "Supervised": "supervised"})

PathLike = str | Path | None


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
        for name in ("N", "gridsize", "n_filters_scale"):
            check_integer(name, getattr(self, name), minimum=1)
        check_choice("model_type", self.model_type, ModelType)
        _check_flags(self, "object_big", "probe_big", "probe_mask", "pad_object")
        check_number("probe_scale", self.probe_scale, positive=True)
        check_number("gaussian_smoothing_sigma", self.gaussian_smoothing_sigma)
        if not isinstance(self.amp_activation, str) or not self.amp_activation:
            raise OptionTypeError(
                "amp_activation", repr(self.amp_activation), "an activation's name"
            )


@dataclass(frozen=True)
class _SamplingConfig:
    """Rules of the fields that training and inference share."""

    def _check_sampling(self) -> None:
        values = _fields(self)
        if not _is_configuration(values["model"]):
            raise OptionTypeError("model", repr(values["model"]), "a ModelConfig")
        for name in ("n_groups", "n_images", "n_subsample", "neighbor_pool_size"):
            check_integer(name, values[name], minimum=1, optional=True)
        check_integer("neighbor_count", values["neighbor_count"], minimum=1)
        check_seed("subsample_seed", values["subsample_seed"])
        _check_flags(self, "enable_oversampling")
        for name in ("train_data_file", "test_data_file", "model_path", "output_dir"):
            if not isinstance(values.get(name), PathLike):
                raise OptionTypeError(name, repr(values[name]), "a path")
        if values["n_images"] is not None:
            self._translate_n_images(values["n_images"], values["n_groups"])

    def _translate_n_images(self, n_images: int, n_groups: int | None) -> None:
        warnings.warn(
            f"n_images={n_images} is the deprecated spelling of n_groups; write "
            f"n_groups={n_images}",
            DeprecationWarning,
            stacklevel=5,
        )
        if n_groups not in (None, n_images):
            expected = f"n_groups = {n_groups}, of which it is another spelling"
            raise OptionError("n_images", n_images, expected, action="Drop n_images")
        object.__setattr__(self, "n_groups", n_images)


@dataclass(frozen=True)
class TrainingConfig(_SamplingConfig):
    """One training run of the TensorFlow pipeline.

    Parameters
    ----------
    model
        A :class:`ModelConfig`, or any dataclass with its field names.
    n_groups
        Groups to draw; None becomes 512.
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

    model: DataclassInstance = field(default_factory=ModelConfig)
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

    def __post_init__(self) -> None:
        self._check_sampling()
        if self.n_groups is None:
            object.__setattr__(self, "n_groups", DEFAULT_TRAINING_GROUPS)
        for name in ("batch_size", "nepochs"):
            check_integer(name, getattr(self, name), minimum=1)
        for name in ("mae_weight", "nll_weight", "realspace_mae_weight", "realspace_weight"):
            check_number(name, getattr(self, name))
        check_number("nphotons", self.nphotons, positive=True)
        _check_flags(
            self,
            "positions_provided",
            "probe_trainable",
            "intensity_scale_trainable",
            "sequential_sampling",
        )


@dataclass(frozen=True)
class InferenceConfig(_SamplingConfig):
    """One inference run of the TensorFlow pipeline; fields as in :class:`TrainingConfig`.

    Parameters
    ----------
    model, model_path, test_data_file
        The model to run, its file, and the scan to run it on.
    n_groups
        Groups to draw; None means all.
    n_images, n_subsample, subsample_seed, neighbor_count, enable_oversampling, \
neighbor_pool_size, debug, output_dir
        As in the reference.

    Raises
    ------
    OptionError, OptionTypeError
        A value is out of range, of the wrong type, or contradicts another.
    """

    model: DataclassInstance
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

    def __post_init__(self) -> None:
        self._check_sampling()
        for name in ("model_path", "test_data_file"):
            if getattr(self, name) is None:
                raise OptionTypeError(name, None, "a path")
        _check_flags(self, "debug")


def to_legacy_params(cfg: DataclassInstance) -> dict[str, Any]:
    """The flat legacy dict of a configuration.

    Parameters
    ----------
    cfg
        One of the dataclasses here, the reference's own, or any dataclass with such field names,
        the torch spelling included.

    Returns
    -------
    params
        Fields of ``model`` beside the others, renamed where the legacy dict has another name,
        paths as strings. A field that is None has no key.

    Raises
    ------
    OptionError
        A torch spelling that has no translation, or that contradicts its other spelling.
    OptionTypeError
        ``cfg`` is not a dataclass instance.
    """
    params: dict[str, Any] = {}
    for name, value in _translated_fields(cfg).items():
        if _is_configuration(value):
            _put_all(params, to_legacy_params(value))
        elif value is not None:
            plain = str(value) if isinstance(value, Path) else value
            _put_all(params, {LEGACY_KEYS.get(name, name): plain})
    return params


def update_legacy_dict(cfg: MutableMapping[str, Any], config: DataclassInstance) -> None:
    """Put a configuration into a caller's flat legacy dict, in place.

    Parameters
    ----------
    cfg
        The caller's dict; keys whose field is None stay as they are, and so do all other keys.
    config
        As for :func:`to_legacy_params`.

    Raises
    ------
    OptionError, OptionTypeError
        As for :func:`to_legacy_params`; the dict is then unchanged.
    """
    if not isinstance(cfg, MutableMapping):
        raise OptionTypeError(
            "cfg", type(cfg).__name__, "the dict to update", action="Pass (dict, dataclass)"
        )
    cfg.update(to_legacy_params(config))


def check_number(name: str, value: float, *, positive: bool = False) -> float:
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


def _is_configuration(value: Any) -> TypeGuard[DataclassInstance]:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def _fields(cfg: DataclassInstance) -> dict[str, Any]:
    return {f.name: getattr(cfg, f.name) for f in dataclasses.fields(cfg)}


def _translated_fields(cfg: DataclassInstance) -> dict[str, Any]:
    """Fields of one dataclass by the names here; nested dataclasses stay whole."""
    if not _is_configuration(cfg):
        raise OptionTypeError("the configuration", type(cfg).__name__, "a dataclass instance")
    values = _fields(cfg)
    spelled = [name for name in TORCH_SPELLING if values.get(name) is not None]
    if spelled and values.get("n_subsample") is not None:
        raise OptionError(
            f"n_subsample={values['n_subsample']} stands beside {spelled[0]}, the torch spelling, "
            "where it means groups per seed position; expected the number of frames kept before "
            "grouping. Set it to None and say n_groups, or n_subsample in a TrainingConfig."
        )
    for name in spelled:
        ours, value = TORCH_SPELLING[name], _translate(name, values[name])
        if values.get(ours, value) not in (None, value):
            raise OptionError(name, values[name], f"{ours} = {values[ours]}, which it contradicts")
        values[ours] = value
    return {name: value for name, value in values.items() if name not in TORCH_SPELLING}


def _translate(name: str, value: Any) -> Any:
    if name == "grid_size":
        sides = tuple(value) if isinstance(value, (tuple, list)) else ()
        if len(sides) != 2 or sides[0] != sides[1]:
            raise OptionError("grid_size", repr(value), "a pair (g, g): groups are square")
        return check_integer("grid_size", sides[0], minimum=1)
    if name == "nll":
        if not isinstance(value, bool):
            raise OptionTypeError("nll", repr(value), "True or False")
        return 1.0 if value else 0.0
    if name == "mode":
        if value not in _MODEL_TYPES:
            raise OptionError("mode", repr(value), "'Unsupervised' or 'Supervised'")
        return _MODEL_TYPES[value]
    return check_integer(name, value, minimum=1)


def _put_all(params: dict[str, Any], new: dict[str, Any]) -> None:
    for key, value in new.items():
        if params.setdefault(key, value) != value:
            raise OptionError(key, repr(value), f"{params[key]!r}, which another field says")


def _check_flags(config: DataclassInstance, *names: str) -> None:
    for name in names:
        if not isinstance(getattr(config, name), bool):
            raise OptionTypeError(name, repr(getattr(config, name)), "True or False")
