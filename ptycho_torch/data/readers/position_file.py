"""Positions from a file of their own: text, ``.npy`` or HDF5, beside frames that have none.

Such files say neither unit nor order, and two packages write columns in two orders: nothing is
guessed, but where columns or datasets are named ``x`` and ``y``.
"""

from __future__ import annotations

import io
import re
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.data.contract import check_finite
from ptycho_torch.data.errors import OptionError, ScanError, ScanFileError, ScanKeyError, naming
from ptycho_torch.data.files.hdf5 import SUFFIXES, opened_hdf5
from ptycho_torch.data.files.mapping import opened
from ptycho_torch.data.files.npy_header import read_npy_header, shape_text
from ptycho_torch.data.files.zip_archive import damaged
from ptycho_torch.data.readers.hdf5_numbers import read_numbers

UNITS_M = MappingProxyType({"m": 1.0, "mm": 1e-3, "um": 1e-6, "nm": 1e-9})
MOST_BYTES = 64 << 20

_AXES = re.compile(r"(-?)([xy]),(-?)([xy])")


def positions_from(positions: Any, unit: str, axes: str) -> NDArray[np.float64]:
    """Positions (M, 2), (row, column), metres, from a path or an array (M, 2).

    ``unit`` is one of m, mm, um, nm. ``axes`` names the two columns, as ``"x,y"`` or ``"y,-x"``,
    where x is the column on the object, y its row, and a minus turns an axis round; ``"auto"``
    needs their names in the file. Errors name the file of the positions.
    """
    if unit not in UNITS_M:
        raise OptionError("position_unit", repr(unit), "one of " + ", ".join(UNITS_M))
    match = _AXES.fullmatch(axes)
    if axes != "auto" and (match is None or match[2] == match[4]):
        raise OptionError("position_axes", repr(axes), "auto, or two as 'x,y' or 'y,-x'")
    if isinstance(positions, str | Path):
        path = Path(positions).absolute()
        with naming(path):
            columns, names = _read(path)
            return _ordered(columns, names, match) * UNITS_M[unit]
    return _ordered(np.asarray(positions), None, match) * UNITS_M[unit]


def _read(path: Path) -> tuple[NDArray[Any], list[str] | None]:
    suffix = path.suffix.lower()
    if suffix in SUFFIXES:
        return _from_hdf5(path)
    with opened(path) as stream:
        content = stream.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise ScanFileError("file", f"over {MOST_BYTES} bytes", "positions")
    try:
        if suffix == ".npy":
            header = read_npy_header(io.BytesIO(content).read, "file")
            if header.size + header.data_bytes > len(content):
                raise damaged("file", f"{len(content)} bytes", f"{header} after {header.size}")
            return np.load(io.BytesIO(content), allow_pickle=False), None
        return _from_text(content.decode())
    except (ValueError, EOFError, MemoryError, UnicodeError) as error:
        raise ScanFileError("file", f"unreadable ({error})", "two columns of numbers") from error


def _from_text(text: str) -> tuple[NDArray[Any], list[str] | None]:
    """Columns apart by commas or blanks, below a line of names where there is one."""
    lines = [line.replace(",", " ").split() for line in text.splitlines() if line.strip()]
    names = None
    if lines and any(re.match("[a-zA-Z_#]", word) for word in lines[0]):
        names = [word.lstrip("#").lower() for word in lines.pop(0) if word != "#"]
    return np.array([[float(word) for word in line] for line in lines]), names


def _from_hdf5(path: Path) -> tuple[NDArray[Any], list[str] | None]:
    with opened_hdf5(path) as h5:
        x, y = read_numbers(h5, "/x"), read_numbers(h5, "/y")
        if x is not None and y is not None:
            if x.ndim != 1 or x.shape != y.shape:
                found = f"{shape_text(x.shape)} and {shape_text(y.shape)}"
                raise ScanError("/x and /y shape", found, "(M,) both")
            return np.stack([x, y], axis=1), ["x", "y"]
        both = read_numbers(h5, "/positions")
        if both is None:
            raise ScanKeyError("/x and /y", "missing", "these two, or /positions (M, 2)")
        return both, None


def _ordered(
    columns: NDArray[Any], names: list[str] | None, match: re.Match[str] | None
) -> NDArray[np.float64]:
    """(M, 2), (row, column)."""
    if columns.ndim != 2 or columns.shape[1] != 2 or columns.dtype.kind not in "fiu":
        found = f"{shape_text(columns.shape)} {columns.dtype}"
        raise ScanError("positions", found, "numbers (M, 2)")
    numbers: NDArray[np.float64] = columns.astype(np.float64)
    check_finite(numbers, "positions")
    if match is None:
        order = [name.split("_")[0] for name in names or []]
        if sorted(order) != ["x", "y"]:
            raise ScanError(
                "positions",
                "without names of their columns",
                "columns named x and y",
                action="Add --option position_axes=x,y or y,x (position_axes='x,y'); a minus "
                "before an axis turns it round",
            )
        return numbers[:, [order.index("y"), order.index("x")]]
    order = [match[2], match[4]]
    numbers *= [-1.0 if match[group] else 1.0 for group in (1, 3)]
    return numbers[:, [order.index("y"), order.index("x")]]
