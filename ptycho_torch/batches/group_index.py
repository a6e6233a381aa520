"""The groups of a dataset of one or many scans, and what is looked up for them.

Knows scans and indices; neither frames nor tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.data.grouped import grouped_coords
from ptycho_torch.data.raw_data import RawData


@dataclass(frozen=True)
class GroupIndex:
    """The groups of a dataset.

    Attributes
    ----------
    nn_indices
        Frame indices within each group's scan, shape (G, C).
    scan_id
        int64, shape (G,).
    scales
        X = scale * amplitude, float32, one a scan, shape (S,).
    """

    nn_indices: NDArray[np.integer]
    scan_id: NDArray[np.int64]
    scales: NDArray[np.float32]


def frame_numbers(
    scans: Sequence[RawData],
    starts: NDArray[np.integer],
    nn_indices: NDArray[np.integer],
    scan_id: NDArray[np.int64],
) -> NDArray[np.integer]:
    """Where the frames of groups lie, counted through the files of all scans.

    Parameters
    ----------
    scans
        S scans.
    starts
        The number of each scan's first frame.
    nn_indices, scan_id
        Groups: frames within their scan (B, C), and which scan (B,).

    Returns
    -------
    numbers
        Shape (B, C).
    """
    files = nn_indices
    if any(scan.chosen is not None for scan in scans):
        files = np.empty(nn_indices.shape, dtype=np.int64)
        for scan in np.unique(scan_id):
            rows = scan_id == scan
            files[rows] = scans[scan].file_indices(nn_indices[rows])
    if len(scans) == 1:
        return files
    numbers: NDArray[np.integer] = files + starts[scan_id][:, None]
    return numbers


def shown_numbers(
    numbers: Sequence[NDArray[np.integer]] | None,
    nn_indices: NDArray[np.integer],
    scan_id: NDArray[np.int64],
) -> NDArray[np.int64]:
    """The numbers that batches show for frames, int64, (B, C): of a part of a scan, the scan's.

    Parameters
    ----------
    numbers
        For each scan, the scan's own number of each frame; None where that is its index.
    nn_indices, scan_id
        As in :func:`frame_numbers`.
    """
    if numbers is None:
        return nn_indices.astype(np.int64, copy=False)
    shown = np.empty(nn_indices.shape, dtype=np.int64)
    for scan in np.unique(scan_id):
        rows = scan_id == scan
        shown[rows] = numbers[scan][nn_indices[rows]]
    return shown


def coords_of_groups(
    scans: Sequence[RawData], nn_indices: NDArray[np.integer], scan_id: NDArray[np.int64]
) -> dict[str, NDArray[Any]]:
    """The six ``coords_*`` arrays of groups that may come from several scans.

    Parameters
    ----------
    scans, nn_indices, scan_id
        As in :func:`frame_numbers`.
    """
    if len(scans) == 1:
        return grouped_coords(scans[0], nn_indices)
    coords: dict[str, NDArray[Any]] = {}
    for scan in np.unique(scan_id):
        rows = np.flatnonzero(scan_id == scan)
        for name, part in grouped_coords(scans[scan], nn_indices[rows]).items():
            whole = coords.setdefault(name, np.empty((len(nn_indices), *part.shape[1:])))
            whole[rows] = part
    return coords
