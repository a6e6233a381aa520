"""What can happen to a groups cache on beamline storage, done on purpose."""

from __future__ import annotations

import errno
import logging
import multiprocessing
import os
import signal
from pathlib import Path

import cache_cases
import pytest
from cache_cases import Scan, assert_same, fingerprint, wait_for
from legacy_reference import GOLDEN, checksum, loader_verdict, positions

from ptycho_torch.data.caches.groups_cache import verify
from ptycho_torch.data.caches.groups_file import read_cache
from ptycho_torch.data.caches.groups_key import CacheKey, Missing
from ptycho_torch.data.errors import CacheLockTimeoutError

SPAWN = multiprocessing.get_context("spawn")


@pytest.fixture(autouse=True)
def user_cache(tmp_path, monkeypatch):
    home = tmp_path / "user-cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))
    return home


@pytest.fixture
def scan_path(tmp_path):
    folder = tmp_path / "scans"
    folder.mkdir()
    return folder / "scan.npz"


def flip(path, position, mask):
    """Change one byte in place; writing the whole file anew would wait for the disk."""
    with path.open("r+b") as stream:
        stream.seek(position)
        byte = stream.read(1)[0]
        stream.seek(position)
        stream.write(bytes([byte ^ mask]))


def kill(process):
    os.kill(process.pid, signal.SIGKILL)
    process.join()


class TestDamage:
    @pytest.mark.slow
    @pytest.mark.parametrize("mask", [0x01, 0x80, 0xFF], ids=hex)
    def test_flipped_byte_anywhere_is_noticed_or_harmless(self, mask, scan_path):
        scan = Scan.of(6)
        scan.load(scan_path)
        path, truth = scan.cache(scan_path), scan.truth()
        content = path.read_bytes()
        key = CacheKey.of(scan.x, scan.y, 2, 4)
        harmless = 0
        for position in range(len(content)):
            flip(path, position, mask)
            judged = read_cache(path, key)
            flip(path, position, mask)
            assert judged.state in ("usable", "damaged"), position
            if judged.state == "usable":
                harmless += 1
                assert_same(judged.arrays, truth)
        assert harmless < len(content) // 5, "versions, dates and attributes in zip headers only"

    def test_flipped_byte_is_healed_with_one_warning(self, scan_path, caplog):
        scan = Scan.of(6)
        scan.load(scan_path)
        path, truth = scan.cache(scan_path), scan.truth()
        content = path.read_bytes()
        for position in range(0, len(content), 37):
            flip(path, position, 0x10)
            caplog.clear()
            asked = len(scan.requests)
            assert_same(scan.load(scan_path), truth)
            warned = [r for r in caplog.records if r.levelno >= logging.WARNING]
            if len(scan.requests) > asked:
                assert len(warned) == 1
                assert warned[0].message.startswith("groups cache rebuilt: ")
                assert "\n" not in warned[0].message
                assert path.read_bytes() == content
            else:
                assert not warned
                flip(path, position, 0x10)

    @pytest.mark.parametrize("source", ["ours", "the reference's"])
    def test_truncation_at_every_length_is_noticed(self, source, scan_path):
        if source == "ours":
            scan = Scan.of(6)
            scan.load(scan_path)
        else:
            scan = Scan(*positions("f_tiny5"))
            cache = GOLDEN / "f_tiny5.g2k4.groups_cache.npz"
            scan.cache(scan_path).write_bytes(cache.read_bytes())
        path, truth = scan.cache(scan_path), scan.truth()
        content = path.read_bytes()
        key = CacheKey.of(scan.x, scan.y, 2, 4)
        for length in reversed(range(len(content))):
            os.truncate(path, length)
            assert read_cache(path, key).state == "damaged", length
        for length in range(0, len(content), 200):
            path.write_bytes(content[:length])
            assert_same(scan.load(scan_path), truth)
            if source == "ours" or not length:
                assert verify(path, scan.x, scan.y) == []
            else:
                assert path.read_bytes() == content[:length], "it may be worth a repair"

    def test_flipped_byte_in_a_reference_file_is_noticed_or_harmless(self, scan_path):
        scan = Scan(*positions("f_tiny5"))
        content = (GOLDEN / "f_tiny5.g2k4.groups_cache.npz").read_bytes()
        path, truth = scan.cache(scan_path), scan.truth()
        path.write_bytes(content)
        key = CacheKey.of(scan.x, scan.y, 2, 4)
        for position in range(len(content)):
            flip(path, position, 0x04)
            judged = read_cache(path, key)
            flip(path, position, 0x04)
            if judged.state == "usable":
                assert (judged.arrays.all_groups == truth.all_groups).all(), position

    def test_damaged_file_with_a_member_of_another_program_is_left_alone(
        self, scan_path, user_cache
    ):
        import zipfile

        scan = Scan.of(6)
        scan.load(scan_path)
        path = scan.cache(scan_path)
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("notes.txt", "measured on a Tuesday")
        with zipfile.ZipFile(path) as archive:
            at = archive.getinfo("frame_energies.npy").header_offset + 60
        flip(path, at, 0xFF)
        before = fingerprint(path)
        for _ in range(2):
            assert_same(scan.load(scan_path), scan.truth())
        assert fingerprint(path) == before
        assert len(scan.requests) == 2
        (kept,) = user_cache.rglob(path.name)
        assert verify(kept, scan.x, scan.y) == []

    @pytest.mark.parametrize("kind", ["directory", "fifo", "dangling link"])
    def test_thing_that_is_no_file_is_left_alone(self, kind, scan_path, user_cache):
        scan = Scan.of(6)
        path = scan.cache(scan_path)
        if kind == "directory":
            path.mkdir()
        elif kind == "fifo":
            os.mkfifo(path)
        else:
            path.symlink_to(scan_path.parent / "gone")
        for _ in range(2):
            assert_same(scan.load(scan_path), scan.truth())
        assert len(scan.requests) == 1
        assert path.is_symlink() == (kind == "dangling link")


@pytest.mark.slow
class TestProcesses:
    def test_four_processes_build_once(self, scan_path):
        start = SPAWN.Event()
        arguments = (str(scan_path.parent), start)
        processes = [
            SPAWN.Process(target=cache_cases.build_once_together, args=arguments) for _ in range(4)
        ]
        for process in processes:
            process.start()
        start.set()
        for process in processes:
            process.join(120)
        assert [process.exitcode for process in processes] == [0] * 4
        assert len(list(scan_path.parent.glob("built-*"))) == 1
        assert not list(scan_path.parent.glob(".*")), "no lock, no temporary is left"

    def test_builder_killed_while_building_is_replaced_at_once(self, scan_path):
        folder = scan_path.parent
        process = SPAWN.Process(target=cache_cases.hang_while_building, args=(str(folder),))
        process.start()
        wait_for((folder / "building").exists)
        scan = Scan.of(30)
        with pytest.raises(CacheLockTimeoutError) as caught:
            scan.load(scan_path, timeout_s=0.1)
        holder = f"host {os.uname().nodename}, pid {process.pid}"
        assert holder in str(caught.value)
        assert "\n" not in str(caught.value)
        kill(process)
        assert not scan.cache(scan_path).exists()
        assert_same(scan.load(scan_path, timeout_s=30), scan.truth())
        assert sorted(p.name for p in folder.iterdir()) == ["building", scan.cache(scan_path).name]

    def test_builder_killed_while_writing_leaves_nothing_that_counts(self, scan_path):
        folder = scan_path.parent
        process = SPAWN.Process(target=cache_cases.hang_while_writing, args=(str(folder),))
        process.start()
        wait_for((folder / "writing").exists)
        assert len(list(folder.glob(".scan.*.part"))) == 1
        kill(process)
        scan = Scan.of(30)
        assert not scan.cache(scan_path).exists()
        assert_same(scan.load(scan_path), scan.truth())
        names = sorted(p.name for p in folder.iterdir())
        assert names == [scan.cache(scan_path).name, "writing"]

    def test_waiting_is_told(self, scan_path, caplog):
        folder = scan_path.parent
        process = SPAWN.Process(target=cache_cases.hang_while_building, args=(str(folder),))
        process.start()
        wait_for((folder / "building").exists)
        with caplog.at_level(logging.INFO), pytest.raises(CacheLockTimeoutError):
            Scan.of(30).load(scan_path, timeout_s=0.2)
        kill(process)
        assert f"pid {process.pid}" in caplog.messages[0]
        assert caplog.messages[0].startswith("waiting for ")

    def test_interrupt_while_building_leaves_nothing(self, scan_path):
        def build(missing):
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            Scan.of(9).load(scan_path, build=build)
        assert list(scan_path.parent.iterdir()) == []


class TestStorage:
    @pytest.fixture
    def refuse_new_files(self, monkeypatch):
        """Root may write anywhere, so permission is taken away where files are made."""
        genuine = os.open

        def switch(folder: Path, code: int) -> None:
            def refusing(path, flags, *rest, **options):
                inside = str(path).startswith(str(folder))
                if flags & (os.O_CREAT | os.O_WRONLY | os.O_RDWR) and inside:
                    raise OSError(code, os.strerror(code), str(path))
                return genuine(path, flags, *rest, **options)

            monkeypatch.setattr(os, "open", refusing)

        return switch

    @pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES], ids=errno.errorcode.get)
    def test_read_only_directory_puts_the_cache_into_the_users(
        self, code, scan_path, user_cache, refuse_new_files, caplog
    ):
        scan = Scan.of(9)
        refuse_new_files(scan_path.parent, code)
        with caplog.at_level(logging.INFO):
            for _ in range(2):
                assert_same(scan.load(scan_path), scan.truth())
        assert scan.requests == [Missing(True, True, True)]
        assert list(scan_path.parent.iterdir()) == []
        (kept,) = user_cache.rglob("scan.g2k4.groups_cache.npz")
        assert loader_verdict(kept, checksum(scan.x, scan.y), 2, 4) == ("ACCEPTED", "kept")
        assert len(caplog.messages) == 2
        assert os.strerror(code) in caplog.messages[0]
        assert str(kept) in caplog.messages[0]
        assert caplog.messages[1] == f"groups cache reused: {kept}"

    def test_read_only_directories_of_one_name_do_not_meet(
        self, tmp_path, user_cache, refuse_new_files
    ):
        scans = {name: Scan.of(9, seed=len(name)) for name in ("a/run", "bb/run")}
        for name in scans:
            (tmp_path / name).mkdir(parents=True)
        refuse_new_files(tmp_path / "a", errno.EROFS)
        refuse_new_files(tmp_path / "bb", errno.EROFS)
        for _ in range(2):
            for name, scan in scans.items():
                assert_same(scan.load(tmp_path / name / "scan.npz"), scan.truth())
        assert [len(scan.requests) for scan in scans.values()] == [1, 1]

    @pytest.mark.parametrize("everywhere", [False, True])
    def test_directory_without_kernel_locks_is_not_written(
        self, everywhere, scan_path, user_cache, monkeypatch, caplog
    ):
        import filelock

        genuine = filelock.FileLock._acquire

        def refuse(lock):
            if everywhere or Path(lock.lock_file).parent == scan_path.parent:
                raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
            genuine(lock)

        monkeypatch.setattr(filelock.FileLock, "_acquire", refuse)
        scan = Scan.of(9)
        for _ in range(2):
            assert_same(scan.load(scan_path), scan.truth())
        assert list(scan_path.parent.iterdir()) == []
        assert len(list(user_cache.rglob("*.npz"))) == (0 if everywhere else 1)
        assert len(scan.requests) == (2 if everywhere else 1)
        assert len(caplog.records) == (2 if everywhere else 0), "one warning for each load"

    def test_nothing_writable_keeps_the_groups_in_memory(
        self, scan_path, tmp_path, refuse_new_files, caplog
    ):
        refuse_new_files(tmp_path, errno.EACCES)
        scan = Scan.of(9)
        assert_same(scan.load(scan_path), scan.truth())
        assert len(scan.requests) == 1
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert "not kept" in caplog.text

    @pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
    @pytest.mark.parametrize("step", ["fsync", "replace"])
    def test_failing_write_keeps_the_old_file_and_the_groups(
        self, code, step, scan_path, monkeypatch, caplog
    ):
        old = Scan.of(9, seed=1)
        old.load(scan_path)
        before = fingerprint(old.cache(scan_path))

        def fail(*_):
            raise OSError(code, os.strerror(code))

        if step == "fsync":
            monkeypatch.setattr(os, "fsync", fail)
        else:
            monkeypatch.setattr(Path, "replace", fail)
        scan = Scan.of(9, seed=2)
        assert_same(scan.load(scan_path), scan.truth())
        assert len(scan.requests) == 1, "built once, though written in vain twice"
        assert fingerprint(old.cache(scan_path)) == before
        assert list(scan_path.parent.iterdir()) == [old.cache(scan_path)]
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert os.strerror(code) in caplog.text

    @pytest.mark.slow
    @pytest.mark.parametrize("limit", [0, 100, 2000])
    def test_real_size_limit_keeps_the_groups_and_leaves_no_part(self, limit, scan_path):
        arguments = (str(scan_path.parent), limit)
        process = SPAWN.Process(target=cache_cases.write_under_a_size_limit, args=arguments)
        process.start()
        process.join(120)
        assert process.exitcode == 0
        assert list(scan_path.parent.iterdir()) == []

    def test_unreadable_cache_is_left_alone(self, scan_path, user_cache, monkeypatch):
        scan = Scan.of(9)
        scan.load(scan_path)
        path = scan.cache(scan_path)
        genuine = os.open

        def refusing(file, *rest, **options):
            if file == path:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return genuine(file, *rest, **options)

        before = fingerprint(path)
        with monkeypatch.context() as patch:
            patch.setattr(os, "open", refusing)
            for _ in range(2):
                assert_same(scan.load(scan_path), scan.truth())
        assert len(scan.requests) == 2, "once beside the scan, once in the user's cache"
        assert fingerprint(path) == before

    def test_no_home_and_no_cache_directory_still_works(self, scan_path, monkeypatch):
        monkeypatch.delenv("XDG_CACHE_HOME")

        def no_home():
            raise RuntimeError("no home")

        monkeypatch.setattr(Path, "home", no_home)
        scan = Scan.of(9)
        assert_same(scan.load(scan_path), scan.truth())
        assert scan.cache(scan_path).exists()


def test_bomb_in_a_member_is_not_unpacked(scan_path):
    """A member that declares far more than such an array can have is not read."""
    import zipfile

    scan = Scan.of(9)
    scan.load(scan_path)
    path = scan.cache(scan_path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members["all_groups.npy"] = bytes(1 << 22)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    judged = read_cache(path, CacheKey.of(scan.x, scan.y, 2, 4))
    assert judged.state == "damaged"
    assert "4194304 bytes; expected at most" in judged.reason
