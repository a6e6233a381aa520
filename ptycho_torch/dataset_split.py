"""Training and validation datasets that share no frame."""

from __future__ import annotations

import logging
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.data.errors import OptionError, describe
from ptycho_torch.data.split import region_of_frames, scattered_frames, split_groups
from ptycho_torch.dataset import PtychoDataset

logger = logging.getLogger(__name__)

Split = Literal["region", "frames", "none"]
Pair = tuple[PtychoDataset, PtychoDataset]


def split_dataset(whole: PtychoDataset, split: Split, val_fraction: float, seed: int) -> Pair:
    """Divide a dataset into training and validation groups, scan by scan.

    Parameters
    ----------
    whole
        All groups.
    split
        ``"region"``: a strip at one end of each scan is for validation, groups across its border
        are dropped, and their number is logged. ``"frames"``: frames drawn at random, each part
        grouped on its own. ``"none"``: both are the whole.
    val_fraction
        Share of the frames for validation; 0 means no split.
    seed
        Which end, or which frames.

    Returns
    -------
    train, val
        Both with the X scales of the whole (``"region"``) or of the training part (``"frames"``).

    Raises
    ------
    OptionError
        A part would have no group.
    """
    if split == "none" or val_fraction == 0:
        return whole, whole
    if split == "frames":
        return _by_frames(whole, val_fraction, seed)
    return _by_region(whole, val_fraction, seed)


def _by_region(whole: PtychoDataset, val_fraction: float, seed: int) -> Pair:
    chosen: tuple[list[NDArray[np.int64]], list[NDArray[np.int64]]] = ([], [])
    index = whole.index
    for number, scan in enumerate(whole.scans):
        rows = np.flatnonzero(index.scan_id == number)
        part = region_of_frames(scan.xcoords, scan.ycoords, (val_fraction,), seed)
        found = split_groups(index.nn_indices[rows], part, 2)
        logger.info(
            "%s: region split: %d training and %d validation groups; %d across the border dropped",
            scan.path,
            len(found.parts[0]),
            len(found.parts[1]),
            found.dropped,
        )
        for kept, groups, name in zip(chosen, found.parts, ("training", "validation"), strict=True):
            if not len(groups):
                raise OptionError(
                    describe(
                        scan.path,
                        f"{name} groups after the region split",
                        0,
                        "at least one",
                        "Change val_fraction, or use split='none' or another scan for val",
                    )
                )
            kept.append(rows[groups])
    train, val = (whole.subset(np.concatenate(groups)) for groups in chosen)
    return train, val


def _by_frames(whole: PtychoDataset, val_fraction: float, seed: int) -> Pair:
    parts = [scattered_frames(scan.n_frames, (val_fraction,), seed) for scan in whole.scans]
    train, val = (
        whole.regrouped([np.flatnonzero(part == number) for part in parts]) for number in (0, 1)
    )
    every: NDArray[Any] = np.arange(len(val))
    return train, val.subset(every, scales=train.index.scales)
