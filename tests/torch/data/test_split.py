"""Splits share no frame, lose no group silently and follow their seed."""

from __future__ import annotations

import numpy as np
import pytest

from ptycho_torch.data.errors import OptionError
from ptycho_torch.data.grouping import GroupingRequest, sample_then_group
from ptycho_torch.data.split import (
    region_of_frames,
    scattered_frames,
    shared_frames,
    split_groups,
)


def raster(rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    y, x = np.mgrid[:rows, :columns].astype(float) * 5
    return x.ravel(), y.ravel()


@pytest.mark.parametrize("seed", [0, 1])
def test_region_split_shares_no_frame_and_accounts_for_every_group(seed: int) -> None:
    x, y = raster(20, 30)
    request = GroupingRequest(n_frames=600, n_groups=600, gridsize=2, neighbor_count=6, seed=3)
    groups = sample_then_group(x, y, request)
    split = split_groups(groups, region_of_frames(x, y, (0.2, 0.1), seed), 3)
    train, val, test = (groups[part] for part in split.parts)
    assert min(len(train), len(val), len(test)) > 0
    for first, second in ((train, val), (train, test), (val, test)):
        assert not len(shared_frames(first, second))
    assert sum(len(part) for part in split.parts) + split.dropped == 600
    assert split.dropped > 0


def test_region_is_a_strip_across_the_longer_side() -> None:
    x, y = raster(10, 40)
    part = region_of_frames(x, y, (0.1,), seed=0)
    assert np.count_nonzero(part) == 40
    assert x[part == 1].max() < x[part == 0].min()
    other_end = region_of_frames(x, y, (0.1,), seed=1)
    assert x[other_end == 1].min() > x[other_end == 0].max()


def test_scattered_frames_have_the_share_asked_for_and_follow_the_seed() -> None:
    part = scattered_frames(1000, (0.1,), seed=5)
    assert np.count_nonzero(part) == 100
    np.testing.assert_array_equal(part, scattered_frames(1000, (0.1,), seed=5))
    assert (part != scattered_frames(1000, (0.1,), seed=6)).any()


@pytest.mark.parametrize("fractions", [(-0.1,), (1.0,), (0.5, 0.5), ("0.1",), (None,), (True,)])
def test_fractions_that_leave_nothing_to_train_on_are_refused(fractions: tuple[float, ...]) -> None:
    with pytest.raises(OptionError, match=r"split fractions is .* sum below 1"):
        scattered_frames(10, fractions, seed=0)
