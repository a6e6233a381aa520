"""Preparing a scan checks every stored byte, and leaves nothing that vouches for wrong ones."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import flip, simulated_arrays

from ptycho_torch import GroupingConfig, RawData
from ptycho_torch.cli import DATA_AT_FAULT, DONE, main
from ptycho_torch.data.errors import ScanError, ScanFileError
from ptycho_torch.data.frames import FrameStack
from ptycho_torch.data.prepare import each_in_a_thread, prepare_scan

CACHE = "scan.g2k6.groups_cache.npz"
SIDECAR = "scan.diff3d.sidecar.npz"


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    folder = tmp_path_factory.mktemp("scan")
    return simulated_arrays(folder, n_frames=40, N=16, photons=1e4, seed=3)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def start_of(path: Path, array: np.ndarray) -> int:
    place = path.read_bytes().find(array.tobytes())
    assert place > 0
    return place


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    assert main(["prepare", *arguments]) == DATA_AT_FAULT
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err


@pytest.mark.parametrize("dtype", ["f4", "f8", "u2"])
@pytest.mark.parametrize("place", ["first", "middle", "last", "header"])
def test_flipped_byte_in_stored_frames_is_one_line_and_leaves_nothing(
    folder: Path,
    content: dict[str, np.ndarray],
    capsys: pytest.CaptureFixture[str],
    dtype: str,
    place: str,
) -> None:
    frames = np.rint(content["diff3d"] * 9).astype(dtype) if dtype == "u2" else content["diff3d"]
    frames = frames.astype(dtype)
    np.savez("scan.npz", **{**content, "diff3d": frames})
    start = start_of(folder / "scan.npz", frames)
    offset = {"first": 0, "middle": frames.nbytes // 2, "last": frames.nbytes - 1, "header": -2}
    # A blank of the header's padding becomes a tab: still a header, not the one that was written.
    flip(folder / "scan.npz", start + offset[place], 0x29 if place == "header" else 1)
    err = refusal(capsys, "scan.npz", "--measurement", "counts" if dtype == "u2" else "amplitude")
    assert err.count("\n") == 1
    assert "scan.npz: diff3d checksum is wrong" in err and "copy or write it again" in err
    assert os.listdir(folder) == ["scan.npz"]


def test_damage_that_makes_a_value_impossible_is_called_damage(
    folder: Path, content: dict[str, np.ndarray], capsys: pytest.CaptureFixture[str]
) -> None:
    # More frames than opening looks at, and no whole numbers, at which it looks longer.
    frames = np.full((400, 64, 64), 1.5, np.float32)
    zeros = np.arange(400.0)
    np.savez(
        "scan.npz", diff3d=frames, xcoords=zeros, ycoords=zeros, probeGuess=np.ones((64, 64), "c8")
    )
    flip(folder / "scan.npz", start_of(folder / "scan.npz", frames) + 4 * 64 * 64 * 3 + 3, 0x80)
    assert "diff3d checksum is wrong" in refusal(capsys, "scan.npz")


@pytest.mark.parametrize(
    ("value", "message"), [(-1, "frame 3 is negative"), (0, "diff3d is zero in every frame")]
)
def test_frames_that_were_written_wrong_are_told_by_their_values(
    value: float, message: str
) -> None:
    frames = np.zeros((40, 8, 8), np.float32)
    frames[3, 2, 2] = value
    where = np.arange(40.0)
    probe = np.ones((8, 8), np.complex64)
    raw = RawData.from_coords_without_pc(where, where, frames, probe, None)
    with pytest.raises(ScanError, match=message):
        prepare_scan(raw, GroupingConfig())


@pytest.mark.parametrize("times", ["kept", "new"])
def test_frames_damaged_after_a_preparation_are_noticed_by_the_next(
    folder: Path, content: dict[str, np.ndarray], capsys: pytest.CaptureFixture[str], times: str
) -> None:
    np.savez("scan.npz", **content)
    assert main(["prepare", "scan.npz"]) == DONE
    assert main(["prepare", "scan.npz", "--gridsize", "3"]) == DONE
    flip(folder / "scan.npz", start_of(folder / "scan.npz", content["diff3d"][20]))
    if times == "new":
        os.utime("scan.npz")
    assert "scan.npz: diff3d checksum is wrong" in refusal(capsys, "scan.npz")
    assert os.listdir(folder) == ["scan.npz"]


def test_caches_of_damaged_frames_go_from_a_directory_and_for_parts_too(
    folder: Path, content: dict[str, np.ndarray]
) -> None:
    np.savez("scan.npz", **content)
    raw, config = RawData.from_file("scan.npz"), GroupingConfig(neighbor_count=5)
    prepare_scan(raw, config, cache=folder / "caches")
    raw.subsample(30, 3).group(config, folder / "caches")
    assert len(list(folder.rglob("*.groups_cache.npz"))) == 2
    flip(folder / "scan.npz", start_of(folder / "scan.npz", content["diff3d"][20]))
    with pytest.raises(ScanFileError, match="diff3d checksum is wrong"):
        prepare_scan(RawData.from_file("scan.npz"), config, cache=folder / "caches")
    assert list(folder.rglob("*.groups_cache.npz")) == []


@pytest.mark.parametrize("extras", [{}, {"notes": np.arange(3)}])
def test_cache_made_of_damaged_frames_goes_and_what_is_not_of_them_stays(
    folder: Path,
    content: dict[str, np.ndarray],
    capsys: pytest.CaptureFixture[str],
    extras: dict[str, np.ndarray],
) -> None:
    np.savez("scan.npz", **{**content, "xcoords": content["xcoords"] + 1})
    RawData.from_file("scan.npz").group(GroupingConfig(neighbor_count=9))
    np.savez("scan.npz", **content)
    config = GroupingConfig(neighbor_count=5)
    foreign = folder / "scan.g2k5.groups_cache.npz"
    RawData.from_file("scan.npz").group(config)
    with np.load(foreign) as archive:
        names = ("all_groups", "dataset_checksum", "gridsize", "overlap_factor")
        members = {name: archive[name] for name in names}
    np.savez(foreign, **members, **extras)
    RawData.from_file("scan.npz").group(config)  # keeps the energies in the user's cache
    kept = foreign.read_bytes()
    flip(folder / "scan.npz", start_of(folder / "scan.npz", content["diff3d"][20]))
    os.utime("scan.npz", (1e9, 1e9))  # of a file just written grouping compares the checksum
    RawData.from_file("scan.npz").group(GroupingConfig())
    assert CACHE in os.listdir(folder)
    assert f"{CACHE}: removed" in refusal(capsys, "scan.npz")
    others = ["cache", foreign.name, "scan.g2k9.groups_cache.npz", "scan.npz"]
    assert sorted(os.listdir(folder)) == others
    assert foreign.read_bytes() == kept
    assert not list((folder / "cache").rglob("*.npz")), "it held energies of the damage too"


def test_damage_in_a_compressed_scan_leaves_neither_sidecar_nor_cache(
    folder: Path, content: dict[str, np.ndarray], capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez_compressed("scan.npz", diff3d=content["diff3d"])
    end = (folder / "scan.npz").stat().st_size
    np.savez_compressed("scan.npz", **{"diff3d": content["diff3d"], **content})
    flip(folder / "scan.npz", end // 2)
    err = refusal(capsys, "scan.npz")
    assert err.splitlines()[-1].startswith("ptycho-torch: scan.npz: diff3d ")
    assert os.listdir(folder) == ["scan.npz"]


@pytest.mark.parametrize("cached", [False, True])
def test_damaged_sidecar_is_told_by_name(
    folder: Path,
    content: dict[str, np.ndarray],
    capsys: pytest.CaptureFixture[str],
    cached: bool,
) -> None:
    np.savez_compressed("scan.npz", **content)
    assert main(["prepare", "scan.npz"]) == DONE
    if not cached:
        (folder / CACHE).unlink()
    flip(folder / SIDECAR, start_of(folder / SIDECAR, content["diff3d"][20]))
    err = refusal(capsys, "scan.npz")
    assert f"{SIDECAR}: sidecar checksum is wrong" in err and "Remove it" in err
    (folder / SIDECAR).unlink()
    assert main(["prepare", "scan.npz"]) == DONE


def test_whole_frames_are_read_once_checked_and_grouped_as_ever(
    folder: Path, content: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    np.savez("scan.npz", **content)
    wanted = RawData.from_file("scan.npz").group(GroupingConfig(), cache="off")
    passes = []
    chunks = FrameStack.chunks

    def counted(
        self: FrameStack, *arguments: Any, check: bool = False, **more: Any
    ) -> Iterator[Any]:
        passes.append(check)
        return chunks(self, *arguments, check=check, **more)

    monkeypatch.setattr(FrameStack, "chunks", counted)
    done: list[tuple[int, int]] = []

    def progress(bytes_done: int, bytes_in_all: int) -> None:
        done.append((bytes_done, bytes_in_all))

    for _ in range(2):
        raw = RawData.from_file("scan.npz")
        groups = prepare_scan(raw, GroupingConfig(), progress=progress)
        np.testing.assert_array_equal(groups.nn_indices, wanted.nn_indices)
        np.testing.assert_array_equal(groups.frame_energies, wanted.frame_energies)
        assert done.pop() == (raw.frames.nbytes, raw.frames.nbytes)
    # Once with the energies, then, as those are in the cache, only for the checksum.
    assert passes == [True, True]


def test_damage_is_told_where_the_cache_that_may_vouch_for_it_cannot_be_removed(
    folder: Path,
    content: dict[str, np.ndarray],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In a folder with the sticky bit, the cache of another user stays."""
    np.savez("scan.npz", **content)
    assert main(["prepare", "scan.npz"]) == DONE
    flip(folder / "scan.npz", start_of(folder / "scan.npz", content["diff3d"]))
    unlink = Path.unlink

    def kept(path: Path, missing_ok: bool = False) -> None:
        if path.name == CACHE:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), str(path))
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", kept)
    warning, fault = refusal(capsys, "scan.npz").splitlines()[-2:]
    assert f"{CACHE}: not removed (Operation not permitted)" in warning
    assert "scan.npz: diff3d checksum is wrong" in fault


def test_energies_of_damage_do_not_outlive_it(
    folder: Path, content: dict[str, np.ndarray], capsys: pytest.CaptureFixture[str]
) -> None:
    """A good copy has the checksum under which training kept energies of the damaged scan."""
    np.savez("scan.npz", **content)
    whole = (folder / "scan.npz").read_bytes()
    frame = content["diff3d"][20]
    flip(folder / "scan.npz", start_of(folder / "scan.npz", frame) + 4 * frame.argmax() + 2, 64)
    os.utime("scan.npz", (1e9, 1e9))
    config = GroupingConfig(gridsize=2, neighbor_count=6)
    damaged = RawData.from_file("scan.npz").group(config).frame_energies
    (folder / "scan.npz").write_bytes(whole)
    os.utime("scan.npz", (1e9, 1e9))
    wanted = RawData.from_file("scan.npz").frame_energies()
    assert not np.allclose(damaged, wanted, rtol=1e-5)
    assert main(["verify", "scan.npz"]) == DATA_AT_FAULT
    assert f"{CACHE}: frame_energies is of damaged frames" in capsys.readouterr().err
    assert main(["prepare", "scan.npz"]) == DONE
    assert "may be those of damaged frames" in capsys.readouterr().err
    kept = RawData.from_file("scan.npz").group(config).frame_energies
    np.testing.assert_array_equal(kept, wanted)
    assert main(["verify", "scan.npz"]) == DONE


def test_several_items_are_worked_on_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    both = threading.Barrier(2)

    def work(number: int) -> int:
        both.wait(timeout=20)  # broken where one waits alone
        return number * number

    assert list(each_in_a_thread(work, [3, 1])) == [9, 1]


def test_first_error_in_order_is_raised_and_tells_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    failed, stopped, begun = threading.Event(), threading.Event(), []

    def work(number: int) -> int:
        begun.append(number)
        if number == 1:
            assert failed.wait(timeout=20)
            raise ScanError("first", 1, 2)
        if number == 2:
            failed.set()
            raise ScanError("second", 1, 2)
        assert number == 0 or stopped.wait(timeout=20)
        return number

    with pytest.raises(ScanError, match="first"):
        list(each_in_a_thread(work, range(100), stopped))
    assert stopped.is_set()
    assert len(begun) < 100


def test_prepare_of_several_scans_keeps_their_order_and_the_caches_of_each_alone(
    folder: Path,
    content: dict[str, np.ndarray],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = [f"scan{number}.npz" for number in range(6)]
    for number, name in enumerate(names):
        save = np.savez_compressed if number % 2 else np.savez
        save(name, **{**content, "diff3d": content["diff3d"] * np.float32(1 + number)})
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    assert main(["prepare", *names]) == DONE
    assert [line.partition(":")[0] for line in capsys.readouterr().out.splitlines()] == names
    kept = {path.name: path.read_bytes() for path in folder.glob("*.groups_cache.npz")}
    assert len(kept) == 6
    for path in [*folder.glob("*.groups_cache.npz"), *folder.glob("*.sidecar.npz")]:
        path.unlink()
    for name in names:
        assert main(["prepare", name]) == DONE
    assert kept == {path.name: path.read_bytes() for path in folder.glob("*.groups_cache.npz")}
    for name in (names[2], names[4]):
        with Path(name).open("r+b") as file:
            file.seek(start_of(Path(name), content["diff3d"] * np.float32(1 + int(name[4]))))
            file.write(b"\x01\x02")
    assert main(["prepare", *names]) == DATA_AT_FAULT
    captured = capsys.readouterr()
    refused = [line for line in captured.err.splitlines() if line.startswith("ptycho-torch:")]
    assert len(refused) == 1 and names[2] in refused[0]
