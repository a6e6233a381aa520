"""Options of the NumPy core as frozen dataclasses: valid once built.

Owns names, defaults and the rules between options. Knows no files and no arrays.
"""

from __future__ import annotations

import dataclasses
import math
import numbers
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from ptycho_torch.data.errors import OptionError, OptionTypeError

Strategy = Literal["sample_then_group", "group_first"]
NeighborChoice = Literal["nearest", "quadrants"]
PatchPositions = Literal["reference", "scan"]
Measurement = Literal["auto", "amplitude", "counts"]
GroundTruth = Literal["auto", "object", "file", "none"]
Normalization = Literal["scan", "all"]

SEED_LIMIT = 2**32
"""Seeds lie in [0, SEED_LIMIT): what numpy.random.RandomState accepts."""


def check_choice(name: str, value: object, choices: Any) -> None:
    """Refuse a value that is not one of the strings of a Literal type."""
    allowed = get_args(choices)
    if value not in allowed:
        raise OptionError(name, repr(value), "one of " + ", ".join(allowed))


def check_integer(
    name: str, value: object, *, minimum: int, optional: bool = False, limit: int | None = None
) -> int | None:
    """Return ``value`` as int when it is an integer in [minimum, limit); refuse anything else."""
    if value is None and optional:
        return None
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise OptionTypeError(name, f"{value!r} ({type(value).__name__})", "an integer")
    number = int(value)
    if number < minimum or (limit is not None and number >= limit):
        bound = f">= {minimum}" if limit is None else f"in [{minimum}, {limit})"
        raise OptionError(name, number, f"an integer {bound}")
    return number


def check_seed(name: str, seed: object) -> int | None:
    """Return a seed for numpy.random.RandomState, or None for fresh entropy."""
    return check_integer(name, seed, minimum=0, optional=True, limit=SEED_LIMIT)


def path_and_seed(
    dataset_path: str | Path | int | None, seed: int | None
) -> tuple[str | Path | None, int | None]:
    """Tell a path from a seed by type; an integer in the place of the path is the seed.

    Raises
    ------
    OptionError, OptionTypeError
        Two seeds, a seed out of range, or something that is neither path nor seed.
    """
    if dataset_path is None or isinstance(dataset_path, str | Path):
        return dataset_path, check_seed("seed", seed)
    if isinstance(dataset_path, bool) or not isinstance(dataset_path, int | np.integer):
        raise OptionTypeError("dataset_path", repr(dataset_path), "a path, a seed or None")
    if seed is not None:
        raise OptionError("dataset_path", f"{dataset_path} beside seed={seed}", "a path")
    return None, check_seed("seed", dataset_path)


@dataclass(frozen=True, kw_only=True)
class GroupingConfig:
    """How the positions of a scan become groups of ``gridsize ** 2`` frames.

    Parameters
    ----------
    gridsize
        A group has C = gridsize ** 2 frames.
    neighbor_count
        K: a group is drawn from the K nearest neighbours of its seed position; K >= C.
    n_groups
        Number of groups; None means one group per frame.
    seed
        Seed of every draw; None takes fresh entropy, and two runs then differ.
    sequential_sampling
        Take the first ``n_groups`` frames as seed positions instead of a random subset. The draws
        inside the groups then always use seed 0, as the reference has it.
    enable_oversampling
        Allow more groups than frames (gridsize > 1): combinations of neighbours are drawn.
    neighbor_pool_size
        Neighbours that oversampling combines; None means ``neighbor_count``.
    n_subsample
        Keep this many frames, chosen before grouping; None keeps all.
    subsample_seed
        Seed of that choice.
    strategy
        ``"sample_then_group"``: choose seed positions, then group around them. ``"group_first"``:
        choose among all the groups that ``.groups_cache.npz`` holds, as the 2025-07 reference did.
    neighbor_choice
        ``"nearest"``: any C of the ``neighbor_count`` nearest neighbours. ``"quadrants"``: one of
        them from each of the four quadrants around the seed position (gridsize 2).
    min_neighbor_distance, max_neighbor_distance
        Only neighbours so far from the seed position, in object pixels, both included, count as
        such; None: however far.
    x_bounds, y_bounds
        Seed positions lie between these fractions of the scan's extent; neighbours may lie outside.
    groups_per_seed
        Groups around each seed position, or as many as it has. With this or any of the five options
        above, a group holds the neighbours of its seed, which is not among them; no two groups
        hold the same frames; and seed positions without a group are left out.

    Raises
    ------
    OptionError, OptionTypeError
        A value is out of range, of the wrong type, or contradicts another.
    """

    gridsize: int = 2
    neighbor_count: int = 6
    n_groups: int | None = None
    seed: int | None = 0
    sequential_sampling: bool = False
    enable_oversampling: bool = False
    neighbor_pool_size: int | None = None
    n_subsample: int | None = None
    subsample_seed: int | None = None
    strategy: Strategy = "sample_then_group"
    neighbor_choice: NeighborChoice = "nearest"
    min_neighbor_distance: float = 0.0
    max_neighbor_distance: float | None = None
    x_bounds: tuple[float, float] = (0.0, 1.0)
    y_bounds: tuple[float, float] = (0.0, 1.0)
    groups_per_seed: int | None = None

    def __post_init__(self) -> None:
        check_integer("gridsize", self.gridsize, minimum=1)
        check_integer("neighbor_count", self.neighbor_count, minimum=1)
        for name in ("n_groups", "neighbor_pool_size", "n_subsample"):
            check_integer(name, getattr(self, name), minimum=1, optional=True)
        check_seed("seed", self.seed)
        check_seed("subsample_seed", self.subsample_seed)
        check_choice("strategy", self.strategy, Strategy)
        for name in ("sequential_sampling", "enable_oversampling"):
            if not isinstance(getattr(self, name), bool):
                raise OptionTypeError(name, repr(getattr(self, name)), "True or False")
        pool = self.neighbor_pool_size if self.enable_oversampling else None
        # Groups of a list of all groups may hold their own position beside its K neighbours.
        itself = 1 if self.strategy == "group_first" else 0
        if max(self.neighbor_count + itself, pool or 0) < self.channels:
            raise OptionError(
                "neighbor_count",
                self.neighbor_count,
                f">= {self.channels - itself} for gridsize**2 = {self.channels}",
                action="Raise --neighbors (neighbor_count) or lower --gridsize (gridsize)",
            )
        if self.strategy == "group_first" and self.gridsize == 1:
            raise OptionError("strategy", "'group_first' at gridsize 1", "gridsize >= 2")
        if self.strategy == "group_first" and (
            self.enable_oversampling or self.sequential_sampling
        ):
            found = "'group_first' with enable_oversampling or sequential_sampling"
            raise OptionError("strategy", found, "'sample_then_group', to which they belong")
        self._check_choices()

    def _check_choices(self) -> None:
        check_choice("neighbor_choice", self.neighbor_choice, NeighborChoice)
        check_integer("groups_per_seed", self.groups_per_seed, minimum=1, optional=True)
        for name in ("x_bounds", "y_bounds"):
            object.__setattr__(self, name, _bounds(name, getattr(self, name)))
        least = _distance("min_neighbor_distance", self.min_neighbor_distance)
        if self.max_neighbor_distance is not None:
            most = _distance("max_neighbor_distance", self.max_neighbor_distance)
            if most <= 0 or most < least:
                raise OptionError(
                    "max_neighbor_distance", most, f"above 0 and at least {least:g}, the minimum"
                )
        if self.neighbor_choice == "quadrants" and self.gridsize != 2:
            expected = "2: a group has one frame of each quadrant"
            raise OptionError("gridsize", f"{self.gridsize} with quadrants", expected)
        if not self.chooses:
            return
        if self.strategy == "group_first" or self.enable_oversampling:
            raise OptionError(
                "strategy",
                "'group_first' or enable_oversampling with a choice of seeds or neighbours",
                "'sample_then_group', with groups_per_seed for several groups around a position",
            )
        if self.gridsize == 1 and (self.groups_per_seed or 1) > 1:
            raise OptionError("groups_per_seed", self.groups_per_seed, "1 at gridsize 1")
        if self.neighbor_count < self.channels:
            raise OptionError("neighbor_count", self.neighbor_count, f">= {self.channels}")

    @property
    def chooses(self) -> bool:
        """Whether seeds or neighbours are chosen by more than nearness: any of the last six options
        is set.
        """
        everywhere = (0.0, 1.0)
        return (
            self.neighbor_choice != "nearest"
            or self.min_neighbor_distance > 0
            or self.max_neighbor_distance is not None
            or (self.x_bounds, self.y_bounds) != (everywhere, everywhere)
            or self.groups_per_seed is not None
        )

    @property
    def channels(self) -> int:
        """C, the number of frames in a group."""
        return self.gridsize**2

    def replace(self, **changes: Any) -> GroupingConfig:
        """A copy with some fields changed, validated again."""
        return dataclasses.replace(self, **changes)


def _distance(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise OptionTypeError(name, repr(value), "a number of pixels")
    distance = float(value)
    if not 0 <= distance < math.inf:
        raise OptionError(name, distance, "a finite number of pixels >= 0")
    return distance


def _bounds(name: str, value: Any) -> tuple[float, float]:
    """Two fractions, from a pair or a list as configuration files hold it."""
    pair = tuple(value) if isinstance(value, (tuple, list)) else ()
    if len(pair) != 2 or any(isinstance(v, bool) or not isinstance(v, numbers.Real) for v in pair):
        raise OptionTypeError(name, repr(value), "a pair of fractions (low, high)")
    low, high = float(pair[0]), float(pair[1])
    if not 0 <= low < high <= 1:
        raise OptionError(name, (low, high), "fractions with 0 <= low < high <= 1")
    return low, high


def oversampling_seed_count(n_groups: int, pool: int, channels: int, n_frames: int) -> int:
    """Seed positions whose neighbour combinations cover ``n_groups`` twice, at most all frames."""
    needed = max(1, math.ceil(n_groups / math.comb(pool, channels)))
    return min(2 * needed, n_frames)
