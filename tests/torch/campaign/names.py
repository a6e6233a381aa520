"""Names that are taken and folders that are shared: nobody loses a file, everybody gets batches."""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path

from .processes import FILE_CALLS, at_file_call, call
from .record import Outcome
from .scans import CACHE_NAME, SIDECAR_NAME, batches_digest, listening, write_scan

FIRST, SECOND, TEAM = 65533, 65534, 65532
_OTHERS = b"PK\x03\x04 of another program"


def taken(folder: Path, rounds: int, seed: int) -> Outcome:
    """Something else lies at each name of ours, in turn."""
    outcome = Outcome(
        "another's file, directory, FIFO, socket, device or link at a name of ours",
        "right batches, nothing replaced, no wait",
        0,
        seed,
    )
    names = [name for main in (CACHE_NAME, SIDECAR_NAME) for name in _names(main)]
    cases = [(name, kind) for name in names for kind in _MAKERS]
    random.Random(seed).shuffle(cases)
    for number, (name, kind) in enumerate(cases[:rounds]):
        outcome.merge(call(_taken, folder / str(number), name, kind, timeout_s=60))
    return outcome


def shared(folder: Path, rounds: int, seed: int) -> Outcome:
    """Two users and one folder; the first may be killed before any file operation."""
    outcome = Outcome(
        "two users in a group's or a sticky folder, umask 022 or 077, the first killed or not",
        "right batches for both, nothing built twice by one user, no wait for the dead",
        0,
        seed,
    )
    if os.geteuid() != 0:
        outcome.seen["only root can become two other users"] += 1
        return outcome
    rng = random.Random(seed)
    truth = ""
    for _ in range(rounds):
        # Folders above ``folder`` may be closed to other users.
        place = Path(tempfile.mkdtemp(prefix=f"{folder.name}-"))
        place.chmod(0o755)
        scan = write_scan(place / "scans", compressed=True)
        truth = truth or batches_digest(scan, cache="off")
        mode, umask = rng.choice((0o2775, 0o1777)), rng.choice((0o022, 0o077))
        os.chown(scan.parent, 0, TEAM)
        scan.chmod(0o644)
        scan.parent.chmod(mode)
        moment = rng.choice((0, rng.randrange(1, 120)))
        label = f"mode {mode:o}, umask {umask:o}, killed before call {moment}"
        outcome.rounds += 1
        try:
            call(_as_user, place, FIRST, umask, moment, timeout_s=60)
            outcome.seen["the first lived"] += 1
        except RuntimeError as error:
            killed = moment and "exit code -9" in str(error)
            outcome.check(bool(killed), f"{label}: the first: {str(error)[-200:]}")
            outcome.seen["the first was killed"] += 1
        for user in (SECOND, FIRST, SECOND, FIRST):
            again = user == SECOND and outcome.seen["asked"] % 4 == 2
            outcome.seen["asked"] += 1
            try:
                digest, builds = call(_as_user, place, user, 0o022, 0, timeout_s=60)
            except RuntimeError as error:
                outcome.failures.append(f"{label}: user {user}: {str(error)[-200:]}")
                continue
            outcome.check(digest == truth, f"{label}: user {user}: wrong batches")
            outcome.check(not (again and builds), f"{label}: user {user} built twice")
        shutil.rmtree(place)
    return outcome


def _names(main: str) -> tuple[str, ...]:
    return main, f".{main}.lock", f".{main}.part"


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


_MAKERS: dict[str, Callable[[Path], object]] = {
    "directory": Path.mkdir,
    "FIFO": os.mkfifo,
    "socket": _socket,
    "device": lambda path: os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 5)),
    "dangling link": lambda path: path.symlink_to("nowhere"),
    "text": lambda path: path.write_text("notes of another program\n" * 9),
    "half an archive": lambda path: path.write_bytes(_OTHERS * 9),
}


def _taken(folder: Path, name: str, kind: str) -> Outcome:
    outcome = Outcome("", "", 1, 0)
    scan = write_scan(folder, compressed=True)
    truth = batches_digest(scan, cache="off")
    there = folder / name
    try:
        _MAKERS[kind](there)
    except OSError as error:
        outcome.seen[f"not to be made here: {error.strerror}"] += 1
        return outcome
    before, content = there.lstat(), there.read_bytes() if there.is_file() else b""
    for number in range(2):
        with listening() as log:
            outcome.check(batches_digest(scan) == truth, f"{kind} at {name}: wrong batches")
        outcome.check(not (number and log.builds()), f"{kind} at {name}: built twice")
    after = there.lstat()
    same = (after.st_ino, after.st_mode, after.st_mtime_ns)
    kept = same == (before.st_ino, before.st_mode, before.st_mtime_ns)
    kept = kept and (not there.is_file() or there.read_bytes() == content)
    outcome.check(kept, f"{kind} at {name}: replaced")
    outcome.seen["there still" if kept else "lost"] += 1
    return outcome


def _as_user(place: Path, uid: int, umask: int, moment: int) -> tuple[str, int]:
    """Batches of the scan as a user sees them, and how many caches the user built."""
    home = place / f"home{uid}"
    home.mkdir(exist_ok=True)
    # Imports everything, from where perhaps only root may read.
    batches_digest(write_scan(home / "warm", compressed=True, n_frames=20))
    shutil.rmtree(home / "warm")
    os.chown(home, uid, uid)
    os.environ["XDG_CACHE_HOME"] = str(home)
    os.umask(umask)
    os.setgroups([TEAM])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    stop = at_file_call(moment, lambda: os.kill(os.getpid(), signal.SIGKILL), FILE_CALLS)
    with listening() as log:
        digest = batches_digest(place / "scans" / "scan.npz")
    stop()
    return digest, log.builds()
