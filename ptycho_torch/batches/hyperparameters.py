"""Options as a checkpoint may hold them, and back: plain values that need no unpickling."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, fields
from typing import Any

import numpy as np

from ptycho_torch.data.config import GroupingConfig
from ptycho_torch.data.errors import OptionError, OptionTypeError


def plain_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Options as numbers, text, and lists and dicts of these.

    Paths become text and a ``GroupingConfig`` becomes a dict. What has no plain form, such as a
    scan in memory, is left out.
    """
    kept = {}
    for name, value in given.items():
        with suppress(TypeError):
            kept[name] = _plain(value)
    return kept


def grouping_of(given: object) -> GroupingConfig:
    """The grouping that a caller gives, or a checkpoint in its plain form; None: the default.

    Raises
    ------
    OptionError, OptionTypeError
        It is none, or its fields cannot work.
    """
    if given is None:
        return GroupingConfig()
    if isinstance(given, Mapping):
        known = [field.name for field in fields(GroupingConfig)]
        for name in given:
            if name not in known:
                raise OptionError(
                    f"grouping.{name}", "an unknown key", f"one of {', '.join(known)}"
                )
        return GroupingConfig(**given)
    if not isinstance(given, GroupingConfig):
        raise OptionTypeError("grouping", type(given).__name__, "a GroupingConfig")
    return given


def _plain(value: object) -> Any:
    """The plain form of a value; TypeError where it has none."""
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, GroupingConfig):
        return _plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, Sequence):
        return [_plain(each) for each in value]
    raise TypeError(type(value).__name__)
