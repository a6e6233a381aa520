"""Which numbers of which files a virtual HDF5 dataset is made of, looked at before it is read.

The library opens the sources of a virtual dataset by itself and reads fill values where one is
missing. Owns what such a dataset may be here: of fixed size, its sources named one by one, all of
them there, each with the numbers that are taken from it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Any

import numpy as np

from ptycho_torch.data.errors import ScanFileError
from ptycho_torch.data.files.hdf5_array import Hdf5Array
from ptycho_torch.data.files.npy_header import shape_text

_MOST_SOURCES = 65_536
_PREFIX = "HDF5_VDS_PREFIX"


def checked_sources(
    found: Any, name: str, source_of: Callable[[str, str], Hdf5Array]
) -> tuple[tuple[Hdf5Array, ...], int]:
    """Describe the sources of a virtual dataset of h5py, and count the numbers that they give.

    ``source_of`` finds one by file name and dataset.

    ScanFileError: there are too many, or they are named by a pattern or the environment, without
    end, of another dtype, or smaller than what is taken from them.
    """
    if os.environ.get(_PREFIX):
        found_text = f"virtual, and {_PREFIX} says where its sources are"
        raise ScanFileError(name, found_text, "sources beside it", action=f"Type: unset {_PREFIX}")
    properties = found.id.get_create_plist()
    count = properties.get_virtual_count()
    if not 0 < count <= _MOST_SOURCES:
        raise ScanFileError(name, f"made from {count} sources", f"1 to {_MOST_SOURCES}")
    sources = []
    for number in range(count):
        filename = properties.get_virtual_filename(number)
        inside = properties.get_virtual_dsetname(number)
        if "%" in filename + inside:
            pattern = f"made from {filename} {inside}, a pattern"
            raise ScanFileError(name, pattern, "sources named one by one")
        source = source_of(filename, inside)
        if source.dtype != found.dtype.newbyteorder("="):
            raise ScanFileError(f"{name} dtype", found.dtype, f"{source.dtype}, as of {filename}")
        taken, place = (
            properties.get_virtual_srcspace(number),
            properties.get_virtual_vspace(number),
        )
        _require_taken(taken, source, name, place)
        sources.append(source)
    # Asked for the shape of a dataset without end, the library opens its sources.
    shape = tuple(map(int, found.shape))
    filled = np.zeros(shape[:1] or 1)  # numbers given along the first axis; twice is once too many
    for number, source in enumerate(sources):
        place = properties.get_virtual_vspace(number)
        rows = _rows(place) if shape else slice(None)
        written = source.written_bytes // source.dtype.itemsize
        filled[rows] += min(place.get_select_npoints(), written) / max(1, filled[rows].size)
    return tuple(sources), int(np.minimum(filled, math.prod(shape[1:])).sum())


def _rows(place: Any) -> Any:
    """The places along the first axis that a selection has numbers for."""
    if not _is_part(place):
        return slice(None)
    low, high = (bound[0] for bound in place.get_select_bounds())
    if place.is_regular_hyperslab():
        start, stride, count, block = (numbers[0] for numbers in place.get_regular_hyperslab())
        return (start + stride * np.arange(count)[:, None] + np.arange(block)).ravel()
    return slice(low, high + 1)


def _require_taken(taken: Any, source: Hdf5Array, name: str, place: Any) -> None:
    """Refuse a selection that goes beyond its source, or all of one that is not as ``place``."""
    import h5py

    shape = source.shape
    if not _is_part(taken):
        if math.prod(shape) != (count := place.get_select_npoints()):
            expected = f"{count} numbers, which {name} takes as all of it"
            raise ScanFileError(source.name, shape_text(shape), expected, file=source.path)
        return
    regular = taken.get_regular_hyperslab() if taken.is_regular_hyperslab() else ()
    if any(h5py.h5s.UNLIMITED in numbers for numbers in regular):
        raise ScanFileError(name, "a virtual dataset without end", "one of fixed size")
    last = taken.get_select_bounds()[1]
    if len(last) != len(shape) or any(n >= m for n, m in zip(last, shape, strict=True)):
        taken_text = f"made from {source.path.name} {source.name} up to {shape_text(last)}"
        raise ScanFileError(name, taken_text, f"within its {shape_text(shape)}")


def _is_part(selection: Any) -> bool:
    """Whether a selection is of some numbers, not of all."""
    import h5py

    return bool(selection.get_select_type() == h5py.h5s.SEL_HYPERSLABS)
