"""The benchmarks run, and all sides of every comparison do the same work. No timing is asserted."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: benchmarks are of torch code")
pytest.importorskip("lightning", reason="lightning is not installed: benchmarks run a Trainer")
pytest.importorskip("tensordict", reason="tensordict is not installed: a peer needs it")
pytest.importorskip("h5py", reason="h5py is not installed: a peer reads HDF5")

from benchmarks import report  # noqa: E402
from benchmarks.floors import Floor  # noqa: E402
from benchmarks.measure import Spread, in_turns, quotient  # noqa: E402
from benchmarks.memory_limit import memory_limit  # noqa: E402
from benchmarks.parts import PARTS, peers  # noqa: E402
from ptycho_torch import PtychoDataset  # noqa: E402

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]


def run(folder, *options):
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", "--quick", "--output", folder, *options],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    done = run(folder)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return folder, json.loads((folder / "bench.json").read_text()), done


def test_quick_run_reports_every_part_with_figures(quick):
    _, found, _ = quick
    assert list(found["parts"]) == list(PARTS)
    without = [] if torch.cuda.is_available() else ["gpu"]
    assert [letter for letter, part in found["parts"].items() if not part["figures"]] == without


def test_every_figure_is_finite_positive_and_ordered(quick):
    _, found, _ = quick
    for part in found["parts"].values():
        for figure in part["figures"]:
            for spread in (figure["value"], figure["ratio"]):
                if spread is not None:
                    values = [spread[name] for name in ("low", "median", "high")]
                    assert all(math.isfinite(value) and value > 0 for value in values), figure
                    assert values == sorted(values), figure


def test_every_check_of_equal_work_passes(quick):
    _, found, _ = quick
    checks = {name: ok for part in found["parts"].values() for name, ok in part["checks"].items()}
    assert len(checks) > 10
    assert [name for name, passed in checks.items() if not passed] == []


def test_every_target_has_a_measured_value(quick):
    _, found, _ = quick
    targets = [target for part in found["parts"].values() for target in part["targets"]]
    assert len(targets) > 10
    assert all(math.isfinite(target["value"]) for target in targets)


def test_report_is_written_beside_the_figures_and_says_it_was_quick(quick):
    folder, found, _ = quick
    text = (folder / "bench.md").read_text()
    assert "its figures mean nothing" in text
    assert all(
        f"### {letter}. {part['title']}" in text
        for letter, part in found["parts"].items()
        if part["figures"]
    )
    assert found["machine"]["cores"] >= 1


def test_run_leaves_no_scans_behind(quick, tmp_path):
    done = run(tmp_path / "out", "--only", "r", "--scratch", tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert [found.name for found in tmp_path.iterdir()] == ["out"]


def test_unknown_part_is_wrong_usage():
    done = run("unused", "--only", "a,z")
    assert done.returncode == 2
    assert "no part z" in done.stderr


def test_table_is_put_between_the_markers_of_a_page_and_nowhere_else(quick, tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{report.BEGIN}\nformer table\n{report.END}\nafter\n")
    report.write_docs(quick[1], page)
    before, rest = page.read_text().split(report.BEGIN)
    inside, after = rest.split(report.END)
    assert (before, after) == ("before\n", "\nafter\n")
    assert "former table" not in inside
    assert "generate_grouped_data" in inside


def test_page_without_markers_is_refused(quick, tmp_path):
    page = tmp_path / "page.md"
    page.write_text("nothing")
    with pytest.raises(SystemExit, match="markers are missing"):
        report.write_docs(quick[1], page)


def test_works_take_turns_and_each_goes_first():
    calls = []
    works = {name: lambda name=name: calls.append(name) for name in "abc"}
    seconds = in_turns(works, 3, warm_ups=0)
    assert "".join(calls) == "abcbcacab"
    assert {name: len(values) for name, values in seconds.items()} == {"a": 3, "b": 3, "c": 3}


def test_quotients_are_of_what_was_measured_side_by_side():
    # Drift by a factor of four on both sides leaves the quotient alone.
    assert quotient([1.0, 2.0, 4.0], [2.0, 4.0, 8.0]) == Spread(0.5, 0.5, 0.5, 3)


def test_work_goes_on_without_a_limit_where_there_is_no_such_controller(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.memory_limit.CONTROLLER", tmp_path / "none")
    with memory_limit(1 << 30) as limited:
        assert not limited
    with memory_limit(0) as limited:
        assert not limited
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def small(tmp_path):
    from benchmarks.scans import synthetic_scan

    path = synthetic_scan(40, 16).to_file(tmp_path / "scan.npz")
    return PtychoDataset(path, ground_truth="none", cache="off")


def test_floor_gathers_the_frames_of_every_group(small):
    floor = Floor(small, 16)
    found = []
    for rows in floor.rows:
        found.append(rows)
    wanted = torch.from_numpy(small.index.nn_indices).long()
    order = torch.cat(list(floor.batches))
    assert torch.equal(torch.cat(found).view(-1, 4), wanted[order])
    assert torch.equal(floor.gather()[: len(floor.rows[-1])], floor.frames[floor.rows[-1]])


def test_peer_with_one_wrong_pixel_is_noticed(small):
    batches = [[3, 1], [0, 2]]

    def epoch(change):
        for groups in batches:
            ours = small.__getitems__(groups)
            batch = {name: getattr(ours, name).clone() for name in peers.FIELDS}
            batch["X"][0, 0, 0, 0] += change
            yield {**batch, "probe": ours.probe}

    assert peers._same_batches(small, batches, epoch(0.0))
    assert not peers._same_batches(small, batches, epoch(1e-3))
