"""DDP on two nodes, which are network namespaces: order, preparation, a killed rank."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from subprocess import CompletedProcess

import pytest

pytest.importorskip("torch", reason="torch is not installed: ranks are torch's")
pytest.importorskip("lightning", reason="lightning is not installed: it makes the ranks one job")

import two_nodes
from builders import ROOT, write_fit_config
from campaign.processes import call
from campaign.scans import write_scan
from campaign.visits import Run, fit, read_visits, training_order

pytestmark = pytest.mark.slow
FRAMES, GLOBAL_BATCH = 61, 8
RANK = str(Path(__file__).with_name("node_rank.py"))


@pytest.fixture(autouse=True)
def nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    if reason := two_nodes.missing():
        pytest.skip(reason)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "tests" / "torch")]))


def on_two_nodes(run: Run) -> list[CompletedProcess[str]]:
    Path(run.folder).mkdir()
    arguments = [RANK, json.dumps(asdict(run))]
    processes = run.ranks // run.nodes
    return two_nodes.torchrun(arguments, processes=processes, folder=Path(run.folder))


def global_batches(run: Run) -> Iterator[tuple[int, list[int]]]:
    """Epoch and samples of each step, in the order that the ranks share."""
    for steps in zip(*(visits["train"] for visits in read_visits(run)), strict=True):
        (epoch,) = {epoch for epoch, _ in steps}
        parts = [samples for _, samples in steps]
        yield epoch, [sample for row in zip(*parts, strict=True) for sample in row]


@pytest.mark.parametrize(("scans", "per_node"), [(1, True), (3, False)])
@pytest.mark.parametrize("ranks", [2, 4])
def test_global_batches_are_those_of_one_process(
    tmp_path: Path, ranks: int, scans: int, per_node: bool
) -> None:
    disks = [tmp_path / f"disk{node}" for node in range(1 + per_node)]
    for disk in disks:
        for number in range(scans):
            write_scan(disk / str(number), compressed=True, n_frames=FRAMES, N=8, seed=number)
    pattern = f"{tmp_path}/disk{'{node}' if per_node else 0}/*/scan.npz"
    whole = Run(pattern, f"{tmp_path}/whole", batch_size=GLOBAL_BATCH, epochs=2)
    call(fit, replace(whole, scan=f"{disks[0]}/*/scan.npz"))
    for path in tmp_path.rglob("*.g1k*.npz"):
        path.unlink()
    run = replace(
        whole, folder=f"{tmp_path}/run", ranks=ranks, nodes=2, batch_size=GLOBAL_BATCH // ranks,
        prepare_per_node=per_node,
    )  # fmt: skip
    for node in on_two_nodes(run):
        assert node.returncode == 0, node.stdout
    wanted = list(global_batches(whole))
    # Ranks leave out what they cannot share evenly: one sample of 61 or 183 on two, three on four.
    left_out = scans * FRAMES % ranks
    last = [step for step, (epoch, _) in enumerate(wanted) if epoch == 0][-1]
    for step in (last, -1):
        wanted[step] = wanted[step][0], wanted[step][1][:-left_out]
    assert list(global_batches(run)) == wanted
    for disk in disks:
        assert len(list(disk.rglob("*.groups_cache.npz"))) == scans


@pytest.mark.parametrize("killed", [0, 1])
def test_a_killed_rank_ends_the_job_and_the_rest_is_resumed_exactly(
    tmp_path: Path, killed: int
) -> None:
    scan = str(write_scan(tmp_path / "scan", compressed=False, n_frames=FRAMES, N=8))
    whole = Run(scan, f"{tmp_path}/whole", batch_size=GLOBAL_BATCH)
    call(fit, whole)
    first = replace(
        whole, folder=f"{tmp_path}/first", ranks=2, nodes=2, batch_size=GLOBAL_BATCH // 2,
        stop_after=10, kills=killed,
    )  # fmt: skip
    for node in on_two_nodes(first):
        assert node.returncode == 1, node.stdout
    rest = replace(first, folder=f"{tmp_path}/rest", stop_after=None, resume=first.checkpoint)
    for node in on_two_nodes(rest):
        assert node.returncode == 0, node.stdout
    seen, more = training_order(first), training_order(rest)
    found = [*seen[:-1], seen[-1] + more[0], *more[1:]]
    assert found == [epoch[:-1] for epoch in training_order(whole)]


KILLER = """
import os, signal
from lightning.pytorch import Callback

class Killer(Callback):
    def on_train_batch_end(self, trainer, *_):
        if trainer.global_rank == 1 and trainer.global_step == 3:
            os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_rank_that_is_left_says_so_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_scan(tmp_path, compressed=False, n_frames=40)
    write_fit_config(tmp_path)
    (tmp_path / "killer.py").write_text(KILLER, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{tmp_path}")
    words = ["-m", "ptycho_torch", "fit", "--config", "fit.yaml", "--trainer.strategy", "ddp"]
    words += ["--trainer.num_nodes", "2", "--trainer.devices", "1"]
    words += ["--trainer.callbacks+=killer.Killer"]
    left, killed = two_nodes.torchrun(words, processes=1, folder=tmp_path)
    assert (left.returncode, killed.returncode) == (1, 1)
    said, _, launcher = left.stdout.partition("ptycho-torch: another rank ended")
    assert "Traceback" not in said
    assert launcher.startswith("; its own output says why, and --ckpt_path FILE goes on: ")
    # What torchrun says after that of its own accord names no line of the package.
    assert f"{ROOT}/ptycho_torch" not in left.stdout
    assert "SIGKILL" in killed.stdout
