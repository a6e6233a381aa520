"""Properties of grouping and of X that hold for any scan, checked on generated ones."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree

from ptycho_torch.data.raw_data import RawData

Arrays = dict[str, Any]
SIDE = 8
# A grid of eighths: sums with each other and with translations on it are exact in float64.
STEPS_PER_PX = 8


def scan(x: Any, y: Any, frames: Any = None) -> RawData:
    """A scan of given positions, without an object; its frames have small positive amplitudes."""
    if frames is None:
        frames = np.random.RandomState(len(x)).rand(len(x), SIDE, SIDE).astype(np.float32) + 0.1
    probe = np.ones((SIDE, SIDE), np.complex64)
    return RawData.from_coords_without_pc(x, y, frames, probe, None)


@st.composite
def positions(draw: st.DrawFn, minimum: int = 4, ties: bool = True) -> tuple[Any, Any]:
    """Positions on a grid of eighths of a pixel; coincident and tied ones unless told otherwise."""
    count = draw(st.integers(minimum, 30))
    if ties:
        coordinate = st.integers(-40, 40)
        pairs = draw(st.lists(st.tuples(coordinate, coordinate), min_size=count, max_size=count))
        points = np.array(pairs, np.float64) / STEPS_PER_PX
        return points[:, 0].copy(), points[:, 1].copy()
    # Off any grid, so that no two distances agree.
    random = np.random.RandomState(draw(st.integers(0, 2**32 - 1)))
    return random.rand(count) * 50, random.rand(count) * 50


@st.composite
def requests(draw: st.DrawFn, frames: int) -> Arrays:
    """Arguments of generate_grouped_data that a scan of so many frames can meet."""
    gridsize = draw(st.sampled_from([g for g in (1, 2, 3) if g**2 <= frames]))
    channels = gridsize**2
    call: Arrays = {
        "N": SIDE,
        "gridsize": gridsize,
        "K": draw(st.integers(channels, channels + 4)),
        "nsamples": draw(st.integers(1, 2 * frames)),
        "seed": draw(st.integers(0, 2**32 - 1)),
        "sequential_sampling": draw(st.booleans()),
        "enable_oversampling": True,
        "neighbor_pool_size": draw(st.none() | st.integers(channels, channels + 4)),
    }
    return call


bounded = settings(max_examples=40, deadline=None, derandomize=True)


@bounded
@given(data=st.data(), where=positions())
def test_indices_are_in_range_and_no_frame_is_twice_in_a_group(data: Any, where: Any) -> None:
    x, y = where
    call = data.draw(requests(len(x)))
    groups = scan(x, y).generate_grouped_data(**call)["nn_indices"]
    assert groups.shape[1] == call["gridsize"] ** 2
    expected = min(call["nsamples"], len(x)) if call["gridsize"] == 1 else call["nsamples"]
    assert len(groups) == expected
    assert 0 <= groups.min() <= groups.max() < len(x)
    distinct = [len(set(group)) for group in groups.tolist()]
    # Oversampling in a scan of just C frames has C - 1 neighbours and puts the seed position in
    # front of them; where positions coincide it may be among them already.
    oversampled = call["gridsize"] > 1 and call["nsamples"] > len(x)
    forced = oversampled and len(x) == groups.shape[1] and has_coincident_positions(x, y)
    assert min(distinct) >= groups.shape[1] - forced


def has_coincident_positions(x: Any, y: Any) -> bool:
    return len(np.unique(np.column_stack([x, y]), axis=0)) < len(x)


@bounded
@given(data=st.data(), where=positions())
def test_groups_stay_when_all_positions_are_translated(data: Any, where: Any) -> None:
    x, y = where
    call = data.draw(requests(len(x)))
    # Whole pixels: exact on the grid of eighths, so distances and ties stay to the bit.
    dx, dy = (data.draw(st.integers(-1000, 1000)) for _ in range(2))
    before = scan(x, y).generate_grouped_data(**call)
    after = scan(x + dx, y + dy).generate_grouped_data(**call)
    np.testing.assert_array_equal(before["nn_indices"], after["nn_indices"])
    np.testing.assert_array_equal(before["X_full"], after["X_full"])
    np.testing.assert_allclose(before["coords_relative"], after["coords_relative"], atol=1e-9)
    shift = np.array([dx, dy], np.float64)[None, None, :, None]
    np.testing.assert_allclose(before["coords_offsets"] + shift, after["coords_offsets"])


@bounded
@given(data=st.data(), where=positions(minimum=10, ties=False))
def test_permuting_the_frames_permutes_the_indices(data: Any, where: Any) -> None:
    x, y = where
    # Every position is a seed and the draws of a seed depend only on its place in the list, so
    # the sequential request on all frames is the one whose draws a permutation carries along.
    order = np.array(data.draw(st.permutations(range(len(x)))))
    K, channels = data.draw(st.sampled_from([(4, 4), (6, 4), (9, 9)]))
    call = {"N": SIDE, "K": K, "nsamples": len(x), "gridsize": int(channels**0.5), "seed": 0}
    frames = np.random.RandomState(1).rand(len(x), SIDE, SIDE).astype(np.float32)
    plain = scan(x, y, frames).generate_grouped_data(**call)
    moved = scan(x[order], y[order], frames[order]).generate_grouped_data(**call)
    # Draws go by place: group i of the permuted scan picks the same neighbour ranks as group i
    # of the plain one, around another position. Compare ranks, then frames through ``order``.
    ranks = neighbor_ranks(x, y, K, plain["nn_indices"], np.arange(len(x)))
    moved_ranks = neighbor_ranks(x, y, K, order[moved["nn_indices"]], order)
    np.testing.assert_array_equal(ranks, moved_ranks)
    np.testing.assert_array_equal(
        moved["diffraction"], np.moveaxis(frames[order[moved["nn_indices"]]], 1, -1)
    )


def neighbor_ranks(x: Any, y: Any, K: int, groups: Any, seeds: Any) -> Any:
    """Place of every grouped frame among the neighbours of its group's seed position."""
    points = np.column_stack([x, y])
    _, table = cKDTree(points).query(points[seeds], k=min(K + 1, len(x)))
    return (table[:, :, None] == groups[:, None, :]).argmax(axis=1)


@bounded
@given(data=st.data(), where=positions())
def test_centre_minus_relative_is_the_position(data: Any, where: Any) -> None:
    x, y = where
    start_x, start_y = x + 0.5, y - 0.25
    raw = RawData(
        x,
        y,
        start_x,
        start_y,
        np.ones((len(x), SIDE, SIDE), np.float32),
        np.ones((SIDE, SIDE), np.complex64),
        None,
    )
    grouped = raw.generate_grouped_data(**data.draw(requests(len(x))))
    nn = grouped["nn_indices"]
    for prefix, column, row in (("coords", x, y), ("coords_start", start_x, start_y)):
        centre, relative = grouped[f"{prefix}_offsets"], grouped[f"{prefix}_relative"]
        position = centre - relative
        np.testing.assert_allclose(position[:, 0, 0], column[nn], atol=1e-9)
        np.testing.assert_allclose(position[:, 0, 1], row[nn], atol=1e-9)
        np.testing.assert_allclose(relative.sum(axis=3), 0, atol=1e-9)


@bounded
@given(
    data=st.data(),
    where=positions(),
    dtype=st.sampled_from([np.float32, np.float64, np.uint16, np.int32]),
)
def test_scale_from_energies_equals_scale_from_grouped_frames(
    data: Any, where: Any, dtype: Any
) -> None:
    x, y = where
    call = data.draw(requests(len(x)))
    frames = (np.random.RandomState(2).rand(len(x), SIDE, SIDE) * 6000 + 1).astype(dtype)
    raw = scan(x, y, frames)
    grouped = raw.generate_grouped_data(**call)
    diffraction = grouped["diffraction"]
    assert diffraction.dtype == dtype
    squares = (diffraction.astype(np.float64) ** 2).sum(axis=(1, 2))
    scale = np.float32(np.sqrt((SIDE / 2) ** 2 / squares.mean()))
    np.testing.assert_allclose(
        grouped["X_full"], scale * diffraction.astype(np.float32), rtol=1.3e-7
    )
    energies = raw.frame_energies()
    np.testing.assert_allclose(energies[grouped["nn_indices"]], squares, rtol=1e-13)
    # What the scale is for: the mean energy of X over the groups is (N / 2) ** 2.
    energy_of_X = (grouped["X_full"].astype(np.float64) ** 2).sum(axis=(1, 2)).mean()
    np.testing.assert_allclose(energy_of_X, (SIDE / 2) ** 2, rtol=1e-6)
