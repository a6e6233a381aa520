"""A class that a configuration names and nobody finds: in one line, with what to type.

Text in, an error out; imports only what the parser has imported before.
"""

from __future__ import annotations

import difflib
import re
import sys
from pathlib import Path

import ptycho_torch
from ptycho_torch.data.errors import OptionError


def class_path_error(field: str, path: str, reason: str) -> OptionError:
    """What is wrong with a class path.

    Parameters
    ----------
    field
        The field that holds it, in dotted form.
    path
        What stands there, as ``own.Model``.
    reason
        What Python or the parser says of it.
    """
    module, _, name = path.rpartition(".")
    field, found = f"{field}.class_path", repr(path)
    if not module:
        near = difflib.get_close_matches(name, ptycho_torch.__all__, n=1) or ["ObjectFit"]
        expected = f"a class with its module, such as ptycho_torch.{near[0]}"
        return OptionError(field, found, expected, action=_own(name))
    if missing := re.search(r"No module named '([^']+)'", reason):
        if not f"{module}.".startswith(f"{missing[1]}."):
            found = f"{found}, whose module needs {missing[1]}, which is not installed"
            return OptionError(field, found, "a module that can be imported")
        found = f"{found}, but Python finds no module {missing[1]}"
        return OptionError(field, found, "a class that can be imported", action=_place(missing[1]))
    if "has no attribute" in reason:
        names = getattr(sys.modules.get(module), "__all__", None) or dir(sys.modules.get(module))
        near = difflib.get_close_matches(name, names, n=1)
        expected = f"a class of {module}" + (f", such as {module}.{near[0]}" if near else "")
        return OptionError(field, found, expected)
    if subclass := re.search(r"does not correspond to a subclass of (\w+)", reason):
        return OptionError(field, found, f"a subclass of {subclass[1]}")
    found = f"{found}, whose module cannot be imported ({reason})"
    return OptionError(field, found, "one that can")


def _own(name: str) -> str:
    return f"If it is your own, in model.py: model.{name}, and PYTHONPATH=. before ptycho-torch"


def _place(module: str) -> str:
    top = module.partition(".")[0]
    if Path(f"{top}.py").is_file() or Path(top).is_dir():
        return "It lies in this folder: type PYTHONPATH=. before ptycho-torch"
    return f"Type PYTHONPATH=FOLDER before ptycho-torch, where FOLDER has {top}.py"
