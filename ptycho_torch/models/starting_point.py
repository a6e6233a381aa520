"""What a fit starts from: arrays, or files that a fit or a prediction left behind.

Owns reading them. Knows no model.
"""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptycho_torch.data.errors import OptionError, ScanFileError, ScanKeyError, naming
from ptycho_torch.data.files.mapping import opened

if TYPE_CHECKING:
    Start = str | os.PathLike[str] | NDArray[Any] | Tensor | None
else:
    # The command line makes its options of annotations, and can say only this.
    Start = str | None


def file_of(given: Start) -> Path | None:
    """The file that a fit starts from; None where an array or nothing is given."""
    return Path(given) if isinstance(given, str | os.PathLike) else None


def start_of(name: str, given: Start) -> Tensor | None:
    """An object or a probe to start from, complex64; None: none is given.

    Parameters
    ----------
    name
        ``"object"`` or ``"probe"``: the array's name in a file.
    given
        An array, a ``.npy``, or a ``.npz`` with an array of that name, as ``fit`` and ``predict``
        write them.

    Raises
    ------
    ScanFileError, ScanKeyError
        The file cannot be read, or has no such array.
    OptionError
        The numbers are not finite, or zero throughout.
    """
    if given is None:
        return None
    path = file_of(given)
    array = given if path is None else _in_file(name, path)
    with naming(path):
        if isinstance(array, np.ndarray) and array.dtype.kind not in "biufc":
            raise OptionError(f"initial_{name}", f"of dtype {array.dtype}", "complex numbers")
        with np.errstate(over="ignore"):
            values = np.array(array, np.complex64) if isinstance(array, np.ndarray) else array
        start = torch.as_tensor(values).detach().to(torch.complex64)
        if not torch.isfinite(torch.view_as_real(start)).all() or not start.any():
            raise OptionError(f"initial_{name}", "zero throughout, or not finite", "numbers")
    return start


def _in_file(name: str, path: Path) -> NDArray[Any]:
    with naming(path), opened(path) as stream:
        try:
            loaded = np.load(stream, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                return loaded
            if name in loaded:
                array: NDArray[Any] = loaded[name]
                return array
            names = ", ".join(loaded.files)
        except (ValueError, EOFError, MemoryError, zipfile.BadZipFile) as error:
            found = "damaged, or something that opens only by unpickling"
            raise ScanFileError("the file", found, "a .npy or .npz of numbers") from error
        raise ScanKeyError(name, "missing", f"one of its arrays, which are {names}")
