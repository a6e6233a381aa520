"""One scan file, opened once: all that a reader takes from it comes through one descriptor."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

from ptycho_torch.data.files.mapping import FileState, opened
from ptycho_torch.data.files.zip_archive import ZipArchive


@dataclass(frozen=True)
class ScanFile:
    """An open scan file: its path, and its bytes, seekable until the scan is built.

    ``others`` are files beside it that a reader took positions or the like from, as they were then:
    a scan is refused once one of them changes. A reader appends to it.
    """

    path: Path
    stream: BinaryIO
    others: list[tuple[Path, FileState]] = field(default_factory=list)

    @cached_property
    def archive(self) -> ZipArchive:
        """The file as an ``.npz``, its directory read once."""
        return ZipArchive(self.stream, self.path)


@contextmanager
def open_scan_file(path: Path) -> Iterator[ScanFile]:
    """Open a scan file, and name it in errors raised inside."""
    with opened(path) as stream:
        yield ScanFile(path, stream)
