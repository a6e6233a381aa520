"""Frames of several scans under one numbering, fetched and read ahead."""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
import time
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: frames as tensors")

from ptycho_torch.batches.frame_bank import FrameBank  # noqa: E402
from ptycho_torch.data.frames import Frames  # noqa: E402

SIDE, COUNT = 64, 300


def stored(folder: Path, name: str, seed: int) -> Path:
    path = folder / f"{name}.npy"
    np.save(path, np.random.default_rng(seed).random((COUNT, SIDE, SIDE), dtype=np.float32))
    return path


def frames_of(path: Path) -> Frames:
    return Frames.from_npy(path)


def resident_pages(path: Path) -> np.ndarray:
    """Which pages of a file are in memory, bool."""
    size = path.stat().st_size
    pages = -(-size // mmap.PAGESIZE)
    answer = (ctypes.c_ubyte * pages)()
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as mapped:
        view = (ctypes.c_char * size).from_buffer(mapped)
        libc = ctypes.CDLL(None, use_errno=True)
        failed = libc.mincore(ctypes.c_void_p(ctypes.addressof(view)), size, answer)
        del view
    assert not failed, os.strerror(ctypes.get_errno())
    return np.frombuffer(answer, np.uint8) & 1 == 1


def dropped_from_memory(path: Path) -> bool:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)
    return not resident_pages(path).any()


def test_fetched_frames_are_those_of_their_files(tmp_path: Path) -> None:
    paths = [stored(tmp_path, "a", 0), stored(tmp_path, "b", 1)]
    bank = FrameBank([frames_of(path) for path in paths])
    numbers = np.array([0, 7, COUNT - 1, COUNT, COUNT + 5])
    every = np.concatenate([np.load(path) for path in paths])
    np.testing.assert_array_equal(bank.fetch(numbers).numpy(), every[numbers])


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux which pages are in memory")
def test_frames_asked_for_are_in_memory_soon(tmp_path: Path) -> None:
    path = stored(tmp_path, "scan", 0)
    bank = FrameBank([frames_of(path)])
    assert bank.whole() is not None
    if not dropped_from_memory(path):
        pytest.skip("this file system keeps its pages")
    header = path.stat().st_size - COUNT * SIDE * SIDE * 4
    numbers = np.r_[3, 100:300]
    wanted = np.concatenate(
        [
            np.arange((header + n * SIDE * SIDE * 4) // mmap.PAGESIZE,
                      (header + (n + 1) * SIDE * SIDE * 4 - 1) // mmap.PAGESIZE + 1)
            for n in numbers
        ]
    )  # fmt: skip
    bank.read_soon(numbers)
    for _ in range(1000):
        if resident_pages(path)[wanted].all():
            break
        time.sleep(0.01)
    assert resident_pages(path)[wanted].all()


def test_frames_in_memory_are_not_asked_for() -> None:
    values = np.ones((5, SIDE, SIDE), np.float32)
    FrameBank([Frames.from_array(values)]).read_soon(np.arange(5))


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux which pages are in memory")
def test_read_ahead_brings_frames_into_memory(tmp_path: Path) -> None:
    path = stored(tmp_path, "scan", 0)
    bank = FrameBank([frames_of(path)])
    # Mapped, and its header read, before its pages are dropped.
    assert bank.whole() is not None
    if not dropped_from_memory(path):
        pytest.skip("this file system keeps its pages")
    numbers = np.array([3, 120, 121, 290])
    bank.read_ahead(numbers)
    resident = resident_pages(path)
    header = path.stat().st_size - COUNT * SIDE * SIDE * 4
    for number in numbers:
        first = header + number * SIDE * SIDE * 4
        assert resident[first // mmap.PAGESIZE : (first + SIDE * SIDE * 4) // mmap.PAGESIZE].all()
