"""The same batches by other ways."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from benchmarks.bench import Bench
from benchmarks.data import data_module
from benchmarks.figures import Part, Target
from benchmarks.measure import in_turns, quotient
from benchmarks.peers import FIELDS, ChunkedHdf5, Expanded, LoadedWhole, PerSample, Work
from benchmarks.scans import folder_bytes
from ptycho_torch import PtychoDataset

OURS = "PtychoDataModule"
PER_SAMPLE = "per-sample Dataset, default collate"
EXPANDED = "expanded tensordict memmap"


def run(bench: Bench) -> Part:
    part = Part("d", "Other ways to the same batches, 0 workers, page cache warm")
    M, N, batch_size = bench.pick((4_000, 64, 64), (150, 16, 16))
    scan = bench.scan(M, N)
    data = data_module(scan, batch_size=batch_size)
    dataset, loader = data.dataset("train"), data.train_dataloader()
    order = np.random.default_rng(0).permutation(len(dataset))
    batches = [order[i : i + batch_size].tolist() for i in range(0, len(order), batch_size)]
    work = Work.of(dataset, scan, batches)
    frames = dataset.scans[0].frames.stored
    folder = bench.root / "peers"
    for name in ("expanded", "hdf5"):
        (folder / name).mkdir(parents=True)
    hdf5 = ChunkedHdf5(work, frames, folder / "hdf5" / "frames.h5")
    expanded = Expanded(work, frames, folder / "expanded")
    peers: dict[str, Callable[[], Iterator[Any]]] = {
        PER_SAMPLE: PerSample(work, frames).epoch,
        EXPANDED: expanded.epoch,
        "h5py, one chunk per frame": hdf5.epoch,
        "np.load, gather all, slice": LoadedWhole(work).epoch,
    }
    for name, epoch in peers.items():
        part.checks[f"same batches: {name}"] = _same_batches(dataset, batches, epoch())
    plain: DataLoader[Any] = work.loader(dataset, _itself)

    def consume(epoch: Callable[[], Iterable[Any]]) -> Callable[[], None]:
        def work() -> None:
            for _ in epoch():
                pass

        return work

    works = {OURS: consume(lambda: loader), "PtychoDataset in a DataLoader": consume(lambda: plain)}
    works |= {name: consume(epoch) for name, epoch in peers.items()}
    seconds = in_turns(works, bench.repetitions(9))
    case = f"M = {M:,}, N = {N}, C = 4, B = {batch_size}"
    for name, values in seconds.items():
        against = None if name == PER_SAMPLE else (PER_SAMPLE, seconds[PER_SAMPLE])
        part.rate(name, case, values, len(dataset), "groups/s", against)
    for name, limit in ((PER_SAMPLE, 10.0), (EXPANDED, 1.5)):
        faster = quotient(seconds[name], seconds[OURS]).median
        what = f"DataLoader, 0 workers, against the {name}, {case}"
        part.targets.append(Target(what, ">=", limit, faster, "times"))
    hdf5.file.close()
    _disk(part, case, dataset, scan, folder)
    shutil.rmtree(folder)
    return part


def _disk(part: Part, case: str, dataset: PtychoDataset, scan: Any, folder: Any) -> None:
    """Bytes on disk per byte of frames; what is made from a scan counts on top of the scan."""
    frames = dataset.bank.nbytes
    ours = folder_bytes(scan.parent)
    sizes = {
        f"disk: {OURS}, scan and cache": ours,
        "disk: NPZ only": scan.stat().st_size,
        f"disk: {EXPANDED} and its scan": scan.stat().st_size + folder_bytes(folder / "expanded"),
        "disk: HDF5 and its scan": scan.stat().st_size + folder_bytes(folder / "hdf5"),
    }
    for name, size in sizes.items():
        part.plain(name, case, size / frames, "x frame bytes")
    share = ours / sizes[f"disk: {EXPANDED} and its scan"]
    part.targets.append(
        Target(f"disk of scan and cache, of the {EXPANDED} and its scan", "<=", 1 / 4, share)
    )


def _same_batches(dataset: PtychoDataset, batches: list[list[int]], epoch: Iterator[Any]) -> bool:
    """Whether every batch of a peer equals that of the dataset, bit by bit."""
    count = 0
    for groups, theirs in zip(batches, epoch, strict=True):
        ours = dataset.__getitems__(groups)
        if not all(torch.equal(getattr(ours, name), theirs[name]) for name in FIELDS):
            return False
        if not torch.equal(ours.probe, theirs["probe"]):
            return False
        count += 1
    return count == len(batches)


def _itself(batch: Any) -> Any:
    return batch
