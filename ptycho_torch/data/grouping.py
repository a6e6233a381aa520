"""Positions become groups of frame indices.

Pure functions: the answer depends only on the arguments, and NumPy's global random stream is
neither read nor moved. The draws are those of ``numpy.random.RandomState`` in the order in which
the TensorFlow reference takes them, so equal seeds give equal groups. Knows no files and no frames.

The order of equally distant neighbours is the one ``scipy.spatial.cKDTree`` returns with its
default leaf size; on a raster scan another search would give other groups.
"""

from __future__ import annotations

import itertools
import math
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.data.config import GroupingConfig, oversampling_seed_count
from ptycho_torch.data.errors import OptionError

IntArray = NDArray[np.integer]
FloatArray = NDArray[np.floating]

LEGACY_DRAWS_PER_FRAME = 50
"""Most groups that the 2025-07 reference draws around one position."""


@dataclass(frozen=True, kw_only=True)
class GroupingRequest:
    """One call of ``generate_grouped_data``, checked against the number of frames M.

    The fields are those of :class:`~ptycho_torch.data.config.GroupingConfig`; ``n_groups`` is a
    number. An OptionError says with the numbers why a request cannot be met.
    """

    n_frames: int
    n_groups: int
    gridsize: int
    neighbor_count: int
    seed: int | None = None
    sequential_sampling: bool = False
    enable_oversampling: bool = False
    neighbor_pool_size: int | None = None

    def __post_init__(self) -> None:
        channels = self.channels
        if self.n_frames < channels:
            raise OptionError(
                "the number of positions",
                self.n_frames,
                f"at least {channels} for groups of gridsize**2 = {channels}",
            )
        if self.oversamples:
            if not self.enable_oversampling:
                raise OptionError(
                    f"n_groups (nsamples) is {self.n_groups}; expected at most {self.n_frames}, "
                    f"the number of positions, at gridsize={self.gridsize} (C={channels}). For "
                    "more, K choose C oversampling: set enable_oversampling=True, "
                    f"neighbor_pool_size >= {channels}."
                )
            if self.pool < channels:
                raise OptionError(
                    f"neighbor_pool_size is {self.pool}; expected neighbor_pool_size >= C "
                    f"= {channels} for K choose C oversampling. Raise neighbor_pool_size or K."
                )
        elif self.neighbor_count < channels:
            raise OptionError(
                f"K={self.neighbor_count} must be >= C={channels} = gridsize**2. "
                f"Raise K to at least {channels}."
            )

    @classmethod
    def from_config(cls, config: GroupingConfig, n_frames: int) -> GroupingRequest:
        """The request that a configuration makes of a scan with ``n_frames`` frames."""
        names = [field.name for field in fields(cls) if field.name not in ("n_frames", "n_groups")]
        options = {name: getattr(config, name) for name in names}
        n_groups = n_frames if config.n_groups is None else config.n_groups
        return cls(n_frames=n_frames, n_groups=n_groups, **options)

    @property
    def channels(self) -> int:
        """C, frames in a group."""
        return self.gridsize**2

    @property
    def oversamples(self) -> bool:
        """More groups than positions are asked for; at gridsize 1 the number is capped instead."""
        return self.gridsize > 1 and self.n_groups > self.n_frames

    @property
    def pool(self) -> int:
        """Neighbours that oversampling combines."""
        return self.neighbor_count if self.neighbor_pool_size is None else self.neighbor_pool_size

    @property
    def table_neighbors(self) -> int:
        """Neighbours, besides the position itself, that the request looks at; 0 for gridsize 1."""
        if self.gridsize == 1:
            return 0
        return self.pool if self.oversamples else self.neighbor_count


_QUERIES_WORTH_A_THREAD = 2_000


def neighbor_table(
    xcoords: FloatArray, ycoords: FloatArray, neighbors: int, rows: IntArray | None = None
) -> NDArray[np.int32]:
    """Nearest positions of all positions, or of ``rows``, nearest first: int32, (L, min(K + 1, M)).

    K = ``neighbors``: there is one column more, since a position is (usually) its own first hit.
    """
    from scipy.spatial import cKDTree  # here, because a worker that is spawned groups nothing

    points = np.column_stack([xcoords, ycoords])
    count = min(neighbors + 1, len(points))
    wanted = points if rows is None else points[rows]
    tree = cKDTree(points)
    # The query's own threads go on when an interruption takes their arrays away, and the process
    # with them; an executor's are waited for.
    threads = min(os.cpu_count() or 1, -(-len(wanted) // _QUERIES_WORTH_A_THREAD))

    def query(part: FloatArray) -> NDArray[np.int32]:
        return np.asarray(tree.query(part, k=count)[1], dtype=np.int32).reshape(len(part), count)

    if threads < 2:
        return query(wanted)
    with ThreadPoolExecutor(threads) as pool:
        return np.concatenate(list(pool.map(query, np.array_split(wanted, threads))))


def sample_then_group(
    xcoords: FloatArray,
    ycoords: FloatArray,
    request: GroupingRequest,
    table: NDArray[np.int32] | None = None,
) -> IntArray:
    """Choose seed positions, then draw a group among the neighbours of each.

    Gives frame indices (B, C): int64 for C = 1 and for oversampling, else int32, as the reference.
    ``table`` is the :func:`neighbor_table` of all positions (M,) with exactly
    ``request.table_neighbors`` neighbours, where it is known: a wider one holds others, since the
    tree chooses among equal distances by their number.
    """
    # The reference's sequential mode draws from RandomState(0) whatever the seed, except when it
    # oversamples: there only the choice of seed positions is sequential.
    fixed = request.sequential_sampling and not request.oversamples
    random = np.random.RandomState(0 if fixed else request.seed)
    if request.oversamples:
        return _oversampled_groups(xcoords, ycoords, request, random, table)
    seeds = _seed_positions(request, min(request.n_groups, request.n_frames), random)
    if request.channels == 1:
        return seeds[:, None]
    neighbors = _neighbors_of(seeds, xcoords, ycoords, request.neighbor_count, table)
    if neighbors.shape[1] > request.neighbor_count:
        neighbors = neighbors[:, 1:]
    picks = draw_permutations(random, neighbors.shape[1], len(seeds))[:, : request.channels]
    return np.take_along_axis(neighbors, picks, axis=1)


def legacy_groups(
    xcoords: FloatArray, ycoords: FloatArray, gridsize: int, neighbors: int
) -> NDArray[np.int64]:
    """All groups of a scan as the 2025-07 reference lists them in ``.groups_cache.npz``.

    Around every position, min(50, (K + 1) // C + 1) draws of C among the K + 1 nearest, itself
    included; each group sorted, the list sorted and without repeats: int64, shape (G, C). The draws
    use seed 0, so the list is a function of the positions. Scans of fewer than K + 1 use all of
    them.
    """
    channels = gridsize**2
    table = neighbor_table(xcoords, ycoords, neighbors)
    if channels == 1:
        return np.arange(len(table), dtype=np.int64)[:, None]
    width = table.shape[1]
    draws = min(LEGACY_DRAWS_PER_FRAME, (neighbors + 1) // channels + 1)
    random = np.random.RandomState(0)
    picks = draw_permutations(random, width, draws * len(table))[:, :channels]
    groups = np.take_along_axis(np.repeat(table, draws, axis=0), picks, axis=1)
    return unique_rows(np.sort(groups, axis=1).astype(np.int64))


def group_first(
    all_groups: NDArray[np.int64], n_groups: int, seed: int | None
) -> NDArray[np.int64]:
    """Choose ``n_groups`` rows of a list of all groups (G, C), or all when it holds no more."""
    if n_groups >= len(all_groups):
        return all_groups
    return all_groups[np.random.RandomState(seed).permutation(len(all_groups))[:n_groups]]


def subsample(n_frames: int, n_subsample: int | None, seed: int | None) -> NDArray[np.int64]:
    """Frames kept before grouping: sorted indices into the file's own numbering, int64."""
    if n_subsample is None or n_subsample >= n_frames:
        return np.arange(n_frames)
    return np.sort(np.random.RandomState(seed).permutation(n_frames)[:n_subsample])


def unique_rows(groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rows in lexicographic order without repeats; ten times faster than np.unique(axis=0)."""
    ordered = groups[np.lexsort(groups.T[::-1])]
    keep = np.ones(len(ordered), dtype=bool)
    keep[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    return np.ascontiguousarray(ordered[keep])


def _seed_positions(
    request: GroupingRequest, count: int, random: np.random.RandomState
) -> NDArray[np.int64]:
    if request.sequential_sampling or count == request.n_frames:
        return np.arange(count)
    return random.permutation(request.n_frames)[:count]


def _neighbors_of(
    seeds: NDArray[np.int64],
    xcoords: FloatArray,
    ycoords: FloatArray,
    neighbors: int,
    table: NDArray[np.int32] | None,
) -> NDArray[np.int32]:
    if table is None:
        return neighbor_table(xcoords, ycoords, neighbors, seeds)
    if table.shape != (len(xcoords), min(neighbors + 1, len(xcoords))):
        raise OptionError(
            "the neighbour table's shape",
            table.shape,
            f"({len(xcoords)}, {min(neighbors + 1, len(xcoords))})",
        )
    return table[seeds]


def _oversampled_groups(
    xcoords: FloatArray,
    ycoords: FloatArray,
    request: GroupingRequest,
    random: np.random.RandomState,
    table: NDArray[np.int32] | None,
) -> NDArray[np.int64]:
    channels, wanted = request.channels, request.n_groups
    count = oversampling_seed_count(wanted, request.pool, channels, request.n_frames)
    seeds = _seed_positions(request, count, random)
    neighbors = _neighbors_of(seeds, xcoords, ycoords, request.pool, table)[:, 1:]
    if neighbors.shape[1] < channels:
        neighbors = np.concatenate([seeds[:, None].astype(np.int32), neighbors], axis=1)
    limit = 2 * wanted
    # A pool of many neighbours has more combinations than memory; only the first rows are used.
    used = min(math.comb(neighbors.shape[1], channels), limit)
    ways = itertools.islice(itertools.combinations(range(neighbors.shape[1]), channels), used)
    columns = np.fromiter(itertools.chain.from_iterable(ways), np.intp).reshape(-1, channels)
    pool_seeds = -(-limit // len(columns))
    pool = neighbors[:pool_seeds][:, columns].reshape(-1, channels)[:limit].astype(np.int64)
    if len(pool) >= wanted:
        return pool[random.permutation(len(pool))[:wanted]]
    return pool[random.randint(0, len(pool), size=wanted)]


def draw_permutations(random: np.random.RandomState, length: int, count: int) -> NDArray[np.intp]:
    """``count`` calls of ``random.permutation(length)``, stacked: intp, shape (count, length)."""
    out = np.tile(np.arange(length, dtype=np.intp), (count, 1))
    for row in out:
        random.shuffle(row)  # what permutation does to a range, without making one
    return out
