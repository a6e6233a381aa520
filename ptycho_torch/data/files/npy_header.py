"""The header of an ``.npy`` stream: shape, dtype, memory order, parsed without trusting it.

Owns the check of the few bytes before the numbers. Knows no zip archives and allocates no arrays.
"""

from __future__ import annotations

import io
import math
import re
import zlib
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
_LENGTH = rb"(?:0|[1-9][0-9]{0,17})"
_USUAL = re.compile(
    rb"\{'descr': '([<>|][biufcSU][0-9]{1,4})', 'fortran_order': (True|False), "
    rb"'shape': \((|%b,|%b(?:, %b)+)\), \} *\n" % (_LENGTH, _LENGTH, _LENGTH)
)


@dataclass(frozen=True)
class NpyHeader:
    """What an ``.npy`` header promises: shape and dtype as written, its byte order included.

    ``fortran_order``: the first axis varies fastest. The header has ``size`` bytes, after which the
    numbers start, and their checksum is ``crc32``.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran_order: bool
    size: int
    crc32: int

    @property
    def data_bytes(self) -> int:
        """Bytes of the numbers."""
        return math.prod(self.shape) * self.dtype.itemsize

    def __str__(self) -> str:
        return f"{shape_text(self.shape)} {self.dtype}"


def shape_text(shape: tuple[int, ...]) -> str:
    """A shape as users read it: ``(516, 128, 128)``."""
    return f"({shape[0]},)" if len(shape) == 1 else f"({', '.join(map(str, shape))})"


def read_npy_header(read: Callable[[int], bytes], field: str) -> NpyHeader:
    """Parse the header at the start of an ``.npy`` stream.

    ``read(n)`` gives the next n bytes, fewer only at the end; ``field`` is named in messages. The
    bytes are refused as no ``.npy`` header or a damaged one (ScanFileError), or as the header of
    something that is not a plain array of numbers (ScanError).
    """
    start = read(8)
    if start[:6] != npy_format.MAGIC_PREFIX or len(start) < 8:
        raise ScanFileError(field, "not an .npy array", "an .npy array", action="Save it again")
    if start[6:] not in (b"\x01\x00", b"\x02\x00"):
        # Version 3.0 exists only for structured types with Unicode field names.
        raise ScanFileError(f"{field} .npy version", f"{start[6]}.{start[7]}", "1.0 or 2.0")
    first = start[6] == 1
    length_bytes = read(2 if first else 4)
    length = int.from_bytes(length_bytes, "little")
    if length > MAX_HEADER_BYTES:
        raise ScanFileError(f"{field} .npy header", f"{length} bytes long", "a short header")
    content = length_bytes + read(length)
    try:
        header = _parsed(start + content, first)
    except Exception as error:
        # The parser runs on bytes nobody vouches for and fails in many ways, with RecursionError,
        # MemoryError and SyntaxError among them; all of them mean the same here.
        raise ScanFileError(
            f"{field} .npy header", "damaged", "an .npy header", action="Save it again"
        ) from error
    _require_plain(header, field)
    return header


def _parsed(whole: bytes, first: bool) -> NpyHeader:
    """A header of version 1.0 or 2.0."""
    usual = _USUAL.fullmatch(whole, 10 if first else 12)
    if usual:  # as NumPy writes plain arrays; its parser evaluates Python, which takes as long
        shape = tuple(int(length) for length in usual[3].split(b",") if length)
        dtype, fortran = np.dtype(usual[1].decode()), usual[2] == b"True"
    else:
        parse = npy_format.read_array_header_1_0 if first else npy_format.read_array_header_2_0
        shape, fortran, dtype = parse(io.BytesIO(whole[8:]), max_header_size=MAX_HEADER_BYTES)
    return NpyHeader(tuple(shape), dtype, bool(fortran), len(whole), zlib.crc32(whole))


def encode_npy_header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    """The ``.npy`` header of a C-ordered array, a multiple of 64 bytes long."""
    stream = io.BytesIO()
    descr = npy_format.dtype_to_descr(dtype)
    fields = {"descr": descr, "fortran_order": False, "shape": shape}
    npy_format.write_array_header_1_0(stream, fields)
    return stream.getvalue()


def _require_plain(header: NpyHeader, field: str) -> None:
    if header.dtype.hasobject:
        raise ScanError(
            f"{field} dtype",
            "object (a pickle)",
            "numbers",
            action="Pickles are never loaded: save it as a numeric array",
        )
    if header.dtype.names is not None or header.dtype.subdtype is not None:
        raise ScanError(f"{field} dtype", "structured", "a plain numeric dtype")
    lengths_valid = all(type(length) is int and length >= 0 for length in header.shape)
    if not lengths_valid or len(header.shape) > MAX_RANK or header.data_bytes > MAX_BYTES:
        raise ScanFileError(f"{field} shape", header.shape, "axis lengths that fit the file")
