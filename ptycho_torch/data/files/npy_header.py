"""The header of an ``.npy`` stream: shape, dtype, memory order, parsed without trusting it.

Owns the check of the few bytes before the numbers. Knows no zip archives and allocates no arrays.
"""

from __future__ import annotations

import io
import math
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib import format as npy_format

from ptycho_torch.data.errors import ScanError, ScanFileError

# NumPy's own limit: ast.literal_eval of a longer text can be made slow or exhaust the stack.
MAX_HEADER_BYTES = 10_000
# Far above any scan, far below where shape arithmetic of NumPy overflows.
MAX_RANK = 8
MAX_BYTES = 2**62


@dataclass(frozen=True)
class NpyHeader:
    """What an ``.npy`` header promises.

    Parameters
    ----------
    shape
        Shape as written.
    dtype
        dtype as written, its byte order included.
    fortran_order
        The first axis varies fastest.
    size
        Bytes of the header; the numbers start there.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran_order: bool
    size: int

    @property
    def data_bytes(self) -> int:
        """Bytes of the numbers."""
        return math.prod(self.shape) * self.dtype.itemsize

    def __str__(self) -> str:
        return f"{shape_text(self.shape)} {self.dtype}"


def shape_text(shape: tuple[int, ...]) -> str:
    """A shape as users read it: ``(516, 128, 128)``."""
    return f"({shape[0]},)" if len(shape) == 1 else f"({', '.join(map(str, shape))})"


def read_npy_header(read: Callable[[int], bytes], file: object, field: str) -> NpyHeader:
    """Parse the header at the start of an ``.npy`` stream.

    Parameters
    ----------
    read
        ``read(n)`` gives the next n bytes, fewer only at the end.
    file, field
        Named in messages.

    Raises
    ------
    ScanFileError
        The bytes are no ``.npy`` header, or it is damaged.
    ScanError
        The header describes something that is not a plain array of numbers.
    """
    start = read(8)
    if start[:6] != npy_format.MAGIC_PREFIX or len(start) < 8:
        raise ScanFileError(
            field, "not an .npy array", "an .npy array", action="Save it again", file=file
        )
    version = start[6], start[7]
    if version not in ((1, 0), (2, 0)):
        # Version 3.0 exists for structured types with Unicode field names alone.
        raise ScanFileError(
            f"{field} .npy version", f"{version[0]}.{version[1]}", "1.0 or 2.0", file=file
        )
    length_format = "<H" if version == (1, 0) else "<I"
    length_bytes = read(struct.calcsize(length_format))
    text = b""
    if len(length_bytes) == struct.calcsize(length_format):
        length = int(struct.unpack(length_format, length_bytes)[0])
        if length > MAX_HEADER_BYTES:
            raise ScanFileError(
                f"{field} .npy header", f"{length} bytes long", "a short header", file=file
            )
        text = read(length)
    header = io.BytesIO(length_bytes + text)
    parse = (
        npy_format.read_array_header_1_0 if version == (1, 0) else npy_format.read_array_header_2_0
    )
    try:
        shape, fortran_order, dtype = parse(header, max_header_size=MAX_HEADER_BYTES)
    except Exception as error:
        # The parser runs on bytes nobody vouches for and fails in many ways, with RecursionError,
        # MemoryError and SyntaxError among them; all of them mean the same here.
        raise ScanFileError(
            f"{field} .npy header", "damaged", "an .npy header", action="Save it again", file=file
        ) from error
    size = 8 + len(length_bytes) + len(text)
    return _checked(NpyHeader(tuple(shape), dtype, bool(fortran_order), size), file, field)


def _checked(header: NpyHeader, file: object, field: str) -> NpyHeader:
    if header.dtype.hasobject:
        raise ScanError(
            f"{field} dtype",
            "object (a pickle)",
            "numbers",
            action="Pickles are never loaded: save it as a numeric array",
            file=file,
        )
    if header.dtype.names is not None or header.dtype.subdtype is not None:
        raise ScanError(f"{field} dtype", "structured", "a plain numeric dtype", file=file)
    lengths_valid = all(type(length) is int and length >= 0 for length in header.shape)
    if not lengths_valid or len(header.shape) > MAX_RANK or header.data_bytes > MAX_BYTES:
        raise ScanFileError(
            f"{field} shape", header.shape, "axis lengths that fit the file", file=file
        )
    return header
