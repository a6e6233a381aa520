"""The groups of one scan, through its ``.groups_cache.npz`` where there is a file to keep it by.

Joins grouping, cache and energies; knows neither patches nor coordinates of groups.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.data import grouping
from ptycho_torch.data.caches import groups_cache
from ptycho_torch.data.config import GroupingConfig
from ptycho_torch.data.errors import ScanError, ScanFileError
from ptycho_torch.data.files.atomic_write import user_cache_directory
from ptycho_torch.data.files.build_lock import build_timeout_s
from ptycho_torch.data.frames import Frames
from ptycho_torch.data.grouping import GroupingRequest

FloatArray = NDArray[np.floating]
CachePolicy = str | Path
"""``"auto"`` (beside the scan), ``"off"``, ``"readonly"``, or a directory."""

CACHE_NAME = re.compile(r"(?P<stem>.*)\.g\d+k\d+\.groups_cache\.npz", re.DOTALL)


@dataclass(frozen=True)
class ScanGroups:
    """Groups of one scan and what X needs to be scaled.

    Attributes
    ----------
    nn_indices
        Frame indices within the scan, shape (B, C), int32 or int64 as the reference has it.
    frame_energies
        Sum of amplitude ** 2 of every frame, float64, shape (M,).
    """

    nn_indices: NDArray[np.integer]
    frame_energies: NDArray[np.float64]


def group_scan(
    xcoords: FloatArray,
    ycoords: FloatArray,
    frames: Frames,
    energies: Callable[[], NDArray[np.float64]],
    config: GroupingConfig,
    *,
    scan_path: Path | None,
    cache: CachePolicy,
) -> ScanGroups:
    """Group a scan, reading and keeping what does not depend on the draws in its cache.

    Parameters
    ----------
    xcoords, ycoords
        Probe positions, shape (M,), object pixels.
    frames
        The diffraction frames, for the cache to know them again.
    energies
        Computes the frame energies, float64, shape (M,); called when they are not cached.
    config
        What is asked for.
    scan_path
        File the cache is named after; None: no cache.
    cache
        ``"auto"``, ``"readonly"``, ``"off"`` or a directory.

    Raises
    ------
    OptionError
        The request cannot be met by this scan.
    ScanError
        Fewer positions than frames in a group, or a frame holds NaN, infinity or negative values.
    """
    if len(xcoords) < config.channels:
        raise ScanError(
            "the number of positions",
            len(xcoords),
            f"at least {config.channels} for groups of gridsize**2",
            file=frames.path,
        )
    request = None
    if config.strategy != "group_first":
        request = GroupingRequest.from_config(config, len(xcoords))
    if cache == "off" or scan_path is None:
        groups = _draw(xcoords, ycoords, request, config, None)
        return ScanGroups(groups, energies())

    def build(missing: groups_cache.Missing) -> groups_cache.BuiltGroups:
        K = config.neighbor_count
        return groups_cache.BuiltGroups(
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
        frames_identity=frames.identity(),
        measurement=frames.measurement,
        gridsize=config.gridsize,
        K=config.neighbor_count,
        policy=cache,
        build=build,
        timeout_s=build_timeout_s(frames.nbytes),
    )
    return ScanGroups(_draw(xcoords, ycoords, request, config, entry), entry.frame_energies)


def caches_of(scan_path: Path) -> list[Path]:
    """Every groups cache of a scan, beside it and in the user's cache directory."""
    directories = [scan_path.parent]
    # Without a home directory there is no second place.
    with suppress(ScanFileError):
        directories.append(user_cache_directory(scan_path.parent))
    pattern = f"{glob.escape(scan_path.stem)}.g*k*.groups_cache.npz"
    found = [path for directory in directories for path in sorted(directory.glob(pattern))]
    return [path for path in found if CACHE_NAME.fullmatch(path.name)]


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
