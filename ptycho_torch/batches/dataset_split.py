"""Training and evaluation datasets that share no frame."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.batches.dataset import PtychoDataset
from ptycho_torch.data.errors import OptionError, naming, shown
from ptycho_torch.data.raw_data import RawData
from ptycho_torch.data.split import region_of_frames, say_counts, scattered_frames, split_groups

logger = logging.getLogger(__name__)

Split = Literal["region", "frames", "none"]
Part = Literal["train", "val", "test"]
Parts = dict[Part, PtychoDataset]

_NAMES = MappingProxyType({"train": "training", "val": "validation", "test": "test"})


def split_dataset(
    whole: PtychoDataset, split: Split, shares: Mapping[Part, float], seed: int
) -> Parts:
    """Divide a dataset into training and evaluation groups, scan by scan.

    Parameters
    ----------
    whole
        All groups.
    split
        ``"region"``: strips at one end of each scan, side by side, are for evaluation; groups
        across a border are dropped, and the log says how many. ``"frames"``: frames drawn at
        random, each part grouped on its own. ``"none"``: all groups are for training.
    shares
        Share of the frames of every evaluation part, in the order of the strips.
    seed
        Which end, or which frames.

    Returns
    -------
    parts
        ``"train"`` and the parts of ``shares``, all with the X scales of the whole (``"region"``)
        or of the training part (``"frames"``).

    Raises
    ------
    OptionError
        A part would have no group.
    """
    if split == "none" or not shares:
        return {"train": whole}
    if split == "frames":
        return _by_frames(whole, shares, seed)
    return _by_region(whole, shares, seed)


def _by_region(whole: PtychoDataset, shares: Mapping[Part, float], seed: int) -> Parts:
    chosen: dict[Part, list[NDArray[np.int64]]] = {part: [] for part in ("train", *shares)}
    for number, scan in enumerate(whole.scans):
        rows = np.flatnonzero(whole.index.scan_id == number)
        strips = region_of_frames(scan.xcoords, scan.ycoords, tuple(shares.values()), seed)
        found = split_groups(whole.index.nn_indices[rows], strips, len(chosen))
        counts = dict(zip(chosen, map(len, found.parts), strict=True))
        _log_split(scan, "region", counts, found.dropped)
        _refuse_empty(scan, counts, "groups after the region split", 1, "at least one")
        for kept, groups in zip(chosen.values(), found.parts, strict=True):
            kept.append(rows[groups])
    return {part: whole.subset(np.concatenate(groups)) for part, groups in chosen.items()}


def _by_frames(whole: PtychoDataset, shares: Mapping[Part, float], seed: int) -> Parts:
    names: tuple[Part, ...] = ("train", *shares)
    drawn = [scattered_frames(scan.n_frames, tuple(shares.values()), seed) for scan in whole.scans]
    least = whole.grouping.channels
    for scan, of_frame in zip(whole.scans, drawn, strict=True):
        sizes = np.bincount(of_frame, minlength=len(names)).tolist()
        counts = dict(zip(names, sizes, strict=True))
        expected = f"at least {least}, for one group"
        _refuse_empty(scan, counts, "frames after the split", least, expected)
    parts: Parts = {}
    for number, part in enumerate(names):
        grouped = whole.regrouped([np.flatnonzero(of_frame == number) for of_frame in drawn])
        # Every part is scaled as the training part is.
        parts[part] = grouped.scaled(parts["train"].index.scales) if parts else grouped
    for number, scan in enumerate(whole.scans):
        counts = {
            name: int(np.count_nonzero(part.index.scan_id == number))
            for name, part in parts.items()
        }
        _log_split(scan, "frames", counts, 0)
    return parts


def _log_split(scan: RawData, split: Split, counts: Mapping[Part, int], dropped: int) -> None:
    where = "a scan in memory" if scan.path is None else shown(scan.path)
    said = say_counts([_NAMES[part] for part in counts], list(counts.values()), dropped)
    logger.info("%s: %s split: %s", where, split, said)


def _refuse_empty(
    scan: RawData, counts: Mapping[Part, int], what: str, least: int, expected: str
) -> None:
    """Refuse the first part of a scan that has fewer than ``least`` groups or frames."""
    for part, count in counts.items():
        if count >= least:
            continue
        if part == "train":
            action = "Lower val_fraction or test_fraction"
        else:
            action = f"Change {part}_fraction, or use another scan for {part}"
            action += ", or split='none'" if part == "val" else ""
        with naming(scan.path):
            raise OptionError(f"{_NAMES[part]} {what}", count, expected, action=action)
