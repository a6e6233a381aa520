"""Groupings and data modules as every part uses them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ptycho_torch import GroupingConfig, PtychoDataModule

NEIGHBORS = 6
"""K where gridsize is 2; a larger gridsize needs more."""


def grouping_of(gridsize: int, **options: Any) -> GroupingConfig:
    """Groups of gridsize ** 2 frames."""
    return GroupingConfig(
        gridsize=gridsize,
        neighbor_count=max(NEIGHBORS, gridsize**2),
        **options,
    )


def data_module(scan: Path, *, gridsize: int = 2, **options: Any) -> PtychoDataModule:
    """A data module of one scan, set up, with all groups in its training part."""
    n_groups = options.pop("n_groups", None)
    options.setdefault("ground_truth", "none")
    options.setdefault("patch_positions", "scan")
    data = PtychoDataModule(
        str(scan),
        grouping=grouping_of(gridsize, n_groups=n_groups),
        split="none",
        **options,
    )
    data.setup("fit")
    return data
