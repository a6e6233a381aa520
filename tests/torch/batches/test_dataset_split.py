"""Training, validation and test parts of scans share no frame; the log counts every group."""

from __future__ import annotations

import ast
import logging
import re
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="torch is not installed: PtychoDataModule needs it")

from ptycho_torch import (  # noqa: E402
    GroupingConfig,
    PtychoDataModule,
    PtychoDataset,
    RawData,
    simulate_scan,
)
from ptycho_torch.data.errors import OptionError  # noqa: E402

PARTS = ("train", "val", "test")


@pytest.fixture(scope="module")
def scan_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scan")
    return simulate_scan(n_frames=200, N=16, object_size=90, seed=3).to_file(folder / "scan.npz")


def module(scans: Any, **options: Any) -> PtychoDataModule:
    return PtychoDataModule(scans, **{"ground_truth": "none", "test_fraction": 0.2, **options})


def frames_in(dataset: PtychoDataset) -> set[tuple[int, int]]:
    """(scan, frame) of every frame that the batches of a dataset show, in the scan's numbering."""
    batch = dataset.__getitems__(range(len(dataset)))
    scans = batch.scan_id[:, None].expand_as(batch.nn_indices)
    return set(zip(scans.ravel().tolist(), batch.nn_indices.ravel().tolist(), strict=True))


def random_scan(seed: int, frames: int) -> RawData:
    random = np.random.RandomState(seed)
    x, y = random.rand(frames) * 60, random.rand(frames) * random.choice([5, 60])
    amplitudes = random.rand(frames, 8, 8).astype(np.float32) + 0.1
    return RawData.from_coords_without_pc(x, y, amplitudes, np.ones((8, 8), np.complex64), None)


@pytest.mark.slow
@settings(max_examples=80)
@given(
    seeds=st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=2),
    frames=st.integers(20, 120),
    gridsize=st.sampled_from([1, 2, 3]),
    split=st.sampled_from(["region", "frames"]),
    fractions=st.tuples(st.floats(0, 0.45), st.floats(0.01, 0.45)),
    seed=st.integers(0, 2**32 - 1),
)
def test_no_frame_is_in_two_parts(
    seeds: list[int],
    frames: int,
    gridsize: int,
    split: str,
    fractions: tuple[float, float],
    seed: int,
) -> None:
    scans = [random_scan(each, frames) for each in seeds]
    grouping = GroupingConfig(gridsize=gridsize, neighbor_count=gridsize**2 + 1, seed=seed)
    data = module(
        scans, grouping=grouping, split=split, seed=seed,
        val_fraction=fractions[0], test_fraction=fractions[1],
    )  # fmt: skip
    try:
        parts = [data.dataset(part) for part in PARTS if part != "val" or fractions[0]]
    except OptionError as error:
        assert re.search("(training|validation|test) (groups|frames) after the", str(error))
        assume(False)
    for first, second in combinations([frames_in(part) for part in parts], 2):
        assert not first & second
    for part in parts:
        assert len(part) > 0
        np.testing.assert_array_equal(part.index.scales, parts[0].index.scales)


@pytest.mark.parametrize("split", ["region", "frames"])
def test_every_part_has_its_share_and_the_log_counts_every_group(
    scan_file: Path, split: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="ptycho_torch.batches.dataset_split"):
        data = module(str(scan_file), split=split)
        sizes = [len(data.dataset(part)) for part in PARTS]
    line, *few = caplog.messages
    assert len(few) == sum(size < 4 for size in sizes)
    assert all("groups, whose figures say little: a larger" in each for each in few)
    told = re.search(
        rf"{split} split: (\d+) training, (\d+) validation and (\d+) test groups; "
        r"(\d+) across borders dropped",
        line,
    )
    assert told is not None and str(scan_file) in line
    *counts, dropped = map(int, told.groups())
    assert counts == sizes
    assert sum(counts) + dropped == 200
    assert (dropped > 0) == (split == "region")
    if split == "frames":
        assert sizes == [140, 20, 40]


def test_test_strip_lies_between_validation_and_training(scan_file: Path) -> None:
    data = module(str(scan_file))
    scan = data.dataset("train").scans[0]
    along = scan.xcoords if np.ptp(scan.xcoords) >= np.ptp(scan.ycoords) else scan.ycoords
    train, val, test = (along[data.dataset(part).index.nn_indices] for part in PARTS)
    assert val.max() <= test.min() and test.max() <= train.min()


@pytest.mark.parametrize("split", ["region", "frames"])
def test_asking_for_a_test_part_leaves_the_validation_part_as_it_is(
    scan_file: Path, split: str
) -> None:
    with_test, without = (module(str(scan_file), split=split, test_fraction=f) for f in (0.2, 0.0))
    np.testing.assert_array_equal(
        with_test.dataset("val").index.nn_indices, without.dataset("val").index.nn_indices
    )
    assert without.dataset("test") is without.dataset("val")


def test_test_part_is_split_off_beside_validation_scans_of_its_own(
    scan_file: Path, tmp_path: Path
) -> None:
    other = simulate_scan(n_frames=60, N=16, object_size=60, seed=8).to_file(tmp_path / "o.npz")
    data = module(str(scan_file), val=str(other), val_fraction=0.9)
    assert len(data.dataset("val")) == 60
    train, test = frames_in(data.dataset("train")), frames_in(data.dataset("test"))
    assert not train & test
    assert 140 < len(train) <= 160 and 30 < len(test) <= 40


def test_validation_without_a_part_of_its_own_is_the_training_part_not_the_test_part(
    scan_file: Path,
) -> None:
    data = module(str(scan_file), val_fraction=0.0)
    assert data.dataset("val") is data.dataset("train")
    assert not frames_in(data.dataset("val")) & frames_in(data.dataset("test"))


def test_prediction_still_covers_the_whole_scan(scan_file: Path) -> None:
    assert len(module(str(scan_file)).dataset("predict")) == 200


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"test": "other.npz"}, "test_fraction=0.2 cannot be combined with scans for test"),
        ({"split": "none"}, "test_fraction=0.2 cannot be combined with split='none'"),
        ({"val_fraction": 0.8}, r"split fractions is \(0.8, 0.2\); .* sum below 1"),
        ({"test_fraction": -0.1}, "split fractions"),
        ({"test_fraction": float("nan")}, "split fractions"),
    ],
)
def test_contradictions_are_refused_at_once(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        module("scan.npz", **options)


@pytest.mark.parametrize(
    ("fractions", "name"),
    [((0.01, 0.3), "validation"), ((0.3, 0.01), "test"), ((0.5, 0.49), "training")],
)
def test_shares_that_leave_no_group_are_refused_with_shares_that_work(
    scan_file: Path, fractions: tuple[float, float], name: str
) -> None:
    data = module(str(scan_file), val_fraction=fractions[0], test_fraction=fractions[1])
    with pytest.raises(OptionError, match=rf"scan\.npz: {name} .* after the .*Type: ") as caught:
        data.setup("fit")
    assert "\n" not in str(caught.value)
    assert_typing_works(caught.value, str(scan_file), {"test_fraction": fractions[1]})


def assert_typing_works(error: OptionError, scans: Any, options: dict[str, Any]) -> None:
    """What the error says to type makes parts that all have groups."""
    typed = re.search(r"Type: (.*)\.$", str(error))
    assert typed, error
    pairs = (each.split("=") for each in typed[1].split(", "))
    named = {name: ast.literal_eval(value) for name, value in pairs}
    data = module(scans, **{**options, **named})
    data.setup("fit")
    parts = ["train", "val"] + ["test"] * bool(data.test_fraction)
    assert all(len(data.dataset(part)) for part in parts), typed[1]  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize("gridsize", [1, 2, 3])
@pytest.mark.parametrize("test_fraction", [0.0, 0.1])
def test_scan_of_any_size_is_split_or_the_error_says_what_to_type(
    gridsize: int, test_fraction: float
) -> None:
    refused = 0
    grouping = GroupingConfig(gridsize=gridsize, neighbor_count=max(6, gridsize**2))
    for frames in range(30, 201, 10):
        scan = simulate_scan(n_frames=frames, N=16, photons=None, seed=frames)
        for seed in (0, 1):
            options = {
                "grouping": grouping, "seed": seed, "test_fraction": test_fraction, "cache": "off",
            }  # fmt: skip
            data = module(scan, **options)
            try:
                data.setup("fit")
            except OptionError as error:
                refused += 1
                assert_typing_works(error, scan, options)
                continue
            assert len(data.dataset("train")) and len(data.dataset("val"))
    assert bool(refused) == (gridsize > 1)


@pytest.mark.parametrize(
    ("fractions", "name", "action"),
    [
        ((0.01, 0.3), "validation", "Change val_fraction"),
        ((0.3, 0.01), "test", "Change test_fraction, or use another scan for test"),
        ((0.5, 0.49), "training", "Lower val_fraction or test_fraction"),
    ],
)
def test_part_without_frames_is_named(
    scan_file: Path, fractions: tuple[float, float], name: str, action: str
) -> None:
    data = module(
        str(scan_file), split="frames", val_fraction=fractions[0], test_fraction=fractions[1]
    )
    with pytest.raises(OptionError, match=rf"scan\.npz: {name} .* after the .*{action}") as caught:
        data.setup("fit")
    assert "\n" not in str(caught.value)
