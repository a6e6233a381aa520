"""A dataset of numbers in an HDF5 file, described and refused before a number is read.

Owns what of a dataset is checked: dtype, size, chunks, filters. Knows no way to a dataset.
"""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ptycho_torch.data.errors import MissingDependencyError, ScanFileError
from ptycho_torch.data.files.mapping import FileState, require_unchanged
from ptycho_torch.data.files.npy_header import shape_text
from ptycho_torch.data.files.zip_archive import damaged

_LARGEST_CHUNK = 128 << 20
_NUMBERS = "biufc"
_INSTALL = "pip install 'ptycho-torch[formats]'"


@dataclass(frozen=True)
class Hdf5Array:
    """A dataset of numbers, described without reading them.

    ``path``, ``state`` and ``name`` lead to it, ``dtype`` is in native byte order, ``chunks`` None
    where the numbers are contiguous. ``offset`` is that of the first number where these lie in the
    file as they are in memory. ``written_bytes`` counts those that the file has values for, as if
    uncompressed; the rest would read as one fill value. A virtual dataset reads its ``sources``.
    """

    path: Path
    state: FileState
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    chunks: tuple[int, ...] | None
    offset: int | None
    written_bytes: int
    sources: tuple[Hdf5Array, ...] = ()

    @property
    def nbytes(self) -> int:
        """Bytes of all numbers."""
        return math.prod(self.shape) * self.dtype.itemsize

    def require_sources(self) -> None:
        """Refuse sources that changed: of one that is gone, the library reads fill values."""
        for path, state in {source.path: source.state for source in self.sources}.items():
            require_unchanged(path, state)


def described(
    found: Any,
    name: str,
    path: Path,
    state: FileState,
    sources: tuple[Hdf5Array, ...] = (),
    given: int = 0,
) -> Hdf5Array:
    """Describe a dataset of h5py that lies in the file ``path``, or refuse it.

    ``sources`` are those of a virtual one, checked before, and ``given`` the numbers they give.
    """
    if not hasattr(found, "read_direct"):
        raise ScanFileError(name, "a group", "a dataset")
    require_numbers(found.dtype, name)
    if found.shape is None:
        raise ScanFileError(name, "empty", "a dataset with a shape")
    if found.external:
        raise ScanFileError(name, "stored in another file", "numbers in this file")
    shape, dtype = tuple(map(int, found.shape)), found.dtype.newbyteorder("=")
    nbytes, chunks = math.prod(shape) * dtype.itemsize, found.chunks
    if nbytes >= 1 << 62:
        raise ScanFileError(f"{name} shape", shape_text(shape), "one that memory can address")
    if sources:
        stored, offset = given * dtype.itemsize, None
    elif chunks is None:
        stored = found.id.get_storage_size()
        offset = found.id.get_offset() if found.dtype.isnative and stored == nbytes else None
    else:
        chunk_bytes = math.prod(chunks) * dtype.itemsize
        if chunk_bytes > _LARGEST_CHUNK:
            found_text = f"{shape_text(chunks)}, {chunk_bytes} bytes"
            raise ScanFileError(f"{name} chunks", found_text, f"at most {_LARGEST_CHUNK} bytes")
        _require_filters(found, name)
        _require_stored_chunks(found, name)
        stored, offset = found.id.get_num_chunks() * chunk_bytes, None
    if nbytes and not stored:
        raise ScanFileError(name, "never written", "numbers")
    if state.size < (stored if chunks is None and not sources else 0):
        raise damaged(name, f"{stored} bytes in a file of {state.size}", "as many as it has")
    where = found.name or name
    written = min(stored, nbytes)
    return Hdf5Array(path, state, where, shape, dtype, chunks, offset, written, sources)


def require_numbers(dtype: Any, name: str) -> None:
    """Refuse texts, objects and records."""
    if dtype.kind not in _NUMBERS or dtype.hasobject or dtype.subdtype:
        raise ScanFileError(f"{name} dtype", dtype, "plain numbers")


def _require_filters(found: Any, name: str) -> None:
    import h5py

    properties = found.id.get_create_plist()
    codes = [properties.get_filter(i)[0] for i in range(properties.get_nfilters())]
    for code in codes:
        if not h5py.h5z.filter_avail(code):
            with suppress(ImportError):
                import hdf5plugin  # noqa: F401
        if not h5py.h5z.filter_avail(code):
            raise MissingDependencyError(
                f"{name} filter {code}", "not available", "one that is installed", action=_INSTALL
            )


def _require_stored_chunks(found: Any, name: str) -> None:
    """Refuse a chunk of no bytes: the library would read through a null pointer."""

    def empty(chunk: Any) -> bool | None:
        return True if chunk.size == 0 else None  # anything but None ends the walk

    if found.id.chunk_iter(empty):
        raise damaged(f"{name} chunk", "0 bytes", "some")


def require_h5py() -> Any:
    """The library; a MissingDependencyError says how to get it."""
    try:
        import h5py
    except ImportError as error:
        raise MissingDependencyError("h5py", "missing", "installed", action=_INSTALL) from error
    return h5py
