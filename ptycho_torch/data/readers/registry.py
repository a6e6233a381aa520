"""Every format that can be read, and the choice between them.

A reader is one module: a function that recognises its files and one that reads them. Adding a
format is adding its line here.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ptycho_torch.data.errors import (
    OptionError,
    OptionTypeError,
    ScanFileError,
)
from ptycho_torch.data.files.mapping import state_of
from ptycho_torch.data.readers import npz, tike
from ptycho_torch.data.readers.fields import ScanFields


@dataclass(frozen=True)
class Reader:
    """One format.

    Parameters
    ----------
    name
        What users pass as ``format``.
    suffixes
        Endings of its file names, lower case.
    recognises
        Whether a file with such an ending is of this format; reads a few bytes.
    read
        ``read(path, **options)``; its keyword arguments are the options of the format.
    """

    name: str
    suffixes: tuple[str, ...]
    recognises: Callable[[Path], bool]
    read: Callable[..., ScanFields]

    @property
    def options(self) -> tuple[str, ...]:
        """Names of the options."""
        return tuple(inspect.signature(self.read).parameters)[1:]


# In the order in which files are tried.
READERS: tuple[Reader, ...] = (
    Reader("npz", (".npz",), npz.recognises, npz.read_npz),
    Reader("tike", (".npz", ".npz.bz2"), tike.recognises, tike.read_tike),
)


def format_names() -> tuple[str, ...]:
    """What ``format`` may be, ``"auto"`` aside."""
    return tuple(reader.name for reader in READERS)


def read_fields(path: str | Path, format: str = "auto", **options: Any) -> ScanFields:
    """Read a scan in any registered format.

    Parameters
    ----------
    path
        The scan file.
    format
        A name of :func:`format_names`, or ``"auto"``: chosen by file name and keys.
    **options
        Options of that format's reader.

    Raises
    ------
    OptionError
        An unknown format, or an option the reader does not have.
    ScanFileNotFoundError, ScanFileError, ScanKeyError, ScanError
        One line naming file, field, what was found and what was expected.
    """
    if not isinstance(path, str | Path):
        raise OptionTypeError("path", type(path).__name__, "text or a Path")
    place = Path(path)
    state_of(place)
    reader = _by_name(format) if format != "auto" else _by_content(place)
    unknown = sorted(set(options) - set(reader.options))
    if unknown:
        known = ", ".join(reader.options)
        raise OptionError(f"option of format {reader.name}", unknown[0], f"one of {known}")
    return reader.read(place, **options)


def _by_name(name: str) -> Reader:
    for reader in READERS:
        if reader.name == name:
            return reader
    raise OptionError("format", repr(name), "one of auto, " + ", ".join(format_names()))


def _by_content(path: Path) -> Reader:
    fitting = [r for r in READERS if path.name.lower().endswith(r.suffixes)]
    if not fitting:
        endings = ", ".join(sorted({suffix for r in READERS for suffix in r.suffixes}))
        raise ScanFileError(
            "file name",
            repr(path.name),
            f"an ending among {endings}",
            action="Pass format= if the name misleads",
            file=path,
        )
    for reader in fitting:
        if reader.recognises(path):
            return reader
    # Its reader says best which keys are missing.
    return fitting[0]
