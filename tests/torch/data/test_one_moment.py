"""A scan is one file at one moment, and a cache holds only what that file holds."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ptycho_torch import GroupingConfig, RawData, simulate_scan
from ptycho_torch.data.caches.groups_file import read_cache
from ptycho_torch.data.caches.groups_key import CacheKey
from ptycho_torch.data.errors import ScanFileError
from ptycho_torch.data.files import mapping
from ptycho_torch.data.frames import Frames
from ptycho_torch.data.readers import read_file
from ptycho_torch.data.verify import verify_path

GROUPING = GroupingConfig(gridsize=2, neighbor_count=5, seed=4)
CACHE = "scan.g2k5.groups_cache.npz"
OLD, NEW = (
    simulate_scan(n_frames=60, N=16, object_size=60, seed=seed, photons=1e9 * seed)
    for seed in (1, 2)
)


def content_of(scan: RawData) -> dict[str, np.ndarray[Any, Any]]:
    names = "xcoords ycoords xcoords_start ycoords_start diff3d probeGuess objectGuess".split()
    return {name: getattr(scan, name) for name in names}


Files = tuple[Path, bytes]
"""The old scan, and the bytes of the new one, which are as many."""


@pytest.fixture(params=["stored", "compressed"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> Files:
    old, new = tmp_path / "scan.npz", tmp_path / "elsewhere" / "new.npz"
    new.parent.mkdir()
    write = np.savez if request.param == "stored" else np.savez_compressed
    write(old, **content_of(OLD))
    write(new, **content_of(NEW))
    size = max(path.stat().st_size for path in (old, new))
    for path in (old, new):  # of one size, so that only the time tells them apart
        with path.open("r+b") as stream:
            content = stream.read()
            comment = size - len(content)
            stream.seek(len(content) - 2)
            stream.write(comment.to_bytes(2, "little") + b" " * comment)
        os.utime(path, (1e9, 1e9))
    return old, new.read_bytes()


def rewrite(path: Path, content: bytes) -> None:
    with path.open("r+b") as stream:
        stream.write(content)


def rename(path: Path, content: bytes) -> None:
    other = path.with_name("coming.npz")
    other.write_bytes(content)
    other.replace(path)


Replace = Callable[[Path, bytes], None]


@pytest.fixture(params=[rewrite, rename])
def replace(request: pytest.FixtureRequest) -> Replace:
    return request.param


class Watched:
    """A stream that does something before its ``number``-th read, and counts them."""

    def __init__(self, stream: Any, number: int, act: Callable[[], None]) -> None:
        self.stream, self.number, self.act, self.reads = stream, number, act, 0

    def read(self, *size: int) -> bytes:
        if self.reads == self.number:
            self.act()
        self.reads += 1
        return self.stream.read(*size)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def __enter__(self) -> Watched:
        return self

    def __exit__(self, *error: object) -> None:
        self.stream.close()


def test_a_file_replaced_at_any_read_is_read_whole_or_refused(
    files: Files, replace: Replace, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan, new = files
    old = scan.read_bytes()
    genuine = mapping._open
    number, ended = 0, []
    while True:
        rename(scan, old)
        os.utime(scan, (1e9, 1e9))
        watched: list[Watched] = []

        def opened(path: Path, number: int = number, watched: list[Watched] = watched) -> Any:
            watched.append(Watched(genuine(path), number, lambda: replace(scan, new)))
            return watched[-1]

        monkeypatch.setattr(mapping, "_open", opened)
        try:
            raw = RawData.from_file(scan)
        except ScanFileError as error:
            assert str(scan) in str(error) and "\n" not in str(error)
            ended.append("refused")
        else:
            assert any(np.array_equal(raw.xcoords, whole.xcoords) for whole in (OLD, NEW))
            whole = OLD if np.array_equal(raw.xcoords, OLD.xcoords) else NEW
            assert np.array_equal(raw.ycoords, whole.ycoords)
            assert np.array_equal(raw.probeGuess, whole.probeGuess)
            monkeypatch.setattr(mapping, "_open", genuine)
            try:
                frames = raw.frames.stored
            except ScanFileError:
                ended.append("refused later")
            else:
                assert np.array_equal(frames, whole.diff3d)
                ended.append("whole")
        finally:
            monkeypatch.setattr(mapping, "_open", genuine)
        number += 1
        if number > watched[0].reads:
            break
    assert number > 10
    assert len(ended) == number


def test_a_file_replaced_between_opening_and_grouping_is_refused_and_leaves_no_cache(
    files: Files, replace: Replace
) -> None:
    scan, new = files
    raw = RawData.from_file(scan)
    _ = raw.frames.stored
    before = set(os.listdir(scan.parent))
    replace(scan, new)
    with pytest.raises(ScanFileError, match=r"scan\.npz.*Open the scan again"):
        raw.group(GROUPING)
    assert set(os.listdir(scan.parent)) == before
    again = RawData.from_file(scan).group(GROUPING)
    assert np.array_equal(again.frame_energies, NEW.frame_energies())
    assert not verify_path(scan.with_name(CACHE))


def test_a_file_rewritten_while_energies_are_computed_is_refused_and_leaves_no_cache(
    files: Files, replace: Replace, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan, new = files
    raw = RawData.from_file(scan)
    chunks = type(raw.frames).chunks

    def interrupted(self: Frames, *arguments: Any, **options: Any) -> Iterator[Any]:
        for chunk in chunks(self, 4096, **options):
            yield chunk
            if chunk[0] == 0:
                replace(scan, new)

    monkeypatch.setattr(type(raw.frames), "chunks", interrupted)
    try:
        energies = raw.group(GROUPING).frame_energies
    except ScanFileError as error:
        assert "Open the scan again" in str(error) or "damaged" in str(error)
        assert CACHE not in os.listdir(scan.parent)
    else:  # the old file, still open under no name, to its end
        assert replace is rename
        assert np.array_equal(energies, OLD.frame_energies())


def test_a_rewrite_within_one_tick_of_the_clock_is_seen_by_the_checksum(files: Files) -> None:
    scan, new = files
    os.utime(scan)
    status = scan.stat()
    raw = RawData.from_file(scan)
    rewrite(scan, new)
    os.utime(scan, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(ScanFileError, match=r"scan\.npz"):
        raw.group(GROUPING)
    assert CACHE not in os.listdir(scan.parent)


def test_grouped_arrays_of_a_file_replaced_meanwhile_are_refused(
    files: Files, replace: Replace
) -> None:
    scan, new = files
    raw = RawData.from_file(scan)
    _ = raw.frames.stored
    replace(scan, new)
    with pytest.raises(ScanFileError, match="Open the scan again"):
        raw.generate_grouped_data(16, 5, 20, seed=0, gridsize=2, patch_positions="scan")


def test_energies_in_the_cache_are_those_of_the_file_whatever_was_done_to_memory(
    tmp_path: Path,
) -> None:
    scan = OLD.to_file(tmp_path / "scan.npz")
    raw = RawData.from_file(scan)
    with pytest.raises(ValueError, match="read-only"):
        raw.diff3d[:] *= 2
    with pytest.raises(ValueError, match="WRITEABLE"):
        raw.diff3d.flags.writeable = True
    raw.frames._storage._frames = raw.diff3d * 2  # by force
    assert np.array_equal(raw.group(GROUPING).frame_energies, OLD.frame_energies())
    key = CacheKey.of(raw.xcoords, raw.ycoords, 2, 5)
    kept = read_cache(tmp_path / CACHE, key).arrays.frame_energies
    assert np.array_equal(kept, OLD.frame_energies())


def test_one_file_read_with_either_axis_as_frames_shares_no_energies(tmp_path: Path) -> None:
    content = content_of(OLD)
    cube = np.random.default_rng(0).random((16, 16, 16), np.float32)
    small = {name: array[:16] if "coords" in name else array for name, array in content.items()}
    np.savez(tmp_path / "scan.npz", **{**small, "diff3d": cube})
    for order, frames in (("frames_first", cube), ("frames_last", cube.transpose(2, 0, 1))):
        wanted = (frames.astype(np.float64) ** 2).sum((1, 2))
        for _ in range(2):  # built, then from the cache
            scan = read_file(tmp_path / "scan.npz", axis_order=order)
            energies = RawData.sharing(scan).group(GROUPING).frame_energies
            np.testing.assert_allclose(energies, wanted, rtol=1e-12, err_msg=order)


def test_a_cache_written_before_axis_orders_were_told_apart_is_still_used(tmp_path: Path) -> None:
    scan = OLD.to_file(tmp_path / "scan.npz")
    assert "axes" not in RawData.from_file(scan).frames.identity().as_dict()


def test_a_copy_of_a_file_replaced_meanwhile_is_refused(files: Files, replace: Replace) -> None:
    scan, new = files
    raw = RawData.from_file(scan)
    _ = raw.frames.stored
    replace(scan, new)
    copy = scan.with_name("copy.npz")
    with pytest.raises(ScanFileError, match=r"scan\.npz.*Open the scan again"):
        raw.to_file(copy)
    assert not copy.exists()


def test_a_rewrite_within_one_tick_leaves_no_cache_of_a_chosen_part(files: Files) -> None:
    scan, new = files
    os.utime(scan)
    status = scan.stat()
    raw = RawData.from_file(scan).subsample(40, 3)
    before = set(os.listdir(scan.parent))
    rewrite(scan, new)
    os.utime(scan, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(ScanFileError, match=r"scan\.npz"):
        raw.group(GROUPING)
    assert set(os.listdir(scan.parent)) == before


def test_grouped_arrays_of_an_altered_sidecar_are_gathered_again(tmp_path: Path) -> None:
    scan = tmp_path / "scan.npz"
    np.savez_compressed(scan, **content_of(OLD))
    raw = RawData.from_file(scan)
    asked: dict[str, Any] = {"seed": 0, "gridsize": 2, "patch_positions": "scan"}
    before = raw.generate_grouped_data(16, 5, 20, scan, **asked)
    sidecar = scan.with_name("scan.diff3d.sidecar.npz")
    with sidecar.open("r+b") as stream:
        stream.seek(sidecar.stat().st_size // 4)
        stream.write(np.ones(5000, np.float32).tobytes())
    after = raw.generate_grouped_data(16, 5, 20, scan, **asked)  # its energies are in the cache
    np.testing.assert_array_equal(after["X_full"], before["X_full"])


def test_frames_in_two_npy_files_of_one_size_and_time_share_no_energies(tmp_path: Path) -> None:
    for number in (1, 2):
        file = tmp_path / f"{number}.npy"
        np.save(file, OLD.diff3d * np.float32(number))
        os.utime(file, (1e9, 1e9))
        places = OLD.xcoords, OLD.ycoords
        raw = RawData.from_coords_without_pc(*places, Frames.from_npy(file), OLD.probeGuess)
        grouped = raw.generate_grouped_data(16, 5, 20, tmp_path / "scan.npz", 0, gridsize=2)
        energies = np.square(grouped["X_full"]).sum(axis=(1, 2)).mean()
        np.testing.assert_allclose(energies, (16 / 2) ** 2, rtol=1e-5)


def test_a_sidecar_that_changes_while_it_is_read_is_one_line(tmp_path: Path) -> None:
    scan = tmp_path / "scan.npz"
    np.savez_compressed(scan, **content_of(OLD))
    raw = RawData.from_file(scan)
    raw.frames.prepare()
    chunks = raw.frames.chunks()
    next(chunks)
    os.utime(scan.with_name("scan.diff3d.sidecar.npz"))
    with pytest.raises(ScanFileError, match=r"sidecar is changed while it was read.*Try again"):
        list(chunks)
