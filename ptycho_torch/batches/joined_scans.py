"""The frames in use of several scans as one long scan: positions and numbers, one after the other.

A batch of many scans is looked up in these by one gather. Knows no groups.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.data.raw_data import RawData

AnyArray = NDArray[Any]
Labels = tuple[NDArray[np.integer], ...]
POSITIONS = ("xcoords", "ycoords", "xcoords_start", "ycoords_start")


class JoinedScans:
    """Frames in use of S scans; frame i of scan s is row ``starts[s] + i`` of every array.

    Of one scan, the arrays are its own.

    Attributes
    ----------
    starts
        Row of the first frame of every scan, int64, (S,).
    xcoords, ycoords, xcoords_start, ycoords_start
        Positions, object pixels, (M,); nominal ones that are the measured ones everywhere are the
        same array.
    photons
        Photons of each frame, float64, (M,); None where a scan does not have them.
    alike
        The positions of all scans have one dtype.
    files
        Number of each frame within its scan's file, (M,); None where all frames are in use.
    labels
        The number that batches show for each frame, int64, (M,); None: its index in the scan.

    Parameters
    ----------
    scans
        S scans.
    labels
        Labels of each scan's frames, or None.
    """

    def __init__(self, scans: tuple[RawData, ...], labels: Labels | None = None) -> None:
        self.scans = scans
        self._labels = labels
        self.starts = np.cumsum([0, *(len(scan) for scan in scans[:-1])])
        self.xcoords = _joined([scan.xcoords for scan in scans])
        self.ycoords = _joined([scan.ycoords for scan in scans])
        self.xcoords_start, self.ycoords_start = self.xcoords, self.ycoords
        if any(scan.xcoords_start is not scan.xcoords for scan in scans):
            self.xcoords_start = _joined([scan.xcoords_start for scan in scans])
        if any(scan.ycoords_start is not scan.ycoords for scan in scans):
            self.ycoords_start = _joined([scan.ycoords_start for scan in scans])
        photons = [scan.frame_photons for scan in scans if scan.frame_photons is not None]
        self.photons = _joined(photons) if len(photons) == len(scans) else None
        self.alike = len({getattr(scan, name).dtype for scan in scans for name in POSITIONS}) == 1
        self.files: AnyArray | None = None
        if any(scan.chosen is not None for scan in scans):
            self.files = _joined([scan.file_indices(np.arange(len(scan))) for scan in scans])
        self.labels = None if labels is None else np.concatenate(labels).astype(np.int64)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the joined arrays behind: another process joins the scans again."""
        return {"scans": self.scans, "labels": self._labels}

    def __setstate__(self, state: dict[str, Any]) -> None:
        JoinedScans.__init__(self, **state)


def _joined(arrays: list[AnyArray]) -> AnyArray:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
