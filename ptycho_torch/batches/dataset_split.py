"""Training and evaluation datasets that share no frame."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.batches.dataset import PtychoDataset
from ptycho_torch.data.errors import OptionError
from ptycho_torch.data.split import region_of_frames, say_counts, scattered_frames, split_groups

logger = logging.getLogger(__name__)

Split = Literal["region", "frames", "none"]
Part = Literal["train", "val", "test"]

_NAMES = MappingProxyType({"train": "training", "val": "validation", "test": "test"})


def split_dataset(
    whole: PtychoDataset, split: Split, shares: Mapping[Part, float], seed: int
) -> dict[Part, PtychoDataset]:
    """Divide a dataset into training and evaluation groups, scan by scan.

    Parameters
    ----------
    whole
        All groups.
    split
        ``"region"``: strips at one end of each scan, one beside the other, are for evaluation;
        groups across a border are dropped, and their number is logged. ``"frames"``: frames drawn
        at random, each part grouped on its own. ``"none"``: all groups are for training.
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
    parts: tuple[Part, ...] = ("train", *shares)
    divide = _by_frames if split == "frames" else _by_region
    return dict(zip(parts, divide(whole, parts, tuple(shares.values()), seed), strict=True))


def _by_region(
    whole: PtychoDataset, parts: tuple[Part, ...], fractions: tuple[float, ...], seed: int
) -> list[PtychoDataset]:
    chosen: list[list[NDArray[np.int64]]] = [[] for _ in parts]
    index = whole.index
    for number, scan in enumerate(whole.scans):
        rows = np.flatnonzero(index.scan_id == number)
        strips = region_of_frames(scan.xcoords, scan.ycoords, fractions, seed)
        found = split_groups(index.nn_indices[rows], strips, len(parts))
        counts = [len(groups) for groups in found.parts]
        _log_split(scan.path, "region", parts, counts, found.dropped)
        for kept, groups, part in zip(chosen, found.parts, parts, strict=True):
            if not len(groups):
                raise _empty(scan.path, part, "groups after the region split", 0, "at least one")
            kept.append(rows[groups])
    return [whole.subset(np.concatenate(groups)) for groups in chosen]


def _by_frames(
    whole: PtychoDataset, parts: tuple[Part, ...], fractions: tuple[float, ...], seed: int
) -> list[PtychoDataset]:
    drawn = [scattered_frames(scan.n_frames, fractions, seed) for scan in whole.scans]
    least = whole.grouping.channels
    for scan, of_frame in zip(whole.scans, drawn, strict=True):
        for part, count in zip(parts, np.bincount(of_frame, minlength=len(parts)), strict=True):
            if count < least:
                expected = f"at least {least}, for one group"
                raise _empty(scan.path, part, "frames after the split", int(count), expected)
    train, *others = (
        whole.regrouped([np.flatnonzero(of_frame == number) for of_frame in drawn])
        for number in range(len(parts))
    )
    found = [train]
    for other in others:
        every: NDArray[Any] = np.arange(len(other))
        found.append(other.subset(every, scales=train.index.scales))
    for number, scan in enumerate(whole.scans):
        counts = [int(np.count_nonzero(part.index.scan_id == number)) for part in found]
        _log_split(scan.path, "frames", parts, counts, 0)
    return found


def _log_split(
    path: object, split: Split, parts: tuple[Part, ...], counts: list[int], dropped: int
) -> None:
    where = "a scan in memory" if path is None else path
    told = say_counts([_NAMES[part] for part in parts], counts, dropped)
    logger.info("%s: %s split: %s", where, split, told)


def _empty(path: object, part: Part, what: str, found: int, expected: str) -> OptionError:
    if part == "train":
        action = "Lower val_fraction or test_fraction"
    else:
        action = f"Change {part}_fraction, or use another scan for {part}"
        action += ", or split='none'" if part == "val" else ""
    return OptionError(f"{_NAMES[part]} {what}", found, expected, action=action, file=path)
