"""The groups of one scan, through its ``.groups_cache.npz`` where there is a file to keep it by.

Joins grouping, cache and energies; knows neither patches nor coordinates of groups.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.data import grouping, neighbor_choice
from ptycho_torch.data.caches import groups_cache
from ptycho_torch.data.caches.groups_key import BuiltGroups, Missing
from ptycho_torch.data.caches.names import CachePolicy
from ptycho_torch.data.config import GroupingConfig
from ptycho_torch.data.errors import ScanError, naming
from ptycho_torch.data.files.build_lock import build_timeout_s
from ptycho_torch.data.files.stored_stack import FramesIdentity
from ptycho_torch.data.grouping import GroupingRequest

FloatArray = NDArray[np.floating]


@dataclass(frozen=True)
class ScanGroups:
    """Groups of one scan and what X needs to be scaled.

    ``nn_indices`` are frame indices within the scan, (B, C), int32 or int64 as in the reference;
    ``frame_energies`` the sum of amplitude ** 2 per frame, float64, shape (M,).
    """

    nn_indices: NDArray[np.integer]
    frame_energies: NDArray[np.float64]


def drawn_groups(x: FloatArray, y: FloatArray, config: GroupingConfig) -> NDArray[np.integer]:
    """Groups (B, C) around seed positions drawn from all (M,), without any cache."""
    if config.chooses:
        return neighbor_choice.chosen_groups(x, y, config)
    return grouping.sample_then_group(x, y, GroupingRequest.from_config(config, len(x)))


def group_scan(
    xcoords: FloatArray,
    ycoords: FloatArray,
    energies: Callable[[], NDArray[np.float64]],
    config: GroupingConfig,
    *,
    frames: FramesIdentity,
    measurement: str,
    scan_path: Path | None,
    cache: CachePolicy,
) -> ScanGroups:
    """Group a scan, reading and keeping what does not depend on the draws in its cache.

    ``energies()`` computes the frame energies, float64, shape (M,), where they are not cached; the
    cache knows the frames again by ``frames`` and ``measurement``. It is named after ``scan_path``
    and goes where ``cache`` says; without a path there is none. Positions (M,) in object pixels. An
    OptionError or ScanError says why a request cannot be met, or which frame cannot be.
    """
    if len(xcoords) < config.channels:
        raise ScanError(
            "the number of positions",
            len(xcoords),
            f"at least {config.channels} for groups of gridsize**2",
            file=scan_path,
        )
    request: GroupingRequest | None = None
    chosen: NDArray[np.integer] | None = None
    if config.chooses:
        # Nothing that a cache keeps depends on the choice, and no frame need be read to refuse one.
        with naming(scan_path):
            chosen = neighbor_choice.chosen_groups(xcoords, ycoords, config)
    elif config.strategy != "group_first":
        with naming(scan_path):
            request = GroupingRequest.from_config(config, len(xcoords))
    if cache == "off" or scan_path is None:
        if chosen is None:
            chosen = _draw(xcoords, ycoords, request, config, None)
        return ScanGroups(chosen, energies())

    K = config.neighbor_count

    def build(missing: Missing) -> BuiltGroups:
        return BuiltGroups(
            all_groups=grouping.legacy_groups(xcoords, ycoords, config.gridsize, K)
            if missing.all_groups
            else None,
            neighbor_table=grouping.neighbor_table(xcoords, ycoords, K)
            if missing.neighbor_table
            else None,
            frame_energies=energies() if missing.frame_energies else None,
        )

    entry = groups_cache.load_or_build(
        scan_path,
        xcoords=xcoords,
        ycoords=ycoords,
        frames_identity=frames,
        measurement=measurement,
        gridsize=config.gridsize,
        K=K,
        policy=cache,
        build=build,
        timeout_s=build_timeout_s(frames.nbytes),
    )
    if chosen is None:
        chosen = _draw(xcoords, ycoords, request, config, entry)
    return ScanGroups(chosen, entry.frame_energies)


def _draw(
    xcoords: FloatArray,
    ycoords: FloatArray,
    request: GroupingRequest | None,
    config: GroupingConfig,
    entry: groups_cache.CachedGroups | None,
) -> NDArray[np.integer]:
    if request is None:
        every = (
            grouping.legacy_groups(xcoords, ycoords, config.gridsize, config.neighbor_count)
            if entry is None
            else entry.all_groups
        )
        count = len(xcoords) if config.n_groups is None else config.n_groups
        return grouping.group_first(every, count, config.seed)
    # The table holds exactly K neighbours; a pool of another size asks the tree itself.
    fits = entry is not None and request.table_neighbors == config.neighbor_count
    table = entry.neighbor_table if entry is not None and fits else None
    return grouping.sample_then_group(xcoords, ycoords, request, table)
