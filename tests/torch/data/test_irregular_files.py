"""Names that another program has taken, with a file or with what is no file: nothing is lost."""

from __future__ import annotations

import errno
import os
import signal
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from builders import IRREGULAR, assert_one_line, at_once, make_irregular, simulated_arrays

from ptycho_torch import GroupingConfig, RawData, simulate_scan
from ptycho_torch.cli import DATA_AT_FAULT, main
from ptycho_torch.data.errors import PtychoTorchError, ScanFileError
from ptycho_torch.data.files.atomic_write import atomic_write
from ptycho_torch.data.frames import FrameStack
from ptycho_torch.data.raw_data import read_scan
from ptycho_torch.data.verify import verify_path

SIDECAR, GROUPS = "scan.diff3d.sidecar.npz", "scan.g1k4.groups_cache.npz"
OTHERS = [b"a note", b"PK\x03\x04", b"PK\x03\x04" + bytes(26) + b"frames.npy, mine"]
CONFIG = GroupingConfig(gridsize=1, neighbor_count=4)


@pytest.fixture(autouse=True)
def user_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    return cache


@pytest.fixture(autouse=True)
def nothing_waits() -> Iterator[None]:
    with at_once():
        yield


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    return simulated_arrays(tmp_path_factory.mktemp("scan"), n_frames=20, N=16, seed=1)


@pytest.fixture
def scan(tmp_path: Path, content: dict[str, np.ndarray]) -> Path:
    """A compressed scan: its frames need a sidecar."""
    np.savez_compressed(tmp_path / "scan.npz", **content)
    return tmp_path / "scan.npz"


def use(scan: Path, content: dict[str, np.ndarray]) -> None:
    """Open, unpack and group, as a data set does, and look at the frames."""
    raw = RawData.from_file(scan)
    assert np.array_equal(raw.diff3d, content["diff3d"])
    raw.group(CONFIG)


def look(path: Path) -> tuple[int, bytes | str | list[str]]:
    """What lies at a name, without opening what would wait."""
    mode = path.lstat().st_mode
    if stat.S_ISLNK(mode):
        return mode, os.readlink(path)
    if stat.S_ISDIR(mode):
        return mode, os.listdir(path)
    return mode, path.read_bytes() if stat.S_ISREG(mode) else b""


@pytest.mark.parametrize("name", [SIDECAR, GROUPS])
@pytest.mark.parametrize("taken", [*IRREGULAR, *OTHERS], ids=str)
def test_cache_whose_name_is_taken_goes_to_the_users_directory(
    name: str, taken: str | bytes, scan: Path, content: dict[str, np.ndarray], user_cache: Path
) -> None:
    place = scan.parent / name
    if isinstance(taken, bytes):
        place.write_bytes(taken)
    else:
        make_irregular(place, taken)
    before = look(place)
    for _ in range(2):
        use(scan, content)
        (kept,) = user_cache.rglob("*.npz")
        assert kept.name == name
        made = kept.stat().st_mtime_ns, kept.stat().st_ino
    assert look(place) == before
    assert not (scan.parent / "nowhere").exists()
    use(scan, content)
    assert (kept.stat().st_mtime_ns, kept.stat().st_ino) == made, "made once"


@pytest.mark.parametrize("name", [SIDECAR, GROUPS])
@pytest.mark.parametrize("taken", [*IRREGULAR, b"a note", b"1234\n"], ids=str)
def test_lock_whose_name_is_taken_sends_the_cache_to_the_users_directory(
    name: str, taken: str | bytes, scan: Path, content: dict[str, np.ndarray], user_cache: Path
) -> None:
    lock = scan.parent / f".{name}.lock"
    if isinstance(taken, bytes):
        lock.write_bytes(taken)
    else:
        make_irregular(lock, taken)
    before = look(lock)
    use(scan, content)
    assert look(lock) == before
    assert [path.name for path in user_cache.rglob("*.npz")] == [name]
    assert not (scan.parent / "nowhere").exists()


@pytest.mark.parametrize("name", [SIDECAR, GROUPS])
@pytest.mark.parametrize("taken", [*IRREGULAR, b"a note"], ids=str)
def test_temporary_whose_name_is_taken_is_written_under_another(
    name: str, taken: str | bytes, scan: Path, content: dict[str, np.ndarray], user_cache: Path
) -> None:
    part = scan.parent / f".{name}.part"
    if isinstance(taken, bytes):
        part.write_bytes(taken)
    else:
        make_irregular(part, taken)
    before = look(part)
    use(scan, content)
    assert look(part) == before
    assert (scan.parent / name).is_file() and not list(user_cache.rglob("*.npz"))
    assert sorted(os.listdir(scan.parent)) == sorted({part.name, SIDECAR, GROUPS, "scan.npz"})


@pytest.mark.parametrize("kind", IRREGULAR[:-1])
def test_target_that_is_no_regular_file_is_not_replaced(kind: str, tmp_path: Path) -> None:
    target = tmp_path / "a.bin"
    make_irregular(target, kind)
    before = look(target)
    expected = rf"a\.bin: file is a {kind}; expected a regular file"
    with pytest.raises(ScanFileError, match=expected), atomic_write(target) as handle:
        handle.write(b"new")
    assert look(target) == before
    assert os.listdir(tmp_path) == ["a.bin"]


@pytest.mark.parametrize(
    "read",
    [RawData.from_file, read_scan, FrameStack.from_npy, lambda path: FrameStack.from_npz(path, "")],
)
@pytest.mark.parametrize("kind", IRREGULAR[:-1])
@pytest.mark.parametrize("suffix", [".npz", ".npz.bz2"])
def test_scan_that_is_no_regular_file_is_refused_at_once(
    read: Callable[[Path], object], kind: str, suffix: str, tmp_path: Path
) -> None:
    path = tmp_path / f"scan{suffix}"
    make_irregular(path, kind)
    with pytest.raises(ScanFileError) as caught:
        read(path)
    assert str(caught.value) == f"{path}: file is a {kind}; expected a regular file."
    assert verify_path(path) == [str(caught.value)]


def test_refused_target_leaves_the_note_beside_it(tmp_path: Path) -> None:
    make_irregular(tmp_path / "a.bin", "FIFO")
    (tmp_path / ".a.bin.part").write_bytes(b"a note")
    with pytest.raises(ScanFileError, match="a FIFO"), atomic_write(tmp_path / "a.bin"):
        pass
    assert (tmp_path / ".a.bin.part").read_bytes() == b"a note"


def test_file_that_got_its_name_is_not_taken_for_another_programs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    genuine, failures = Path.unlink, [OSError(errno.EIO, os.strerror(errno.EIO))]

    def fail_once(path: Path, missing_ok: bool = False) -> None:
        if path.suffix == ".part" and failures:
            raise failures.pop()
        genuine(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", fail_once)
    with pytest.raises(ScanFileError) as caught:  # noqa: SIM117
        with atomic_write(tmp_path / "a.bin", replace=False) as handle:
            handle.write(b"new")
    assert "there by now" not in str(caught.value)
    assert os.listdir(tmp_path) == ["a.bin"]


def test_note_at_the_name_of_the_temporary_outlives_a_killed_builder(
    scan: Path, content: dict[str, np.ndarray]
) -> None:
    part = scan.parent / f".{SIDECAR}.part"
    part.write_bytes(b"a note")
    child = os.fork()
    if child == 0:
        try:
            die = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # noqa: E731
            RawData.from_file(scan).frames.prepare(die)
        finally:
            os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert (scan.parent / f".{SIDECAR}.lock").exists()
    use(scan, content)
    assert part.read_bytes() == b"a note"
    assert (scan.parent / SIDECAR).is_file()
    assert not (scan.parent / f".{SIDECAR}.lock").exists()


@pytest.mark.parametrize("name", ["a\0.npz", 256 * "x" + ".npz"], ids=["NUL", "long"])
def test_names_that_no_file_can_have_are_one_line_wherever_they_are_given(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scan = simulate_scan(n_frames=20, N=16, seed=1).to_file(tmp_path / "scan.npz")
    bad = str(tmp_path / name)
    for command in (["verify", bad], ["prepare", bad], ["convert", str(scan), bad]):
        assert main(command) == DATA_AT_FAULT
        assert_one_line(capsys.readouterr().err.split(": ", 1)[1], "expected")
    with pytest.raises(PtychoTorchError, match="expected"):
        read_scan(scan).to_file(bad)
    assert os.listdir(tmp_path) == ["scan.npz"]
