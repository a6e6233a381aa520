"""``ptycho-torch fit``, ``validate``, ``test`` and ``predict``: LightningCLI, with short refusals.

The configuration file names model and callbacks; the data module is PtychoDataModule. Every refusal
of a configuration is one line, and comes before anything is written.
"""

from __future__ import annotations

import argparse
import inspect
import json
import logging
import re
import shlex
import signal
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

from jsonargparse import Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.exceptions import SIGTERMException

from ptycho_torch.cli.checkpoints import (
    WritePredictions,
    check_checkpoint,
    require_model,
    require_training_left,
    say_what_stays,
)
from ptycho_torch.cli.option_help import describe
from ptycho_torch.cli.options import TRAINING
from ptycho_torch.cli.refusals import config_files, explain
from ptycho_torch.data.errors import (
    MissingDependencyError,
    OptionError,
    OptionTypeError,
    PtychoTorchError,
    ScanFileError,
    naming,
    shown,
)
from ptycho_torch.data.plausibility import warn_of
from ptycho_torch.datamodule import PtychoDataModule
from ptycho_torch.results.report import ReconstructionReport, said

CHATTER = (
    "Seed set to",
    "GPU available: False",
    "TPU available: False",
    "Loading `train_dataloader` to estimate",
    "\nDetected KeyboardInterrupt",
    "\N{ELECTRIC LIGHT BULB}",
)
LIMITS = MappingProxyType({"validate": "val", "test": "test", "predict": "predict"})


def run(arguments: Sequence[str]) -> None:
    """Run one LightningCLI command; ``arguments[0]`` is its name."""
    with without_chatter():
        try:
            PtychoCLI(
                LightningModule,
                PtychoDataModule,
                subclass_mode_model=True,
                seed_everything_default=0,
                args=list(arguments),
                parser_kwargs={
                    "prog": "ptycho-torch",
                    "exit_on_error": False,
                    **{name: {"exit_on_error": False} for name in TRAINING},
                },
                save_config_kwargs={"overwrite": True},
            )
        except SIGTERMException as error:
            raise SystemExit(128 + signal.SIGTERM) from error
        except SystemExit as error:
            # Lightning shuts down in order, then leaves with 1, which is the data's fault here.
            if isinstance(error.__context__, KeyboardInterrupt):
                raise KeyboardInterrupt from error
            raise


@contextmanager
def without_chatter() -> Iterator[None]:
    """Leave out what Lightning says of itself and of absent hardware; no user can act on it."""
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.seed"):
        logging.getLogger(name).addFilter(_is_about_this_run)
    with warnings.catch_warnings():
        # Lightning itself uses deprecated names.
        warnings.filterwarnings("ignore", message=".*LeafSpec.*")
        warnings.filterwarnings("ignore", category=DeprecationWarning, module="lightning")
        # A run may be repeated into the same folder.
        warnings.filterwarnings("ignore", message="Checkpoint directory .* is not empty")
        yield


def _is_about_this_run(record: logging.LogRecord) -> bool:
    """Whether a log line of Lightning's helps; absent hardware and recommendations do not."""
    return not record.getMessage().startswith(CHATTER)


class PtychoCLI(LightningCLI):
    """LightningCLI whose refusals name file, field, what was found and what was expected."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Fit object and probe where the configuration names no model."""
        parser.set_defaults({"model": {"class_path": "ptycho_torch.ObjectFit"}})

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse ``args``, a list of words.

        Raises
        ------
        OptionError
            One line for whatever jsonargparse refuses, and for a pass that would run no batch or an
            untrained model.
        ScanFileError
            The checkpoint is none.
        """
        words = cast("list[str]", args)
        self._typed = shlex.join(["ptycho-torch", *words])
        files = config_files(words)
        self._file = files or None
        chosen = _of_command(parser, words[0])
        chosen.usage = f"ptycho-torch {words[0]} --config FILE.yaml [--SECTION.NAME VALUE ...]"
        describe(chosen)
        with naming(self._file):
            try:
                self.config = parser.parse_args(words)
            except argparse.ArgumentError as error:
                keys = known_keys(chosen)
                raise explain(str(error), files, words[0], keys) from error
            command = self.config["subcommand"]
            asked, given = _named_model(parser, words)
            if asked:
                _take_own_defaults(self.config[command]["model"], given)
            checkpoint = _require_work(command, self.config[command])
            if checkpoint:
                path = self.config[command]["ckpt_path"]
                with naming(path):
                    require_model(checkpoint, asked)
                if command == "fit":
                    say_what_stays(path, checkpoint, given)

    def _parse_ckpt_path(self) -> None:
        """Take model and options from the checkpoint, as Lightning does, or refuse in one line."""
        try:
            super()._parse_ckpt_path()
        except (argparse.ArgumentError, AttributeError, TypeError, ValueError) as error:
            with naming(self.config[self.config["subcommand"]]["ckpt_path"]):
                raise ScanFileError(
                    "the checkpoint was written by another model class or with unknown options "
                    "(hyper_parameters); expected one written by fit."
                ) from error

    def instantiate_classes(self) -> None:
        """Build model, data and trainer.

        Raises
        ------
        OptionError
            One line for a value that a constructor refuses.
        """
        try:
            super().instantiate_classes()
        except (ValueError, OptionTypeError, MisconfigurationException) as error:
            with naming(self._file):
                raise _refusal(error) from None
        if self.subcommand == "predict":
            self._predictions = WritePredictions()
            cast("Any", self.trainer).callbacks.append(self._predictions)

    def before_fit(self) -> None:
        """Say, once, what looks wrong with the scans to train on."""
        for report in self._reports():
            report.command = self._typed
        if self.trainer.is_global_zero:
            for scan in cast("PtychoDataModule", self.datamodule).dataset("train").measured:
                warn_of(scan)

    def after_predict(self) -> None:
        """Print the path of the predictions; stitch patches to an object, and judge it."""
        print(f"predictions: {shown(self._predictions.path)}")
        if {"patches", "positions_px"} <= self._predictions.names:
            report = ReconstructionReport(self.trainer.default_root_dir)
            report.command = self._typed
            try:
                report.write_predicted(self.trainer, self.model)
            except MissingDependencyError as error:
                print(f"no picture of the object: {error}")
            for metrics in report.written:
                _say_figures(metrics)

    def after_fit(self) -> None:
        """Print the figures of each reconstruction and the path of its picture."""
        for report in self._reports():
            for metrics in report.written:
                _say_figures(metrics)

    def _reports(self) -> list[ReconstructionReport]:
        callbacks = cast("Any", self.trainer).callbacks
        return [each for each in callbacks if isinstance(each, ReconstructionReport)]


def _named_model(
    parser: LightningArgumentParser, words: Sequence[str]
) -> tuple[str | None, dict[str, Any]]:
    """The class path of the model that is named, and the options that are given with it.

    None where configuration and command line leave the model at the default.
    """
    try:
        named = parser.parse_args(words, defaults=False)[words[0]].get("model")
    except argparse.ArgumentError:
        # Options of the default model, which nobody names.
        return None, {}
    if not isinstance(named, Namespace) or not named.get("class_path"):
        return None, {}
    options = named.get("init_args")
    return str(named["class_path"]), {} if options is None else options.as_dict()


def _take_own_defaults(model: Namespace, given: Mapping[str, Any]) -> None:
    """Give options that are not given the defaults of their own class.

    jsonargparse leaves them those of the default model where they have the same name: a network
    without a ``learning_rate`` would train with that of ObjectFit.
    """
    module, _, name = model.class_path.rpartition(".")
    parameters = inspect.signature(getattr(import_module(module), name)).parameters
    options = model.get("init_args") or {}
    for option in [*options.keys()]:
        own = parameters.get(option)
        if option not in given and own is not None and own.default is not own.empty:
            options[option] = own.default


def _of_command(parser: LightningArgumentParser, command: str) -> LightningArgumentParser:
    """The parser of a command."""
    commands = getattr(parser, "_subcommands_action", None)
    return cast(
        "LightningArgumentParser", getattr(commands, "_name_parser_map", {}).get(command, parser)
    )


def known_keys(parser: LightningArgumentParser) -> list[str]:
    """Every option of a command, in dotted form."""
    return sorted({action.dest for action in parser._actions if action.dest != "help"})


def _require_work(command: str, config: Namespace) -> Mapping[str, Any]:
    """Refuse a pass of no batch or of an untrained model, and a checkpoint that leaves no work.

    Gives what the checkpoint holds; empty without one.
    """
    checkpoint = config["ckpt_path"]
    if command in LIMITS:
        field = f"limit_{LIMITS[command]}_batches"
        limit = config["trainer"][field]
        if checkpoint is None:
            found = "missing, so the model is untrained"
            action = "For a trained model, pass --ckpt_path FILE"
            raise OptionError("ckpt_path", found, "a checkpoint", action=action)
        if limit == 0:
            found = f"{limit}, so {command} does nothing"
            action = f"Add --trainer.{field}=1.0"
            raise OptionError(f"trainer.{field}", found, "above 0", action=action)
    if checkpoint is None:
        return {}
    # Before Lightning opens it, which ends in a traceback for anything else.
    content = check_checkpoint(checkpoint)
    if command == "fit":
        with naming(checkpoint):
            require_training_left(content, config["trainer"])
    return content


def _refusal(error: Exception) -> PtychoTorchError:
    """The refusal among an exception's causes, or one with its words."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, PtychoTorchError):
        cause = cause.__cause__ or cause.__context__
    if cause is None and "tensorboardX" in str(error):
        return MissingDependencyError(
            "tensorboard is not installed: TensorBoardLogger needs it; "
            "pip install ptycho-torch[tensorboard]"
        )
    if cause is None:
        # Where a class is one of several types of an option, jsonargparse keeps only the words.
        said = re.findall(r"^\s*- (?!Expected )(.+)", str(error), re.MULTILINE)
        return OptionError(said[0] if "Union subtypes" in str(error) and said else str(error))
    return cause


def _say_figures(metrics: Path) -> None:
    figures = json.loads(metrics.read_text(encoding="utf-8"))
    for line in said(figures):
        print(line)
    prefix = metrics.name.removesuffix("metrics.json")
    for what, name in (("picture", "reconstruction.png"), ("page", "report.html")):
        print(f"{what}: {shown(metrics.with_name(prefix + name))}")
