"""Which frame belongs to which position, where both carry the numbers of their scan points.

Owns the rule: a frame and a position of one number belong together; what has no partner is left
out, and counted aloud. Positions that share a number are averaged, as Ptychodus does; of two frames
that share one nobody can tell which is meant, so these are refused. No position is interpolated.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.data.errors import ScanError
from ptycho_torch.data.files.npy_header import shape_text

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Matching:
    """Frames with a position: their places ``frames`` (L,) in the file, ascending, their numbers
    ``indexes`` (L,), and for each position (M,) the place ``part`` among them, -1 where it has
    none.
    """

    frames: NDArray[np.intp]
    indexes: NDArray[np.int64]
    part: NDArray[np.intp]
    n_frames: int

    @property
    def whole(self) -> bool:
        """Whether every frame has a position."""
        return len(self.frames) == self.n_frames

    def of_frames(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """A value per position (M,) as one per frame in the file; the first for those without."""
        has = self.part >= 0
        sums = np.zeros(len(self.frames))
        np.add.at(sums, self.part[has], np.asarray(values, np.float64)[has])
        means = sums / np.bincount(self.part[has], minlength=len(self.frames))
        spread = np.full(self.n_frames, means[0])
        spread[self.frames] = means
        return spread


def match_indexes(
    positions: NDArray[Any] | None,
    n_positions: int,
    frames: NDArray[Any] | None,
    n_frames: int,
    *,
    path: Path,
) -> Matching:
    """Match frames to positions by index, None where a file has no indexes: then by order.

    ScanError: without indexes there are more of the one than of the other; an index is no integer,
    or that of two frames; no frame has a position. A negative index of a frame is none, as in
    Ptychodus, where such frames were never assembled.
    """
    if positions is None or frames is None:
        if n_positions != n_frames:
            raise ScanError(
                "frames without indexes",
                f"{n_frames} for {n_positions} positions",
                "as many of the one as of the other, or indexes",
                action="Give both files an index for each frame and each position",
            )
        # By order, under whichever numbers there are.
        given = frames if positions is None else positions
        require_in_order("indexes", given)
        positions = frames = np.arange(n_frames) if given is None else given
    numbers = _checked("frame indexes", frames, n_frames)
    wanted = _checked("position indexes", positions, n_positions)
    known, counts = np.unique(numbers[numbers >= 0], return_counts=True)
    if (counts > 1).any():
        twice = int(known[counts > 1][0])
        found = f"{twice} for {int(counts.max())} frames"
        raise ScanError("frame indexes", found, "one frame for each index")
    chosen = np.flatnonzero(np.isin(numbers, wanted) & (numbers >= 0))
    if not len(chosen):
        found = f"{_range(numbers)}, those of the positions {_range(wanted)}"
        raise ScanError("frame indexes", found, "some in common")
    order = np.argsort(numbers[chosen])
    place = np.searchsorted(numbers[chosen], wanted, sorter=order).clip(max=len(chosen) - 1)
    part = np.where(numbers[chosen][order[place]] == wanted, order[place], -1)
    _say(path, wanted, part, n_frames - len(chosen))
    return Matching(chosen, numbers[chosen], part, n_frames)


def require_in_order(field: str, given: NDArray[Any] | None) -> None:
    """Refuse an index without a partner that does not rise: then nothing is in one order."""
    if given is None or np.all(np.diff(given.ravel().astype(np.float64)) > 0):
        return
    found = "of frames or of positions only, and they do not rise"
    action = "Give both an index, or write them in order"
    raise ScanError(field, found, "an index of both, or one that rises", action=action)


def _say(path: Path, wanted: NDArray[np.int64], part: NDArray[np.intp], left_out: int) -> None:
    matched = int((part >= 0).sum())
    shared = len(wanted) - len(np.unique(wanted))
    line = f"{path}: {matched} of {len(wanted)} positions have a frame"
    line += f"; {left_out} frames without a position are left out" if left_out else ""
    line += f"; {shared} positions that share an index are averaged" if shared else ""
    all_there = matched == len(wanted) and not left_out and not shared
    logger.log(logging.INFO if all_there else logging.WARNING, "%s", line)


def _checked(name: str, indexes: NDArray[Any], count: int) -> NDArray[np.int64]:
    wrong = indexes.ndim != 1 or indexes.dtype.kind not in "iu" or not len(indexes)
    if wrong or len(indexes) != count:
        found = f"{shape_text(indexes.shape)} {indexes.dtype}"
        raise ScanError(name, found, f"integers ({count},)")
    return indexes.astype(np.int64)


def _range(numbers: NDArray[np.int64]) -> str:
    return f"{numbers.min()} to {numbers.max()}"
