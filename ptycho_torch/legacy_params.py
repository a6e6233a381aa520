"""The flat legacy dict of a configuration, and what it says about grouping.

Owns the renamed keys, and the translation of the torch spelling (grid_size, K, epochs, nll, mode).
Takes any dataclass with such field names. There is no global dict: callers pass their own.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Protocol, TypeGuard

from ptycho_torch.data.config import GroupingConfig, check_integer
from ptycho_torch.data.errors import OptionError, OptionTypeError

logger = logging.getLogger(__name__)

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
"""Fields of the torch spelling, and those of the configurations that mean the same."""

_MODEL_TYPES = MappingProxyType({"Unsupervised": "pinn", "Supervised": "supervised"})

_GROUPING_KEYS = MappingProxyType(
    {
        "N": "N",
        "K": "neighbor_count",
        "nsamples": "n_groups",
        "gridsize": "gridsize",
        "sequential_sampling": "sequential_sampling",
        "enable_oversampling": "enable_oversampling",
        "neighbor_pool_size": "neighbor_pool_size",
    }
)
"""Arguments of generate_grouped_data, and the keys that give their defaults."""


_NEIGHBOR_FUNCTIONS = ("Nearest", "Min_dist", "4_quadrant")
_CHOICES = ("neighbor_function", "x_bounds", "y_bounds")


class Configuration(Protocol):
    """Any dataclass instance; its fields carry names of the configurations here."""

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]


def to_legacy_params(cfg: Configuration) -> dict[str, Any]:
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
    for name, value in translated_fields(cfg).items():
        if is_configuration(value):
            _put_all(params, to_legacy_params(value))
        elif value is not None:
            plain = str(value) if isinstance(value, Path) else value
            _put_all(params, {LEGACY_KEYS.get(name, name): plain})
    return params


def update_legacy_dict(cfg: MutableMapping[str, Any], config: Configuration) -> None:
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


def grouping_defaults(params: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of ``generate_grouped_data`` that a flat legacy dict gives; None gives none."""
    everything = (None, "Nearest", (0, 1), [0, 1])
    chosen = [name for name in _CHOICES if params.get(name) not in everything]
    if chosen:
        logger.warning(
            "%s left out: groups here are those of the TensorFlow pipeline; "
            "PtychoDataset(grouping=to_grouping_config(data)) chooses",
            ", ".join(chosen),
        )
    return {
        name: params[key] for name, key in _GROUPING_KEYS.items() if params.get(key) is not None
    }


def to_grouping_config(
    data: Configuration, overrides: Mapping[str, Any] | None = None
) -> GroupingConfig:
    """How PtychoPINN's torch DataConfig groups, in the options of a dataset.

    Parameters
    ----------
    data
        DataConfig of the torch spelling. ``neighbor_function`` ``"Min_dist"`` takes its distances,
        in object pixels, as the least and greatest; ``"4_quadrant"`` draws one of each quadrant
        among the ``K_quadrant`` nearest; ``"Nearest"`` and quadrants leave distances out, as there.
        ``n_subsample`` becomes ``groups_per_seed``.
    overrides
        Fields of :class:`~ptycho_torch.GroupingConfig`, which win.

    Raises
    ------
    OptionError, OptionTypeError
        A value has no translation, or the grouping cannot work.
    """
    values = translated_fields(data)
    function = values.get("neighbor_function", "Nearest")
    if function not in _NEIGHBOR_FUNCTIONS:
        raise OptionError(
            "neighbor_function", repr(function), "one of " + ", ".join(_NEIGHBOR_FUNCTIONS)
        )
    if function == "4_quadrant":
        values["neighbor_choice"] = "quadrants"
        values["neighbor_count"] = values.get("K_quadrant") or values.get("neighbor_count")
    if function != "Min_dist":
        for name in ("min_neighbor_distance", "max_neighbor_distance"):
            values.pop(name, None)
    names = [field.name for field in dataclasses.fields(GroupingConfig)]
    kept = {name: values[name] for name in names if values.get(name) is not None}
    return GroupingConfig(**{**kept, **(overrides or {})})


def is_configuration(value: object) -> TypeGuard[Configuration]:
    """Whether a value is a dataclass instance."""
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def translated_fields(cfg: Configuration) -> dict[str, Any]:
    """Fields of one dataclass by the names here; nested dataclasses stay whole.

    Raises
    ------
    OptionError, OptionTypeError
        As for :func:`to_legacy_params`.
    """
    if not is_configuration(cfg):
        raise OptionTypeError("the configuration", type(cfg).__name__, "a dataclass instance")
    values: dict[str, Any] = {f.name: getattr(cfg, f.name) for f in dataclasses.fields(cfg)}
    spelled = [name for name in TORCH_SPELLING if values.get(name) is not None]
    if spelled and values.get("n_subsample") is not None:
        values["groups_per_seed"] = check_integer("n_subsample", values["n_subsample"], minimum=1)
        logger.info(
            "n_subsample=%s beside %s means groups per seed position; kept as groups_per_seed",
            values.pop("n_subsample"),
            spelled[0],
        )
    for name in spelled:
        field, value = TORCH_SPELLING[name], _translate(name, values[name])
        if values.get(field, value) not in (None, value):
            expected = f"{field} = {values[field]}, which it contradicts"
            raise OptionError(name, values[name], expected)
        values[field] = value
    return {name: value for name, value in values.items() if name not in TORCH_SPELLING}


def _translate(name: str, value: object) -> object:
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
        if not isinstance(value, str) or value not in _MODEL_TYPES:
            raise OptionError("mode", repr(value), "'Unsupervised' or 'Supervised'")
        return _MODEL_TYPES[value]
    return check_integer(name, value, minimum=1)


def _put_all(params: dict[str, Any], new: dict[str, Any]) -> None:
    for key, value in new.items():
        if params.setdefault(key, value) != value:
            raise OptionError(key, repr(value), f"{params[key]!r}, which another field says")
