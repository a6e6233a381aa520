"""Synthetic scans, made once per run; only their sizes mean anything."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ptycho_torch import RawData

OBJECT_SIDE = 600
"""Side in pixels of the square that positions fill; the object is larger by one frame."""


@dataclass
class Shelf:
    """Scans in one directory, by number of frames and side."""

    root: Path
    _made: dict[tuple[int, int], Path] = field(default_factory=dict)

    def scan(self, M: int, N: int) -> Path:
        """A canonical NPZ of M frames of N x N pixels with an object, in a folder of its own."""
        if (M, N) not in self._made:
            folder = self.root / f"M{M}_N{N}"
            folder.mkdir()
            self._made[M, N] = synthetic_scan(M, N).to_file(folder / "scan.npz")
        return self._made[M, N]

    def raster(self, M: int, N: int) -> Path:
        """A scan of M frames along the lines of a square, in a folder of its own."""
        folder = self.root / f"raster_M{M}_N{N}"
        folder.mkdir()
        side = math.ceil(M**0.5)
        line, column = np.divmod(np.arange(M), side)
        return _at(3.0 * column, 3.0 * line, N).to_file(folder / "scan.npz")

    def divided(self, scans: int, frames: int, N: int) -> tuple[str, str]:
        """A raster of scans * frames frames, and a pattern of the same frames in many scans."""
        folder = self.root / f"divided_{scans}_{frames}_{N}"
        for name in ("one", "many"):
            (folder / name).mkdir(parents=True)
        side = math.ceil(frames**0.5)
        line, column = np.divmod(np.arange(scans * frames), side)
        whole = _at(3.0 * column, 3.0 * line, N)
        one = whole.to_file(folder / "one" / "scan.npz")
        x, y, probe = whole.xcoords, whole.ycoords, whole.probeGuess
        for number in range(scans):
            part = slice(number * frames, (number + 1) * frames)
            stored = whole.frames.stored[part]
            scan = RawData.from_coords_without_pc(x[part], y[part], stored, probe, None, None)
            scan.to_file(folder / "many" / f"scan{number:04d}.npz")
        return str(one), str(folder / "many" / "*.npz")


def _at(x: np.ndarray, y: np.ndarray, N: int) -> RawData:
    """Random frames at given positions, without an object."""
    random = np.random.default_rng(len(x) + N)
    frames = random.random((len(x), N, N), dtype=np.float32)
    return RawData.from_coords_without_pc(x, y, frames, _complex(random, N, N), None, None)


def synthetic_scan(M: int, N: int, object_side: int | None = None) -> RawData:
    """Random frames at random positions inside a random object."""
    random = np.random.default_rng(M + N)
    side = OBJECT_SIDE + N if object_side is None else object_side
    x, y = random.uniform(N // 2, side - N // 2 - 2, size=(2, M))
    return RawData.from_coords_without_pc(
        x,
        y,
        random.random((M, N, N), dtype=np.float32),
        _complex(random, N, N),
        None,
        _complex(random, side, side),
    )


def remove_caches(scan: Path) -> None:
    """Remove the caches beside a scan."""
    for found in scan.parent.iterdir():
        if found != scan:
            found.unlink()


def drop_pages(folder: Path) -> None:
    """Drop the files of a folder from the page cache; no process may have them mapped."""
    for found in folder.iterdir():
        descriptor = os.open(found, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def folder_bytes(folder: Path) -> int:
    """Bytes of all files in a folder and below."""
    return sum(found.stat().st_size for found in folder.rglob("*") if found.is_file())


def _complex(random: np.random.Generator, *shape: int) -> np.ndarray:
    return (random.random(shape) + 1j * random.random(shape)).astype(np.complex64)
