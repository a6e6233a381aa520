"""What ``ptycho-torch inspect`` says of a split, against counts made frame by frame."""

from __future__ import annotations

import json
import re
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from ptycho_torch import GroupingConfig, simulate_scan
from ptycho_torch.cli import DONE, WRONG_USAGE, main

FRAMES = 240


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scan") / "scan.npz"
    return simulate_scan(n_frames=FRAMES, N=16, object_size=90, seed=3).to_file(path)


def inspected(capsys: pytest.CaptureFixture[str], scan: Path, *options: str) -> dict[str, str]:
    assert main(["inspect", str(scan), *options]) == DONE
    rows = (line.strip().partition(" ") for line in capsys.readouterr().out.splitlines()[1:])
    return {name: text.strip() for name, _, text in rows}


def groups_of(scan: Path, gridsize: int) -> list[set[int]]:
    from ptycho_torch import RawData

    config = GroupingConfig(gridsize=gridsize)
    nn = RawData.from_file(scan).group(config, cache="off").nn_indices
    return [set(group) for group in nn.tolist()]


def part_sizes(fractions: tuple[float, ...], total: int) -> list[int]:
    return [max(1, round(total * fraction)) for fraction in fractions]


def strips(scan: Path, fractions: tuple[float, ...]) -> list[set[int]]:
    """Frames of training and of every strip, by sorting positions one by one."""
    with np.load(scan) as archive:
        x, y = archive["xcoords"].tolist(), archive["ycoords"].tolist()
    if max(x) - min(x) >= max(y) - min(y):
        order = sorted(range(len(x)), key=lambda frame: (x[frame], y[frame]))
    else:
        order = sorted(range(len(x)), key=lambda frame: (y[frame], x[frame]))
    parts = []
    for size in part_sizes(fractions, len(order)):
        parts.append(set(order[:size]))
        order = order[size:]
    return [set(order), *parts]


@pytest.mark.parametrize("gridsize", [1, 2])
@pytest.mark.parametrize("fractions", [(0.1,), (0.25,), (0.2, 0.1)])
def test_counts_are_those_of_a_split_made_frame_by_frame(
    scan: Path, capsys: pytest.CaptureFixture[str], gridsize: int, fractions: tuple[float, ...]
) -> None:
    options = [
        word
        for part, fraction in zip(("val", "test"), fractions, strict=False)
        for word in (f"--{part}-fraction", str(fraction))
    ]
    rows = inspected(capsys, scan, "--gridsize", str(gridsize), *options)
    groups = groups_of(scan, gridsize)

    parts = [[group for group in groups if group <= strip] for strip in strips(scan, fractions)]
    used = [set().union(*part) for part in parts]
    assert not any(first & second for first, second in combinations(used, 2))
    names = ("training", "validation", "test")
    for name, part in zip(names, parts, strict=False):
        assert re.search(rf"\b{len(part)} {name}\b", rows["split"])
    dropped = FRAMES - sum(map(len, parts))
    assert f"groups; {dropped} across" in rows["split"]
    assert "; 0 frames shared" in rows["split"]

    order = np.random.RandomState(0).permutation(FRAMES).tolist()
    apart = order[: sum(part_sizes(fractions, FRAMES))]
    evaluated = set().union(*(groups[number] for number in apart))
    trained = set().union(*(groups[number] for number in set(order) - set(apart)))
    shared = f"{len(evaluated & trained)} of {len(evaluated)} "
    assert shared in rows["leak"]
    assert (len(evaluated & trained) > 0.9 * len(evaluated)) is (gridsize == 2)


def test_default_is_the_split_that_a_data_module_makes(
    scan: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch", reason="torch is not installed: PtychoDataModule needs it")
    from ptycho_torch import PtychoDataModule

    data = PtychoDataModule(str(scan), ground_truth="none", cache="off")
    sizes = [len(data.dataset(part)) for part in ("train", "val")]
    row = inspected(capsys, scan)["split"]
    assert row.startswith("region, 0.1 for validation, seed 0: ")
    assert f": {sizes[0]} training and {sizes[1]} validation groups; " in row


def test_a_part_without_groups_is_named(scan: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = inspected(capsys, scan, "--val-fraction", "0.01")["split"]
    assert " 0 validation groups" in row
    assert row.endswith("without validation groups a data module refuses it")


def test_no_part_asked_for_is_no_split(scan: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = inspected(capsys, scan, "--val-fraction", "0")
    assert rows["split"] == "none"
    assert "leak" not in rows


@pytest.mark.parametrize("gridsize", ["2", "16"])
def test_fractions_that_cannot_be_are_wrong_usage_whether_there_are_groups_or_not(
    scan: Path, capsys: pytest.CaptureFixture[str], gridsize: str
) -> None:
    command = ["inspect", str(scan), "--gridsize", gridsize]
    command += ["--val-fraction", "0.7", "--test-fraction", "0.3"]
    assert main(command) == WRONG_USAGE
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1 and "split fractions is (0.7, 0.3)" in captured.err


def test_metadata_is_shown_without_its_control_characters(
    scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with np.load(scan) as archive:
        arrays = {name: archive[name] for name in archive.files}
    arrays["_metadata"] = np.array(
        json.dumps({"beam\x1b[2Jline": "\x1b]0;mine\x07", "long": "x" * 10**5})
    )
    np.savez(tmp_path / "scan.npz", **arrays)
    row = inspected(capsys, tmp_path / "scan.npz")["metadata"]
    assert r"beam\x1b[2Jline \x1b]0;mine\x07" in row
    assert row.isprintable() and len(row) < 1000
