"""Folders that several people share: each ends with working caches, and nobody loses any."""

from __future__ import annotations

import logging
import multiprocessing
import os
import shutil
import signal
import stat
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import simulated_arrays

from ptycho_torch import GroupingConfig, RawData

FORK = multiprocessing.get_context("fork")
FIRST, SECOND, TEAM = 65533, 65534, 65532
FOLDERS = {"group": 0o2775, "sticky": 0o1777}
NAMES = {"sidecar": "scan.diff3d.sidecar.npz", "groups": "scan.g1k4.groups_cache.npz"}
CONFIG = GroupingConfig(gridsize=1, neighbor_count=4)

pytestmark = [
    pytest.mark.skipif(
        not hasattr(os, "setresuid") or os.geteuid() != 0,
        reason="only root can become two other users",
    )
]


@dataclass
class Team:
    """A folder with a compressed scan, and two users who come to it."""

    root: Path
    mode: int
    kind: str

    @property
    def scan(self) -> Path:
        return self.root / "scans" / "scan.npz"

    @property
    def place(self) -> Path:
        return self.scan.parent / NAMES[self.kind]

    @property
    def lock(self) -> Path:
        return self.scan.parent / f".{self.place.name}.lock"

    def own(self, uid: int) -> list[Path]:
        """What lies in a user's cache directory."""
        return sorted(self.home(uid).rglob("*.npz"))

    def home(self, uid: int) -> Path:
        return self.root / f"home-{uid}"

    def listing(self) -> list[str]:
        return sorted(set(os.listdir(self.scan.parent)) - {"scan.npz"})


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    folder = tmp_path_factory.mktemp("scan")
    content = simulated_arrays(folder, n_frames=20, N=16, seed=1)
    # Once as root: other users may not be allowed to read what is imported on first use.
    np.savez_compressed(folder / "scan.npz", **content)
    for kind in NAMES:
        _use(folder / "scan.npz", kind, lambda: None)
    return content


@pytest.fixture(params=FOLDERS)
def folder(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=NAMES)
def team(
    request: pytest.FixtureRequest, folder: str, content: dict[str, np.ndarray]
) -> Iterator[Team]:
    # Not below pytest's own folder, which is closed to other users.
    root = Path(tempfile.mkdtemp())
    root.chmod(0o755)
    made = Team(root, FOLDERS[folder], request.param)
    made.scan.parent.mkdir()
    os.chown(made.scan.parent, 0, TEAM)
    made.scan.parent.chmod(made.mode)
    np.savez_compressed(made.scan, **content)
    for uid in (FIRST, SECOND):
        made.home(uid).mkdir(mode=0o700)
        os.chown(made.home(uid), uid, uid)
    yield made
    shutil.rmtree(root)


def _use(scan: Path, kind: str, built: Callable[[], None], cache: str | Path = "auto") -> float:
    """Make a cache or use the one that is there; ``built`` is called while one is made."""
    raw = RawData.from_file(scan, sidecar=cache)
    if kind == "sidecar":
        raw.frames.prepare(lambda done, total: built())
        return float(raw.diff3d.sum())

    def energies() -> np.ndarray:
        built()
        return raw.frame_energies()

    return float(raw.group(CONFIG, cache, energies=energies).frame_energies.sum())


class User:
    """A process of a user that makes or uses the cache of a team's scan."""

    def __init__(
        self, team: Team, uid: int, umask: int = 0o022, act: str = "build", **options: Any
    ) -> None:
        self.building, self.waiting, self.go = FORK.Event(), FORK.Event(), FORK.Event()
        self._answer, sender = FORK.Pipe(duplex=False)
        arguments = (team, uid, umask, act, sender, options)
        self.process = FORK.Process(target=self._run, args=arguments)
        self.process.start()
        sender.close()

    def _run(
        self, team: Team, uid: int, umask: int, act: str, sender: Any, options: dict[str, Any]
    ) -> None:
        os.setgroups([TEAM])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
        os.umask(umask)
        os.environ["XDG_CACHE_HOME"] = str(team.home(uid))
        lines, builds = [], []

        class Listener(logging.Handler):
            def emit(handler, record: logging.LogRecord) -> None:
                lines.append(record.getMessage())
                if lines[-1].startswith("waiting for"):
                    self.waiting.set()

        logger = logging.getLogger("ptycho_torch")
        logger.addHandler(Listener())
        logger.setLevel(logging.INFO)

        def built() -> None:
            builds.append(1)
            self.building.set()
            if act == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            if act == "hold":
                assert self.go.wait(60)

        try:
            total = _use(team.scan, team.kind, built, **options)
            sender.send((total, len(builds), lines))
        except BaseException as error:
            sender.send((repr(error), -1, lines))

    def answer(self) -> tuple[float | str, int, str]:
        """Sum of what was used, how often it was built, the log; or the error in its place."""
        assert self._answer.poll(60), "it waits"
        total, builds, lines = self._answer.recv()
        self.process.join()
        return total, builds, "\n".join(lines)

    def died(self) -> None:
        self.process.join(60)
        assert self.process.exitcode == -signal.SIGKILL


@pytest.fixture
def truth(content: dict[str, np.ndarray]) -> dict[str, float]:
    frames = content["diff3d"]
    energies = np.square(frames.astype(np.float64)).sum(axis=(1, 2))
    return {"sidecar": float(frames.sum()), "groups": float(energies.sum())}


@pytest.mark.parametrize("umask", [0o022, 0o077], ids=oct)
def test_second_user_waits_for_the_first(team: Team, truth: dict[str, float], umask: int) -> None:
    first = User(team, FIRST, umask, "hold")
    assert first.building.wait(60)
    second = User(team, SECOND)
    assert second.waiting.wait(60), second.answer()
    assert not team.own(SECOND) and second.process.is_alive()
    first.go.set()
    assert first.answer()[:2] == (pytest.approx(truth[team.kind]), 1)
    total, builds, log = second.answer()
    assert total == pytest.approx(truth[team.kind]), log
    # What the first made with umask 077 nobody else can read.
    assert builds == len(team.own(SECOND)) == (umask == 0o077), log
    assert team.listing() == [team.place.name]


@pytest.mark.parametrize("umask", [0o022, 0o077], ids=oct)
def test_what_a_dead_user_left_is_removed_or_named_and_passed_by(
    team: Team, truth: dict[str, float], folder: str, umask: int
) -> None:
    User(team, FIRST, umask, "die").died()
    left = team.listing()
    assert team.lock.name in left
    total, builds, log = User(team, SECOND, umask).answer()
    assert (total, builds) == (pytest.approx(truth[team.kind]), 1), log
    if folder == "sticky":
        assert f"remove {team.lock}" in log
        assert team.listing() == left
        assert len(team.own(SECOND)) == 1
    else:
        assert team.listing() == [team.place.name]
    assert User(team, SECOND).answer()[:2] == (pytest.approx(truth[team.kind]), 0)
    assert User(team, FIRST).answer()[0] == pytest.approx(truth[team.kind])
    assert team.listing() == [team.place.name]


def test_two_users_who_cannot_read_each_other_each_build_once(
    team: Team, truth: dict[str, float]
) -> None:
    for number in range(3):
        for uid in (FIRST, SECOND):
            total, builds, log = User(team, uid, 0o077).answer()
            assert (total, builds) == (pytest.approx(truth[team.kind]), number == 0), log
    assert team.listing() == [team.place.name]
    assert team.place.stat().st_uid == FIRST
    assert (len(team.own(FIRST)), len(team.own(SECOND))) == (0, 1)


def test_lock_of_another_user_that_cannot_be_read_is_named_and_passed_by(
    team: Team, truth: dict[str, float]
) -> None:
    team.lock.write_text("1\nhost\n")
    os.chown(team.lock, FIRST, FIRST)
    team.lock.chmod(0o600)
    total, builds, log = User(team, SECOND).answer()
    assert (total, builds) == (pytest.approx(truth[team.kind]), 1), log
    assert f"remove {team.lock}" in log
    assert team.listing() == [team.lock.name] and len(team.own(SECOND)) == 1


def test_note_of_another_user_at_the_name_of_the_lock_stays(
    team: Team, truth: dict[str, float]
) -> None:
    team.lock.write_text("a note")
    os.chown(team.lock, FIRST, FIRST)
    total, _, log = User(team, SECOND).answer()
    assert total == pytest.approx(truth[team.kind]), log
    assert team.lock.read_text() == "a note" and len(team.own(SECOND)) == 1


@pytest.mark.parametrize("umask", [0o002, 0o022, 0o027], ids=oct)
def test_files_have_the_permissions_and_the_group_of_any_file_made_there(
    team: Team, folder: str, umask: int
) -> None:
    User(team, FIRST, umask).answer()
    status = team.place.stat()
    assert stat.S_IMODE(status.st_mode) == 0o666 & ~umask
    assert status.st_gid == (TEAM if folder == "group" else FIRST)


@pytest.mark.parametrize("mode", [0o755, 0o555], ids=oct)
def test_second_user_who_may_not_write_has_a_cache_of_its_own(
    team: Team, truth: dict[str, float], mode: int
) -> None:
    team.scan.parent.chmod(mode)
    for builds in (1, 0):
        assert User(team, SECOND).answer()[:2] == (pytest.approx(truth[team.kind]), builds)
    assert team.listing() == [] and len(team.own(SECOND)) == 1


def test_given_directory_that_the_first_user_closed_is_passed_by(
    team: Team, truth: dict[str, float]
) -> None:
    """The second user may not write into the folder that the first one made in it."""
    shared = team.root / "shared"
    shared.mkdir()
    os.chown(shared, 0, TEAM)
    shared.chmod(team.mode)
    for uid, umask in ((FIRST, 0o077), (SECOND, 0o022)) * 2:
        total, builds, log = User(team, uid, umask, cache=shared).answer()
        assert total == pytest.approx(truth[team.kind]), log
    assert builds == 0 and team.listing() == []
    assert [path.name for path in shared.rglob("*.npz")] == [team.place.name]
    assert [path.name for path in team.own(SECOND)] == [team.place.name]
