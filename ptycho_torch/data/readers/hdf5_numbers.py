"""Numbers of an HDF5 scan file: real, finite, float64, None where the file has none."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.data.contract import check_finite
from ptycho_torch.data.errors import ScanError
from ptycho_torch.data.files.hdf5 import Hdf5File, opened_hdf5
from ptycho_torch.data.files.mapping import FileState
from ptycho_torch.data.files.npy_header import shape_text
from ptycho_torch.data.readers.scan_file import ScanFile


@contextmanager
def hdf5_of(file: ScanFile, *, links: bool = False) -> Iterator[Hdf5File]:
    """The open scan file as HDF5, refused where its name leads elsewhere by now."""
    state = FileState.of(os.fstat(file.stream.fileno()))
    with opened_hdf5(file.path, state, links=links) as h5:
        yield h5


def read_numbers(h5: Hdf5File, name: str) -> NDArray[np.float64] | None:
    """A dataset of real, finite numbers as float64, or None where there is none."""
    if name not in h5:
        return None
    array = h5.read_array(name)
    if array.dtype.kind not in "fiu":
        raise ScanError(f"{name} dtype", array.dtype, "real numbers")
    check_finite(array, name)
    return array.astype(np.float64)


def read_number(h5: Hdf5File, name: str) -> float | None:
    """One number, or None where there is none; of zero, which writers put for unknown, too."""
    array = read_numbers(h5, name)
    if array is None:
        return None
    if array.size != 1:
        raise ScanError(f"{name} shape", shape_text(array.shape), "one number")
    return float(array.reshape(())) or None
