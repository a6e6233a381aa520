"""Every exception that ptycho_torch raises on purpose.

Each class derives from :class:`PtychoTorchError` and from the builtin exception a caller would
expect, so both ``except PtychoTorchError`` and ``except ValueError`` work. An error carries its own
line: ``<file>: <field> is <found>; expected <expected>. <action>.`` The file is attached once, by
:func:`naming`, where it is opened.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_LONGEST_PART = 400


class PtychoTorchError(Exception):
    """Base of everything ptycho_torch raises on purpose.

    Parameters
    ----------
    field
        Name of the field at fault, with the axis where one is meant, e.g. ``"xcoords axis 0"``;
        without the parts that follow, the whole line.
    found, expected
        What is there and what should be there.
    action
        What the user can do about it, without the final stop.
    file
        The file at fault, where it is not the one that :func:`naming` names.
    """

    def __init__(
        self,
        field: str,
        *parts: Any,
        action: str = "",
        file: str | os.PathLike[str] | None = None,
    ) -> None:
        self.file = file
        super().__init__(_line(field, *parts, action=action) if parts else field)

    def __str__(self) -> str:
        # KeyError and OSError format their arguments; ours is the line already.
        line = str(self.args[0]) if self.args else ""
        return line if self.file is None else f"{_printable(self.file)}: {line}"


@contextmanager
def naming(file: str | os.PathLike[str] | None) -> Iterator[None]:
    """Name the file, as it is written here, in every :class:`PtychoTorchError` raised inside.

    One that names another file keeps its name.
    """
    try:
        yield
    except PtychoTorchError as error:
        if file and (error.file is None or Path(error.file) == Path(file).absolute()):
            error.file = file
        raise


class ScanError(PtychoTorchError, ValueError):
    """The content of a scan, or of a file beside it, breaks the contract."""


class NotSquareError(ScanError):
    """Frames are no squares that divide into bins, and no size says what becomes of them."""


class ScanKeyError(PtychoTorchError, KeyError):
    """A scan file lacks a required key."""


class ScanFileNotFoundError(PtychoTorchError, FileNotFoundError):
    """A scan file or directory does not exist."""


class ScanFileError(PtychoTorchError, OSError):
    """A file cannot be read or written: truncated, not a zip archive, no space, no permission."""


class FrozenScanError(PtychoTorchError, AttributeError):
    """An attribute of a scan was set or deleted; a scan stays as it was built."""


class OptionError(PtychoTorchError, ValueError):
    """An argument or configuration field has a value that cannot work."""


class OptionTypeError(PtychoTorchError, TypeError):
    """An argument has the wrong type."""


class CacheLockTimeoutError(PtychoTorchError, TimeoutError):
    """Another process held the lock of a cache or sidecar for longer than the timeout."""


class MissingDependencyError(PtychoTorchError, ImportError):
    """An optional package that this call needs is not installed."""


class MixedInstallError(PtychoTorchError, ImportError):
    """Files of another distribution lie in the package's folder."""


def _line(field: str, found: Any, expected: Any, *, action: str) -> str:
    line = f"{shown(field)} is {shown(found)}; expected {shown(expected)}."
    return f"{line} {shown(action)}." if action else line


def _printable(text: Any) -> str:
    """Text as one line that a terminal shows and does not obey: names come from hostile files."""
    line = str(text)
    if line.isprintable():
        return line
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)


def shown(text: Any) -> str:
    """Text of a file as a line that a terminal shows and does not obey, its middle left out."""
    line = _printable(text)
    if len(line) <= _LONGEST_PART:
        return line
    return f"{line[: _LONGEST_PART // 2]} ... {line[-_LONGEST_PART // 4 :]}"
