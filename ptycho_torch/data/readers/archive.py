"""An open ``.npz`` whose small arrays keep their entry of the contract.

Owns the step from a key to an array that was checked. Knows no frames.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.data.contract import ArraySpec, check_array, check_finite
from ptycho_torch.data.errors import ScanError
from ptycho_torch.data.files.mapping import opened
from ptycho_torch.data.files.zip_archive import ZipArchive

AnyArray = NDArray[np.generic]


class Archive(ZipArchive):
    """Members of one ``.npz``."""

    @property
    def file(self) -> Path | None:
        """Named in messages."""
        return self.path

    def read_checked(self, wanted: ArraySpec, sizes: dict[str, int]) -> AnyArray:
        """A member that keeps its entry of the contract, finite; see ``contract.check_array``.

        Raises
        ------
        ScanError, ScanKeyError, ScanFileError
            Naming the field, what was found and what was expected.
        """
        self.require(wanted.name)
        header = self.header(wanted.name)
        # A view of one number repeated: the contract sees shape and dtype before anything is read.
        likeness = np.broadcast_to(np.zeros((), header.dtype), header.shape)
        check_array(likeness, wanted, sizes, self.file)
        if 0 in header.shape:
            raise ScanError(f"{wanted.name} shape", header.shape, "no empty axis", file=self.file)
        if header.dtype.itemsize > (16 if header.dtype.kind == "c" else 8):
            raise ScanError(f"{wanted.name} dtype", header.dtype, "double or less", file=self.file)
        array = self.read(wanted.name)
        if array.dtype.kind in "fc":
            check_finite(array, wanted.name, self.file)
        return array


@contextmanager
def open_archive(path: Path) -> Iterator[Archive]:
    """Open an ``.npz`` for reading small members.

    Raises
    ------
    ScanFileNotFoundError, ScanFileError
        Missing, unreadable, or not a sound zip archive.
    """
    with opened(path) as stream:
        yield Archive(stream, path)
