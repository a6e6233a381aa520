"""Frames: mapped in place, streamed, converted; numpy.load is the oracle throughout."""

from __future__ import annotations

import gc
import os
import pickle
import shutil
import struct
import subprocess
import sys
import time
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptycho_torch.data.errors import (
    OptionError,
    ScanError,
    ScanFileError,
    ScanFileNotFoundError,
    ScanKeyError,
)
from ptycho_torch.data.files.mapping import opened, read_here_and_there
from ptycho_torch.data.files.zip_archive import ZipArchive
from ptycho_torch.data.frames import Frames, FrameStack, check_frame_values

DTYPES = ("f2", "f4", "f8", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8")


def some_frames(dtype: str = "f4", shape: tuple[int, ...] = (12, 6, 6)) -> np.ndarray:
    return (np.random.default_rng(3).random(shape) * 100).astype(dtype)


def maps_of(path: Path) -> int:
    """How often a file is mapped by this process."""
    return Path("/proc/self/maps").read_text().count(str(path))


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    np.savez(tmp_path / "scan.npz", xcoords=np.zeros(12), diff3d=some_frames())
    return tmp_path / "scan.npz"


@pytest.fixture
def compressed(tmp_path: Path) -> Path:
    np.savez_compressed(tmp_path / "scan.npz", diff3d=some_frames())
    return tmp_path / "scan.npz"


def test_stored_member_is_mapped_in_place_and_writes_nothing(stored: Path) -> None:
    frames = Frames.from_npz(stored, "diff3d")
    assert maps_of(stored) == 1
    assert np.array_equal(frames.stored, some_frames())
    assert frames.shape == (12, 6, 6) and frames.dtype == np.float32 and frames.path == stored
    assert os.listdir(stored.parent) == ["scan.npz"]


def test_npy_is_mapped_in_place(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", some_frames("u2"))
    frames = Frames.from_npy(tmp_path / "a.npy", measurement="counts")
    assert maps_of(tmp_path / "a.npy") == 1
    assert np.array_equal(frames.stored, some_frames("u2"))


def test_npy_in_foreign_order_is_converted_in_memory(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.asfortranarray(some_frames(">f4")))
    assert np.array_equal(Frames.from_npy(tmp_path / "a.npy").stored, some_frames())


@pytest.mark.parametrize("sidecar", ["auto", "off"])
@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
def test_nobody_can_write_to_frames_of_a_file(write: Any, sidecar: str, tmp_path: Path) -> None:
    write(tmp_path / "scan.npz", diff3d=some_frames())
    frames = Frames.from_npz(tmp_path / "scan.npz", "diff3d", sidecar=sidecar)
    before = (tmp_path / "scan.npz").read_bytes()
    for array in (frames.stored, frames._storage.array()):
        with pytest.raises(ValueError, match="read-only"):
            array[:] = 7
    with pytest.raises(ValueError, match="WRITEABLE"):
        frames.stored.flags.writeable = True
    assert (tmp_path / "scan.npz").read_bytes() == before
    assert np.array_equal(frames.stored, some_frames())


def test_array_in_memory_is_kept_without_a_copy() -> None:
    array = some_frames("u2", (12, 6, 6, 1))
    frames = Frames.from_array(array, measurement="counts")
    assert np.shares_memory(frames.stored, array) and frames.shape == (12, 6, 6)
    foreign = Frames.from_array(some_frames(">f4"))
    assert foreign.dtype.isnative and np.array_equal(foreign.stored, some_frames())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_every_real_dtype_is_kept_in_native_byte_order(save, dtype: str, tmp_path: Path) -> None:
    truth = some_frames(dtype)
    save(tmp_path / "s.npz", little=truth, big=truth.astype(f">{dtype}"))
    for key in ("little", "big"):
        frames = Frames.from_npz(tmp_path / "s.npz", key)
        assert frames.dtype == np.dtype(dtype) and frames.dtype.isnative
        assert frames.stored.dtype == frames.dtype and np.array_equal(frames.stored, truth)


@pytest.mark.slow
@given(
    shape=st.tuples(st.integers(1, 9), st.integers(1, 5)),
    dtype=st.sampled_from(["<f4", ">f4", "u1", ">u2", "<f2"]),
    fortran=st.booleans(),
    last=st.booleans(),
    squeeze=st.booleans(),
    compress=st.booleans(),
    policy=st.sampled_from(["auto", "off", "readonly"]),
)
def test_any_layout_on_disk_gives_the_same_frames(
    tmp_path_factory, shape, dtype, fortran, last, squeeze, compress, policy
) -> None:
    folder = tmp_path_factory.mktemp("layout")
    truth = some_frames(dtype, (shape[0], shape[1], shape[1]))
    array = truth.transpose(1, 2, 0) if last else truth[..., None] if squeeze else truth
    array = np.asfortranarray(array) if fortran else np.ascontiguousarray(array)
    (np.savez_compressed if compress else np.savez)(folder / "s.npz", d=array)
    order = "frames_last" if last else "frames_first"
    frames = Frames.from_npz(folder / "s.npz", "d", sidecar=policy, axis_order=order)
    first = frames.sample(2)
    assert all((frame == truth).all(axis=(1, 2)).any() for frame in first)
    assert np.array_equal(np.concatenate([block for *_, block in frames.chunks(60)]), truth)
    frames.verify()
    assert np.array_equal(frames.stored, truth) and frames.stored.dtype.isnative
    frames.verify()
    shutil.rmtree(folder)


def test_pickled_frames_are_small_and_open_the_file_again(stored: Path) -> None:
    frames = Frames.from_npz(stored, "diff3d", measurement="counts")
    assert frames.stored.any()
    sent = pickle.dumps(frames)
    assert len(sent) < 2000
    received = pickle.loads(sent)  # noqa: S301
    assert received.measurement == "counts" and np.array_equal(received.stored, some_frames())


def test_pickled_frames_refuse_a_file_that_changed_on_the_way(stored: Path) -> None:
    sent = pickle.dumps(Frames.from_npz(stored, "diff3d"))
    np.savez(stored, diff3d=some_frames() + 1)
    with pytest.raises(ScanFileError, match="Open the scan again"):
        _ = pickle.loads(sent).stored  # noqa: S301


def test_take_copies_amplitudes_of_the_frames_asked_for(stored: Path) -> None:
    frames = Frames.from_npz(stored, "diff3d")
    taken = frames.take([5, 0, 5, -1])
    assert np.array_equal(taken, some_frames()[[5, 0, 5, -1]])
    taken[:] = 0
    assert np.array_equal(frames.stored, some_frames())
    assert frames.take([]).shape == (0, 6, 6)


@pytest.mark.parametrize("dtype", ["u2", "i4", "f8"])
def test_take_of_counts_is_their_square_root_in_float32(dtype: str) -> None:
    counts = some_frames(dtype)
    frames = Frames.from_array(counts, measurement="counts")
    taken = frames.take([2, 3])
    assert taken.dtype == np.float32
    assert np.array_equal(taken, np.sqrt(counts[[2, 3]].astype(np.float32)))
    assert frames.stored.dtype == np.dtype(dtype)


def test_take_of_stored_amplitude_keeps_its_dtype() -> None:
    assert Frames.from_array(some_frames("f2")).take([0]).dtype == np.float16


def test_take_of_an_unaligned_map_copies_only_what_is_asked(tmp_path: Path) -> None:
    large = np.zeros((2000, 32, 32), np.float32)
    with zipfile.ZipFile(tmp_path / "s.npz", "w") as target:
        target.writestr("ab", b"1")
        with target.open("diff3d.npy", "w") as member:
            np.lib.format.write_array(member, large)
    frames = Frames.from_npz(tmp_path / "s.npz", "diff3d")
    assert not frames.stored.flags.aligned
    tracemalloc.start()
    frames.take(np.arange(10))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < large.nbytes / 20


def test_chunks_are_bounded_and_cover_every_frame_once(stored: Path) -> None:
    frames = Frames.from_npz(stored, "diff3d")
    spans = [(start, stop) for start, stop, _ in frames.chunks(5 * 6 * 6 * 4)]
    assert spans == [(0, 5), (5, 10), (10, 12)]
    assert [stop - start for start, stop, _ in frames.chunks(1)] == [1] * 12


def test_chunks_of_a_compressed_member_leave_no_sidecar(compressed: Path) -> None:
    frames = Frames.from_npz(compressed, "diff3d")
    blocks = [block for *_, block in frames.chunks()]
    assert np.array_equal(np.concatenate(blocks), some_frames())
    assert np.array_equal(frames.sample(3), some_frames()[:3])
    assert os.listdir(compressed.parent) == ["scan.npz"]


def test_sample_of_a_map_is_spread_over_the_scan(stored: Path) -> None:
    sample = Frames.from_npz(stored, "diff3d").sample(3)
    assert np.array_equal(sample, some_frames()[[0, 5, 11]])
    assert len(Frames.from_npz(stored, "diff3d").sample(50)) == 12


def test_compressed_frames_stream_in_bounded_memory(tmp_path: Path) -> None:
    truth = np.zeros((1500, 64, 64), np.float32)  # 24 MB that deflate to almost nothing
    truth[:, 0, 0] = np.arange(1500)
    np.savez_compressed(tmp_path / "s.npz", diff3d=truth)
    frames = Frames.from_npz(tmp_path / "s.npz", "diff3d")
    tracemalloc.start()
    for _ in frames.chunks():
        pass
    frames.prepare()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6e6
    assert np.array_equal(frames.stored[:, 0, 0], np.arange(1500))


def sparse_scan(path: Path, n_frames: int, side: int) -> None:
    """A stored NPZ whose frames are a hole in the file, written by hand from the zip format."""
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({n_frames}, {side}, {side}), }}"
    padded = text.encode() + b" " * (-(len(text) + 11) % 64) + b"\n"
    header = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(padded)) + padded
    size = len(header) + n_frames * side * side * 4
    name, wide = b"diff3d.npy", struct.pack("<2H2Q", 1, 16, size, size)
    fixed = (45, 0, 0, 0, 0, 0, 0xFFFFFFFF, 0xFFFFFFFF, len(name), len(wide))
    with open(path, "wb") as target:
        target.write(struct.pack("<4s5H3L2H", b"PK\x03\x04", *fixed) + name + wide + header)
        target.seek(size - len(header), os.SEEK_CUR)
        start = target.tell()
        tail = (*fixed, 0, 0, 0, 0, 0)
        target.write(struct.pack("<4s6H3L5H2L", b"PK\x01\x02", 45, *tail) + name + wide)
        end = target.tell()
        target.write(
            struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, 1, 1, end - start, start)
            + struct.pack("<4sLQL", b"PK\x06\x07", 0, end, 1)
            + struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 1, 1, end - start, 0xFFFFFFFF, 0)
        )


def test_opening_a_scan_of_any_size_reads_headers_alone(tmp_path: Path) -> None:
    path = tmp_path / "huge.npz"
    sparse_scan(path, 400_000, 64)  # 6.5 GB
    tracemalloc.start()
    begin = time.perf_counter()
    frames = Frames.from_npz(path, "diff3d")
    last = frames.take([399_999])
    elapsed = time.perf_counter() - begin
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert frames.shape == (400_000, 64, 64) and not last.any()
    assert peak < 1e6 and elapsed < 1.0


@pytest.mark.parametrize("change", ["truncate", "touch", "replace"])
def test_scan_that_changes_under_the_map_is_noticed(change: str, stored: Path) -> None:
    frames = Frames.from_npz(stored, "diff3d")
    frames.check_unchanged()
    assert frames.stored.any()
    frames.check_unchanged()
    if change == "truncate":
        os.truncate(stored, 500)
    elif change == "touch":
        os.utime(stored, ns=(0, 1))
    else:
        status = stored.stat()
        shutil.copy(stored, stored.with_name("other"))
        os.replace(stored.with_name("other"), stored)
        os.utime(stored, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(ScanFileError, match="Open the scan again"):
        frames.check_unchanged()


def test_scan_that_vanishes_under_the_map_is_noticed(stored: Path) -> None:
    frames = Frames.from_npz(stored, "diff3d")
    stored.unlink()
    with pytest.raises(ScanFileNotFoundError, match="missing"):
        frames.check_unchanged()


def test_verify_reads_the_checksum_of_a_stored_member(stored: Path) -> None:
    Frames.from_npz(stored, "diff3d").verify()
    content = bytearray(stored.read_bytes())
    content[content.find(b"diff3d.npy") + 700] ^= 1
    stored.write_bytes(content)
    with pytest.raises(ScanFileError, match="diff3d checksum is wrong"):
        Frames.from_npz(stored, "diff3d").verify()


@pytest.mark.parametrize(("value", "found"), [(-1, "negative"), (np.nan, "NaN"), (np.inf, "NaN")])
def test_verify_names_the_frame_with_an_impossible_value(value: float, found: str) -> None:
    array = some_frames()
    array[7, 2, 2] = value
    with pytest.raises(ScanError, match=f"frames frame 7 is {found}.*Name them in bad_pixels"):
        Frames.from_array(array).verify()
    check_frame_values(array[8:])


def test_identity_tells_files_apart_without_reading_frames(stored: Path, tmp_path: Path) -> None:
    identity = Frames.from_npz(stored, "diff3d").identity()
    info = zipfile.ZipFile(stored).getinfo("diff3d.npy")
    assert (identity.crc32, identity.size) == (info.CRC, stored.stat().st_size)
    assert identity.as_dict()["shape"] == [12, 6, 6]
    np.savez(tmp_path / "b.npz", diff3d=some_frames() + 1)
    assert Frames.from_npz(tmp_path / "b.npz", "diff3d").identity().crc32 != identity.crc32


@pytest.mark.parametrize(
    ("array", "found"),
    [
        (np.zeros((5, 4)), r"\(5, 4\)"),
        (np.zeros((5, 4, 4, 2)), r"\(5, 4, 4, 2\)"),
        (np.zeros((5, 4, 3)), r"\(5, 4, 3\)"),
        (np.zeros((0, 4, 4)), r"\(0, 4, 4\)"),
        (np.zeros((5, 4, 4), complex), "complex128"),
        (np.zeros((5, 4, 4), bool), "bool"),
        (np.zeros((5, 4, 4), "U3"), "<U3"),
        (np.zeros((5, 4, 4), np.longdouble), "longdouble|float128|float96"),
    ],
)
def test_stack_that_is_no_frames_is_refused(array: np.ndarray, found: str, tmp_path: Path) -> None:
    with pytest.raises(ScanError, match=found):
        Frames.from_array(array)
    np.savez(tmp_path / "s.npz", diff3d=array)
    with pytest.raises(ScanError, match=rf"s\.npz: diff3d .*{found}"):
        Frames.from_npz(tmp_path / "s.npz", "diff3d")


def test_complex_patches_are_a_stack_but_no_frames() -> None:
    patches = FrameStack.from_array(some_frames().astype(np.complex64))
    assert patches.rows([1]).dtype == np.complex64


def test_unknown_options_are_refused(stored: Path) -> None:
    with pytest.raises(OptionError, match="measurement is 'intensity'"):
        Frames.from_array(some_frames(), measurement="intensity")
    with pytest.raises(OptionError, match="sidecar is 'atuo'"):
        Frames.from_npz(stored, "diff3d", sidecar="atuo")


def test_missing_file_directory_and_member_are_refused(stored: Path) -> None:
    with pytest.raises(ScanFileNotFoundError, match=r"gone\.npz: file is missing"):
        Frames.from_npz(stored.with_name("gone.npz"), "diff3d")
    with pytest.raises(ScanFileError, match="a directory"):
        Frames.from_npz(stored.parent, "diff3d")
    with pytest.raises(ScanKeyError, match=r"scan\.npz: Y is missing"):
        Frames.from_npz(stored, "Y")


OPENED = """
import os, sys
from pathlib import Path
from ptycho_torch.data.files import zip_archive
from ptycho_torch.data.files.mapping import opened
from ptycho_torch.data.frames import Frames
path, opens, parsed = Path(sys.argv[1]), [], []
genuine = zip_archive._parsed
zip_archive._parsed = lambda *arguments: (parsed.append(1), genuine(*arguments))[1]
sys.addaudithook(lambda event, args: event == "open" and args[0] == str(path) and opens.append(1))
before = os.listdir("/proc/self/fd")
with opened(path) as stream:
    frames = Frames.from_archive(zip_archive.ZipArchive(stream, path), "diff3d")
print(len(opens), len(parsed), len(os.listdir("/proc/self/fd")) - len(before))
total = frames.stored.sum(), frames.take([3]).sum(), frames.sample(2).sum(), frames.identity()
print(len(opens), len(parsed), float(frames.stored[5, 0, 0]))
"""


def test_a_stored_stack_is_opened_once_and_leaves_no_descriptor(stored: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", OPENED, str(stored)],
        capture_output=True,
        text=True,
        check=False,
    )
    value = float(some_frames()[5, 0, 0])
    assert result.stdout.split("\n")[:2] == ["1 1 0", f"1 1 {value}"], result


@pytest.mark.slow
def test_a_map_outlives_its_frames_and_goes_with_the_last_view(stored: Path) -> None:
    with opened(stored) as stream:
        view = Frames.from_archive(ZipArchive(stream, stored), "diff3d").stored[3:, 1]
    gc.collect()
    assert np.array_equal(view, some_frames()[3:, 1]) and maps_of(stored) == 1
    del view
    gc.collect()
    assert maps_of(stored) == 0


def test_a_forked_process_keeps_its_own_map(stored: Path) -> None:
    frames = Frames.from_npz(stored, "diff3d")
    child = os.fork()
    if not child:
        right = False
        try:
            right = np.array_equal(frames.stored, some_frames())
            del frames
            gc.collect()
        finally:  # a child that raises would go on as a second run of the tests
            os._exit(0 if right and not maps_of(stored) else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert np.array_equal(frames.stored, some_frames())


@pytest.mark.slow
def test_maps_and_file_handles_are_given_back(stored: Path) -> None:
    def in_use() -> tuple[int, int]:
        gc.collect()
        maps = Path("/proc/self/maps").read_text().count(str(stored))
        return maps, len(os.listdir("/proc/self/fd"))

    if not Path("/proc/self/maps").exists():
        pytest.skip("no /proc here: maps cannot be counted")
    before = in_use()
    for _ in range(200):
        assert Frames.from_npz(stored, "diff3d").take([0]).any()
    assert in_use() == before


def advice_on(path: Path) -> str:
    """What the kernel was told about the maps of a file."""
    flags, mapped = "", False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if line[0] in "0123456789abcdef":
            mapped = line.endswith(str(path))
        elif mapped and line.startswith("VmFlags:"):
            flags += line.removeprefix("VmFlags:")
    return flags


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="no smaps on this system")
def test_a_sample_is_read_without_its_neighbours(tmp_path: Path) -> None:
    path = tmp_path / "frames.npy"
    np.save(path, np.ones((40, 16, 16), np.float32))
    array = np.load(path, mmap_mode="c")[3:].reshape(37, 256)
    assert " rr" not in advice_on(path)
    with read_here_and_there(array):
        assert " rr" in advice_on(path)
    assert " rr" not in advice_on(path)
    with read_here_and_there(np.ones(3)):
        pass


@pytest.mark.parametrize("kind", ["npy", "npz"])
def test_frames_of_a_relative_path_survive_a_change_of_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.chdir(tmp_path)
    frames = np.ones((3, 4, 4), np.float32)
    np.save("frames.npy", frames)
    np.savez("frames.npz", diff3d=frames)
    stack = (
        Frames.from_npy("frames.npy") if kind == "npy" else Frames.from_npz("frames.npz", "diff3d")
    )
    monkeypatch.chdir("/")
    assert sum(stop - start for start, stop, _ in stack.chunks()) == 3
