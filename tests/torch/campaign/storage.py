"""Storage that fails: full, forbidden, broken. One line, and what was there before is intact."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from ptycho_torch.data.errors import PtychoTorchError
from ptycho_torch.data.verify import verify_path

from .processes import FILE_CALLS, at_file_call, call, obey_permissions
from .record import Outcome
from .scans import CACHE_NAME, SIDECAR_NAME, batches_digest, listening, write_scan

FIGURE = "one-line error or right batches, old files intact"
CTRL_C = -1
CALLS = FILE_CALLS | {"read", "readinto", "seek", "stat", "fstat", "lstat", "scandir"}
Prints = dict[str, str]


def full_disk(folder: Path, rounds: int, seed: int) -> Outcome:
    """ENOSPC: prepare and write scans where a random few kilobytes are free."""
    outcome = Outcome("ENOSPC: disk full after a random number of bytes", FIGURE, rounds, seed)
    rng = random.Random(seed)
    with _small_disk(folder / "disk") as real:
        outcome.seen["on a full tmpfs" if real else "under RLIMIT_FSIZE"] = rounds
        for number in range(rounds):
            compressed, task = bool(number % 2), _TASKS[number // 2 % len(_TASKS)]
            place = folder / "disk" / "scans"
            scan, truth = _old_and_new(place, compressed, number)
            room = rng.randrange(0, 150_000)
            if real:
                _fill(folder / "disk", room)
            before = _prints(place)
            arguments = (task, str(scan), str(folder / "disk" / "cache"), None if real else room)
            _judge(outcome, f"round {number}, {room} bytes free", before, place, truth, arguments)
            shutil.rmtree(place)
            (folder / "disk" / "filler").unlink(missing_ok=True)
            shutil.rmtree(folder / "disk" / "cache", ignore_errors=True)
    return outcome


def forbidden(folder: Path, rounds: int, seed: int) -> Outcome:
    """EACCES: as a user who may not write beside the scan, nor (every other time) anywhere."""
    outcome = Outcome("EACCES: no permission to write", FIGURE, rounds, seed)
    for number in range(rounds):
        compressed, home = bool(number % 2), number % 4 < 2
        place = folder / f"{number}"
        scan, truth = _old_and_new(place, compressed, number)
        cache = folder / f"cache{number}"
        cache.mkdir(mode=0o777)
        os.chmod(cache, 0o777 if home else 0o555)
        for each in (place, *place.iterdir()):
            os.chmod(each, 0o555 if each.is_dir() else 0o444)
        before = _prints(place)
        arguments = (_TASKS[number // 4 % len(_TASKS)], str(scan), str(cache), -1)
        _judge(outcome, f"round {number}, home {home}", before, place, truth, arguments)
        os.chmod(place, 0o755)
        shutil.rmtree(place)
    return outcome


def broken_calls(folder: Path, stride: int, seed: int) -> Outcome:
    """EIO, ENOSPC and EACCES from each single file operation of prepare and of writing a scan."""
    outcome = Outcome("EIO, ENOSPC, EACCES at each file operation, once", FIGURE, 0, seed)
    for code in (errno.EIO, errno.ENOSPC, errno.EACCES):
        _break_all(outcome, folder, code, stride)
    return outcome


def interrupted_calls(folder: Path, stride: int, seed: int) -> Outcome:
    """Ctrl-C just after each single file operation of prepare and of writing a scan."""
    figure = "right batches or nothing, no temporary, old files intact"
    outcome = Outcome("Ctrl-C after each file operation, once", figure, 0, seed)
    _break_all(outcome, folder, CTRL_C, stride)
    return outcome


def _break_all(outcome: Outcome, folder: Path, code: int, stride: int) -> None:
    for task in _TASKS:
        for compressed in (False, True):
            _break_each(outcome, folder / "scans", task, code, compressed, stride)


def _break_each(
    outcome: Outcome,
    place: Path,
    task: Callable[[Path], str],
    code: int,
    compressed: bool,
    stride: int,
) -> None:
    for number in range(1 + outcome.seed % stride, 1000, stride):
        shutil.rmtree(place, ignore_errors=True)
        scan, truth = _old_and_new(place, compressed, number)
        before = _prints(place)
        label = f"{task.__name__}, file call {number}, {errno.errorcode.get(code, 'Ctrl-C')}"
        outcome.rounds += 1
        arguments = (task, str(scan), str(place.parent / "cache"), None, number, code)
        reached = _judge(outcome, label, before, place, truth, arguments)
        if reached < number:
            return


def _judge(
    outcome: Outcome,
    label: str,
    before: Prints,
    place: Path,
    truth: tuple[str, str],
    arguments: tuple[object, ...],
) -> int:
    """Run a task under its fault and look at what it left; how many file calls it made."""
    try:
        digest, error, warnings, calls = call(_under_fault, *arguments)
    except RuntimeError as crash:
        lines = str(crash).splitlines()
        last = [line.strip() for line in lines if "/ptycho_torch/" in line][-1:]
        outcome.failures.append(f"{label}: {lines[-1]} {last}")
        return 1000
    what = "interrupted" if error == "interrupted" else "refused in one line"
    outcome.seen[what if error else "done"] += 1
    outcome.check("\n" not in error, f"{label}: not one line: {error}")
    outcome.check(not digest or digest in truth, f"{label}: wrong batches")
    outcome.check(all("\n" not in s for s in warnings), f"{label}: {warnings}")
    after = _prints(place)
    left = [name for name in after if name.endswith((".part", ".lock"))]
    outcome.check(not left, f"{label}: left {left}")
    for name, sha in before.items():
        kept = after.get(name) == sha
        if not kept and name in (CACHE_NAME, SIDECAR_NAME, "copy.npz"):
            # Or a whole new one in its place.
            kept = name in after and not verify_path(place / name)
        outcome.check(kept, f"{label}: {name} is not what it was")
    return int(calls)


def _under_fault(
    task: Callable[[Path], str],
    scan: str,
    cache: str,
    limit: int | None,
    number: int = 0,
    code: int = 0,
) -> tuple[str, str, list[str], int]:
    """Runs in a process of its own: digest, error, warnings, file calls."""
    os.environ["XDG_CACHE_HOME"] = cache
    if limit == -1:
        obey_permissions()
    elif limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    def fail() -> None:
        if code == CTRL_C:
            raise KeyboardInterrupt
        raise OSError(code, os.strerror(code))

    moment = "c_return" if code == CTRL_C else "c_call"
    stop = at_file_call(number, fail, CALLS, moment) if code else (lambda: 0)
    with listening() as log:
        try:
            digest, error = task(Path(scan)), ""
        except PtychoTorchError as refused:
            digest, error = "", str(refused)
        except KeyboardInterrupt:
            digest, error = "", "interrupted"
        finally:
            calls = stop()
    return digest, error, log.warnings, calls


def _prepare(scan: Path) -> str:
    return batches_digest(scan)


def _write(scan: Path) -> str:
    """Write the scan over an older file."""
    from ptycho_torch.data.raw_data import RawData

    RawData.from_file(scan, sidecar="off").to_file(scan.with_name("copy.npz"))
    return ""


_TASKS = (_prepare, _write)


def _old_and_new(place: Path, compressed: bool, number: int) -> tuple[Path, tuple[str, str]]:
    """A scan beside the caches of an earlier one of its name; both digests."""
    size = {"n_frames": 60, "N": 16}
    scan = write_scan(place, compressed=compressed, seed=1000 + number % 3, **size)
    old = batches_digest(scan)
    write_scan(place, compressed=compressed, seed=number % 3, **size)
    shutil.copy(scan, scan.with_name("copy.npz"))
    return scan, (batches_digest(scan, cache="off"), old)


def _prints(place: Path) -> Prints:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in place.iterdir()}


def _fill(disk: Path, room: int) -> None:
    """Leave this many bytes free."""
    with (disk / "filler").open("wb", buffering=0) as stream:
        free = shutil.disk_usage(disk).free
        stream.write(np.zeros(max(0, free - room), np.uint8).tobytes())


@contextmanager
def _small_disk(place: Path) -> Iterator[bool]:
    """A file system of 2 MiB where root may mount one; else a folder."""
    place.mkdir()
    options = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)]
    mounted = (
        shutil.which("mount") is not None
        and not subprocess.run(options, check=False, capture_output=True).returncode
    )
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", str(place)], check=True)
