"""Frames in HDF5: the same numbers as h5py gives, in place or converted once, in bounded memory."""

from __future__ import annotations

import logging
import os
import pickle
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

from ptycho_torch.data.detector import Detector
from ptycho_torch.data.errors import PtychoTorchError, ScanError, ScanFileError
from ptycho_torch.data.files import hdf5_stack
from ptycho_torch.data.files.hdf5 import opened_hdf5
from ptycho_torch.data.files.hdf5_stack import Hdf5Stack
from ptycho_torch.data.frames import Frames

h5py = pytest.importorskip(
    "h5py", reason="h5py is not installed: pip install ptycho-torch[formats]"
)

TRUTH = np.random.default_rng(3).integers(0, 1000, (30, 8, 8), np.uint16)
PACKED = {"chunks": (4, 8, 4), "compression": "lzf"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "scan.h5"


def write(path: Path, values: np.ndarray = TRUTH, name: str = "data", **options: object) -> None:
    with h5py.File(path, "a") as file:
        file.create_dataset(name, data=values, **options)


def stack_of(path: Path, names: str | list[str] = "data", **options: object) -> Hdf5Stack:
    with opened_hdf5(path, links=True) as file:
        return Hdf5Stack.of(file, names, **options)


def copied(frames: Frames) -> Frames:
    """As another process gets them."""
    sent: Frames = pickle.loads(pickle.dumps(frames))  # noqa: S301
    return sent


def sidecars(path: Path) -> list[Path]:
    return sorted(path.parent.glob("*.sidecar.npz"))


def streamed(stack: Hdf5Stack, block_bytes: int) -> np.ndarray:
    blocks = list(stack.frame_blocks(block_bytes))
    assert [stop for _, stop, _ in blocks[:-1]] == [start for start, _, _ in blocks[1:]]
    return np.concatenate([block for _, _, block in blocks])


INDEXES = {
    "all": None,
    "some": [0, 1, 5, 6, 7, 20, 29],
    "backwards": list(range(30))[::-1],
    "repeated": [3, 3, 9, 2, 9],
    "one": [17],
}


@pytest.mark.parametrize("index", INDEXES.values(), ids=INDEXES)
@pytest.mark.parametrize("chunks", [None, (1, 8, 8), (4, 8, 4), (7, 3, 5), (30, 1, 1)])
@pytest.mark.parametrize("raster", [False, True])
def test_blocks_are_the_frames_of_the_index(path, chunks, index, raster):
    values = TRUTH.reshape(5, 6, 8, 8) if raster else TRUTH
    if raster and chunks:
        chunks = (min(chunks[0], 3), 4 if chunks[0] > 1 else 1, *chunks[1:])
    write(path, values, chunks=chunks)
    stack = stack_of(path, index=index)
    wanted = TRUTH if index is None else TRUTH[index]
    assert stack.shape == wanted.shape and len(stack) == len(wanted)
    for block_bytes in (1, 700, 1 << 20):
        np.testing.assert_array_equal(streamed(stack, block_bytes), wanted)
    np.testing.assert_array_equal(stack.load(), wanted)
    spread = np.array([len(wanted) - 1, 0])
    np.testing.assert_array_equal(stack.sample(spread), wanted[spread])


def test_datasets_and_files_are_laid_one_after_the_other(path, tmp_path):
    for number in range(3):
        write(tmp_path / f"part{number}.h5", TRUTH[10 * number : 10 * number + 10], **PACKED)
    with h5py.File(path, "w") as file:
        for number in range(3):
            file[f"data_{number}"] = h5py.ExternalLink(f"part{number}.h5", "data")
    names = [f"data_{number}" for number in range(3)]
    stack = stack_of(path, names)
    np.testing.assert_array_equal(streamed(stack, 1 << 20), TRUTH)
    index = [29, 3, 11, 12, 9, 10]
    np.testing.assert_array_equal(streamed(stack_of(path, names, index=index), 1), TRUTH[index])
    frames = Frames.from_source(stack)
    os.utime(tmp_path / "part1.h5", ns=(0, 0))
    with pytest.raises(ScanFileError, match=r"part1\.h5: file is modified"):
        frames.prepare()


def test_frames_with_the_zero_frequency_at_the_corner_are_moved(path):
    write(path, np.fft.ifftshift(TRUTH, axes=(1, 2)))
    stack = stack_of(path, corner=True)
    np.testing.assert_array_equal(Frames.from_source(stack, sidecar="off").stored, TRUTH)


@pytest.mark.parametrize("userblock", [0, 512])
def test_contiguous_frames_are_mapped_in_place(path, userblock):
    with h5py.File(path, "w", userblock_size=userblock) as file:
        file["other"] = np.arange(7)
        file["data"] = TRUTH
    frames = Frames.from_source(stack_of(path))
    np.testing.assert_array_equal(frames.stored, TRUTH)
    assert not sidecars(path) and not frames.stored.flags.owndata
    np.testing.assert_array_equal(copied(frames).stored, TRUTH)


@pytest.mark.parametrize("how", ["packed", "big-endian", "index", "detector"])
def test_others_are_converted_once_into_a_sidecar(path, how, caplog):
    caplog.set_level(logging.INFO, "ptycho_torch")
    write(path, TRUTH.astype(">u2") if how == "big-endian" else TRUTH, **PACKED)
    index = [4, 2] if how == "index" else None
    wanted = TRUTH[[4, 2]] if index else TRUTH[:, 2:6, 2:6] if how == "detector" else TRUTH

    def frames() -> Frames:
        stack = stack_of(path, index=index)
        return Frames.from_source(
            Detector(size=4 if how == "detector" else 8).readout(stack).through(stack)
        )

    done: list[int] = []
    first = frames()
    first.prepare(lambda part, whole: done.append(part / whole))
    assert done[-1] == 1 and len(sidecars(path)) == 1
    for again in (first, frames(), copied(first)):
        np.testing.assert_array_equal(again.stored, wanted)
    assert caplog.text.count("converting") == 1
    frames().verify()
    sidecars(path)[0].unlink()
    np.testing.assert_array_equal(np.concatenate([b for _, b in frames().blocks()]), wanted)
    np.testing.assert_array_equal(frames().sample(len(wanted)), wanted)
    assert not sidecars(path)


def test_other_options_never_use_a_sidecar_of_these(path):
    write(path, **PACKED)
    stack = stack_of(path)
    sources = [
        stack,
        stack_of(path, index=np.arange(30)[::-1]),
        stack_of(path, corner=True),
        Detector(orientation="rot90").readout(stack).through(stack),
        Detector(orientation="flipud").readout(stack).through(stack),
        Detector(dark=np.ones((8, 8), int)).readout(stack).through(stack),
    ]
    frames = [Frames.from_source(source) for source in sources]
    stored = [part.stored for part in frames]
    assert len(sidecars(path)) == len({part.identity() for part in frames}) == len(sources)
    for one in range(len(stored)):
        assert all(not np.array_equal(stored[one], other) for other in stored[:one])


def total_of(frames: Frames) -> int:
    return int(frames.stored.sum())


def test_frames_are_read_by_another_process(path):
    write(path, **PACKED)
    frames = Frames.from_source(stack_of(path), sidecar="off")
    with ProcessPoolExecutor(1, get_context("forkserver")) as pool:
        assert pool.submit(total_of, frames).result() == TRUTH.sum()


@pytest.mark.parametrize("packed", [False, True])
def test_changed_file_is_refused_and_converted_anew(path, packed):
    write(path, **(PACKED if packed else {}))
    frames = Frames.from_source(stack_of(path))
    frames.prepare()
    path.unlink()
    write(path, TRUTH[::-1], **(PACKED if packed else {}))
    with pytest.raises(ScanFileError, match="expected the file that was opened"):
        frames.check_unchanged()
    np.testing.assert_array_equal(Frames.from_source(stack_of(path)).stored, TRUTH[::-1])


def test_stopped_conversion_leaves_nothing(path):
    write(path, **PACKED)

    def stop(done: int, whole: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Frames.from_source(stack_of(path)).prepare(stop)
    assert [file.name for file in path.parent.iterdir()] == ["scan.h5"]


def test_damaged_chunk_is_one_line_and_no_sidecar(path):
    write(path, chunks=(10, 8, 8), compression="gzip")
    with h5py.File(path) as file:
        chunk = file["data"].id.get_chunk_info(1)
    content = bytearray(path.read_bytes())
    content[chunk.byte_offset + 5 : chunk.byte_offset + 200] = bytes(195)
    path.write_bytes(content)
    with pytest.raises(ScanFileError, match="/data is unreadable"):
        Frames.from_source(stack_of(path)).prepare()
    assert not sidecars(path)


def test_bomb_of_chunks_is_not_loaded(path, caplog):
    with h5py.File(path, "w") as file:
        bomb = file.create_dataset("data", (1 << 20, 512, 512), "u2", chunks=(1, 512, 512))
        bomb[3] = 7
    stack = stack_of(path)
    assert "never written" in caplog.text
    assert stack.sample(np.array([3, 4])).max(axis=(1, 2)).tolist() == [7, 0]
    with pytest.raises(ScanFileError, match="of them written"):
        Frames.from_source(stack, sidecar="off").prepare()


@pytest.mark.parametrize(
    ("shape", "chunks"),
    [
        ((20000, 256, 256), (1, 256, 256)),
        ((20000, 256, 256), (313, 16, 16)),
        ((20000, 256, 256), (20000, 8, 8)),
        ((1000, 2048, 2048), (1, 2048, 2048)),
        ((200, 300, 128, 128), (1, 1, 128, 128)),
        ((200, 300, 128, 128), (8, 8, 32, 32)),
    ],
)
def test_blocks_stay_small_whatever_the_chunks(tmp_path, shape, chunks):
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file.create_dataset("data", shape, "u2", chunks=chunks)[0, ..., :2, :2] = 1
    stack = stack_of(tmp_path / "scan.h5")
    cuts = stack.cuts(1 << 20)
    assert cuts[0][0] == 0 and cuts[-1][1] == len(stack)
    assert all(stop == start for (_, stop), (start, _) in pairwise(cuts))
    largest = max(stop - start for start, stop in cuts) * np.prod(stack.shape[1:]) * 2
    assert largest <= hdf5_stack._MOST_BLOCK_BYTES


def test_chunks_are_unpacked_once_where_the_index_is_in_order(path):
    write(path, chunks=(10, 8, 8), compression="lzf")
    stack = stack_of(path, index=[1, 2, 9, 10, 12, 29])
    assert stack.cuts(1) == [(0, 3), (3, 5), (5, 6)]


@pytest.mark.parametrize(
    ("values", "options", "words"),
    [
        (TRUTH[0], {}, "shape is"),
        (TRUTH.astype(complex), {}, "dtype is"),
        (TRUTH, {"index": [30]}, "within 0 to 29"),
        (TRUTH, {"index": [-1]}, "within 0 to 29"),
        (TRUTH, {"index": [0.5]}, "integers"),
        (TRUTH, {"index": []}, "integers"),
    ],
)
def test_what_is_no_stack_is_refused(path, values, options, words):
    write(path, values)
    with pytest.raises(ScanError, match=words):
        stack_of(path, **options)


def test_unlike_parts_are_refused(path):
    write(path)
    write(path, TRUTH[:, :4], "low")
    write(path, TRUTH.astype(np.int32), "wide")
    for name in ("low", "wide"):
        with pytest.raises(ScanError, match="as in /data"):
            stack_of(path, ["data", name])


def test_oblong_frames_need_a_detector(path):
    write(path, TRUTH[:, :6])
    stack = stack_of(path)
    with pytest.raises(ScanError, match="Crop or pad"):
        Frames.from_source(stack)
    with pytest.raises(PtychoTorchError, match="Add --size N"):
        Detector().readout(stack)
    frames = Frames.from_source(Detector(size=6).readout(stack).through(stack), sidecar="off")
    np.testing.assert_array_equal(frames.stored, TRUTH[:, :6, 1:7])
