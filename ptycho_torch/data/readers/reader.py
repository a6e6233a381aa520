"""What a reader is to the registry: a name, endings of file names, and two functions."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ptycho_torch.data.errors import OptionError, PtychoTorchError, ScanFileError, shown
from ptycho_torch.data.readers.scan_file import ScanFile
from ptycho_torch.data.scan import Scan

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reader:
    """One format: what users pass as ``format``, and the endings of its file names, lower case.

    ``recognises(file)`` says whether a file with such an ending is of this format, from a few
    bytes; ``read(file, **options)`` gives a Scan, and its keyword arguments are the options of the
    format. Both begin at the first byte of ``file.stream`` and leave it open. ``read`` raises a
    :class:`~ptycho_torch.data.errors.PtychoTorchError` that says what is wrong with a file.
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

    def knows(self, file: ScanFile) -> bool:
        """Whether a file is of this format; what another package raises is logged, and means no."""
        file.stream.seek(0)
        try:
            return bool(self.recognises(file))
        except Exception as error:
            if self._is_built_in:
                raise
            text = "%s: reader %s is passed over: recognises raised %s: %s"
            logger.warning(text, file.path, self.name, type(error).__name__, shown(error))
            return False

    def scan_of(self, file: ScanFile, **options: Any) -> Scan:
        """The scan in a file; what another package raises becomes a ScanFileError of one line."""
        file.stream.seek(0)
        try:
            return self.read(file, **options)
        except PtychoTorchError:
            raise
        except Exception as error:
            if self._is_built_in:
                raise
            found = f"not read by reader {self.name} ({type(error).__name__}: {error})"
            raise ScanFileError("file", found, "a scan of this format") from error

    @property
    def _is_built_in(self) -> bool:
        return self.read.__module__.startswith("ptycho_torch.")
