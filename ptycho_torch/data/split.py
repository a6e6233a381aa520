"""Training and evaluation parts of a scan that share no frame.

Owns the geometry of a split: which frames lie in which part, and which groups lie wholly within
one. Pure functions of positions and groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.data.errors import OptionError


@dataclass(frozen=True)
class GroupSplit:
    """Group indices of every part, the training part first, and how many groups between are
    dropped.
    """

    parts: tuple[NDArray[np.int64], ...]
    dropped: int


def check_fractions(fractions: tuple[Any, ...]) -> None:
    """Refuse fractions that are negative or leave nothing for training."""
    numbers = all(
        isinstance(fraction, Real) and not isinstance(fraction, bool) for fraction in fractions
    )
    if not numbers or any(not 0 <= fraction < 1 for fraction in fractions) or sum(fractions) >= 1:
        raise OptionError("split fractions", fractions, "numbers in [0, 1) with a sum below 1")


def region_of_frames(
    xcoords: NDArray[np.floating],
    ycoords: NDArray[np.floating],
    fractions: tuple[float, ...],
    seed: int,
) -> NDArray[np.int64]:
    """Cut the scan across its longer side into strips; the strip of every frame, int64, shape (M,).

    Strip 0 is for training; ``fractions`` are the shares of the frames of the others. They are
    taken from the low end when ``seed`` is even, from the high end when it is odd. Object pixels.
    """
    check_fractions(fractions)
    along = xcoords if np.ptp(xcoords) >= np.ptp(ycoords) else ycoords
    # Ties, such as the columns of a raster, are cut along the other axis.
    across = ycoords if along is xcoords else xcoords
    order = np.lexsort((across, along))
    if seed % 2:
        order = order[::-1]
    part = np.zeros(len(order), dtype=np.int64)
    start = 0
    for number, fraction in enumerate(fractions, start=1):
        count = _share(len(order), fraction)
        part[order[start : start + count]] = number
        start += count
    return part


def scattered_frames(n_frames: int, fractions: tuple[float, ...], seed: int) -> NDArray[np.int64]:
    """Frames of every part drawn at random; int64, shape (M,), as :func:`region_of_frames`."""
    check_fractions(fractions)
    order = np.random.RandomState(seed).permutation(n_frames)
    part = np.zeros(n_frames, dtype=np.int64)
    start = 0
    for number, fraction in enumerate(fractions, start=1):
        count = _share(n_frames, fraction)
        part[order[start : start + count]] = number
        start += count
    return part


def split_groups(
    nn_indices: NDArray[np.integer], part_of_frame: NDArray[np.int64], n_parts: int
) -> GroupSplit:
    """Groups that lie wholly within one of ``n_parts`` parts; groups across a border are dropped.

    ``nn_indices`` (B, C) are frame indices, ``part_of_frame`` (M,) int64 counts training as part 0.
    """
    parts = part_of_frame[nn_indices]
    whole = (parts == parts[:, :1]).all(axis=1)
    return GroupSplit(
        tuple(np.flatnonzero(whole & (parts[:, 0] == number)) for number in range(n_parts)),
        int(np.count_nonzero(~whole)),
    )


def say_counts(names: Sequence[str], counts: Sequence[int], dropped: int) -> str:
    """Groups of every part in words.

    Examples
    --------
    >>> say_counts(("training", "validation", "test"), (80, 9, 7), 4)
    '80 training, 9 validation and 7 test groups; 4 across borders dropped'
    """
    told = [f"{count} {name}" for name, count in zip(names, counts, strict=True)]
    border = "the border" if len(told) == 2 else "borders"
    return f"{', '.join(told[:-1])} and {told[-1]} groups; {dropped} across {border} dropped"


def shared_frames(first: NDArray[np.integer], second: NDArray[np.integer]) -> NDArray[np.integer]:
    """Frames that occur in both lists of groups: empty for a split that does not leak."""
    return np.intersect1d(first, second)


def _share(total: int, fraction: float) -> int:
    return 0 if fraction == 0 else max(1, round(total * fraction))
