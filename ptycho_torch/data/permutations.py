"""Many small permutations from one legacy random stream.

``RandomState.permutation(n)`` is a Fisher-Yates shuffle of arange(n) that draws, for i = n-1 down
to 1, an integer in [0, i] by masked rejection: 32-bit words are masked to the next power of two
minus one until one is not above i (NumPy's frozen legacy stream, NEP 19). Owns only that.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def draw_permutations(
    random: np.random.RandomState, length: int, count: int
) -> NDArray[np.intp]:
    """``count`` calls of ``random.permutation(length)``, stacked.

    Returns
    -------
    permutations
        intp, shape (count, length).
    """
    out = np.empty((count, length), dtype=np.intp)
    for row in out:
        row[:] = random.permutation(length)
    return out
