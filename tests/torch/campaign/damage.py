"""Flipped bytes and cut files: noticed, or provably of no consequence."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

from ptycho_torch.data.errors import ScanFileError
from ptycho_torch.data.frames import Frames

from .processes import call
from .record import Outcome
from .scans import CACHE_NAME, SIDECAR_NAME, batches_digest, listening, write_scan

Change = Callable[[bytes, int], bytes]


def flip_cache(folder: Path, rounds: int, seed: int) -> Outcome:
    """One bit of the groups cache, anywhere."""
    figure = "detected or provably harmless, 0 wrong batches"
    outcome = Outcome("one flipped byte in the groups cache", figure, rounds, seed)
    return _in_child(outcome, _spoil, folder, CACHE_NAME, _flipped, rounds, seed)


def flip_sidecar(folder: Path, rounds: int, seed: int) -> Outcome:
    """One bit of the sidecar, anywhere."""
    figure = "detected or provably harmless, 0 wrong batches"
    outcome = Outcome("one flipped byte in the sidecar", figure, rounds, seed)
    return _in_child(outcome, _spoil, folder, SIDECAR_NAME, _flipped, rounds, seed)


def flip_silently(folder: Path, rounds: int, seed: int) -> Outcome:
    """One bit of scan or sidecar changed under an unchanged time, as a failing disk does."""
    figure = "`verify` finds it, or the bit has no meaning"
    outcome = Outcome(
        "one flipped byte in scan or sidecar, size and time kept", figure, rounds, seed
    )
    return _in_child(outcome, _flip_silently, folder, rounds, seed)


def cut_cache(folder: Path, rounds: int, seed: int) -> Outcome:
    """A groups cache that ends early."""
    outcome = Outcome("groups cache cut at a length", "rebuilt, 0 crashes", rounds, seed)
    return _in_child(outcome, _spoil, folder, CACHE_NAME, _cut, rounds, seed)


def cut_sidecar(folder: Path, rounds: int, seed: int) -> Outcome:
    """A sidecar that ends early."""
    outcome = Outcome("sidecar cut at a length", "rebuilt, 0 crashes", rounds, seed)
    return _in_child(outcome, _spoil, folder, SIDECAR_NAME, _cut, rounds, seed)


def cut_scan(folder: Path, rounds: int, seed: int) -> Outcome:
    """A scan that ends early: stored and compressed, before it is opened and after."""
    figure = "clear error, 0 crashes"
    outcome = Outcome("NPZ cut at a length, before and after it was opened", figure, rounds, seed)
    return _in_child(outcome, _cut_scan, folder, rounds, seed)


def _in_child(outcome: Outcome, experiment: Callable[..., Outcome], *arguments: object) -> Outcome:
    """Run where a crash is seen, not suffered."""
    try:
        outcome.merge(call(experiment, *arguments, timeout_s=3600))
    except RuntimeError as error:
        outcome.failures.append(f"crashed: {error}")
    return outcome


def _flipped(content: bytes, place: int) -> bytes:
    changed = bytearray(content)
    changed[place] ^= 1 << (place % 8)
    return bytes(changed)


def _cut(content: bytes, place: int) -> bytes:
    # A shorter rest does not show whose it is, and stays.
    return content[: max(place, 64) if place else 0]


def _places(size: int, rounds: int, rng: random.Random) -> list[int]:
    """Every part of a file: its ends, where formats keep their marks, and anywhere."""
    ends = [*range(min(16, size)), *range(max(0, size - 24), size)]
    drawn = rng.choices(range(size), k=max(0, rounds - len(ends)))
    return (ends + drawn)[:rounds] if rounds > len(ends) else rng.sample(range(size), rounds)


def _spoil(folder: Path, name: str, change: Change, rounds: int, seed: int) -> Outcome:
    outcome = Outcome("", "", 0, seed)
    scan = write_scan(folder / "scan", compressed=True)
    truth = batches_digest(scan)
    target = scan.with_name(name)
    good = target.read_bytes()
    for place in _places(len(good), rounds, random.Random(seed)):
        target.write_bytes(change(good, place))
        with listening() as log:
            try:
                digest = batches_digest(scan)
            except Exception as error:
                outcome.failures.append(f"at {place}: {error!r}")
                continue
        outcome.check(digest == truth, f"at {place}: wrong batches")
        outcome.check(len(log.warnings) <= 1, f"at {place}: {log.warnings}")
        rebuilt = log.builds() > 0
        outcome.check(rebuilt == bool(log.warnings), f"at {place}: {log.lines}")
        if rebuilt:
            with listening() as again:
                batches_digest(scan)
            outcome.check(not again.builds(), f"at {place}: not mended")
        outcome.seen["warned and rebuilt" if rebuilt else "harmless: equal batches"] += 1
    return outcome


def _flip_silently(folder: Path, rounds: int, seed: int) -> Outcome:
    outcome = Outcome("", "", 0, seed)
    rng = random.Random(seed)
    for kind, name in ((False, "scan.npz"), (True, "scan.npz"), (True, SIDECAR_NAME)):
        scan = write_scan(folder / f"{name}{kind:d}", compressed=kind)
        batches_digest(scan)
        truth = batches_digest(scan, cache="off")
        target = scan.with_name(name)
        status, good = target.stat(), target.read_bytes()
        for place in _places(len(good), rounds // 3, rng):
            _rewrite(target, _flipped(good, place), status)
            found = _verify(scan)
            outcome.seen["found by verify" if found else "no meaning: equal arrays"] += 1
            if not found:
                equal = batches_digest(scan, cache="readonly") == truth
                outcome.check(equal, f"{target.name} at {place}: not found by verify")
        _rewrite(target, good, status)
    return outcome


def _rewrite(path: Path, content: bytes, status: os.stat_result) -> None:
    with path.open("r+b") as stream:
        stream.write(content)
        stream.truncate()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def _verify(scan: Path) -> str:
    """What a full check says; empty when it finds nothing."""
    from ptycho_torch.data.verify import verify_path

    return "; ".join(verify_path(scan))


def _cut_scan(folder: Path, rounds: int, seed: int) -> Outcome:
    outcome = Outcome("", "", 0, seed)
    rng = random.Random(seed)
    for compressed in (False, True):
        scan = write_scan(folder / f"scan{compressed:d}", compressed=compressed)
        good = scan.read_bytes()
        for place in _places(len(good), rounds // 2, rng):
            scan.write_bytes(good)
            frames = Frames.from_npz(scan, "diff3d", sidecar="off")
            _ = frames.stored
            os.truncate(scan, place)
            for label, use in (
                ("noticed under the map", frames.check_unchanged),
                ("refused at open", lambda s=scan: batches_digest(s)),
            ):
                try:
                    use()
                except ScanFileError as error:
                    one_line = "\n" not in str(error) and str(scan) in str(error)
                    outcome.check(one_line, f"at {place}: {error}")
                    outcome.seen[label] += 1
                except Exception as error:
                    outcome.failures.append(f"at {place}: {error!r}")
                else:
                    outcome.failures.append(f"at {place}: not {label}")
            for left in (scan.with_name(CACHE_NAME), scan.with_name(SIDECAR_NAME)):
                outcome.check(not left.exists(), f"at {place}: {left.name} was made")
    return outcome
