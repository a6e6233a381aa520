"""Scans elsewhere: copied once, believed while they are the same, within a bound."""

from __future__ import annotations

import io
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ptycho_torch import simulate_scan
from ptycho_torch.data.caches.remote import is_remote, local_copies
from ptycho_torch.data.errors import (
    MissingDependencyError,
    OptionError,
    PtychoTorchError,
    ScanFileError,
    ScanFileNotFoundError,
)
from ptycho_torch.data.raw_data import read_scan
from ptycho_torch.data.scan_list import expand_scans

fsspec = pytest.importorskip("fsspec", reason="fsspec is not installed: nothing is elsewhere")


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A file system in memory, and a cache folder of this test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    files = fsspec.filesystem("memory")
    yield files
    files.store.clear()


def put(files: Any, name: str, content: bytes) -> str:
    with files.open(name, "wb") as stream:
        stream.write(content)
    return f"memory://{name}"


def scan_bytes(tmp_path: Path, seed: int = 0) -> bytes:
    path = simulate_scan(n_frames=20, N=16, seed=seed).to_file(tmp_path / f"made_{seed}.npz")
    return path.read_bytes()


def reads_of(files: Any, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    opened: list[str] = []
    real = type(files).open

    def counted(self: Any, path: str, mode: str = "rb", **options: Any) -> Any:
        opened.extend([path] if "r" in mode else [])
        return real(self, path, mode, **options)

    monkeypatch.setattr(type(files), "open", counted)
    return opened


def test_scan_elsewhere_is_read_and_copied_once(
    elsewhere: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = put(elsewhere, "bucket/scan.npz", scan_bytes(tmp_path))
    opened = reads_of(elsewhere, monkeypatch)
    one, two = read_scan(url), read_scan(Path(url))
    assert len(opened) == 1, "a Path, which loses a slash, names the same"
    assert one.path == two.path and one.path is not None
    assert one.path.is_relative_to(tmp_path / "cache")
    np.testing.assert_array_equal(one.frames.stored, simulate_scan(n_frames=20, N=16).frames.stored)


def test_file_url_is_the_file_itself(elsewhere: Any, tmp_path: Path) -> None:
    (tmp_path / "scan.npz").write_bytes(scan_bytes(tmp_path))
    assert read_scan(f"file://{tmp_path}/scan.npz").path == tmp_path / "scan.npz"
    assert not (tmp_path / "cache").exists()


def test_changed_file_is_copied_again(elsewhere: Any, tmp_path: Path) -> None:
    url = put(elsewhere, "scan.npz", scan_bytes(tmp_path))
    before = read_scan(url).xcoords
    put(elsewhere, "scan.npz", scan_bytes(tmp_path, seed=1))
    assert not np.array_equal(read_scan(url).xcoords, before)


@pytest.mark.parametrize("damage", [b"", b"short"])
def test_damaged_copy_is_made_again(elsewhere: Any, tmp_path: Path, damage: bytes) -> None:
    url = put(elsewhere, "a/x.npz", b"0123456789")
    copy = local_copies(url)[0]
    copy.write_bytes(damage)
    assert local_copies(url)[0].read_bytes() == b"0123456789"


def test_copies_used_longest_ago_go_first(elsewhere: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    urls = [put(elsewhere, f"{name}.npz", name.encode() * 3000) for name in "abc"]
    monkeypatch.setenv("PTYCHO_TORCH_REMOTE_BYTES", "8000")
    first, second = (local_copies(url)[0] for url in urls[:2])
    for age, copy in ((200, first), (300, second)):
        note = copy.parent / "source.json"
        os.utime(note, (note.stat().st_mtime - age,) * 2)
    local_copies(urls[0])  # used just now
    third = local_copies(urls[2])[0]
    assert first.exists() and third.exists() and not second.exists()


def test_what_is_cached_beside_a_copy_counts(
    elsewhere: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = local_copies(put(elsewhere, "a.npz", b"a" * 3000))[0]
    (first.parent / "a.diff3d.sidecar.npz").write_bytes(b"0" * 4000)
    monkeypatch.setenv("PTYCHO_TORCH_REMOTE_BYTES", "8000")
    local_copies(put(elsewhere, "b.npz", b"b" * 3000))
    assert not first.parent.exists()


def test_files_over_the_bound_are_refused(elsewhere: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PTYCHO_TORCH_REMOTE_BYTES", "5000")
    url = put(elsewhere, "large.npz", b"l" * 5001)
    with pytest.raises(
        ScanFileError, match=r"large.npz: size is 5001 bytes; expected at most 5000"
    ):
        local_copies(url)
    put(elsewhere, "s/1.npz", b"1" * 3000)
    put(elsewhere, "s/2.npz", b"2" * 3000)
    with pytest.raises(ScanFileError, match=r"3000 bytes beside 1 other scans; .* at most 5000 in"):
        expand_scans("memory://s/*.npz")
    with pytest.raises(ScanFileError, match=r"at most 5000 in all\. Set PTYCHO_TORCH_REMOTE_BYTES"):
        expand_scans(["memory://s/1.npz", "memory://s/2.npz"])
    monkeypatch.setenv("PTYCHO_TORCH_REMOTE_BYTES", "many")
    with pytest.raises(OptionError, match="PTYCHO_TORCH_REMOTE_BYTES is 'many'; expected a number"):
        local_copies(url)


def test_patterns_and_lists_reach_elsewhere(elsewhere: Any, tmp_path: Path) -> None:
    for number in range(3):
        put(elsewhere, f"run/scan_{number}.npz", scan_bytes(tmp_path, seed=number))
    found = expand_scans("memory://run/scan_*.npz")
    assert [Path(str(each.scan)).name for each in found] == [f"scan_{i}.npz" for i in range(3)]
    entries = "scans:\n  - {path: 'memory://run/scan_1.npz', weight: 2}\n"
    (tmp_path / "scans.yaml").write_text(entries)
    (listed,) = expand_scans(tmp_path / "scans.yaml")
    assert listed.use.weight == 2 and len(listed.opened()) == 20
    with pytest.raises(ScanFileError, match="the pattern is matching 3 files; expected one scan"):
        read_scan("memory://run/scan_*.npz")


def test_faults_elsewhere_are_one_line(elsewhere: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ScanFileNotFoundError, match=r"memory://no.npz: file is missing"):
        read_scan("memory://no.npz")
    with pytest.raises(ScanFileNotFoundError, match=r"no\*.npz: the pattern is matching no file"):
        read_scan("memory://no*.npz")
    with pytest.raises(ScanFileError, match=r"not fetched \(Protocol not known: zz\)"):
        read_scan("zz://a/b.npz")
    url = put(elsewhere, "x.npz", b"12345")
    monkeypatch.setattr(type(elsewhere), "open", lambda *_, **__: io.BytesIO(b"123"))
    with pytest.raises(ScanFileError, match=r"file is 3 bytes or more; expected 5, as said before"):
        read_scan(url)
    monkeypatch.setattr(type(elsewhere), "open", lambda *_, **__: 1 / 0)
    with pytest.raises(PtychoTorchError, match=r"file is not fetched \(division by zero\)"):
        read_scan(url)
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(MissingDependencyError, match=r"fsspec is missing.*pip install fsspec"):
        read_scan(url)


def test_local_names_are_not_taken_for_urls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run:1").mkdir()
    (tmp_path / "run:1" / "scan.npz").write_bytes(b"")
    for name in ("scan.npz", "/data/scan.npz", "C:/scan.npz", "a:b.npz", "run:/", "run:1/scan.npz"):
        assert is_remote(name) == (name == "run:/")


def test_threads_that_want_one_file_copy_it_once(
    elsewhere: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = put(elsewhere, "x.npz", b"x" * 100_000)
    opened = reads_of(elsewhere, monkeypatch)
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.extend(local_copies(url))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(opened) == 1 and len(set(found)) == 1 and len(found) == 4
