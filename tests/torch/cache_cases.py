"""Small scans, builders and processes for the tests of the groups cache."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from legacy_reference import all_groups_slowly
from scipy.spatial import cKDTree

from ptycho_torch.data.caches.groups_cache import CachedGroups, load_or_build
from ptycho_torch.data.caches.groups_key import BuiltGroups, Missing
from ptycho_torch.data.caches.names import cache_path


@dataclass(frozen=True)
class Identity:
    """Stands for the identity of frames in an NPZ."""

    path: str | None = "/scans/a.npz"
    size: int = 4096
    mtime_ns: int | None = 1_700_000_000_000_000_000
    dtype: str = "<f4"
    shape: tuple[int, ...] = (9, 8, 8)
    crc32: int | None = 12345

    def as_dict(self) -> dict[str, object]:
        return {**vars(self), "shape": list(self.shape)}


@dataclass
class Scan:
    """Positions, and a builder that counts what it was asked for."""

    x: np.ndarray
    y: np.ndarray
    gridsize: int = 2
    K: int = 4
    requests: list[Missing] = field(default_factory=list)

    @classmethod
    def of(cls, count: int, seed: int = 3, **options: Any) -> Scan:
        x, y = np.random.RandomState(seed).uniform(0, 40, (2, count))
        return cls(x, y, **options)

    def truth(self) -> CachedGroups:
        count = len(self.x)
        width = min(self.K + 1, count)
        points = np.column_stack([self.x, self.y])
        table = cKDTree(points).query(points, k=width)[1].astype(np.int32).reshape(count, width)
        if self.gridsize == 1:
            groups = np.arange(count, dtype=np.int64)[:, None]
        else:
            random = np.random.RandomState(0)
            groups = all_groups_slowly(self.x, self.y, self.gridsize**2, width - 1, random)
        return CachedGroups(groups, table, np.linspace(1.0, 2.0, count))

    def build(self, missing: Missing) -> BuiltGroups:
        self.requests.append(missing)
        truth = self.truth()
        return BuiltGroups(
            truth.all_groups if missing.all_groups else None,
            truth.neighbor_table if missing.neighbor_table else None,
            truth.frame_energies if missing.frame_energies else None,
        )

    def load(self, scan_path: Path, **changes: Any) -> CachedGroups:
        options: dict[str, Any] = {
            "xcoords": self.x,
            "ycoords": self.y,
            "frames_identity": Identity(),
            "measurement": "amplitude",
            "gridsize": self.gridsize,
            "K": self.K,
            "policy": "auto",
            "build": self.build,
        }
        return load_or_build(scan_path, **{**options, **changes})

    def cache(self, scan_path: Path) -> Path:
        return cache_path(scan_path, self.gridsize, self.K)


def assert_same(found: CachedGroups, expected: CachedGroups) -> None:
    for name, value in vars(expected).items():
        array = getattr(found, name)
        assert array.dtype == value.dtype, name
        np.testing.assert_array_equal(array, value, err_msg=name)


def fingerprint(path: Path) -> tuple[int, str]:
    return path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest()


def wait_for(condition: Callable[[], object], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def build_once_together(folder: str, start: Any) -> None:
    """Runs in a process of its own: wait for the others, load, note every build."""
    scan = Scan.of(30)

    def build(missing: Missing) -> BuiltGroups:
        (Path(folder) / f"built-{os.getpid()}").touch()
        time.sleep(0.3)
        return scan.build(missing)

    start.wait()
    found = scan.load(Path(folder) / "scan.npz", build=build)
    assert_same(found, scan.truth())


def hang_while_building(folder: str) -> None:
    """Runs in a process of its own, until it is killed."""
    scan = Scan.of(30)

    def build(missing: Missing) -> BuiltGroups:
        (Path(folder) / "building").touch()
        time.sleep(600)
        return scan.build(missing)

    scan.load(Path(folder) / "scan.npz", build=build)


def hang_while_writing(folder: str) -> None:
    """Runs in a process of its own, until it is killed: the temporary is there, the name is not."""

    def hang(descriptor: int) -> None:
        (Path(folder) / "writing").touch()
        time.sleep(600)

    os.fsync = hang
    Scan.of(30).load(Path(folder) / "scan.npz")


def write_under_a_size_limit(folder: str, limit: int) -> None:
    """Runs in a process of its own: every file may have ``limit`` bytes, as on a full disk."""
    import resource

    scan = Scan.of(300)
    truth = scan.truth()
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    found = scan.load(Path(folder) / "scan.npz", xcoords=scan.x, build=scan.build)
    assert_same(found, truth)


def without_flock() -> None:
    """Make this process believe that the file system has no kernel locks."""
    import errno
    import fcntl

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    fcntl.flock = refuse
