"""Sidecars: built once, believed only when whole, never in the way."""

from __future__ import annotations

import errno
import json
import logging
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import zipfile
from collections import Counter
from pathlib import Path

import filelock
import numpy as np
import pytest

from ptycho_torch.data.caches import sidecar
from ptycho_torch.data.errors import ScanFileError
from ptycho_torch.data.frames import Frames

NAME = "scan.diff3d.sidecar.npz"
TRUTH = np.random.default_rng(5).random((30, 8, 8), np.float32)


@pytest.fixture(autouse=True)
def user_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    return cache


def write_scan(folder: Path, frames: np.ndarray = TRUTH) -> Path:
    folder.mkdir(exist_ok=True)
    np.savez_compressed(folder / "scan.npz", diff3d=frames)
    return folder / "scan.npz"


def frames_in(sidecar: Path) -> np.ndarray:
    with np.load(sidecar) as archive:
        return archive["frames"]


def frames_of(scan: Path, **options: object) -> Frames:
    return Frames.from_npz(scan, "diff3d", **options)


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


def test_sidecar_is_a_stored_npz_beside_the_scan(tmp_path: Path) -> None:
    scan = write_scan(tmp_path)
    assert np.array_equal(frames_of(scan).stored, TRUTH)
    assert sorted(os.listdir(tmp_path)) == [NAME, "scan.npz"]
    assert np.array_equal(frames_in(tmp_path / NAME), TRUTH)
    assert (tmp_path / NAME).stat().st_size < TRUTH.nbytes + 1024
    with zipfile.ZipFile(tmp_path / NAME) as archive:
        assert json.loads(archive.read("made_from.json"))["source"]["field"] == "diff3d"
    assert frames_of(scan).stored.ctypes.data % 64 == 0


def test_sidecar_is_built_on_first_use_and_reused(tmp_path: Path) -> None:
    scan = write_scan(tmp_path)
    frames = frames_of(scan)
    assert not (tmp_path / NAME).exists()
    frames.prepare()
    state = (tmp_path / NAME).stat()
    calls: list[tuple[int, int]] = []
    again = frames_of(scan)
    again.prepare(lambda done, total: calls.append((done, total)))
    assert not calls and np.array_equal(again.stored, TRUTH)
    now = (tmp_path / NAME).stat()
    assert (now.st_ino, now.st_mtime_ns) == (state.st_ino, state.st_mtime_ns)


def test_progress_reports_bytes_up_to_the_whole(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    frames_of(write_scan(tmp_path)).prepare(lambda done, total: calls.append((done, total)))
    assert calls[-1] == (TRUTH.nbytes, TRUTH.nbytes)


@pytest.mark.parametrize("policy", ["off", "readonly"])
def test_policies_that_must_not_write_write_nothing(policy: str, tmp_path: Path) -> None:
    scan = write_scan(tmp_path)
    assert np.array_equal(frames_of(scan, sidecar=policy).stored, TRUTH)
    assert os.listdir(tmp_path) == ["scan.npz"]


def test_readonly_policy_uses_a_sidecar_that_is_there(tmp_path: Path) -> None:
    scan = write_scan(tmp_path)
    frames_of(scan).prepare()
    frames = frames_of(scan, sidecar="readonly")
    assert np.array_equal(frames.stored, TRUTH)
    assert str(tmp_path / NAME) in Path("/proc/self/maps").read_text()


def places_without_meaning(path: Path) -> set[int]:
    """Versions, dates, disks, attributes and padding in zip headers (APPNOTE 4.3)."""
    places: set[int] = set()
    with zipfile.ZipFile(path) as archive:
        entry_at = archive.start_dir
        for info in archive.infolist():
            local, name = info.header_offset, len(info.filename)
            places |= {*range(local + 4, local + 6), *range(local + 10, local + 14)}
            places |= set(range(local + 30 + name, local + 300))  # extra fields; not the record
            places |= {*range(entry_at + 4, entry_at + 8), *range(entry_at + 12, entry_at + 16)}
            places |= set(range(entry_at + 34, entry_at + 42))
            places |= set(range(entry_at + 46 + name, entry_at + 46 + name + len(info.extra)))
            entry_at += 46 + name + len(info.extra)
        record = archive.getinfo("made_from.json")
        start = record.header_offset + 30 + len(record.filename)
        places -= set(range(start, start + record.file_size))
    return places - set(range(64, 64 + 128 + TRUTH.nbytes))


@pytest.mark.slow
def test_one_flipped_byte_anywhere_is_noticed_and_repaired(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scan = write_scan(tmp_path)
    frames_of(scan).prepare()
    good = (tmp_path / NAME).read_bytes()
    meaningless = places_without_meaning(tmp_path / NAME)
    places = random.Random(0).sample(range(len(good)), 120)
    seen = 0
    for place in [0, 6, 8, 127, 128, *places, *range(len(good) - 300, len(good), 3)]:
        damaged = bytearray(good)
        damaged[place] ^= 1 << (place % 8)
        (tmp_path / NAME).write_bytes(damaged)
        caplog.clear()
        assert np.array_equal(frames_of(scan).stored, TRUTH), place
        noticed = len(warnings_in(caplog))
        assert noticed == 1 or (noticed == 0 and place in meaningless), (place, caplog.messages)
        seen += noticed
        assert len((tmp_path / NAME).read_bytes()) == len(good)
    assert seen > 120


def test_sidecar_cut_at_any_length_is_noticed_and_repaired(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scan = write_scan(tmp_path)
    frames_of(scan).prepare()
    good = (tmp_path / NAME).read_bytes()
    for length in [0, 1, len(good) - 1, *random.Random(1).sample(range(len(good)), 60)]:
        (tmp_path / NAME).write_bytes(good[:length])
        caplog.clear()
        assert np.array_equal(frames_of(scan).stored, TRUTH)
        assert len(warnings_in(caplog)) == 1


@pytest.mark.parametrize(
    "other", [TRUTH + 1, TRUTH[:10], TRUTH.astype("f8"), TRUTH[:, :4, :4], TRUTH.astype(">f4")]
)
def test_sidecar_of_an_earlier_scan_is_not_believed(other: np.ndarray, tmp_path: Path) -> None:
    scan = write_scan(tmp_path)
    frames_of(scan).prepare()
    write_scan(tmp_path, other)
    frames = frames_of(scan)
    assert np.array_equal(frames.stored, other) and frames.stored.shape == other.shape


def test_sidecar_of_another_folder_is_not_believed(tmp_path: Path) -> None:
    first, second = write_scan(tmp_path / "a"), write_scan(tmp_path / "b", TRUTH[::-1])
    frames_of(first).prepare()
    shutil.copy2(tmp_path / "a" / NAME, tmp_path / "b" / NAME)
    assert np.array_equal(frames_of(second).stored, TRUTH[::-1])


def test_copied_sidecar_is_checked_once_and_then_trusted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scan = write_scan(tmp_path / "a")
    frames_of(scan).prepare()
    shutil.copytree(tmp_path / "a", tmp_path / "b", copy_function=shutil.copyfile)
    before = (tmp_path / "b" / NAME).stat()
    assert np.array_equal(frames_of(tmp_path / "b" / "scan.npz").stored, TRUTH)
    after = (tmp_path / "b" / NAME).stat()
    original = (tmp_path / "a" / NAME).stat()
    assert after.st_ino == before.st_ino and not warnings_in(caplog)
    assert after.st_mtime_ns == original.st_mtime_ns != before.st_mtime_ns


def test_silent_damage_that_keeps_the_time_is_found_by_verify(tmp_path: Path) -> None:
    scan = write_scan(tmp_path)
    frames_of(scan).prepare()
    status = (tmp_path / NAME).stat()
    damaged = bytearray((tmp_path / NAME).read_bytes())
    damaged[1000] ^= 1
    (tmp_path / NAME).write_bytes(damaged)
    os.utime(tmp_path / NAME, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(ScanFileError, match="checksum is wrong"):
        frames_of(scan).verify()


@pytest.mark.parametrize("change", ["remove", "truncate"])
def test_sidecar_that_goes_while_mapped_is_noticed_and_made_again(
    change: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    frames = frames_of(write_scan(tmp_path))
    assert np.array_equal(frames.stored, TRUTH)
    if change == "remove":
        (tmp_path / NAME).unlink()
    else:
        os.truncate(tmp_path / NAME, 10)
    frames.check_unchanged()
    assert "while in use" in warnings_in(caplog)[0]
    assert np.array_equal(frames.stored, TRUTH) and (tmp_path / NAME).exists()


def test_read_only_directory_sends_the_sidecar_to_the_user_cache(
    tmp_path: Path, user_cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    scan = write_scan(tmp_path / "a")
    other = write_scan(tmp_path / "b", TRUTH + 1)
    for folder in (scan.parent, other.parent):
        folder.chmod(0o555)
    try:
        assert np.array_equal(frames_of(scan).stored, TRUTH)
        assert np.array_equal(frames_of(other).stored, TRUTH + 1)
        assert np.array_equal(frames_of(scan).stored, TRUTH)
        assert os.listdir(scan.parent) == ["scan.npz"]
    finally:
        for folder in (scan.parent, other.parent):
            folder.chmod(0o755)
    assert len(list(user_cache.rglob(NAME))) == 2
    assert sum("read-only" in r.getMessage() for r in caplog.records) == 2
    assert all(path.parent.stat().st_mode & 0o077 == 0 for path in user_cache.rglob(NAME))


@pytest.mark.parametrize("everywhere", [False, True])
def test_directory_without_kernel_locks_sends_the_sidecar_to_the_user_cache_or_memory(
    everywhere: bool,
    tmp_path: Path,
    user_cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    genuine = filelock.FileLock._acquire

    def refuse(lock: filelock.BaseFileLock) -> None:
        if everywhere or Path(lock.lock_file).parent == tmp_path:
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
        genuine(lock)

    monkeypatch.setattr(filelock.FileLock, "_acquire", refuse)
    caplog.set_level(logging.INFO)
    scan = write_scan(tmp_path)
    assert np.array_equal(frames_of(scan).stored, TRUTH)
    assert os.listdir(tmp_path) == ["scan.npz"]
    assert len(list(user_cache.rglob(NAME))) == (0 if everywhere else 1)
    assert [r.levelname for r in caplog.records] == ["INFO"]
    assert "without kernel locks" in caplog.text


def test_given_directory_takes_the_sidecars_of_scans_with_one_name(tmp_path: Path) -> None:
    scan, other = write_scan(tmp_path / "a"), write_scan(tmp_path / "b", TRUTH + 1)
    cache = tmp_path / "cache"
    for _ in range(2):
        assert np.array_equal(frames_of(scan, sidecar=cache).stored, TRUTH)
        assert np.array_equal(frames_of(other, sidecar=str(cache)).stored, TRUTH + 1)
    assert len(list(cache.rglob(NAME))) == 2
    assert os.listdir(scan.parent) == ["scan.npz"]


def test_file_of_the_user_is_never_replaced(tmp_path: Path) -> None:
    np.save(tmp_path / "scan.diff3d.npy", TRUTH * 2)
    assert np.array_equal(frames_of(write_scan(tmp_path)).stored, TRUTH)
    assert np.array_equal(np.load(tmp_path / "scan.diff3d.npy"), TRUTH * 2)


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed, np.save])
def test_file_of_another_program_under_the_name_is_never_touched(
    write, tmp_path: Path, user_cache: Path
) -> None:
    scan = write_scan(tmp_path)
    with open(tmp_path / NAME, "wb") as target:
        if write is np.save:
            np.save(target, TRUTH * 2)
        else:
            write(target, frames=TRUTH * 2)
    before = (tmp_path / NAME).read_bytes()
    for _ in range(2):
        assert np.array_equal(frames_of(scan).stored, TRUTH)
    assert (tmp_path / NAME).read_bytes() == before
    assert len(list(user_cache.rglob(NAME))) == 1


@pytest.mark.parametrize("last", [False, True])
def test_interrupted_build_leaves_nothing(last: bool, tmp_path: Path) -> None:
    array = np.ascontiguousarray(TRUTH.transpose(1, 2, 0)) if last else TRUTH
    scan = write_scan(tmp_path, array)
    order = "frames_last" if last else "frames_first"

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        frames_of(scan, axis_order=order).prepare(interrupt)
    assert os.listdir(tmp_path) == ["scan.npz"]
    assert np.array_equal(frames_of(scan, axis_order=order).stored, TRUTH)


def test_damaged_scan_leaves_no_sidecar(tmp_path: Path) -> None:
    scan = write_scan(tmp_path)
    content = bytearray(scan.read_bytes())
    content[len(content) // 2] ^= 1
    scan.write_bytes(content)
    with pytest.raises(ScanFileError, match=r"scan\.npz: diff3d (checksum|compressed data) is"):
        _ = frames_of(scan).stored
    assert os.listdir(tmp_path) == ["scan.npz"]


def test_disk_without_room_is_named_before_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=100)
    monkeypatch.setattr(sidecar.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(ScanFileError, match=r"free space is 0 MiB; expected 1 MiB"):
        _ = frames_of(write_scan(tmp_path)).stored
    assert os.listdir(tmp_path) == ["scan.npz"]


def run_python(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("last", [False, True])
def test_disk_that_fills_up_while_writing_gives_one_line(last: bool, tmp_path: Path) -> None:
    order = "frames_last" if last else "frames_first"
    scan = write_scan(tmp_path, np.ascontiguousarray(TRUTH.transpose(1, 2, 0)) if last else TRUTH)
    code = """
import resource, signal, sys
from ptycho_torch.data.errors import ScanFileError
from ptycho_torch.data.frames import Frames
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))
try:
    Frames.from_npz(sys.argv[1], "diff3d", axis_order=sys.argv[2]).stored
except ScanFileError as error:
    print(error)
"""
    result = run_python(code, scan, order)
    assert "not written (File too large)" in result.stdout and result.stdout.count("\n") == 1
    assert os.listdir(tmp_path) == ["scan.npz"], result


def test_killed_build_is_never_believed_and_is_cleaned_up(tmp_path: Path) -> None:
    scan = write_scan(tmp_path)
    code = """
import os, signal, sys
from ptycho_torch.data.frames import Frames
Frames.from_npz(sys.argv[1], "diff3d").prepare(lambda *_: os.kill(os.getpid(), signal.SIGKILL))
"""
    for _ in range(2):
        assert run_python(code, scan).returncode == -signal.SIGKILL
        assert not (tmp_path / NAME).exists()
        left = [name for name in os.listdir(tmp_path) if name.endswith(".part")]
        assert left == [f".{NAME}.part"], "each builder replaces what the one before it left"
    assert np.array_equal(frames_of(scan).stored, TRUTH)
    assert sorted(os.listdir(tmp_path)) == [NAME, "scan.npz"]


def test_room_is_taken_before_frames_are_scattered_through_a_map(tmp_path: Path) -> None:
    scan = write_scan(tmp_path, np.zeros((256, 256, 16), np.float32))
    taken: list[int] = []

    def look(done: int, total: int) -> None:
        (temporary,) = tmp_path.glob(".*.part")
        taken.append(temporary.stat().st_blocks * 512)

    frames_of(scan, axis_order="frames_last").prepare(look)
    assert len(taken) > 1 and taken[0] >= 256 * 256 * 16 * 4


def build_and_count(
    scan: Path,
    start: threading.Barrier,
    results: multiprocessing.SimpleQueue[tuple[int, float]],
) -> None:
    calls = []
    frames = frames_of(scan)
    start.wait()
    frames.prepare(lambda done, total: calls.append(done))
    results.put((min(len(calls), 1), float(frames.stored.sum())))


@pytest.mark.slow
def test_processes_that_open_at_once_build_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    scan = write_scan(tmp_path, np.random.default_rng(1).random((600, 64, 64), np.float32))
    results, start = context.SimpleQueue(), context.Barrier(4)
    workers = [
        context.Process(target=build_and_count, args=(scan, start, results)) for _ in range(4)
    ]
    for worker in workers:
        worker.start()
    answers = [results.get() for _ in workers]
    for worker in workers:
        worker.join()
    assert Counter(built for built, _ in answers) == {0: 3, 1: 1}
    assert len({total for _, total in answers}) == 1
    assert sorted(os.listdir(tmp_path)) == [NAME, "scan.npz"]


@pytest.mark.parametrize("content", [b"a note on made_from.json", b"PK\x03\x04 and made_from.json"])
def test_another_programs_file_under_the_name_is_left_alone(
    tmp_path: Path, user_cache: Path, content: bytes
) -> None:
    scan = write_scan(tmp_path)
    (note := tmp_path / NAME).write_bytes(content)
    assert np.array_equal(frames_of(scan).stored, TRUTH)
    assert note.read_bytes() == content
    assert [path.name for path in user_cache.rglob("*.npz")] == [NAME]


def test_where_no_place_takes_a_sidecar_the_line_says_what_to_do(
    tmp_path: Path, user_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan = write_scan(tmp_path / "scans")
    (user_cache / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(user_cache / "file"))
    scan.parent.chmod(0o555)
    try:
        with pytest.raises(ScanFileError, match=r"Set XDG_CACHE_HOME .* or choose 'off'\.$"):
            _ = frames_of(scan).stored
    finally:
        scan.parent.chmod(0o755)
