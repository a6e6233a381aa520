"""Chosen neighbours: bounds, distances, quadrants, several distinct groups around a position."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptycho_torch import GroupingConfig, simulate_scan
from ptycho_torch.data.neighbor_choice import chosen_groups
from ptycho_torch.data.raw_data import RawData

bounded = settings(max_examples=60, deadline=None, derandomize=True)
RASTER_X, RASTER_Y = (np.float64(axis.ravel()) for axis in np.meshgrid(range(6), range(5)))


def quadrant(dx: float, dy: float) -> int | None:
    """Which quadrant an offset lies in, said apart from the package."""
    if dx > 0 and dy >= 0:
        return 0
    if dx <= 0 and dy > 0:
        return 1
    if dx < 0 and dy <= 0:
        return 2
    return 3 if dx >= 0 and dy < 0 else None


def possible_groups(x: Any, y: Any, config: GroupingConfig) -> dict[int, set[frozenset[int]]]:
    """Every group that each seed position may have, by looking at every pair of positions."""
    inside = np.ones(len(x), bool)
    for values, (low, high) in ((x, config.x_bounds), (y, config.y_bounds)):
        first, last = ((1 - f) * values.min() + f * values.max() for f in (low, high))
        inside &= (values >= first) & (values <= last)
    most = math.inf if config.max_neighbor_distance is None else config.max_neighbor_distance
    groups = {}
    for seed in np.flatnonzero(inside).tolist():
        near = []
        for other in range(len(x)):
            dx, dy = x[other] - x[seed], y[other] - y[seed]
            distance, lies = math.sqrt(dx**2 + dy**2), quadrant(dx, dy)
            fits = config.min_neighbor_distance <= distance <= most and other != seed
            if fits and (config.neighbor_choice == "nearest" or lies is not None):
                near.append((distance, other, lies))
        near = sorted(near)[: config.neighbor_count]
        ways = itertools.combinations([other for _, other, _ in near], config.channels)
        if config.neighbor_choice == "quadrants":
            ways = itertools.product(*[[o for _, o, q in near if q == part] for part in range(4)])
        groups[seed] = {frozenset(way) for way in ways}
    return groups


@st.composite
def places(draw: st.DrawFn) -> tuple[Any, Any]:
    """Positions on a coarse grid, with ties and coincident ones, or off any grid."""
    count, seed = draw(st.integers(6, 40)), draw(st.integers(0, 2**32 - 1))
    random = np.random.RandomState(seed)
    if draw(st.booleans()):
        return np.float64(random.randint(0, 8, count)), np.float64(random.randint(0, 8, count))
    return random.rand(count) * 8, random.rand(count) * 8


@st.composite
def configs(draw: st.DrawFn, **fixed: Any) -> GroupingConfig:
    """Options of a choice."""
    least = draw(st.sampled_from([0.0, 0.5, 1.0, math.sqrt(2)]))
    low, high = draw(st.sampled_from([(0.0, 1.0), (0.1, 0.9), (0.25, 0.5)]))
    options: dict[str, Any] = {
        "neighbor_choice": draw(st.sampled_from(["nearest", "quadrants"])),
        "min_neighbor_distance": least,
        "max_neighbor_distance": draw(st.sampled_from([None, 3.0, 5.5])),
        "x_bounds": (low, high),
        "neighbor_count": draw(st.integers(4, 9)),
        "groups_per_seed": draw(st.integers(1, 20)),
        "seed": draw(st.integers(0, 2**32 - 1)),
        "sequential_sampling": draw(st.booleans()),
    }
    return GroupingConfig(**{**options, **fixed})


@bounded
@given(where=places(), config=configs())
def test_groups_are_those_that_a_look_at_every_pair_allows(where: Any, config: Any) -> None:
    x, y = where
    possible = possible_groups(x, y, config)
    every = set().union(*possible.values()) if possible else set()
    if not every:
        with pytest.raises(ValueError, match=r"^(the most|x_bounds, y_bounds) "):
            chosen_groups(x, y, config)
        return
    groups = chosen_groups(x, y, config)
    found = [frozenset(group) for group in groups.tolist()]
    assert groups.dtype == np.int64 and groups.shape[1] == 4
    assert all(len(group) == 4 for group in found), "a frame twice in a group"
    assert len(set(found)) == len(found), "a group twice"
    assert set(found) <= every
    # No seed position is left with fewer than asked for while it has groups that nobody took.
    assert len(found) >= min(config.groups_per_seed, max(map(len, possible.values())))
    if config.groups_per_seed >= max(map(len, possible.values())):
        assert set(found) == every
    assert np.array_equal(chosen_groups(x, y, config), groups)


@bounded
@given(where=places(), config=configs(neighbor_choice="quadrants"))
def test_the_four_frames_lie_in_the_four_quadrants_around_one_position(
    where: Any, config: Any
) -> None:
    x, y = where
    try:
        groups = chosen_groups(x, y, config)
    except ValueError:
        return
    for group in groups.tolist():
        assert any(
            [quadrant(x[frame] - x[seed], y[frame] - y[seed]) for frame in group] == [0, 1, 2, 3]
            for seed in range(len(x))
        )


@bounded
@given(where=places(), config=configs(), share=st.floats(0.01, 1))
def test_a_number_of_groups_is_met_or_refused_with_what_there_is(
    where: Any, config: Any, share: float
) -> None:
    x, y = where
    try:
        every = chosen_groups(x, y, config)
    except ValueError:
        return
    wanted = math.ceil(share * len(every))
    groups = chosen_groups(x, y, config.replace(n_groups=wanted))
    assert len(groups) == len({frozenset(group) for group in groups.tolist()}) == wanted
    with pytest.raises(ValueError, match=r"^n_groups is \d+; expected at most \d+: \d+ seed"):
        chosen_groups(x, y, config.replace(n_groups=len(x) * config.groups_per_seed + 1))


def test_every_option_changes_the_groups_of_a_raster() -> None:
    def groups(**options: Any) -> list[list[int]]:
        return chosen_groups(RASTER_X, RASTER_Y, GroupingConfig(**options)).tolist()

    every = groups(groups_per_seed=1)
    changed = [
        groups(neighbor_choice="quadrants"),
        groups(min_neighbor_distance=1.2),
        groups(max_neighbor_distance=1.2),
        groups(x_bounds=(0.3, 0.7)),
        groups(y_bounds=(0.3, 0.7)),
        groups(groups_per_seed=3),
        groups(groups_per_seed=1, seed=1),
    ]
    assert every not in changed
    assert len({str(one) for one in changed}) == len(changed)
    # Twelve positions have four neighbours at one pixel, in a cross: each in a quadrant.
    assert len(changed[2]) == 12
    # Bounds leave the two inner columns, neighbours may lie outside.
    assert len(changed[3]) == 10 and len(changed[5]) == 90


def test_gridsize_1_takes_the_positions_within_bounds() -> None:
    config = GroupingConfig(gridsize=1, x_bounds=(0.0, 0.5))
    groups = chosen_groups(RASTER_X, RASTER_Y, config)
    assert groups.shape == (15, 1) and (RASTER_X[groups] <= 2.5).all()
    assert len(chosen_groups(RASTER_X, RASTER_Y, config.replace(n_groups=7))) == 7


def test_distances_that_no_position_has_are_refused_with_those_there_are() -> None:
    wanted = (
        r"the most neighbours around a seed position is 0 from 50 px to 60 px; expected 4 for a "
        r"group\. Distances there are: 1 px to the nearest neighbour, "
        r"1\.41 px to the 4th \(medians\), 6\.4 px across the scan"
    )
    config = GroupingConfig(min_neighbor_distance=50, max_neighbor_distance=60)
    with pytest.raises(ValueError, match=wanted):
        chosen_groups(RASTER_X, RASTER_Y, config)
    line = np.arange(30.0), np.zeros(30)
    with pytest.raises(ValueError, match=r"quadrants with .* is 2 from 0 px on; expected 4"):
        chosen_groups(*line, GroupingConfig(neighbor_choice="quadrants"))
    with pytest.raises(ValueError, match=r"and no position has x 5\.00 to 7\.50 px and y 0\.00"):
        corners = np.array([0.0, 1, 2, 10, 10, 10]), np.zeros(6)
        chosen_groups(*corners, GroupingConfig(x_bounds=(0.5, 0.75)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"neighbor_choice": "far"}, "neighbor_choice is 'far'; expected one of nearest"),
        ({"neighbor_choice": "quadrants", "gridsize": 1}, "gridsize is 1 with quadrants"),
        ({"min_neighbor_distance": -1}, "min_neighbor_distance is -1.0"),
        ({"min_neighbor_distance": "2"}, "min_neighbor_distance is '2'"),
        ({"min_neighbor_distance": 4, "max_neighbor_distance": 3}, "at least 4, the minimum"),
        ({"max_neighbor_distance": math.nan}, "max_neighbor_distance is nan"),
        ({"x_bounds": (0.9, 0.1)}, "x_bounds is"),
        ({"y_bounds": (0, 1.5)}, "y_bounds is"),
        ({"y_bounds": 0.5}, "y_bounds is 0.5"),
        ({"groups_per_seed": 0}, "groups_per_seed is 0"),
        ({"groups_per_seed": 2, "gridsize": 1}, "1 at gridsize 1"),
        ({"x_bounds": (0, 0.5), "enable_oversampling": True}, "with groups_per_seed"),
        ({"x_bounds": (0, 0.5), "strategy": "group_first"}, "'sample_then_group'"),
    ],
)
def test_options_that_cannot_work_are_refused(options: Any, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        GroupingConfig(**options)


def test_neighbours_with_more_groups_than_can_be_numbered_are_refused() -> None:
    x, y = np.random.RandomState(0).rand(2, 200)
    with pytest.raises(ValueError, match="neighbor_count is 60, from which"):
        chosen_groups(x, y, GroupingConfig(gridsize=3, neighbor_count=60, groups_per_seed=1))


CHOICES = (
    {},
    {"groups_per_seed": 3},
    {"neighbor_choice": "quadrants"},
    {"x_bounds": (0.2, 0.8), "min_neighbor_distance": 5.0},
    {"seed": 3, "groups_per_seed": 3},
)


@pytest.mark.parametrize("order", [CHOICES, CHOICES[::-1]])
def test_no_choice_takes_groups_that_a_cache_keeps_of_another(order: Any, tmp_path: Path) -> None:
    path = simulate_scan(n_frames=60, N=16, seed=0).to_file(tmp_path / "scan.npz")
    for options in order:
        config = GroupingConfig(**options)
        kept, fresh = (RawData.from_file(path).group(config, cache) for cache in ("auto", "off"))
        assert np.array_equal(kept.nn_indices, fresh.nn_indices)
        assert np.array_equal(kept.frame_energies, fresh.frame_energies)
    assert len(list(tmp_path.glob("*.groups_cache.npz"))) == 1


def test_a_choice_that_cannot_be_met_names_the_scan_and_reads_no_frame(tmp_path: Path) -> None:
    path = simulate_scan(n_frames=30, N=16, seed=0).to_file(tmp_path / "scan.npz")
    raw = RawData.from_file(path)
    config = GroupingConfig(min_neighbor_distance=1e4)
    with pytest.raises(ValueError, match=r"scan\.npz: the most neighbours"):
        raw.group(config, energies=lambda: pytest.fail("frames were read"))
    assert not list(tmp_path.glob("*.groups_cache.npz"))
