"""Runs cut short and taken up again, ranks that share an epoch: every sample at its place."""

from __future__ import annotations

import contextlib
import os
import random
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

from .processes import call
from .record import Outcome
from .scans import write_scan
from .visits import Run, fit, read_visits, training_order

GROUPS = 61
TIMEOUT_S = 180


def resume(folder: Path, rounds: int, seed: int) -> Outcome:
    """Kill a run at a random batch, go on with other workers, kill it again, go on."""
    figure = "sample sequence identical to the uninterrupted run"
    outcome = Outcome("killed and resumed twice, workers 0 → 2 → 0", figure, rounds, seed)
    rng = random.Random(seed)
    scan = write_scan(folder, compressed=False, n_frames=GROUPS, N=8)
    whole = Run(str(scan), str(folder / "whole"))
    call(fit, whole)
    order = training_order(whole)
    steps = -(-GROUPS // whole.batch_size) * whole.epochs
    for number in range(rounds):
        place = folder / str(number)
        first = replace(whole, folder=f"{place}/1", stop_after=rng.randrange(1, steps - 6))
        left = steps - (first.stop_after or 0)
        second = replace(
            whole,
            folder=f"{place}/2",
            workers=2,
            resume=first.checkpoint,
            stop_after=rng.randrange(1, left - 3),
        )
        third = replace(whole, folder=f"{place}/3", resume=second.checkpoint)
        label = f"stopped after {first.stop_after} and {second.stop_after} more"
        found: list[list[int]] = []
        for run in (first, second, third):
            _killed(run)
            _join(found, training_order(run), run.resume is not None, order)
        outcome.check(found == order, f"{label}: {found}")
        outcome.check(_all_gone(scan), f"{label}: a process still has the scan open")
        outcome.seen["resumes"] += 2
    return outcome


def resume_on_ranks(folder: Path, rounds: int, seed: int) -> Outcome:
    """Stop one process at a random batch, go on with two ranks, then with one again."""
    rng = random.Random(seed)
    stops = [(rng.randrange(1, 26), rng.randrange(1, 5)) for _ in range(rounds)]
    return stopped_on_ranks(folder, stops, seed)


def stopped_on_ranks(folder: Path, stops: list[tuple[int, int]], seed: int = 0) -> Outcome:
    """Stop one process after so many steps, two ranks after so many more; go on with one."""
    figure = "sample sequence identical, but for the sample that two ranks cannot share"
    fault = "stopped and resumed twice, ranks 1 → 2 → 1"
    outcome = Outcome(fault, figure, len(stops), seed)
    scan = write_scan(folder, compressed=False, n_frames=GROUPS, N=8)
    whole = Run(str(scan), str(folder / "whole"))
    call(fit, whole)
    order = training_order(whole)
    for number, (alone, together) in enumerate(stops):
        place = folder / str(number)
        first = replace(whole, folder=f"{place}/1", stop_after=alone)
        second = replace(
            whole, folder=f"{place}/2", ranks=2, resume=first.checkpoint, stop_after=together
        )
        third = replace(whole, folder=f"{place}/3", resume=second.checkpoint)
        label = f"stopped after {alone} and {together} more"
        consumed = 0
        for run in (first, second, third):
            _killed(run)
            consumed = _follow(outcome, label, training_order(run), order, consumed, run.ranks)
        outcome.check(consumed == GROUPS * whole.epochs, f"{label}: ended at {consumed}")
        outcome.seen["resumes"] += 2
    return outcome


def coverage(folder: Path, rounds: int, seed: int) -> Outcome:
    """Epochs of two ranks, by scans whose groups ranks and batches divide or not."""
    figure = (
        "each training sample at most once and equal steps a rank; "
        "each validation, test and prediction sample exactly once"
    )
    outcome = Outcome("DDP, 2 ranks (gloo, CPU): epoch coverage", figure, rounds, seed)
    rng = random.Random(seed)
    for number in range(rounds):
        groups, batch_size = rng.randrange(20, 90), rng.choice([1, 4, 7, 16])
        scan = write_scan(folder / str(number), compressed=False, n_frames=groups, N=8)
        run = Run(
            str(scan), str(folder / str(number)), ranks=2, workers=2 * (number % 2), epochs=2,
            batch_size=batch_size, evaluate=True, plain=number % 4 >= 2,
        )  # fmt: skip
        call(fit, run, timeout_s=TIMEOUT_S)
        ranks = read_visits(run)
        label = f"{groups} groups, batches of {batch_size}"
        for stage in ("train", "val", "test", "predict"):
            for epoch in range(run.epochs if stage in ("train", "val") else 1):
                seen = [[b for e, b in visits[stage] if e == epoch] for visits in ranks]
                if stage in ("test", "predict"):
                    seen = [[b for _, b in visits[stage]] for visits in ranks]
                counts = Counter(sample for rank in seen for batch in rank for sample in batch)
                outcome.check(max(counts.values()) == 1, f"{label}: {stage} repeats a sample")
                wanted = groups - groups % 2 if stage == "train" else groups
                outcome.check(len(counts) == wanted, f"{label}: {stage} saw {len(counts)}")
                if stage == "train":
                    outcome.check(len(seen[0]) == len(seen[1]), f"{label}: steps differ")
                outcome.seen[f"{stage} epochs"] += 1
    return outcome


def _killed(run: Run) -> None:
    """Run; one that is to be stopped dies of it."""
    try:
        call(fit, run, timeout_s=TIMEOUT_S)
    except RuntimeError as error:
        if run.stop_after is None or run.ranks > 1 or "exit code -9" not in str(error):
            raise


def _all_gone(scan: Path) -> bool:
    """Whether the workers of killed processes ended; PyTorch's ask every five seconds."""
    for _ in range(200):
        holders = []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if str(scan) in (process / "maps").read_text() and process.name != str(os.getpid()):
                    holders.append(process.name)
        if not holders:
            return True
        time.sleep(0.1)
    return False


def _join(
    found: list[list[int]], more: list[list[int]], resumed: bool, order: list[list[int]]
) -> None:
    """Put the epochs of a resumed run behind those before it."""
    if resumed and found and len(found[-1]) < len(order[len(found) - 1]) and more:
        found[-1] = found[-1] + more.pop(0)
    found += more


def _follow(
    outcome: Outcome,
    label: str,
    found: list[list[int]],
    order: list[list[int]],
    consumed: int,
    ranks: int,
) -> int:
    """Hold what was seen against the order from ``consumed`` samples on; samples consumed now."""
    for number, samples in enumerate(found):
        epoch, start = divmod(consumed, GROUPS)
        if GROUPS - start < ranks:
            # What was left of the epoch was too little for the ranks.
            epoch, start = epoch + 1, 0
            consumed = epoch * GROUPS
        expected = order[epoch][start:] if epoch < len(order) else []
        is_last = number == len(found) - 1
        same = samples == expected[: len(samples)]
        outcome.check(same, f"{label}: epoch {epoch} from {start}: {samples}")
        dropped = len(expected) - len(samples)
        whole = dropped < ranks
        outcome.check(whole or is_last, f"{label}: epoch {epoch} ended {dropped} early")
        consumed += len(expected) if whole else len(samples)
    return consumed
