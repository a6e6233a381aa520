"""Full checks: every byte counts, and every file is named that is not what it should be."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from ptycho_torch import GroupingConfig, simulate_scan
from ptycho_torch.data.raw_data import RawData
from ptycho_torch.data.verification import verify_path

CACHE, SIDECAR = "scan.g2k5.groups_cache.npz", "scan.diff3d.sidecar.npy"


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    path = tmp_path_factory.mktemp("scan") / "scan.npz"
    simulate_scan(n_frames=50, N=12, seed=2).to_file(path)
    with np.load(path) as archive:
        return {name: archive[name] for name in archive.files}


@pytest.fixture
def scan(tmp_path: Path, content: dict[str, np.ndarray]) -> Path:
    """A compressed scan with its cache and its sidecar."""
    path = tmp_path / "scan.npz"
    np.savez_compressed(path, **content, notes=np.arange(100))
    prepare(path)
    return path


def prepare(path: Path) -> None:
    raw = RawData.from_file(path)
    raw.frames.prepare()
    raw.group(GroupingConfig(gridsize=2, neighbor_count=5))


def spoil(path: Path, place: int | None = None) -> None:
    """Flip a bit and keep the times, as a failing disk does."""
    status, damaged = path.stat(), bytearray(path.read_bytes())
    damaged[len(damaged) // 2 if place is None else place] ^= 1
    path.write_bytes(damaged)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def member_place(path: Path, name: str) -> int:
    """A byte in the middle of a member's data."""
    import zipfile

    with zipfile.ZipFile(path) as archive:
        entry = archive.getinfo(f"{name}.npy")
    return entry.header_offset + 30 + len(entry.filename) + 20 + entry.compress_size // 2


def test_whole_files_have_no_faults(scan: Path) -> None:
    for name in ("scan.npz", CACHE, SIDECAR):
        assert verify_path(scan.with_name(name)) == []


@pytest.mark.parametrize("name", [CACHE, SIDECAR])
def test_fault_beside_a_scan_is_found_from_either_side(scan: Path, name: str) -> None:
    spoil(scan.with_name(name))
    for path in (scan, scan.with_name(name)):
        faults = verify_path(path)
        assert faults
        assert all(str(scan.with_name(name)) in fault and "\n" not in fault for fault in faults)


def test_member_that_nobody_reads_is_checked_as_well(scan: Path) -> None:
    spoil(scan, member_place(scan, "notes"))
    (fault,) = verify_path(scan)
    assert "notes is damaged" in fault


@pytest.mark.parametrize("name", [CACHE, SIDECAR])
def test_file_that_belongs_to_another_scan_is_told(
    scan: Path, name: str, content: dict[str, np.ndarray]
) -> None:
    other = {"xcoords": content["xcoords"] + 1, "diff3d": content["diff3d"] * 2}
    np.savez_compressed(scan, **{**content, **other})
    for path in (scan, scan.with_name(name)):
        assert any("of other positions" in s or "another scan" in s for s in verify_path(path))


@pytest.mark.parametrize("name", [CACHE, SIDECAR])
def test_file_without_its_scan_is_held_against_itself(scan: Path, name: str) -> None:
    scan.unlink()
    assert verify_path(scan.with_name(name)) == []
    spoil(scan.with_name(name))
    assert len(verify_path(scan.with_name(name))) >= 1


def test_sidecar_of_a_member_the_scan_lacks_is_told(scan: Path) -> None:
    stray = scan.with_name("scan.frames.sidecar.npy")
    stray.write_bytes(scan.with_name(SIDECAR).read_bytes())
    (fault,) = verify_path(stray)
    assert "a member 'frames', which scan.npz does not have" in fault


def test_ready_made_patches_must_be_finite(tmp_path: Path, content: dict[str, np.ndarray]) -> None:
    patches = np.ones((50, 12, 12), np.complex64)
    patches[31, 2, 2] = np.nan
    np.savez(tmp_path / "scan.npz", **content, Y=patches)
    (fault,) = verify_path(tmp_path / "scan.npz")
    assert "Y frame 31 is NaN or infinite" in fault


def test_cache_in_the_users_directory_counts(
    tmp_path: Path, content: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "scans").mkdir()
    path = tmp_path / "scans" / "scan.npz"
    np.savez(path, **content)
    path.parent.chmod(0o555)
    try:
        prepare(path)
        (kept,) = (tmp_path / "cache").rglob(CACHE)
        assert verify_path(path) == []
        spoil(kept)
        faults = verify_path(path)
        assert faults and str(kept) in faults[0]
    finally:
        path.parent.chmod(0o755)


def test_missing_file_is_one_fault(tmp_path: Path) -> None:
    (fault,) = verify_path(tmp_path / "scan.npz")
    assert "file is missing" in fault
