"""Every exception that ptycho_torch raises on purpose.

Each class derives from :class:`PtychoTorchError` and from the builtin exception a caller would
expect, so both ``except PtychoTorchError`` and ``except ValueError`` work. A message is one line:
``<file>: <field> <axis> is <got>; expected <want>. <one action>.``
"""

from __future__ import annotations

_LONGEST_PART = 400


class PtychoTorchError(Exception):
    """Base of everything ptycho_torch raises on purpose."""

    def __str__(self) -> str:
        # KeyError and OSError format their arguments; our message is already the whole line.
        return str(self.args[0]) if self.args else ""


class ScanError(PtychoTorchError, ValueError):
    """The content of a scan, or of a file beside it, breaks the contract."""


class ScanKeyError(PtychoTorchError, KeyError):
    """A scan file lacks a required key."""


class ScanFileNotFoundError(PtychoTorchError, FileNotFoundError):
    """A scan file or directory does not exist."""


class ScanFileError(PtychoTorchError, OSError):
    """A file cannot be read or written: truncated, not a zip archive, no space, no permission."""


class OptionError(PtychoTorchError, ValueError):
    """An argument or configuration field has a value that cannot work."""


class OptionTypeError(PtychoTorchError, TypeError):
    """An argument has the wrong type."""


class CacheLockTimeoutError(PtychoTorchError, TimeoutError):
    """Another process held the lock of a cache or sidecar for longer than the timeout."""


class MissingDependencyError(PtychoTorchError, ImportError):
    """An optional package that this call needs is not installed."""


def describe(file: object, field: str, found: object, expected: object, action: str = "") -> str:
    """One line for a tired user: which file, which field, what was found, what was expected.

    Parameters
    ----------
    file
        Path of the file at fault, or None for data that came from memory.
    field
        Name of the field, with the axis where one is meant, e.g. ``"xcoords axis 0"``.
    found, expected
        What is there and what should be there.
    action
        What the user can do about it, without the final stop.
    """
    where = f"{_printable(file)}: " if file is not None else ""
    line = f"{where}{shown(field)} is {shown(found)}; expected {shown(expected)}."
    return f"{line} {shown(action)}." if action else line


def _printable(text: object) -> str:
    """Text as one line that a terminal shows and does not obey: names come from hostile files."""
    line = str(text)
    if line.isprintable():
        return line
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)


def shown(text: object) -> str:
    """Text of a file as a line that a terminal shows and does not obey, its middle left out."""
    line = _printable(text)
    if len(line) <= _LONGEST_PART:
        return line
    return f"{line[: _LONGEST_PART // 2]} ... {line[-_LONGEST_PART // 4 :]}"
