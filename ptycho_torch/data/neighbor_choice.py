"""Groups of neighbours that are chosen: by distance, by quadrant, around part of a scan.

Owns which positions are seeds, which frames may join them, and the draw of distinct groups. Pure
functions of positions and options; knows no files and no frames. A distance is
``sqrt(dx**2 + dy**2)`` in float64, and equal ones come in the order of the frames.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.data.config import GroupingConfig
from ptycho_torch.data.errors import OptionError

if TYPE_CHECKING:
    from scipy.spatial import cKDTree

IntArray = NDArray[np.integer]
FloatArray = NDArray[np.floating]

logger = logging.getLogger(__name__)

_MOST_GROUPS_OF_A_SEED = 2**31  # ranks of groups are multiplied in int64
_QUERIED_AT_ONCE = 1 << 20


def quadrant_of(dx: FloatArray, dy: FloatArray) -> NDArray[np.int64]:
    """Quadrants 0 to 3 of offsets from a seed, turning from x to y; 4 for the seed's own place.

    Each holds the half axis it begins with: 0 is dx > 0, dy >= 0; 1 is dx <= 0, dy > 0.
    """
    of = [(dx > 0) & (dy >= 0), (dx <= 0) & (dy > 0), (dx < 0) & (dy <= 0), (dx >= 0) & (dy < 0)]
    return np.select(of, range(4), 4)


def chosen_groups(x: FloatArray, y: FloatArray, config: GroupingConfig) -> NDArray[np.int64]:
    """Distinct groups (B, C) of positions (M,), the groups of a seed one after the other.

    OptionError says with numbers which request cannot be met.
    """
    points = np.column_stack([x, y]).astype(np.float64)
    seeds = _seeds(points, config)
    random = np.random.RandomState(config.seed)
    if config.n_groups is not None and not config.sequential_sampling:
        seeds = random.permutation(seeds)
    if config.channels == 1:
        return seeds[: config.n_groups, None]
    choices = _Choices.of(points, seeds, config)
    order = _Orders.drawn(random, choices.counts)
    per_seed, rows = config.groups_per_seed or 1, len(choices.counts)
    wanted = rows * per_seed if config.n_groups is None else config.n_groups
    used = min(rows, -(-wanted // per_seed))
    groups = _distinct(choices, order, per_seed, used)
    while len(groups) < wanted and used < rows:
        used = min(rows, 2 * used)
        groups = _distinct(choices, order, per_seed, used)
    if config.n_groups is not None and len(groups) < wanted:
        raise OptionError(
            "n_groups",
            wanted,
            f"at most {len(groups)}: {rows} seed positions with up to {per_seed} groups each, "
            "none twice",
            action="Raise groups_per_seed or neighbor_count, or widen bounds and distances",
        )
    return groups[:wanted]


def _seeds(points: FloatArray, config: GroupingConfig) -> NDArray[np.int64]:
    """Positions within the bounds, which are fractions of the scan's extent."""
    bounds = np.array([config.x_bounds, config.y_bounds]).T
    low, high = points.min(axis=0), points.max(axis=0)
    first, last = (1 - bounds) * low + bounds * high  # exact at 0 and 1
    seeds = np.flatnonzero(((points >= first) & (points <= last)).all(axis=1))
    if not len(seeds):
        spans = [
            f"{axis} {one:.2f} to {two:.2f} px"
            for axis, one, two in zip("xy", first, last, strict=True)
        ]
        raise OptionError(
            "x_bounds, y_bounds",
            f"{config.x_bounds}, {config.y_bounds}, and no position has {' and '.join(spans)}",
            "bounds with positions within",
        )
    return seeds


@dataclass(frozen=True)
class _Choices:
    """Seeds that have groups, and what these are drawn from.

    ``table`` (L, K): frames that may join, nearest first, or quadrant by quadrant; ``sizes``: how
    many, (L, 1), or (L, 4) for the quadrants; ``counts`` (L,): groups that can be made of them.
    """

    table: NDArray[np.int64]
    sizes: NDArray[np.int64]
    counts: NDArray[np.int64]
    channels: int

    @classmethod
    def of(cls, points: FloatArray, seeds: NDArray[np.int64], config: GroupingConfig) -> _Choices:
        table, allowed = _allowed(points, seeds, config)
        sizes = allowed.sum(axis=1, keepdims=True)
        if config.neighbor_choice == "quadrants":
            offsets = points[table] - points[seeds][:, None]
            quadrants = np.where(allowed, quadrant_of(offsets[..., 0], offsets[..., 1]), 4)
            table = np.take_along_axis(table, quadrants.argsort(axis=1, kind="stable"), axis=1)
            sizes = (quadrants[..., None] == np.arange(4)).sum(axis=1)
            counts = sizes.prod(axis=1)
        else:
            ways = [math.comb(n, config.channels) for n in range(table.shape[1] + 1)]
            counts = np.minimum(ways, 2 * _MOST_GROUPS_OF_A_SEED)[sizes[:, 0]].astype(np.int64)
        if counts.max() > _MOST_GROUPS_OF_A_SEED:
            found = f"{config.neighbor_count}, from which a seed can have more than 2**31 groups"
            raise OptionError("neighbor_count", found, "fewer")
        able = counts > 0
        if not able.any():
            raise _none_has_enough(points, seeds, sizes, config)
        if not able.all():
            logger.info("%d of %d seed positions have no group", np.sum(~able), len(able))
        return cls(table[able], sizes[able], counts[able], config.channels)

    def group(self, rows: IntArray, ranks: NDArray[np.int64]) -> NDArray[np.int64]:
        """Group number ``ranks`` of each of ``rows``."""
        columns = np.empty((len(rows), self.channels), np.int64)
        if self.sizes.shape[1] > 1:
            ends = self.sizes.cumsum(axis=1)
            for channel, size in enumerate(self.sizes[rows].T):
                columns[:, channel] = (ends[rows, channel] - size) + ranks % size
                ranks = ranks // size
        else:
            # Combinations in colexicographic order: those of n come first among those of n + 1.
            for channel in reversed(range(self.channels)):
                ways = [math.comb(n, channel + 1) for n in range(self.table.shape[1] + 1)]
                before = np.minimum(ways, 2 * _MOST_GROUPS_OF_A_SEED).astype(np.int64)
                columns[:, channel] = np.searchsorted(before, ranks, side="right") - 1
                ranks = ranks - before[columns[:, channel]]
        return self.table[rows[:, None], columns]


@dataclass(frozen=True)
class _Orders:
    """For every seed an order of its groups that visits each once: ``first + n * step``."""

    first: NDArray[np.int64]
    step: NDArray[np.int64]

    @classmethod
    def drawn(cls, random: np.random.RandomState, counts: NDArray[np.int64]) -> _Orders:
        first, step = (
            (random.random_sample(len(counts)) * span).astype(np.int64)
            for span in (counts, counts - 1)
        )
        step += 1
        while (shared := np.gcd(step, counts) > 1).any():
            step[shared] = step[shared] % (counts[shared] - 1) + 1
        return cls(first, step)


def _distinct(choices: _Choices, order: _Orders, per_seed: int, used: int) -> NDArray[np.int64]:
    """Up to ``per_seed`` groups of each of the first ``used`` seeds, no set of frames twice."""
    counts = choices.counts[:used]
    tried, have = np.zeros_like(counts), np.zeros_like(counts)
    rows, groups = np.empty(0, np.int64), np.empty((0, choices.channels), np.int64)
    while (lacking := np.minimum(per_seed - have, counts - tried)).any():
        new = np.repeat(np.arange(used), lacking)
        number = np.arange(len(new)) - np.repeat(lacking.cumsum() - lacking - tried, lacking)
        ranks = (order.first[new] + number * order.step[new]) % counts[new]
        rows = np.concatenate([rows, new])
        groups = np.concatenate([groups, choices.group(new, ranks)])
        tried += lacking
        fresh = _first_of_each(np.sort(groups, axis=1))
        rows, groups = rows[fresh], groups[fresh]
        have = np.bincount(rows, minlength=used)
    return groups[rows.argsort(kind="stable")]


def _first_of_each(keys: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which rows are not a repeat of an earlier one."""
    order = np.lexsort(keys.T)
    repeated = (keys[order[1:]] == keys[order[:-1]]).all(axis=1)
    fresh = np.ones(len(keys), dtype=bool)
    fresh[order[1:][repeated]] = False
    return fresh


def _allowed(
    points: FloatArray, seeds: NDArray[np.int64], config: GroupingConfig
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The K nearest frames that the distances allow, nearest first, and which entries are such.

    Both (L, min(K, M - 1)). With quadrants, frames at the seed's own place are not allowed.
    """
    tree, count = _tree(points), len(points)
    width = min(config.neighbor_count, count - 1)
    table = np.zeros((len(seeds), width), np.int64)
    allowed = np.zeros(table.shape, dtype=bool)
    pending, queried = np.arange(len(seeds)), min(2 * width + 1, count)
    while len(pending):
        left = []
        for rows in np.array_split(pending, -(-len(pending) * queried // _QUERIED_AT_ONCE)):
            reach, near = map(np.asarray, tree.query(points[seeds[rows]], k=queried))
            found, distances = _by_distance(points, seeds[rows], near, config)
            # Frames that the tree did not name are as far as its last one, or farther.
            last, limit = reach[:, -1] * (1 - 1e-9), config.max_neighbor_distance
            done = distances[:, width - 1] < last
            done |= queried == count or (last > (math.inf if limit is None else limit))
            table[rows] = found[:, :width]
            allowed[rows] = np.isfinite(distances[:, :width])
            left.append(rows[~done])
        pending, queried = np.concatenate(left), min(2 * queried, count)
    return table, allowed


def _by_distance(
    points: FloatArray, seeds: NDArray[np.int64], found: NDArray[np.int64], config: GroupingConfig
) -> tuple[NDArray[np.int64], FloatArray]:
    """Found frames (L, k) by distance and number, those not allowed last, at infinity."""
    distances = np.sqrt(np.square(points[found] - points[seeds][:, None]).sum(axis=-1))
    least, most = config.min_neighbor_distance, config.max_neighbor_distance
    fits = (found != seeds[:, None]) & (distances >= least)
    if most is not None:
        fits &= distances <= most
    if config.neighbor_choice == "quadrants":
        fits &= distances > 0
    distances = np.where(fits, distances, math.inf)
    order = np.lexsort((found, distances), axis=-1)
    return np.take_along_axis(found, order, axis=1), np.take_along_axis(distances, order, axis=1)


def _none_has_enough(
    points: FloatArray, seeds: NDArray[np.int64], sizes: IntArray, config: GroupingConfig
) -> OptionError:
    least, most = config.min_neighbor_distance, config.max_neighbor_distance
    channels = config.channels
    what, most_there, expected = "neighbours", sizes.max(), f"{channels} for a group"
    if config.neighbor_choice == "quadrants":
        what, most_there = "quadrants with a neighbour", (sizes > 0).sum(axis=1).max()
        expected = f"4 among the {config.neighbor_count} nearest"
    reach = np.asarray(_tree(points).query(points[seeds], k=min(channels + 1, len(points)))[0])
    near, far = np.median(reach[:, 1]), np.median(reach[:, -1])
    return OptionError(
        f"the most {what} around a seed position",
        f"{most_there} from {least:g} px" + (" on" if most is None else f" to {most:g} px"),
        expected,
        action=f"Distances there are: {near:.3g} px to the nearest neighbour, {far:.3g} px to the "
        f"{channels}th (medians), {np.hypot(*np.ptp(points, axis=0)):.3g} px across the scan",
    )


def _tree(points: FloatArray) -> cKDTree:
    from scipy.spatial import cKDTree  # here, because a worker that is spawned groups nothing

    return cKDTree(points)
