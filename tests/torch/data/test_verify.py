"""Full checks: every byte counts, and every file is named that is not what it should be."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from builders import flip, simulated_arrays

from ptycho_torch import GroupingConfig
from ptycho_torch.data.detector import Detector
from ptycho_torch.data.errors import ScanError, ScanFileError
from ptycho_torch.data.frames import Frames
from ptycho_torch.data.raw_data import RawData, read_scan
from ptycho_torch.data.verify import verify_path

CACHE, SIDECAR = "scan.g2k5.groups_cache.npz", "scan.diff3d.sidecar.npz"


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    return simulated_arrays(tmp_path_factory.mktemp("scan"), n_frames=50, N=12, seed=2)


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
    flip(scan.with_name(name))
    for path in (scan, scan.with_name(name)):
        faults = verify_path(path)
        assert faults
        assert all(str(scan.with_name(name)) in fault and "\n" not in fault for fault in faults)


def test_member_that_no_reader_uses_is_checked_too(scan: Path) -> None:
    flip(scan, member_place(scan, "notes"))
    (fault,) = verify_path(scan)
    assert "notes is damaged" in fault


@pytest.mark.parametrize("name", [CACHE, SIDECAR])
def test_file_that_belongs_to_another_scan_is_reported(
    scan: Path, name: str, content: dict[str, np.ndarray]
) -> None:
    other = {"xcoords": content["xcoords"] + 1, "diff3d": content["diff3d"] * 2}
    np.savez_compressed(scan, **{**content, **other})
    for path in (scan, scan.with_name(name)):
        assert any("of other positions" in s or "another scan" in s for s in verify_path(path))


def test_cache_made_with_other_options_of_the_reader_says_what_to_type(
    scan: Path, content: dict[str, np.ndarray]
) -> None:
    np.savez_compressed(scan, **{**content, "xcoords": content["xcoords"] + 1})
    scan.with_name(SIDECAR).unlink()
    (fault,) = verify_path(scan)
    cache = scan.with_name(CACHE)
    assert fault.startswith(f"{cache}: of other positions or grouping options: not used, and no")
    assert fault.endswith("made with; or remove it: ptycho-torch prepare makes it anew")
    cache.unlink()
    prepare(scan)
    assert verify_path(scan) == []


@pytest.mark.parametrize("name", [CACHE, SIDECAR])
def test_file_without_its_scan_is_checked_by_its_own_checksums(scan: Path, name: str) -> None:
    scan.unlink()
    assert verify_path(scan.with_name(name)) == []
    flip(scan.with_name(name))
    assert len(verify_path(scan.with_name(name))) >= 1


@pytest.mark.parametrize("other", ["scan.gold_k", "scan.g2k5", "scan.n20s3", "scan2"])
def test_caches_of_scans_with_similar_names_are_not_faults(
    scan: Path, content: dict[str, np.ndarray], other: str
) -> None:
    path = scan.with_name(f"{other}.npz")
    np.savez_compressed(path, **{**content, "xcoords": content["xcoords"] + 1})
    prepare(path)
    for file in sorted(scan.parent.iterdir()):
        assert verify_path(file) == []


def test_cache_of_a_part_is_checked_and_no_fault_of_the_scan(scan: Path) -> None:
    RawData.from_file(scan).subsample(20, 3).group(GroupingConfig(gridsize=2, neighbor_count=5))
    part = scan.with_name("scan.n20s3.g2k5.groups_cache.npz")
    assert verify_path(scan) == verify_path(part) == []
    flip(part)
    for path in (scan, part):
        faults = verify_path(path)
        assert faults and all(str(part) in fault for fault in faults)


def test_files_of_a_scan_with_a_long_name_are_compared_with_it(
    tmp_path: Path, content: dict[str, np.ndarray]
) -> None:
    path = tmp_path / f"{'s' * 250}.npz"
    np.savez_compressed(path, **content)
    prepare(path)
    beside = sorted(set(tmp_path.iterdir()) - {path})
    assert len(beside) == 2
    assert [verify_path(file) for file in (path, *beside)] == [[], [], []]
    other = {"xcoords": content["xcoords"] + 1, "diff3d": content["diff3d"] * 2}
    np.savez_compressed(path, **{**content, **other})
    for file in (path, *beside):
        assert any("of other positions" in s or "another scan" in s for s in verify_path(file))


def test_sidecar_of_a_member_the_scan_lacks_is_reported(scan: Path) -> None:
    stray = scan.with_name("scan.frames.sidecar.npz")
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
        flip(kept)
        faults = verify_path(path)
        assert faults and str(kept) in faults[0]
    finally:
        path.parent.chmod(0o755)


def state_of_all(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    return {
        str(path): (path.stat().st_mtime_ns, path.stat().st_ino, path.read_bytes())
        for path in folder.rglob("*")
        if path.is_file()
    }


def legacy(content: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The scan as old files have it: frames on the last axis."""
    return {**content, "diff3d": np.ascontiguousarray(content["diff3d"].transpose(1, 2, 0))}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize(
    "layout", ["frames first", "frames last", "whole numbers", "Fortran patches", "foreign"]
)
def test_verifying_writes_nothing_anywhere(
    tmp_path: Path,
    content: dict[str, np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
    save: Callable[..., None],
    layout: str,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    scan = dict(content)
    if layout == "frames last":
        scan = legacy(content)
    elif layout == "whole numbers":
        # Which opening looks at more closely, because they may be counts.
        scan = legacy({**content, "diff3d": np.floor(content["diff3d"]).clip(0, 40)})
    elif layout == "Fortran patches":
        scan["Y"] = np.asfortranarray(np.ones((50, 12, 12), np.complex64))
    elif layout == "foreign":
        scan["diff3d"] = content["diff3d"].astype(">f4")
    save(tmp_path / "scan.npz", **scan)
    before = state_of_all(tmp_path)
    assert verify_path(tmp_path / "scan.npz") == []
    assert state_of_all(tmp_path) == before
    assert os.listdir(tmp_path) == ["scan.npz"]


def test_sidecar_of_another_time_is_read_and_keeps_its_time(scan: Path) -> None:
    os.utime(scan.with_name(SIDECAR), ns=(5, 5))
    assert verify_path(scan) == []
    assert scan.with_name(SIDECAR).stat().st_mtime_ns == 5


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_frames_on_the_last_axis_are_checked_one_by_one(
    tmp_path: Path, save: Callable[..., None]
) -> None:
    stack = np.zeros((64, 64, 200), np.float32)  # read in several blocks of rows
    stack[60, 7, 31] = -1
    save(tmp_path / "scan.npz", diff3d=stack)
    frames = Frames.from_npz(tmp_path / "scan.npz", "diff3d", axis_order="frames_last")
    with pytest.raises(ScanError, match="diff3d frame 31 is negative in places"):
        frames.verify()
    assert os.listdir(tmp_path) == ["scan.npz"]


def test_impossible_value_of_a_damaged_file_is_called_damage(
    tmp_path: Path, content: dict[str, np.ndarray]
) -> None:
    path = tmp_path / "scan.npz"
    np.savez(path, **content)
    frame = content["diff3d"][20]
    damaged = bytearray(path.read_bytes())
    # The sign of the brightest pixel.
    damaged[damaged.find(frame.tobytes()) + 4 * int(frame.argmax()) + 3] |= 0x80
    path.write_bytes(damaged)
    with pytest.raises(ScanFileError, match="diff3d checksum is wrong"):
        Frames.from_npz(path, "diff3d").verify()


def test_missing_file_is_one_fault(tmp_path: Path) -> None:
    (fault,) = verify_path(tmp_path / "scan.npz")
    assert "file is missing" in fault


def test_sidecars_of_hdf5_frames_are_whole_under_any_options(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        counts = np.random.default_rng(0).poisson(9.0, (12, 8, 8)).astype("u2")
        file.create_dataset("patterns", data=counts, compression="gzip")
        file.update({f"probe_position_{axis}_px": np.arange(12.0) + 9 for axis in "xy"})
        file["bad_pixels"] = np.zeros((8, 8), bool)
    for detector in (Detector(), Detector(orientation="rot90")):
        read_scan(tmp_path / "scan.h5", detector=detector, probe="initial").frames.prepare()
    sidecars = sorted(tmp_path.glob("*.sidecar.npz"))
    assert len(sidecars) == 2
    assert [verify_path(path) for path in (tmp_path / "scan.h5", *sidecars)] == [[], [], []]
    for path in sidecars:
        flip(path, 1000)
        assert verify_path(path) != []
