"""A checkpoint in, ``predictions.npz`` out.

Checks a checkpoint before Lightning builds anything: junk is one line, and leaves nothing behind.
"""

from __future__ import annotations

import logging
import sys
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.utilities.types import STEP_OUTPUT
from numpy.typing import NDArray
from torch import Tensor

from ptycho_torch.batches.batch import PtychoBatch
from ptycho_torch.data.errors import (
    OptionError,
    ScanFileError,
    ScanFileNotFoundError,
    naming,
    shown,
)
from ptycho_torch.data.files.atomic_write import atomic_write

logger = logging.getLogger(__name__)

# Lightning finds the files of these words.
_WORDS = ("best", "last", "hpc")
_EXPECTED = "a checkpoint written by fit"
_REQUIRED = ("state_dict", "pytorch-lightning_version")


def check_checkpoint(path: str | Path) -> Mapping[str, Any]:
    """Refuse a file that is no checkpoint of Lightning's.

    Parameters
    ----------
    path
        The file. Words that Lightning resolves, and addresses of file systems, are left to it.

    Raises
    ------
    ScanFileError, ScanFileNotFoundError
        Missing, unreadable, or something else.
    OptionError
        An address on the web: Lightning would unpickle what lies there.

    Returns
    -------
    Mapping
        What the checkpoint holds, its tensors mapped; empty for what is left to Lightning.
    """
    word = str(path)
    if word in _WORDS:
        return {}
    with naming(path):
        if Path(path).exists():
            return _checked_content(path)
        if word.startswith("http"):
            raise OptionError("ckpt_path", "an address", "a file", action="Download it first")
        if ":" not in word:
            raise ScanFileNotFoundError("file", "missing", _EXPECTED)
    return {}


def require_training_left(checkpoint: Mapping[str, Any], limits: Mapping[str, Any]) -> None:
    """Refuse to resume a training that has reached its end: Lightning would leave without a word.

    Parameters
    ----------
    checkpoint
        What it holds.
    limits
        The Trainer's ``max_steps`` and ``max_epochs``; None or -1: no limit.

    Raises
    ------
    OptionError
        The checkpoint is from the last step or epoch, or beyond.
    """
    try:
        epochs = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]
    except KeyError:
        # Lightning also takes weights without a place in a training.
        epochs = 0
    for name, reached in (("max_steps", checkpoint.get("global_step", 0)), ("max_epochs", epochs)):
        limit = limits[name]
        if limit is not None and 0 < limit <= reached:
            found = f"{limit}, and the checkpoint has {reached} behind it"
            action = f"To train on: --trainer.{name}={2 * reached}"
            raise OptionError(f"trainer.{name}", found, f"above {reached}", action=action)


def require_model(checkpoint: Mapping[str, Any], asked: str | None) -> None:
    """Refuse a checkpoint of another model than a configuration asks for.

    Lightning takes the checkpoint's, without a word.

    Parameters
    ----------
    checkpoint
        What it holds.
    asked
        The class path in the configuration; None: whatever the checkpoint holds.

    Raises
    ------
    ScanFileError
        The checkpoint names another class.
    """
    options = checkpoint.get("hyper_parameters")
    saved = options.get("_class_path") if isinstance(options, Mapping) else None
    if asked is None or not isinstance(saved, str) or _class_at(saved) is _class_at(asked):
        return
    expected = f"those of {asked}, which the configuration names"
    action = f"Name model.class_path {saved} there, or leave model: out"
    raise ScanFileError("hyper_parameters", f"those of {saved}", expected, action=action)


def say_what_stays(
    path: str | Path, checkpoint: Mapping[str, Any], asked: Mapping[str, Any]
) -> None:
    """Log which options of the model a resumed fit takes from its checkpoint, not as asked for.

    Lightning takes all of them, and the learning rates of the optimiser, without a word.

    Parameters
    ----------
    path, checkpoint
        The file, and what it holds.
    asked
        Options of the model that were given, by name.
    """
    options = checkpoint.get("hyper_parameters", {})
    kept = {name: options[name] for name in asked if name in options}
    other = [
        f"{name}={value}, not {asked[name]}" for name, value in kept.items() if value != asked[name]
    ]
    if other:
        logger.warning(
            "%s: the fit goes on with %s, as it began; a fit with other options starts without "
            "--ckpt_path",
            shown(path),
            "; ".join(other),
        )


def _class_at(path: str) -> object:
    """What a class path names, where its module is imported; else the path."""
    module, _, name = path.rpartition(".")
    return getattr(sys.modules.get(module), name, path)


def _checked_content(path: str | Path) -> Mapping[str, Any]:
    try:
        # Mapped: nothing reads the weights twice.
        content = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except OSError as error:
        found = f"unreadable ({error.strerror or error})"
        raise ScanFileError("file", found, _EXPECTED) from error
    except MemoryError:
        raise
    except Exception as error:
        # Junk makes torch raise whatever its parsers happen to meet.
        found = "broken, or holds more than tensors and plain values"
        raise ScanFileError("file", found, _EXPECTED) from error
    for key in _REQUIRED:
        if not isinstance(content, Mapping) or key not in content:
            raise ScanFileError("file", f"without {key}", _EXPECTED)
    return cast("Mapping[str, Any]", content)


class WritePredictions(pl.Callback):
    """Write what a model predicts to ``<default_root_dir>/predictions.npz``, an array for each key.

    Batches are joined along their first axis. With several processes, each writes its own groups to
    ``predictions.<rank>.npz``.
    """

    def __init__(self) -> None:
        self.path: Path | None = None
        self.names: set[str] = set()
        self._parts: dict[str, list[NDArray[Any]]] = defaultdict(list)

    def on_predict_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: STEP_OUTPUT,
        batch: PtychoBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep a batch's arrays.

        Raises
        ------
        OptionError
            The model predicts something else than tensors with the batch on the first axis.
        """
        named = {"predictions": outputs} if isinstance(outputs, Tensor) else outputs
        if not isinstance(named, Mapping) or not all(
            isinstance(value, Tensor) and value.ndim for value in named.values()
        ):
            expected = "a tensor, or a dict of tensors, with the batch on the first axis"
            found = type(outputs).__name__
            raise OptionError("the result of predict_step", found, expected)
        for name, value in named.items():
            self._parts[str(name)].append(value.detach().cpu().numpy())

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the file."""
        rank = f".{trainer.global_rank}" if trainer.world_size > 1 else ""
        path = Path(trainer.default_root_dir) / f"predictions{rank}.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        arrays: dict[str, Any] = {
            name: np.concatenate(parts) for name, parts in self._parts.items()
        }
        with atomic_write(path) as handle:
            np.savez(handle, **arrays)
        self.names = set(self._parts)
        self._parts.clear()
        self.path = path
