"""One scan file, opened once: all that a reader takes from it comes through one descriptor."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

from ptycho_torch.data.files.mapping import opened
from ptycho_torch.data.files.zip_archive import ZipArchive


@dataclass(frozen=True)
class ScanFile:
    """An open scan file.

    Parameters
    ----------
    path
        Where it is.
    stream
        Its bytes, seekable; closed once the scan is built.
    """

    path: Path
    stream: BinaryIO

    @cached_property
    def archive(self) -> ZipArchive:
        """The file as an ``.npz``, its directory read once.

        Raises
        ------
        ScanFileError
            It is no sound zip archive.
        """
        return ZipArchive(self.stream, self.path)


@contextmanager
def open_scan_file(path: Path) -> Iterator[ScanFile]:
    """Open a scan file; errors raised inside name it.

    Raises
    ------
    ScanFileNotFoundError, ScanFileError
        It is missing or cannot be read.
    """
    with opened(path) as stream:
        yield ScanFile(path, stream)
