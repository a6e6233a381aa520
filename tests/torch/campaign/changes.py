"""Files that change while they are used: batches are of one file at one moment, or refused."""

from __future__ import annotations

import hashlib
import os
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ptycho_torch.data.errors import ScanFileError

from .processes import at_file_call, call
from .record import Outcome
from .scans import CACHE_NAME, GROUPING, SIDECAR_NAME, batches_digest, write_scan

ROUTES = (("auto", 0), ("worker", 0), ("auto", 2), ("worker", 2))
_READS = frozenset({"open", "read", "readinto", "seek", "fstat", "stat", "mmap"})
_SIZE = {"n_frames": 300, "N": 64}
"""Frames that are summed and gathered in several blocks."""


def renamed_over(folder: Path, rounds: int, seed: int) -> Outcome:
    """Another scan takes the name at every open and read of opening, grouping and batches."""
    outcome = Outcome(
        "another scan renamed over the file, at every open and read",
        "batches of one of the two or a refusal, 0 mixed, caches of the file that is there",
        0,
        seed,
    )
    return _in_child(outcome, _replaced, folder, rounds, "rename")


def rewritten(folder: Path, rounds: int, seed: int) -> Outcome:
    """Another scan is written into the file at moments of opening, grouping and batches."""
    figure = "batches of one of the two or a refusal, 0 wrong, 0 poisoned caches"
    fault = "another scan written into the file in place, at every open and read"
    return _in_child(Outcome(fault, figure, 0, seed), _replaced, folder, rounds, "rewrite")


def sidecar_altered(folder: Path, rounds: int, seed: int) -> Outcome:
    """Numbers of a sidecar are altered in place while epochs read it, by every route."""
    fault = "a sidecar altered in place during and between epochs, 0 and 2 workers"
    outcome = Outcome(fault, "every epoch right or refused, 0 wrong", 0, seed)
    return _in_child(outcome, _altered, folder, rounds)


def _in_child(
    outcome: Outcome, experiment: Callable[..., Outcome], folder: Path, rounds: int, *how: str
) -> Outcome:
    outcome.merge(call(experiment, folder, rounds, outcome.seed, *how, timeout_s=3600))
    return outcome


def _replaced(folder: Path, rounds: int, seed: int, how: str) -> Outcome:
    outcome = Outcome("", "", 0, seed)
    rng = random.Random(seed)
    size = {} if how == "rename" else _SIZE
    for compressed in (False, True):
        contents, truths = [], []
        for number in (1, 2):
            place = folder / f"{how}{compressed:d}{number}"
            path = write_scan(place, compressed=compressed, seed=number, **size)
            contents.append(path.read_bytes())
            truths.append(batches_digest(path, cache="off"))
        scan = folder / f"{how}{compressed:d}" / "scan.npz"
        scan.parent.mkdir()
        _fresh(scan, contents[0])
        stop = at_file_call(0, lambda: None, _READS)
        batches_digest(scan)
        share, calls = rounds // 2, stop()
        every = list(range(1, calls + 1))
        moments = every if len(every) <= share else sorted(rng.sample(every, share))
        for moment in moments:
            _fresh(scan, contents[0])
            act = _rename if how == "rename" else _rewrite
            label = f"{how} at call {moment} of {calls}, compressed {compressed}"
            stop = at_file_call(moment, lambda a=act, s=scan, c=contents[1]: a(s, c), _READS)
            try:
                digest = batches_digest(scan)
            except ScanFileError as error:
                outcome.seen["refused"] += 1
                outcome.check("\n" not in str(error), f"{label}: {error}")
            except Exception as error:
                outcome.failures.append(f"{label}: {error!r}")
            else:
                known = digest in truths
                outcome.check(known, f"{label}: wrong batches")
                outcome.seen["whole" if known else "wrong"] += 1
            finally:
                reached = stop()
            outcome.rounds += 1
            if reached < moment:
                continue
            after = batches_digest(scan)
            outcome.check(after == truths[1], f"{label}: a poisoned cache")
    return outcome


def _fresh(scan: Path, content: bytes) -> None:
    """The first scan, written long ago, and no cache."""
    for name in (CACHE_NAME, SIDECAR_NAME):
        scan.with_name(name).unlink(missing_ok=True)
    _rename(scan, content)
    os.utime(scan, (1e9, 1e9))


def _rename(scan: Path, content: bytes) -> None:
    coming = scan.with_name("coming")
    coming.write_bytes(content)
    coming.replace(scan)


def _rewrite(scan: Path, content: bytes) -> None:
    with scan.open("r+b") as stream:
        stream.write(content)
        stream.truncate()


def _altered(folder: Path, rounds: int, seed: int) -> Outcome:
    from ptycho_torch import PtychoDataModule

    outcome = Outcome("", "", 0, seed)
    rng = random.Random(seed)
    scan = write_scan(folder / "scan", compressed=True, **_SIZE)
    for assemble_on, workers in ROUTES:
        data = PtychoDataModule(
            scan,
            grouping=GROUPING,
            batch_size=32,
            split="none",
            shuffle=False,
            patch_positions="scan",
            assemble_on=assemble_on,
            num_workers=workers,
            multiprocessing_context="fork" if workers else None,
        )
        data.setup("fit")
        loader = data.train_dataloader()
        truth = _epoch(loader, None, None)
        for _ in range(rounds // len(ROUTES)):
            batch, delay_s = rng.randrange(-1, len(loader)), rng.random() * 0.02
            label = f"{assemble_on}, {workers} workers, after batch {batch}"
            alter = _alter(scan.with_name(SIDECAR_NAME), rng, delay_s)
            outcome.rounds += 1
            for _ in range(3):
                try:
                    digest = _epoch(loader, batch, alter)
                except ScanFileError:
                    outcome.seen["refused"] += 1
                else:
                    outcome.seen["right" if digest == truth else "wrong"] += 1
                    outcome.check(digest == truth, f"{label}: wrong batches")
                alter = None
    return outcome


def _epoch(loader: Any, batch: int | None, alter: Callable[[], threading.Thread] | None) -> str:
    """sha256 over the batches of an epoch; the sidecar is altered after one, or before all."""
    digest = hashlib.sha256()
    altering = [alter()] if alter is not None and batch == -1 else []
    for number, content in enumerate(loader):
        digest.update(np.ascontiguousarray(content.X.numpy()).tobytes())
        if alter is not None and number == batch:
            altering.append(alter())
    for thread in altering:
        thread.join()
    return digest.hexdigest()


def _alter(path: Path, rng: random.Random, delay_s: float) -> Callable[[], threading.Thread]:
    place, content = rng.randrange(1024, path.stat().st_size - 4096), rng.randbytes(2048)

    def write() -> None:
        time.sleep(delay_s)
        if path.exists():
            with path.open("r+b") as stream:
                stream.seek(place)
                stream.write(content)

    def start() -> threading.Thread:
        thread = threading.Thread(target=write)
        thread.start()
        return thread

    return start
