"""Bytes on disk against bytes of frames."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.bench import Bench
from benchmarks.data import grouping_of
from benchmarks.figures import Part, Target
from benchmarks.scans import folder_bytes
from ptycho_torch import PtychoDataset, RawData, simulate_scan


def run(bench: Bench) -> Part:
    part = Part("g", "Bytes on disk against the bytes of the frames")
    M, N = bench.pick((2_000, 64), (100, 16))
    scan = simulate_scan(n_frames=M, N=N)
    case = f"simulated, M = {M:,}, N = {N}"
    stored = _folder(bench, "stored")
    compressed = _folder(bench, "compressed")
    scan.to_file(stored)
    _write_compressed(scan, compressed)
    frames = scan.frames.nbytes
    for name, path in (("stored NPZ", stored), ("compressed NPZ", compressed)):
        alone = folder_bytes(path.parent)
        PtychoDataset(path, grouping=grouping_of(2), ground_truth="none").prepare()
        cache = sum(found.stat().st_size for found in path.parent.glob("*.groups_cache.npz"))
        extra = folder_bytes(path.parent) - alone - cache
        part.plain(f"{name}: the scan", case, alone / frames, "x frame bytes")
        part.plain(f"{name}: groups cache", case, cache / frames, "x frame bytes")
        if path is stored:
            what = "extra bytes beyond the cache, stored NPZ"
            part.targets.append(Target(what, "<=", 0, extra, "bytes"))
        else:
            part.plain(f"{name}: frames unpacked once", case, extra / frames, "x frame bytes")
            what = "frames unpacked from a compressed NPZ, in frame bytes"
            part.targets.append(Target(what, "<=", 1.05, extra / frames))
        part.plain(f"{name}: everything", case, folder_bytes(path.parent) / frames, "x frame bytes")
    return part


def _folder(bench: Bench, name: str) -> Path:
    folder = bench.root / f"disk_{name}"
    folder.mkdir()
    return folder / "scan.npz"


def _write_compressed(scan: RawData, path: Path) -> None:
    np.savez_compressed(
        path,
        diff3d=scan.frames.stored,
        xcoords=scan.xcoords,
        ycoords=scan.ycoords,
        probeGuess=scan.probeGuess,
        objectGuess=np.asarray(scan.objectGuess),
    )
