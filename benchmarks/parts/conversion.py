"""Frames of an HDF5 file unpacked once, against h5py's bare reading and a plain write."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from benchmarks.bench import Bench
from benchmarks.figures import Part, Target
from benchmarks.measure import in_turns
from ptycho_torch.data.files.hdf5 import opened_hdf5
from ptycho_torch.data.files.hdf5_stack import Hdf5Stack
from ptycho_torch.data.frames import Frames

BLOCK = 16


def run(bench: Bench) -> Part:
    import h5py

    part = Part("l", "HDF5 unpacked once into a stored NPZ, against bare h5py and write")
    M, N = bench.pick((2_000, 256), (20, 32))
    folder = bench.root / "conversion"
    folder.mkdir()
    path = folder / "scan.h5"
    rng = np.random.default_rng(0)
    light = 200 / (1 + np.hypot(*(np.indices((N, N)) - N // 2)))
    with h5py.File(path, "w") as file:
        data = file.create_dataset(
            "data", (M, N, N), np.uint16, chunks=(1, N, N), compression="lzf"
        )
        for frame in range(M):
            data[frame] = rng.poisson(light)

    def bare() -> None:
        with h5py.File(path) as file, (folder / "bare.bin").open("wb") as out:
            for start in range(0, M, BLOCK):
                out.write(file["data"][start : start + BLOCK])
            out.flush()
            os.fsync(out.fileno())

    def ours() -> None:
        for old in folder.glob("*.sidecar.npz"):
            old.unlink()
        _frames(path).prepare()

    seconds = in_turns({"bare": bare, "ours": ours}, bench.repetitions(5))
    case = f"M = {M:,}, N = {N}, uint16, lzf, one frame per chunk"
    bare_name = "h5py read, write, fsync"
    figure = part.rate(
        "frames unpacked", case, seconds["ours"], M, "frames/s", (bare_name, seconds["bare"])
    )
    assert figure.ratio is not None
    part.targets.append(
        Target("time, in times of the bare copy", "<=", 1.2, 1 / figure.ratio.median)
    )
    with h5py.File(path) as file:
        part.checks["frames equal"] = np.array_equal(_frames(path).stored[-1], file["data"][-1])
    return part


def _frames(path: Path) -> Frames:
    with opened_hdf5(path) as h5:
        return Frames.from_source(Hdf5Stack.of(h5, "/data"), measurement="counts")
