"""Several scans in a table: a line for each, what it is and what its list says of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ptycho_torch.data.caches.scan_groups import drawn_groups
from ptycho_torch.data.config import GroupingConfig
from ptycho_torch.data.errors import naming, shown
from ptycho_torch.data.raw_data import RawData
from ptycho_torch.data.scan_list import ListedScan
from ptycho_torch.results.coverage import nearest_step

HEAD = ("frames", "N", "modes", "object", "step px", "groups", "weight", "part", "scan")


def print_scans(
    listed: Sequence[ListedScan], reading: Mapping[str, Any], config: GroupingConfig
) -> None:
    """Open every scan and print its line; the groups are those of an epoch, by weight."""
    rows: list[tuple[str, ...]] = [HEAD]
    for each in listed:
        rows.append(_row(each, each.opened(**reading), config))
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD) - 1)]
    for row in rows:
        cells = [cell.rjust(width) for cell, width in zip(row[:-1], widths, strict=True)]
        print("  ".join([*cells, row[-1]]))


def _row(listed: ListedScan, raw: RawData, config: GroupingConfig) -> tuple[str, ...]:
    whole, share = divmod(listed.use.weight, 1)
    groups = 0
    if len(raw) >= config.channels:
        with naming(raw.path):
            groups = len(drawn_groups(raw.xcoords, raw.ycoords, config))
    trains = listed.use.part in (None, "train")
    shape = "none" if raw.objectGuess is None else " x ".join(map(str, raw.objectGuess.shape))
    return (
        str(len(raw)),
        str(raw.N),
        str(math.prod(np.shape(raw.probeGuess)[:-2])),
        shape,
        f"{nearest_step(raw.xcoords, raw.ycoords):.2f}",
        str(int(whole) * groups + round(share * groups) if trains else groups),
        f"{listed.use.weight:g}",
        listed.use.part or "split",
        shown(listed.scan),
    )
