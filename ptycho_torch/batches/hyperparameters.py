"""Options: where one belongs, and how a checkpoint holds them, as values that need no unpickling.

Knows which classes have options, and no scans.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, fields
from typing import Any, TypeVar

import numpy as np

from ptycho_torch.batches.augmentation import Augmentation
from ptycho_torch.data.config import GroupingConfig
from ptycho_torch.data.errors import OptionError, OptionTypeError

_Options = TypeVar("_Options", GroupingConfig, Augmentation)


def plain_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Options as numbers, text, and lists and dicts of these.

    Paths become text, ``GroupingConfig`` and ``Augmentation`` dicts. What has no plain form, such
    as a scan in memory, is left out.
    """
    kept = {}
    for name, value in given.items():
        with suppress(TypeError):
            kept[name] = _plain(value)
    return kept


def options_of(kind: type[_Options], name: str, given: object) -> _Options:
    """Options that a caller gives, or a checkpoint in their plain form, by the option's name.

    Raises
    ------
    OptionError, OptionTypeError
        They are none, or their fields cannot work.
    """
    if isinstance(given, Mapping):
        known = [field.name for field in fields(kind)]
        for key in given:
            if key not in known:
                raise OptionError(f"{name}.{key}", "an unknown key", f"one of {', '.join(known)}")
        return kind(**given)
    if not isinstance(given, kind):
        raise OptionTypeError(name, type(given).__name__, f"a {kind.__name__}")
    return given


def refuse_misplaced(options: Mapping[str, Any]) -> None:
    """Refuse options that PtychoDataset does not have, and say where the first of them lives."""
    for name in options:
        of_grouping = name in {field.name for field in fields(GroupingConfig)}
        raise OptionTypeError(
            name,
            "no option of PtychoDataset",
            f"grouping=GroupingConfig({name}=...)" if of_grouping else "one of its own options",
        )


def _plain(value: object) -> Any:
    """The plain form of a value; TypeError where it has none."""
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, (GroupingConfig, Augmentation)):
        return _plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, Sequence):
        return [_plain(each) for each in value]
    raise TypeError(type(value).__name__)
