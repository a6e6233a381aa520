"""What jsonargparse refuses, in one line: field, what was found, what was expected.

Text in, an error out. Messages of jsonargparse run over many lines and name types and parsers; the
author of a configuration file needs the field.
"""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Sequence
from importlib import import_module
from itertools import takewhile
from pathlib import Path

from ptycho_torch.cli.class_paths import class_path_error
from ptycho_torch.cli.options import TRAINING, command_line
from ptycho_torch.cli.spellings import unknown_option
from ptycho_torch.data.errors import OptionError


def config_files(arguments: Sequence[str]) -> str:
    """The configuration files named on a command line, as text; empty where there is none."""
    names = []
    for word, following in zip(arguments, [*arguments[1:], ""], strict=True):
        if word in ("--config", "-c"):
            names.append(following)
        elif word.startswith("--config="):
            names.append(word.partition("=")[2])
    return ", ".join(names)


def explain(message: str, files: str, command: str, keys: Sequence[str]) -> OptionError:
    """One line for whatever jsonargparse says; the caller names the configuration files.

    Parameters
    ----------
    message
        Its message, of any length.
    files
        The configuration files of the command line; empty where there is none.
    command
        The command.
    keys
        Known options in dotted form, to suggest the nearest from.
    """
    if found := re.search(r"File does not exist: '?([^'\n]+)'?", message):
        missing = _as_given(found[1], files)
        return OptionError("file", "missing", "a configuration file", file=missing)
    if found := re.search(r"Problems? parsing config: (.*)", message, re.DOTALL):
        return OptionError("file", f"broken ({_flat(found[1])})", "valid YAML")
    if found := re.search(r"arguments? (?:are|is) required: (.*)", message):
        names = re.sub(rf"\b(?:{'|'.join(TRAINING)})\.", "", found[1])
        return OptionError(names, "missing", "a value")
    if found := re.search(r"unrecognized arguments: (.*)", message):
        words = found[1].split()
        error = unknown_option(words, command, keys, command_line().commands()["convert"].words())
        error.file = "command line"  # not in the configuration's file
        return error
    if found := re.search(r"does not accept option '([^']+)'", message):
        return OptionError(found[1], "an unknown key", nearest(found[1], keys))
    return _explain_value(message, "")


def _explain_value(message: str, prefix: str) -> OptionError:
    """One line for a value, which may stand in the arguments of a class within another's."""
    outer = re.match(r'\s*Parser key "([^"]+)":', message)
    field = f"{prefix}{outer[1]}" if outer else prefix.rstrip(".") or "the command line"
    if found := re.search(r"Problem with given class_path '([^']+)':", message):
        inner = _below(message, found)
        inside = f"{field}.init_args." if "'class_path':" in message else f"{field}."
        if option := re.match(r"Option '([^']+)' is not accepted", inner):
            known = [f"{inside}{name}" for name in _parameters(found[1])]
            key = f"{inside}{option[1]}"
            return OptionError(key, "an unknown key", nearest(key, known))
        if inner.startswith("Parser key"):
            return _explain_value(inner, inside)
        return class_path_error(field, found[1], _flat(inner).rstrip("."))
    if found := re.search(r"Given value: \{'class_path': '([^']+)'", message):
        reasons = re.findall(r"^\s*- (.*)", message, re.MULTILINE) or [""]
        return class_path_error(field, found[1], reasons[0])
    given = re.search(r"(?:Given value|Got value): (.*)", message)
    wanted = re.findall(r"Expected (?:an? )?(<class '[^']+'>|typing\.[^\n]+?\]|[^\n.]+)", message)
    if given and wanted:
        names = dict.fromkeys(map(_type_in_words, wanted))
        return OptionError(field, given[1], " or ".join(names))
    return OptionError(_flat(message))


def _below(message: str, found: re.Match[str]) -> str:
    """What follows in a line, and the lines below that are further in: the same problem's."""
    start = message.rfind("\n", 0, found.start()) + 1
    line, *lines = message[start:].split("\n")

    def further_in(other: str) -> bool:
        return len(other) - len(other.lstrip()) > len(line) - len(line.lstrip())

    rest = message[found.end() : start + len(line)]
    return "\n".join([rest, *takewhile(further_in, lines)]).strip()


def _type_in_words(name: str) -> str:
    name = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", name)
    name = re.sub(r"typing\.Literal\[(.+)\]$", r"one of \1", name)
    return "null" if name == "NoneType" else name


def nearest(key: str, keys: Sequence[str]) -> str:
    """What the author of an unknown key could mean, as text."""
    parent = key.rpartition(".")[0]
    siblings = [other for other in keys if other.rpartition(".")[0] == parent]
    close = difflib.get_close_matches(key, siblings or keys, n=1)
    if close:
        return f"a known one, such as {close[0]}"
    return f"one of {', '.join(siblings)}" if siblings else "a known one"


def _parameters(class_path: str) -> list[str]:
    """Names of the arguments of a class that the parser has just imported."""
    module, _, name = class_path.rpartition(".")
    try:
        signature = inspect.signature(getattr(import_module(module), name))
    except (ImportError, AttributeError, TypeError, ValueError):
        return []
    return list(signature.parameters)


def _as_given(path: str, files: str) -> str:
    """A path as the user wrote it; the parser makes it absolute."""
    for name in files.split(", "):
        if name and Path(name).absolute() == Path(path):
            return name
    return path


def _flat(text: str) -> str:
    return " ".join(text.split())
