"""Files appear whole or not at all; one builder at a time."""

from __future__ import annotations

import errno
import gc
import multiprocessing
import os
import threading
import time
import zipfile
from pathlib import Path

import cache_cases
import filelock
import pytest

from ptycho_torch.data.caches.names import user_cache_directory
from ptycho_torch.data.errors import CacheLockTimeoutError, ScanFileError
from ptycho_torch.data.files.atomic_write import atomic_write, atomic_zip
from ptycho_torch.data.files.build_lock import NoKernelLocksError, build_lock

SPAWN = multiprocessing.get_context("spawn")


def names(folder):
    return sorted(path.name for path in folder.iterdir())


class TestAtomicWrite:
    def test_content_appears_under_its_name_at_the_end(self, tmp_path):
        path = tmp_path / "a.bin"
        with atomic_write(path) as handle:
            handle.write(b"new")
            assert not path.exists()
            assert Path(handle.name).parent == tmp_path
            handle.seek(0)
            assert handle.read() == b"new"
        assert path.read_bytes() == b"new"
        assert names(tmp_path) == ["a.bin"]

    @pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, MemoryError, SystemExit])
    def test_error_in_the_block_keeps_the_old_content(self, error, tmp_path):
        path = tmp_path / "a.bin"
        path.write_bytes(b"old")
        with pytest.raises(error), atomic_write(path) as handle:
            handle.write(b"half")
            raise error
        assert path.read_bytes() == b"old"
        assert names(tmp_path) == ["a.bin"]

    def test_system_error_is_one_line_naming_file_and_reason(self, tmp_path):
        path = tmp_path / "a.bin"
        with pytest.raises(ScanFileError) as caught, atomic_write(path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        message = str(caught.value)
        assert message.startswith(f"{path}: file is not written (No space left on device)")
        assert "\n" not in message

    def test_error_of_ours_passes_unchanged(self, tmp_path):
        error = ScanFileError("the source is damaged")
        with pytest.raises(ScanFileError) as caught, atomic_write(tmp_path / "a.bin"):
            raise error
        assert caught.value is error

    def test_missing_directory_is_one_line(self, tmp_path):
        lost = atomic_write(tmp_path / "x" / "a")
        with pytest.raises(ScanFileError, match="directory is missing"), lost:
            pass

    def test_content_is_synced_before_it_is_renamed(self, tmp_path, monkeypatch):
        steps = []
        sync, replace = os.fsync, Path.replace
        monkeypatch.setattr(os, "fsync", lambda fd: (steps.append("sync"), sync(fd)))
        monkeypatch.setattr(Path, "replace", lambda *a: (steps.append("rename"), replace(*a)))
        with atomic_write(tmp_path / "a.bin") as handle:
            handle.write(b"x")
        assert steps == ["sync", "rename", "sync"]

    @pytest.mark.parametrize("mode", [0o600, 0o664])
    def test_permissions_of_the_old_file_are_kept(self, mode, tmp_path):
        path = tmp_path / "a.bin"
        path.write_bytes(b"old")
        path.chmod(mode)
        with atomic_write(path) as handle:
            handle.write(b"new")
        assert path.stat().st_mode & 0o777 == mode

    def test_link_stays_and_its_target_is_replaced(self, tmp_path):
        (tmp_path / "real").mkdir()
        target = tmp_path / "real" / "a.bin"
        target.write_bytes(b"old")
        link = tmp_path / "link.bin"
        link.symlink_to(target)
        with atomic_write(link) as handle:
            handle.write(b"new")
        assert link.is_symlink()
        assert target.read_bytes() == b"new"


class TestOneTemporary:
    @staticmethod
    def leave_one(folder: str) -> None:
        with atomic_write(Path(folder) / "a.bin") as handle:
            handle.write(b"half")
            handle.flush()
            os._exit(0)

    @pytest.mark.slow
    def test_one_of_a_dead_process_is_replaced_by_the_next_writer(self, tmp_path):
        for _ in range(2):
            process = SPAWN.Process(target=self.leave_one, args=(str(tmp_path),))
            process.start()
            process.join()
            assert ".a.bin.part" in names(tmp_path) and len(names(tmp_path)) == 2
        with atomic_write(tmp_path / "a.bin") as handle:
            handle.write(b"whole")
            assert Path(handle.name).name == ".a.bin.part"
        assert names(tmp_path) == ["a.bin"]
        assert (tmp_path / "a.bin").read_bytes() == b"whole"

    def test_link_under_its_name_is_not_followed(self, tmp_path):
        (tmp_path / "precious").write_bytes(b"precious")
        (tmp_path / ".a.bin.part").symlink_to(tmp_path / "precious")
        with atomic_write(tmp_path / "a.bin") as handle:
            handle.write(b"new")
        assert (tmp_path / "precious").read_bytes() == b"precious"
        assert not (tmp_path / "a.bin").is_symlink()

    def test_two_writers_of_one_file_take_turns(self, tmp_path):
        inside, most = [], []

        def work(number):
            with atomic_write(tmp_path / "a.bin") as handle:
                inside.append(1)
                most.append(len(inside))
                handle.write(bytes([number]) * 1000)
                time.sleep(0.02)
                inside.pop()

        threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert most == [1] * 6
        assert len(set((tmp_path / "a.bin").read_bytes())) == 1
        assert names(tmp_path) == ["a.bin"]

    def test_holder_of_the_lock_writes_without_taking_it_again(self, tmp_path):
        target = tmp_path / "a.bin"
        with build_lock(target), atomic_write(target, locked=True) as handle:
            handle.write(b"new")
        assert names(tmp_path) == ["a.bin"]

    def test_without_kernel_locks_writers_do_not_meet(self, tmp_path, monkeypatch):
        monkeypatch.setattr("fcntl.flock", None)
        cache_cases.without_flock()
        with atomic_write(tmp_path / "a.bin") as first, atomic_write(tmp_path / "a.bin") as second:
            assert first.name != second.name
            first.write(b"first")
            second.write(b"second")
        assert (tmp_path / "a.bin").read_bytes() == b"first"
        assert names(tmp_path) == ["a.bin"]


class TestBuildLock:
    def test_threads_take_turns(self, tmp_path):
        inside, most = [], []

        def work():
            with build_lock(tmp_path / "a.bin", 30):
                inside.append(1)
                most.append(len(inside))
                time.sleep(0.02)
                inside.pop()

        threads = [threading.Thread(target=work) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert most == [1] * 6
        assert names(tmp_path) == []

    def test_timeout_names_the_holder(self, tmp_path):
        raised = []

        def wait():
            try:
                with build_lock(tmp_path / "a.bin", 0.1):
                    pass
            except CacheLockTimeoutError as error:
                raised.append(str(error))

        with build_lock(tmp_path / "a.bin"):
            thread = threading.Thread(target=wait)
            thread.start()
            thread.join()
        holder = f"held by host {os.uname().nodename}, pid {os.getpid()} for more than 0.1 s"
        assert len(raised) == 1
        assert holder in raised[0]
        assert names(tmp_path) == []

    def test_file_system_without_kernel_locks_is_told_and_left_clean(self, tmp_path, monkeypatch):
        monkeypatch.setattr("fcntl.flock", None)
        cache_cases.without_flock()
        with (
            pytest.raises(NoKernelLocksError, match=r"a\.bin: file system is without kernel locks"),
            build_lock(tmp_path / "a.bin"),
        ):
            pass
        assert names(tmp_path) == []

    def test_lock_is_free_after_an_error(self, tmp_path):
        with pytest.raises(KeyboardInterrupt), build_lock(tmp_path / "a.bin"):
            raise KeyboardInterrupt
        with build_lock(tmp_path / "a.bin", 0):
            pass
        assert names(tmp_path) == []

    def test_two_targets_do_not_wait_for_each_other(self, tmp_path):
        with build_lock(tmp_path / "a.bin"), build_lock(tmp_path / "b.bin", 0):
            pass

    def test_missing_directory_is_refused_and_not_made(self, tmp_path):
        lock = build_lock(tmp_path / "x" / "a.bin")
        with pytest.raises(ScanFileError, match="directory is missing"), lock:
            pass
        assert names(tmp_path) == []

    def test_directory_that_takes_no_file_is_told_at_once(self):
        if not Path("/proc/self").is_dir():
            pytest.skip("no /proc: a folder that nobody can write")
        lock = build_lock(Path("/proc/a.bin"), 600)
        with pytest.raises(ScanFileError, match="not written"), lock:
            pass

    def test_installed_filelock_leaves_a_waiting_file_alone(self):
        """Earlier ones emptied the lock file while they waited, and with it the holder's name."""
        assert int(filelock.__version__.split(".")[0]) >= 4


class TestCacheDirectory:
    def test_xdg_directory_is_used_when_absolute(self, tmp_path, monkeypatch):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        assert user_cache_directory(Path("/data/run7")).parent == tmp_path / "ptycho-torch"
        monkeypatch.setenv("XDG_CACHE_HOME", "relative")
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        expected = tmp_path / "home" / ".cache" / "ptycho-torch"
        assert user_cache_directory(Path("/data/run7")).parent == expected

    def test_directories_of_one_name_get_their_own(self, tmp_path, monkeypatch):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        first, second = (user_cache_directory(Path(p)) for p in ("/a/run7", "/b/run7"))
        assert first != second
        assert first.name.startswith("run7-")
        assert user_cache_directory(Path("/a/../a/run7")) == first


def test_an_archive_interrupted_inside_an_entry_says_what_interrupted_it(tmp_path):
    path = tmp_path / "a.npz"
    path.write_bytes(b"older")

    class Interrupted(BaseException):
        pass

    with pytest.raises(Interrupted), atomic_zip(path) as archive:
        archive.open("entry", "w")
        raise Interrupted
    del archive
    gc.collect()
    assert path.read_bytes() == b"older"
    assert [found.name for found in tmp_path.iterdir()] == ["a.npz"]


def test_an_archive_appears_whole(tmp_path):
    with atomic_zip(tmp_path / "a.npz") as archive:
        archive.writestr("entry", b"content")
    with zipfile.ZipFile(tmp_path / "a.npz") as found:
        assert found.read("entry") == b"content"
