"""An open ``.npz`` whose small arrays are read by name, each checked before it is allocated.

Owns the step from a key to an array in memory. Knows no frames and no meaning of a key beyond its
entry in the contract.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.data.contract import ArraySpec, check_array, check_finite
from ptycho_torch.data.errors import ScanError, ScanKeyError
from ptycho_torch.data.files.mapping import opened
from ptycho_torch.data.files.npy_header import NpyHeader
from ptycho_torch.data.files.stored_stack import open_array, require_moderate
from ptycho_torch.data.files.zip_archive import ZipMember, read_directory

AnyArray = NDArray[np.generic]


class Archive:
    """Members of one ``.npz``.

    Parameters
    ----------
    stream
        The open file.
    file
        Named in messages.
    """

    def __init__(self, stream: BinaryIO, file: object) -> None:
        self._stream = stream
        self._file_bytes = stream.seek(0, os.SEEK_END)
        self.file = file
        self.members: Mapping[str, ZipMember] = read_directory(stream, file)

    def require(self, key: str) -> None:
        """Refuse an archive without ``key``, saying which keys it has.

        Raises
        ------
        ScanKeyError
            It has none.
        """
        if key not in self.members:
            raise ScanKeyError(
                key, "missing", "a required key", action=f"It has {self._keys()}", file=self.file
            )

    def _keys(self) -> str:
        names = list(self.members)[:12]
        more = ", ..." if len(self.members) > len(names) else ""
        return "the keys " + ", ".join(names) + more if names else "no keys"

    def header(self, key: str) -> NpyHeader:
        """Shape and dtype of a member, without its numbers."""
        return open_array(self._stream, self.members[key], self.file)[0]

    def read(self, key: str) -> AnyArray:
        """A member as an array in native byte order, its checksum checked.

        Memory grows with the bytes that are really there, never by what a header declares.
        """
        header, numbers = open_array(self._stream, self.members[key], self.file)
        require_moderate(self.members[key], header.data_bytes, self._file_bytes, self.file)
        raw = bytearray()
        for block in numbers.blocks():
            raw += block
        if not header.data_bytes:
            return np.empty(header.shape, header.dtype)
        native = header.dtype.newbyteorder("=")
        flat = np.frombuffer(raw, header.dtype)
        if header.fortran_order:
            return np.asarray(flat.reshape(header.shape[::-1]).T, native, order="C")
        return np.asarray(flat.reshape(header.shape), native)

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
