"""What jsonargparse refuses, said in one line: file, field, what was found, what was expected.

Text in, text out. Its messages run over many lines and name types and parsers; a configuration
file's author needs the field.
"""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from ptycho_torch.data.errors import OptionError

# The last line of every refusal of a value that may also be absent.
_OR_NOTHING = re.compile(r"\s*- Expected (?:a )?<class 'NoneType'>")


def config_files(arguments: Sequence[str]) -> str:
    """The configuration files named on a command line, as text; empty where there is none."""
    names = []
    for word, following in zip(arguments, [*arguments[1:], ""], strict=True):
        if word in ("--config", "-c"):
            names.append(following)
        elif word.startswith("--config="):
            names.append(word.partition("=")[2])
    return ", ".join(names)


def explain(message: str, files: str, keys: Sequence[str] = ()) -> str:
    """One line for whatever jsonargparse says.

    Parameters
    ----------
    message
        Its message, of any length.
    files
        The configuration files of the command line; empty where there is none.
    keys
        Known options in dotted form, to suggest the nearest from.
    """
    where = files or None
    if found := re.search(r"File does not exist: '?([^'\n]+)'?", message):
        return str(
            OptionError("file", "missing", "a configuration file", file=_as_given(found[1], files))
        )
    if found := re.search(r"Problems? parsing config: (.*)", message, re.DOTALL):
        return str(OptionError("file", f"broken ({_flat(found[1])})", "valid YAML", file=where))
    if found := re.search(r"arguments? (?:are|is) required: (.*)", message):
        missing = re.sub(r"\b(?:fit|validate|test|predict)\.", "", found[1])
        return str(OptionError(missing, "missing", "a value", file=where))
    if found := re.search(r"unrecognized arguments: (.*)", message):
        return str(OptionError(found[1], "an unknown option", "a known one; see --help"))
    if found := re.search(r"does not accept option '([^']+)'", message):
        return str(OptionError(found[1], "an unknown key", nearest(found[1], keys), file=where))
    return _explain_value(message, where, "")


def _explain_value(message: str, where: str | None, prefix: str) -> str:
    outer = re.match(r'\s*Parser key "([^"]+)":', message)
    field = f"{prefix}{outer[1]}" if outer else prefix.rstrip(".") or "the command line"
    if found := re.search(r"Problem with given class_path '([^']+)':\s*(.*)", message, re.DOTALL):
        inner = _OR_NOTHING.split(found[2])[0]
        inside = f"{field}.init_args." if "'class_path':" in message else f"{field}."
        if option := re.match(r"Option '([^']+)' is not accepted", inner):
            known = [f"{inside}{name}" for name in _parameters(found[1])]
            key = f"{inside}{option[1]}"
            return str(OptionError(key, "an unknown key", nearest(key, known), file=where))
        if inner.startswith("Parser key"):
            return _explain_value(inner, where, inside)
        return str(
            OptionError(f"{field}.class_path", repr(found[1]), _flat(inner).rstrip("."), file=where)
        )
    given = re.search(r"(?:Given value|Got value): (.*)", message)
    wanted = re.findall(r"Expected (?:an? )?(<class '[^']+'>|typing\.[^\n]+?\]|[^\n.]+)", message)
    if given and wanted:
        names = [re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", name) for name in wanted]
        names = [re.sub(r"typing\.Literal\[(.+)\]$", r"one of \1", name) for name in names]
        names = ["null" if name == "NoneType" else name for name in names]
        return str(OptionError(field, given[1], " or ".join(dict.fromkeys(names)), file=where))
    reason = _flat(message)
    return f"{where}: {reason}" if where else reason


def nearest(key: str, keys: Sequence[str]) -> str:
    """What could have been meant by an unknown key, as text."""
    parent = key.rpartition(".")[0]
    siblings = [other for other in keys if other.rpartition(".")[0] == parent]
    close = difflib.get_close_matches(key, siblings or keys, n=1)
    if close:
        return f"a known one, such as {close[0]}"
    return f"one of {', '.join(siblings)}" if siblings else "a known one"


def _parameters(class_path: str) -> list[str]:
    """Names of the arguments of a class that the parser could import a moment ago."""
    module, _, name = class_path.rpartition(".")
    try:
        signature = inspect.signature(getattr(import_module(module), name))
    except (ImportError, AttributeError, TypeError, ValueError):
        return []
    return list(signature.parameters)


def _as_given(path: str, files: str) -> str:
    """A path as the user wrote it: the parser reports it made absolute."""
    for name in files.split(", "):
        if name and Path(name).absolute() == Path(path):
            return name
    return path


def _flat(text: str) -> str:
    return " ".join(text.split())
