"""Eight processes open one scan at once: one builds, all get the same."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from .processes import server
from .record import Outcome
from .scans import batches_digest, expected_names, listening, names_in, write_scan

PROCESSES = 8
TIMEOUT_S = 300


def open_each(folder: str, rounds: int, barrier: Any, answers: Any) -> None:
    """Runs in each of the processes: all open the scan of a round at the same moment."""
    for number in range(rounds):
        barrier.wait(TIMEOUT_S)
        with listening() as log:
            digest = batches_digest(Path(folder) / str(number) / "scan.npz")
        answers.put((number, digest, log.lines))
    answers.close()


def all_at_once(folder: Path, rounds: int, seed: int) -> Outcome:
    """Open a new scan in every round; half of them need a sidecar."""
    outcome = Outcome(
        f"{PROCESSES} processes open the same scan at once",
        "exactly 1 build a round, equal groups",
        rounds,
        seed,
    )
    scans = [
        write_scan(folder / f"scan{kind:d}", compressed=kind, n_frames=300, seed=seed)
        for kind in (False, True)
    ]
    digests = [batches_digest(scan, cache="off") for scan in scans]
    for number in range(rounds):
        (folder / str(number)).mkdir()
        os.link(scans[number % 2], folder / str(number) / "scan.npz")
    context = server()
    barrier, answers = context.Barrier(PROCESSES), context.Queue()
    arguments = (str(folder), rounds, barrier, answers)
    processes = [context.Process(target=open_each, args=arguments) for _ in range(PROCESSES)]
    for process in processes:
        process.start()
    lines: dict[int, list[str]] = {number: [] for number in range(rounds)}
    found: dict[int, set[str]] = {number: set() for number in range(rounds)}
    try:
        for _ in range(PROCESSES * rounds):
            number, digest, said = answers.get(timeout=TIMEOUT_S)
            lines[number] += said
            found[number].add(digest)
    finally:
        for process in processes:
            process.join(10)
            if process.is_alive():
                process.kill()
    for number in range(rounds):
        compressed = number % 2
        counts = {
            "groups builds": sum("groups cache written" in line for line in lines[number]),
            "sidecar builds": sum(": converting " in line for line in lines[number]),
        }
        wanted = {"groups builds": 1, "sidecar builds": compressed}
        outcome.seen.update(counts)
        outcome.seen["waited for the builder"] += sum("waiting for" in s for s in lines[number])
        outcome.check(counts == wanted, f"round {number}: {counts}")
        outcome.check(found[number] == {digests[compressed]}, f"round {number}: other batches")
        left = names_in(folder / str(number))
        outcome.check(left == expected_names(bool(compressed)), f"round {number}: left {left}")
        shutil.rmtree(folder / str(number))
    return outcome
