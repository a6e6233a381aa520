"""SIGKILL while a scan is prepared: nothing wrong is ever believed, nothing is left behind."""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import time
from pathlib import Path
from typing import Any

from .processes import at_file_call, call, server
from .record import Outcome
from .scans import batches_digest, expected_names, listening, names_in, write_scan

FIGURE = "0 accepted wrong caches, 0 unrecovered states"


def prepare(path: str, started: Any) -> None:
    """Runs in a process of its own, until it is done or killed."""
    started.send(time.monotonic())
    batches_digest(Path(path))
    started.send(time.monotonic())


def prepare_until(path: str, number: int, kernel_locks: bool = True) -> int:
    """Prepare, killed just before the ``number``-th file operation; the count when it lived."""
    if not kernel_locks:
        without_kernel_locks()
    stop = at_file_call(number, lambda: os.kill(os.getpid(), signal.SIGKILL))
    batches_digest(Path(path))
    return stop()


def random_moments(folder: Path, rounds: int, seed: int) -> Outcome:
    """Kill at moments spread over the whole of a prepare, half of them without a sidecar."""
    outcome = Outcome("SIGKILL at a random moment of prepare", FIGURE, rounds, seed)
    rng = random.Random(seed)
    scans = {kind: _scan_of(folder, kind, n_frames=1500, N=24) for kind in (False, True)}
    duration_s = {kind: _measure(folder, scans[kind][0]) for kind in scans}
    for number in range(rounds):
        compressed = bool(number % 2)
        scan, digest = scans[compressed]
        place = _fresh(folder / "round", scan)
        receiver, sender = server().Pipe(duplex=False)
        process = server().Process(target=prepare, args=(str(place), sender))
        process.start()
        sender.close()
        receiver.recv()
        time.sleep(rng.uniform(0, 1.1) * duration_s[compressed])
        process.kill()
        process.join()
        finished = receiver.poll() and _ended(receiver)
        outcome.seen["killed after it was done" if finished else "killed inside"] += 1
        _judge(outcome, place, compressed, digest, f"round {number}")
    return outcome


def every_file_call(folder: Path, stride: int, seed: int) -> Outcome:
    """Kill just before each file operation of a prepare, with kernel locks and without."""
    outcome = Outcome("SIGKILL before each file operation of prepare", FIGURE, 0, seed)
    for compressed, kernel_locks in ((False, True), (True, True), (True, False)):
        scan, digest = _scan_of(folder, compressed)
        for number in range(1 + seed % stride, 1000, stride):
            place = _fresh(folder / "round", scan)
            outcome.rounds += 1
            try:
                call(prepare_until, str(place), number, kernel_locks)
            except RuntimeError as error:
                if "exit code -9" not in str(error):
                    raise
                label = f"file call {number}, kernel locks {kernel_locks}"
                _judge(outcome, place, compressed, digest, label, kernel_locks)
            else:
                break
    return outcome


def open_again(path: str, kernel_locks: bool) -> tuple[str, list[str], int]:
    """Runs in a process of its own: digest of the batches, warnings, builds."""
    if not kernel_locks:
        without_kernel_locks()
    with listening() as log:
        return batches_digest(Path(path)), log.warnings, log.builds()


def without_kernel_locks() -> None:
    """Make this process believe that the file system has none, as some network ones."""
    import fcntl

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    fcntl.flock = refuse


def _judge(
    outcome: Outcome,
    place: Path,
    compressed: bool,
    digest: str,
    label: str,
    kernel_locks: bool = True,
) -> None:
    """Look at what the killed process left, open the scan again, and compare."""
    left = set(names_in(place.parent)) - {"scan.npz"}
    if any(name.endswith(".part") for name in left):
        outcome.seen["temporary left"] += 1
    if any(name.endswith(".lock") for name in left):
        outcome.seen["lock file left"] += 1
    whole = not any(name.startswith(".") for name in left)
    try:
        found, warnings, builds = call(open_again, str(place), kernel_locks)
    except RuntimeError as error:
        outcome.failures.append(f"{label}: not recovered: {error}")
        return
    outcome.check(found == digest, f"{label}: other batches than of an undisturbed run")
    remaining = names_in(place.parent)
    if not kernel_locks:
        # No place takes a cache: one line says so, and nothing is left of a try.
        outcome.check(all("not kept" in line for line in warnings), f"{label}: {warnings}")
        outcome.check(remaining == ["scan.npz"], f"{label}: {remaining} without kernel locks")
        outcome.seen["worked in memory"] += 1
        return
    outcome.check(not warnings, f"{label}: {warnings}")
    if remaining != expected_names(compressed):
        # A kill between rename and the end of the lock leaves an empty lock file beside a whole
        # cache; nobody waits for it, and the next build removes it.
        extra = set(remaining) ^ set(expected_names(compressed))
        harmless = all(name.endswith(".lock") for name in extra) and builds < 2
        outcome.check(harmless, f"{label}: {sorted(extra)} left after recovery")
        outcome.seen["free lock file stayed"] += 1
    outcome.seen["used as it was" if whole and not builds else "built again"] += 1


def _scan_of(folder: Path, compressed: bool, **size: int) -> tuple[Path, str]:
    scan = write_scan(folder / f"scan{compressed:d}", compressed=compressed, **size)
    return scan, batches_digest(scan, cache="off")


def _fresh(folder: Path, scan: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    os.link(scan, folder / "scan.npz")
    return folder / "scan.npz"


def _measure(folder: Path, scan: Path) -> float:
    """Seconds from start to end, the second of two runs."""
    for _ in range(2):
        place = _fresh(folder / "round", scan)
        receiver, sender = server().Pipe(duplex=False)
        process = server().Process(target=prepare, args=(str(place), sender))
        process.start()
        took = -receiver.recv() + receiver.recv()
        process.join()
    return float(took)


def _ended(receiver: Any) -> bool:
    try:
        receiver.recv()
    except EOFError:
        return False
    return True
