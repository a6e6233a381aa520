"""``ptycho-torch fit``, ``validate``, ``test`` and ``predict``: LightningCLI, with short refusals.

Models and callbacks are named in the configuration file; the data module is ours. Every refusal of
a configuration is one line, and comes before anything is written.
"""

from __future__ import annotations

import argparse
import difflib
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from ptycho_torch.data.errors import OptionError, describe
from ptycho_torch.datamodule import PtychoDataModule

COMMANDS = ("fit", "validate", "test", "predict")


def run(arguments: Sequence[str]) -> None:
    """Run one LightningCLI command; ``arguments[0]`` is its name."""
    with warnings.catch_warnings():
        # Lightning's own use of a deprecated torch name: no user can act on it.
        warnings.filterwarnings("ignore", message=".*LeafSpec.*")
        PtychoCLI(
            LightningModule,
            PtychoDataModule,
            subclass_mode_model=True,
            args=list(arguments),
            parser_kwargs={
                "prog": "ptycho-torch",
                "exit_on_error": False,
                **{name: {"exit_on_error": False} for name in COMMANDS},
            },
            # A run may be repeated into the same folder.
            save_config_kwargs={"overwrite": True},
        )


class PtychoCLI(LightningCLI):
    """LightningCLI whose refusals name file, field, what was found and what was expected."""

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse ``args``.

        Raises
        ------
        OptionError
            One line for whatever jsonargparse refuses.
        """
        try:
            self.config = parser.parse_args(args)
        except argparse.ArgumentError as error:
            files = config_files(args)
            raise OptionError(explain(str(error), files, known_keys(parser, args[0]))) from error


def config_files(arguments: Sequence[str]) -> str:
    """The configuration files named on a command line, as text; empty where there is none."""
    names = []
    for word, following in zip(arguments, [*arguments[1:], ""], strict=True):
        if word in ("--config", "-c"):
            names.append(following)
        elif word.startswith("--config="):
            names.append(word.partition("=")[2])
    return ", ".join(names)


def known_keys(parser: LightningArgumentParser, command: str) -> list[str]:
    """Every option of a command, in dotted form."""
    commands = getattr(parser, "_subcommands_action", None)
    chosen = getattr(commands, "_name_parser_map", {}).get(command, parser)
    return sorted({action.dest for action in chosen._actions if action.dest != "help"})


def explain(message: str, files: str, keys: Sequence[str] = ()) -> str:
    """Jsonargparse's message, of any length, as one line of ours.

    Parameters
    ----------
    message
        What jsonargparse says.
    files
        The configuration files of the command line; empty where there is none.
    keys
        Known options, to suggest the nearest from.
    """
    where = files or None
    if found := re.search(r"File does not exist: '?([^'\n]+)'?", message):
        return describe(_as_given(found[1], files), "the file", "missing", "a configuration file")
    if found := re.search(r"Problems? parsing config: (.*)", message, re.DOTALL):
        return describe(where, "the file", f"no valid YAML ({_flat(found[1])})", "valid YAML")
    if found := re.search(r"does not accept option '([^']+)'", message):
        return describe(where, found[1], "an unknown key", _nearest(found[1], keys))
    if found := re.search(r"arguments? (?:are|is) required: (.*)", message):
        missing = re.sub(r"\b(?:fit|validate|test|predict)\.", "", found[1])
        return describe(where, missing, "missing", "a value")
    outer = re.match(r'Parser key "([^"]+)":', message)
    field = outer[1] if outer else "the command line"
    if found := re.search(r"Option '([^']+)' is not accepted", message):
        return describe(where, f"{field}.init_args.{found[1]}", "an unknown key", "a known one")
    if found := re.search(r"Problem with given class_path '([^']+)':\s*(.*)", message, re.DOTALL):
        inner = found[2].partition("- Expected a <class 'NoneType'>")[0]
        return describe(where, f"{field} ({found[1]})", "refused", _flat(inner).rstrip("."))
    given = re.search(r"(?:Given value|Got value): (.*)", message)
    wanted = list(
        dict.fromkeys(re.findall(r"Expected (?:an? )?(<class '[^']+'>|[^\n.]+)", message))
    )
    if given and wanted:
        names = [re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", name) for name in wanted]
        return describe(where, field, given[1], " or ".join(names))
    reason = _flat(message)
    return f"{files}: {reason}" if files else reason


def _nearest(key: str, keys: Sequence[str]) -> str:
    parent = key.rpartition(".")[0]
    siblings = [other for other in keys if other.rpartition(".")[0] == parent]
    close = difflib.get_close_matches(key, siblings or keys, n=1)
    if close:
        return f"a known one, such as {close[0]}"
    return f"one of {', '.join(siblings)}" if siblings else "a known one"


def _as_given(path: str, files: str) -> str:
    """A path as the user wrote it: the parser reports it made absolute."""
    for name in files.split(", "):
        if name and Path(name).absolute() == Path(path):
            return name
    return path


def _flat(text: str) -> str:
    return " ".join(text.split())
