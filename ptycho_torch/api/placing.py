"""The shape of an object of which only the positions are known.

Ptychodus hands over positions within its object and takes an array back, which it puts in that
object's place by the middle of both. So the array needs the object's shape, which nobody says. It
is known where a scan of the same extent was trained on, and where the object's middle is the
scan's: Ptychodus makes its objects so. Positions here are ours, in which a patch begins N / 2
before its position.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence

import numpy as np

from ptycho_torch.data.raw_data import RawData

logger = logging.getLogger(__name__)

TOLERANCE_PX = 1e-3
"""How well positions agree that were computed twice, in metres, of the same scan."""

Note = list[float]


def notes_of(scans: Iterable[RawData]) -> list[Note]:
    """What tells the shape of each scan's object again: M, extents of x and y, then H, W."""
    return [
        [*_extent(scan), *map(float, scan.objectGuess.shape)]
        for scan in scans
        if scan.objectGuess is not None
    ]


def object_shape(scan: RawData, notes: Sequence[Note]) -> tuple[int, int]:
    """(H, W) in pixels of the object that a scan's positions lie in.

    Parameters
    ----------
    scan
        A scan without an object.
    notes
        What :func:`notes_of` gave of scans whose object is known.

    Returns
    -------
    The shape; where it cannot be known, that of the smallest object that holds every patch from
    row and column 0 on, and a warning says so.
    """
    extent = _extent(scan)
    for note in notes:
        if len(note) == 7 and np.allclose(note[:5], extent, rtol=0, atol=TOLERANCE_PX):
            return int(note[5]), int(note[6])
    _, left, right, top, bottom = extent
    # The middle of an object of H rows lies H / 2 below the edge that positions count from.
    sides = (top + bottom, left + right)
    whole = (round(sides[0]), round(sides[1]))
    middle = all(abs(side - n) <= TOLERANCE_PX for side, n in zip(sides, whole, strict=True))
    if middle and min(left, top) >= scan.N / 2 - TOLERANCE_PX:
        return whole
    smallest = (math.ceil(bottom + scan.N / 2), math.ceil(right + scan.N / 2))
    logger.warning(
        "the object's shape is not known: its middle is not the scan's, and no scan of this extent "
        "was trained on. The result has %d x %d pixels from the object's first row and column on; "
        "with another shape Ptychodus shows it out of place. Train on this scan's export, or let "
        "Ptychodus make the object anew",
        *smallest,
    )
    return smallest


def _extent(scan: RawData) -> list[float]:
    x, y = scan.xcoords, scan.ycoords
    return [float(scan.n_frames), *map(float, (x.min(), x.max(), y.min(), y.max()))]
