"""Training and evaluation datasets that share no frame."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.batches.dataset import PtychoDataset
from ptycho_torch.batches.mixing import weighted
from ptycho_torch.batches.simulated_scans import SimulatedScans
from ptycho_torch.data.errors import OptionError, naming, shown
from ptycho_torch.data.raw_data import RawData
from ptycho_torch.data.scan_list import Part
from ptycho_torch.data.split import region_of_frames, say_counts, scattered_frames, split_groups

logger = logging.getLogger(__name__)

Split = Literal["region", "frames", "scans", "none"]
Parts = dict[Part, PtychoDataset]

FEW_GROUPS = 4
"""Groups of validation or test below which a warning says that they are few."""

# Shares in hundredths that an error may name: none leaves a part with hardly any frame.
_SHARES = tuple(hundredths / 100 for hundredths in range(5, 95, 5))
_NAMES = MappingProxyType({"train": "training", "val": "validation", "test": "test"})


def split_dataset(
    whole: PtychoDataset,
    split: Split,
    shares: Mapping[Part, float],
    seed: int,
    taken: Sequence[Part] = (),
) -> Parts:
    """Divide a dataset into training and evaluation groups, scan by scan.

    Parameters
    ----------
    whole
        All groups; scans that their list gives to a part go there whole, however the others are
        split. Of simulated scans, every part has some of its own.
    split
        ``"region"``: strips at one end of each scan, side by side, are for evaluation; groups
        across a border are dropped, and the log says how many. ``"frames"``: frames drawn at
        random, each part grouped on its own. ``"scans"``: whole scans; where no list gives any to a
        part, they are drawn. ``"none"``: all groups are for training.
    shares
        Share of the frames (or scans) of every evaluation part, in the order of the strips.
    seed
        Which end, or which frames or scans; and which groups come once more.
    taken
        Parts that have scans of their own.

    Returns
    -------
    parts
        ``"train"``, where groups come as often as the weight of their scan says, the parts of
        ``shares``, and those that a list names, all with the X scales of the whole, or of the
        training part (``"frames"``). ``"val"`` too where its groups are those of ``"train"``, but
        each once.

    Raises
    ------
    OptionError
        A part would have no group, or has scans of its own and is named in a list.
    """
    shares = {} if split == "none" else shares
    if isinstance(whole, SimulatedScans):
        return whole.parts(shares)
    given = [use.part for use in whole.uses]
    for part in taken:
        if part in given:
            found, expected = f"{part} in the list, beside scans for {part}", "one of the two"
            raise OptionError("split", found, expected)
    if split == "scans" and not any(given):
        given = _drawn_scans(len(whole.scans), shares, seed)
    if split == "frames" and any(given):
        expected = "'region', 'scans' or 'none', where a list names the parts of scans"
        raise OptionError("split", "'frames'", expected)
    if split == "frames" and shares:
        parts = _by_frames(whole, shares, seed)
    elif shares or any(given):
        parts = _by_region(whole, {} if split == "scans" else shares, seed, given)
    else:
        parts = {"train": whole}
    for part, share in shares.items():
        if share and part not in parts:
            action = f"Add split: {part} to a scan of the list, or {part}_fraction=0"
            raise OptionError(f"{_NAMES[part]} scans", 0, "at least one", action=action)
    once = parts["train"]
    parts["train"] = weighted(once, [use.weight for use in whole.uses], seed)
    if "val" not in parts and "val" not in taken and parts["train"] is not once:
        parts["val"] = once
    return parts


def _drawn_scans(n_scans: int, shares: Mapping[Part, float], seed: int) -> list[Part | None]:
    order = np.random.Generator(np.random.Philox(key=[seed, n_scans])).permutation(n_scans)
    given: list[Part | None] = ["train"] * n_scans
    at = 0
    for part, share in shares.items():
        count = max(1, round(share * n_scans))
        for number in order[at : at + count].tolist():
            given[number] = part
        at += count
    if at >= n_scans:
        expected = f"more than {at}, which go to validation and test"
        raise OptionError(
            "scans to split", n_scans, expected, action="Add scans, or split='region'"
        )
    return given


def _by_region(
    whole: PtychoDataset, shares: Mapping[Part, float], seed: int, given: Sequence[Part | None]
) -> Parts:
    strips: tuple[Part, ...] = ("train", *shares)
    chosen: dict[Part, list[NDArray[np.int64]]] = {}
    for number, (scan, part) in enumerate(zip(whole.scans, given, strict=True)):
        rows = np.flatnonzero(whole.index.scan_id == number)
        if part is not None or not shares:
            chosen.setdefault(part or "train", []).append(rows)
            _log_split(scan, "whole", {part or "train": len(rows)}, 0)
            continue
        of_frame = region_of_frames(scan.xcoords, scan.ycoords, tuple(shares.values()), seed)
        found = split_groups(whole.index.nn_indices[rows], of_frame, len(strips))
        counts = dict(zip(strips, map(len, found.parts), strict=True))
        _log_split(scan, "region", counts, found.dropped)
        if not all(counts.values()):
            action = _shares_that_work(whole, shares, seed, given)
            _refuse_empty(scan, counts, "groups after the region split", 1, "at least one", action)
        _warn_of_few(scan, counts)
        for each, groups in zip(strips, found.parts, strict=True):
            chosen.setdefault(each, []).append(rows[groups])
    if "train" not in chosen:
        action = "Leave split: out of the entry of a scan to train on"
        raise OptionError("training scans", 0, "at least one", action=action)
    return {part: whole.subset(np.concatenate(groups)) for part, groups in chosen.items()}


def _shares_that_work(
    whole: PtychoDataset, asked: Mapping[Part, float], seed: int, given: Sequence[Part | None]
) -> str:
    """What to type so that the strips of every scan have groups: the shares nearest to those."""
    index = whole.index
    cut = [
        (scan, index.nn_indices[index.scan_id == number])
        for number, (scan, part) in enumerate(zip(whole.scans, given, strict=True))
        if part is None
    ]

    def work(shares: tuple[float, ...]) -> bool:
        for scan, groups in cut:
            of_frame = region_of_frames(scan.xcoords, scan.ycoords, shares, seed)
            if not all(map(len, split_groups(groups, of_frame, 1 + len(shares)).parts)):
                return False
        return True

    def distance(shares: tuple[float, ...]) -> float:
        return sum(abs(a - b) for a, b in zip(shares, asked.values(), strict=True))

    candidates = itertools.product(_SHARES, repeat=len(asked))
    possible = sorted((each for each in candidates if sum(each) < 1), key=distance)
    chosen = next((each for each in possible if work(each)), None)
    if chosen is not None:
        typed = zip(asked, chosen, strict=True)
        return "Type: " + ", ".join(f"{part}_fraction={share}" for part, share in typed)
    return "Type: split='none'" + (", test_fraction=0" if "test" in asked else "")


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


def _log_split(scan: RawData, split: str, counts: Mapping[Part, int], dropped: int) -> None:
    where = "a scan in memory" if scan.path is None else shown(scan.path)
    said = say_counts([_NAMES[part] for part in counts], list(counts.values()), dropped)
    logger.info("%s: %s split: %s", where, split, said)


def _warn_of_few(scan: RawData, counts: Mapping[Part, int]) -> None:
    where = "a scan in memory" if scan.path is None else shown(scan.path)
    for part, count in counts.items():
        if part != "train" and count < FEW_GROUPS:
            logger.warning(
                "%s: %d %s group%s, whose figures say little: a larger %s_fraction has more",
                where,
                count,
                _NAMES[part],
                "" if count == 1 else "s",
                part,
            )


def _refuse_empty(
    scan: RawData,
    counts: Mapping[Part, int],
    what: str,
    least: int,
    expected: str,
    action: str = "",
) -> None:
    """Refuse the first part of a scan that has fewer than ``least`` groups or frames."""
    for part, count in counts.items():
        if count >= least:
            continue
        if action:
            pass
        elif part == "train":
            action = "Lower val_fraction or test_fraction"
        else:
            action = f"Change {part}_fraction, or use another scan for {part}"
            action += ", or split='none'" if part == "val" else ""
        with naming(scan.path):
            raise OptionError(f"{_NAMES[part]} {what}", count, expected, action=action)
