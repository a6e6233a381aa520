"""Ctrl-C, as a terminal sends it: to the command and to every process it has started."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

from .processes import server
from .record import Outcome
from .scans import batches_digest, names_in, write_scan

INTERRUPTED = 130
GONE_WITHIN_S = 20
CONFIG = """
seed_everything: 0
trainer:
  max_epochs: 1000
  accelerator: cpu
  enable_progress_bar: false
  enable_model_summary: false
  enable_checkpointing: false
  logger: false
model:
  class_path: ptycho_torch.models.object_fit.ObjectFit
data:
  train: scan.npz
  batch_size: 8
  num_workers: 2
  multiprocessing_context: fork
  split: none
  ground_truth: none
"""


def command(arguments: list[str], folder: str, started: Any) -> None:
    """Runs in a process group of its own."""
    from ptycho_torch.cli import main

    os.setpgrp()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(folder)
    output = os.open("../output", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    faulthandler.enable()
    started.send(time.monotonic())
    code = main(arguments)
    # What an interruption would end from here on is the harness.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    started.send(time.monotonic())
    sys.exit(code)


def prepare(folder: Path, rounds: int, seed: int) -> Outcome:
    """Interrupt ``ptycho-torch prepare`` at random moments."""
    outcome = _outcome("Ctrl-C in prepare", rounds, seed)
    scan = write_scan(folder / "scan", compressed=True, n_frames=1500, N=24)
    arguments = ["prepare", "scan.npz", "--neighbors", "5"]
    _interrupt(outcome, folder, scan, arguments, 0.0)
    return outcome


def fit(folder: Path, rounds: int, seed: int) -> Outcome:
    """Interrupt ``ptycho-torch fit`` with workers at random moments."""
    outcome = _outcome("Ctrl-C in fit with 2 workers", rounds, seed)
    scan = write_scan(folder / "scan", compressed=True)
    (folder / "scan" / "fit.yaml").write_text(CONFIG, encoding="utf-8")
    _interrupt(outcome, folder, scan, ["fit", "--config", "fit.yaml"], 4.0)
    return outcome


def _outcome(fault: str, rounds: int, seed: int) -> Outcome:
    figure = "exit code 130, one line, no process, no temporary, no half cache"
    return Outcome(fault, figure, rounds, seed)


def _interrupt(
    outcome: Outcome,
    folder: Path,
    scan: Path,
    arguments: list[str],
    most_s: float,
) -> None:
    rng = random.Random(outcome.seed)
    truth = batches_digest(scan, cache="off")
    most_s = most_s or 1.2 * _duration(folder, scan, arguments)
    for number in range(outcome.rounds):
        place = _fresh(folder, scan)
        process, started = _start(arguments, place)
        started.recv()
        after_s = rng.uniform(0, most_s)
        time.sleep(after_s)
        label = f"round {number}, after {after_s:.2f} s"
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGINT)
        process.join(60)
        outcome.check(process.exitcode is not None, f"{label}: still runs")
        group_gone = _gone(process.pid)
        outcome.check(group_gone, f"{label}: processes left")
        if not group_gone or process.exitcode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        said = (folder / "output").read_text(errors="replace")
        code = process.exitcode
        outcome.check(code in (0, INTERRUPTED), f"{label}: exit code {code}: {said[-300:]!r}")
        swallowed = "Exception ignored in" in said and code == 0
        outcome.check("Traceback" not in said or swallowed, f"{label}: {said[-600:]}")
        if code == INTERRUPTED:
            last = said.strip().splitlines()[-1]
            outcome.check(last == "ptycho-torch: interrupted", f"{label}: last line {last!r}")
        left = [name for name in names_in(place) if name.endswith((".part", ".lock"))]
        outcome.check(not left, f"{label}: left {left}")
        outcome.check(batches_digest(place / "scan.npz") == truth, f"{label}: wrong batches")
        # Python drops what is raised in a destructor, also an interruption that falls into one.
        done = "done: Python dropped the interruption" if swallowed else "done before"
        outcome.seen["interrupted" if code else done] += 1
        started.close()


def _start(arguments: list[str], place: Path) -> tuple[Any, Any]:
    receiver, sender = server().Pipe(duplex=False)
    process = server().Process(target=command, args=(arguments, str(place), sender))
    process.start()
    sender.close()
    return process, receiver


def _duration(folder: Path, scan: Path, arguments: list[str]) -> float:
    for _ in range(2):
        process, started = _start(arguments, _fresh(folder, scan))
        took = -started.recv() + started.recv()
        process.join()
    return float(took)


def _fresh(folder: Path, scan: Path) -> Path:
    place = folder / "round"
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(scan.parent, place, ignore=shutil.ignore_patterns("*.lock", "*.part"))
    for path in place.iterdir():
        if path.name not in ("scan.npz", "fit.yaml"):
            path.unlink()
    return place


def _gone(group: int) -> bool:
    """Whether the last process of a group ended in time."""
    deadline = time.monotonic() + GONE_WITHIN_S
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False
