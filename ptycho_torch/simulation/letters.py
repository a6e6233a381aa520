"""Capital letters as dots, five columns by seven rows each."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

# Seven rows of a letter, from the top, each the bits of two hexadecimal digits.
_ROWS = tuple(
    """
        0e11111f111111 1e11111e11111e 0e11101010110e 1e11111111111e 1f10101e10101f 1f10101e101010
        0e11101711110f 1111111f111111 0e04040404040e 0702020202120c 11121418141211 1010101010101f
        111b1515111111 11191513111111 0e11111111110e 1e11111e101010 0e11111115120d 1e11111e141211
        0f10100e01011e 1f040404040404 1111111111110e 11111111110a04 1111111515150a 11110a040a1111
        11110a04040404 1f01020408101f
    """.split()
)


def glyph(letter: str) -> NDArray[np.uint8]:
    """A capital letter, (7, 5), 1 where there is ink."""
    rows = np.frombuffer(bytes.fromhex(_ROWS[ALPHABET.index(letter)]), np.uint8)
    return np.unpackbits(rows[:, None], axis=1)[:, 3:]
