"""What a reader is to the registry: a name, endings of file names, and two functions."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from ptycho_torch.data.errors import OptionError
from ptycho_torch.data.readers.scan_file import ScanFile
from ptycho_torch.data.scan import Scan


@dataclass(frozen=True)
class Reader:
    """One format: what users pass as ``format``, and the endings of its file names, lower case.

    ``recognises(file)`` says whether a file with such an ending is of this format, from a few
    bytes; ``read(file, **options)`` gives a Scan, and its keyword arguments are the options of the
    format.
    """

    name: str
    suffixes: tuple[str, ...]
    recognises: Callable[[ScanFile], bool]
    read: Callable[..., Scan]

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name or self.name == "auto":
            raise OptionError("name of a Reader", repr(self.name), "a word other than auto")
        ends = self.suffixes if isinstance(self.suffixes, tuple) else ()
        if not ends or not all(
            isinstance(e, str) and e[:1] == "." and e == e.lower() for e in ends
        ):
            expected = "a tuple of endings in lower case, as ('.mine',)"
            raise OptionError(f"suffixes of Reader {self.name}", repr(self.suffixes), expected)

    @cached_property
    def options(self) -> tuple[str, ...]:
        """Names of the options."""
        return tuple(inspect.signature(self.read).parameters)[1:]
