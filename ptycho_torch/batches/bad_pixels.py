"""Which detector pixels of a batch are bad: once per scan, or per group where they vary by frame.

Owns the step from scans to masks of groups. Knows no frames.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ptycho_torch.batches.group_index import GroupIndex
from ptycho_torch.data.raw_data import RawData


def masks_of_scans(scans: Sequence[RawData]) -> Tensor | None:
    """Bad pixels of every scan, bool, (S, N, N); None where no scan has any or one has them per
    frame.
    """
    masks = [scan.frames.bad_pixels for scan in scans]
    if all(mask is None for mask in masks) or _per_frame(scans):
        return None
    good = np.zeros((scans[0].N, scans[0].N), bool)
    return torch.from_numpy(np.stack([good if mask is None else mask for mask in masks]))


def masks_of_groups(groups: GroupIndex) -> Tensor | None:
    """Pixels that are bad in any frame of a group, bool, (B, N, N), where a scan has them per
    frame; else None.
    """
    if not _per_frame(groups.scans):
        return None
    N = groups.scans[0].N
    out = np.zeros((len(groups), N, N), bool)
    for number in np.unique(groups.scan_id):
        scan = groups.scans[number]
        bad, rows = scan.frames.bad_pixels, np.flatnonzero(groups.scan_id == number)
        if bad is not None and bad.ndim == 2:
            out[rows] = bad
        elif bad is not None:
            for channel in groups.nn_indices[rows].T:
                out[rows] |= bad[scan.file_indices(channel)]
    return torch.from_numpy(out)


def spread(masks: Tensor, scan_id: Tensor) -> Tensor:
    """The mask of every group, bool, (B, N, N); of one scan a copy, broadcast over the groups."""
    if len(masks) == 1:
        return masks.clone().expand(len(scan_id), *masks.shape[1:])
    return masks.index_select(0, scan_id)


def _per_frame(scans: Sequence[RawData]) -> bool:
    return any(
        scan.frames.bad_pixels is not None and scan.frames.bad_pixels.ndim == 3 for scan in scans
    )
