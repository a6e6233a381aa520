"""Files that change under a dataset: what is mapped is looked at again, all of it."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: PtychoDataset needs it")

from torch.utils.data import DataLoader  # noqa: E402

from ptycho_torch import (  # noqa: E402
    GroupingConfig,
    PtychoDataModule,
    PtychoDataset,
    RawData,
    simulate_scan,
)
from ptycho_torch.batches.loader import same  # noqa: E402
from ptycho_torch.data.errors import ScanFileError  # noqa: E402

GROUPING = GroupingConfig(gridsize=1, neighbor_count=4, seed=4)
SCAN = simulate_scan(n_frames=32, N=16, object_size=60, seed=1)
OTHERS = [simulate_scan(n_frames=32, N=16, object_size=60, seed=seed) for seed in (2, 3, 4)]
PATCHES = np.random.default_rng(0).random((32, 16, 16)) + 1j


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    """A compressed scan with patches of its own: both need a sidecar."""
    names = "xcoords ycoords diff3d probeGuess objectGuess".split()
    content = {name: getattr(SCAN, name) for name in names}
    np.savez_compressed(tmp_path / "scan.npz", Y=PATCHES.astype(np.complex64), **content)
    return tmp_path / "scan.npz"


def sidecar(scan: Path, field: str) -> Path:
    return scan.with_name(f"scan.{field}.sidecar.npz")


def alter(path: Path) -> None:
    """Write into the numbers of a sidecar, in place."""
    with path.open("r+b") as stream:
        stream.seek(4096)
        stream.write(bytes(4096))


def cut(path: Path) -> None:
    os.truncate(path, 4096)


def module(scan: Any, **options: Any) -> PtychoDataModule:
    more = {"multiprocessing_context": "fork"} if options.get("num_workers") else {}
    return PtychoDataModule(
        scan, grouping=GROUPING, batch_size=8, split="none", shuffle=False, **options, **more
    )


def epoch(loader: Any) -> dict[str, Any]:
    batches = list(loader)
    return {name: torch.cat([getattr(batch, name) for batch in batches]) for name in ("X", "Y")}


def frames_of(content: dict[str, Any], field: str) -> Any:
    return content["X" if field == "diff3d" else "Y"]


@pytest.mark.parametrize("field", ["diff3d", "Y"])
@pytest.mark.parametrize("harm", [alter, cut, os.remove])
@pytest.mark.parametrize(("assemble_on", "workers"), [("auto", 0), ("auto", 2), ("worker", 2)])
@pytest.mark.parametrize("ground_truth", ["file", "object"])
def test_a_sidecar_changed_between_epochs_is_made_again(
    scan: Path, field: str, harm: Any, assemble_on: str, workers: int, ground_truth: str
) -> None:
    if field == "Y" and ground_truth == "object":
        pytest.skip("no Y is read then")
    data = module(scan, ground_truth=ground_truth, assemble_on=assemble_on, num_workers=workers)
    data.setup("fit")
    loader = data.train_dataloader()
    first = epoch(loader)
    harm(sidecar(scan, field))
    second = epoch(loader)
    for name, tensor in first.items():
        assert torch.equal(second[name], tensor), name
    assert torch.equal(epoch(loader)["X"], first["X"])


@pytest.mark.parametrize("field", ["diff3d", "Y"])
def test_a_sidecar_changed_during_an_epoch_ends_it(scan: Path, field: str) -> None:
    data = module(scan, ground_truth="file")
    data.setup("fit")
    loader = data.train_dataloader()
    first = epoch(loader)
    with pytest.raises(ScanFileError, match="during an epoch"):
        for number, _ in enumerate(loader):
            if number == 0:
                alter(sidecar(scan, field))
    for name, tensor in epoch(loader).items():
        assert torch.equal(tensor, first[name]), name


def test_a_batch_gathered_while_its_sidecar_is_written_to_is_gathered_again(
    scan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = PtychoDataset(scan, grouping=GROUPING)
    wanted = dataset.__getitems__(range(8)).X.clone()
    assembled, moments = PtychoDataset._assembled, iter([True])

    def disturbed(self: PtychoDataset, indices: Any) -> Any:
        if next(moments, False):
            alter(sidecar(scan, "diff3d"))
        return assembled(self, indices)

    monkeypatch.setattr(PtychoDataset, "_assembled", disturbed)
    assert torch.equal(dataset.__getitems__(range(8)).X, wanted)


@pytest.mark.parametrize("assemble_on", ["auto", "worker", "device"])
def test_workers_look_at_the_scans_of_a_batch_and_no_others(
    monkeypatch: pytest.MonkeyPatch, assemble_on: Any
) -> None:
    data = module([SCAN, *OTHERS], ground_truth="none", assemble_on=assemble_on, num_workers=1)
    data.setup("fit")
    source = data.train_dataloader().dataset
    scans = data.dataset("train").scans
    looked: list[int] = []

    def recorded(self: RawData) -> bool:
        looked.append([self is scan for scan in scans].index(True))
        return False

    monkeypatch.setattr(RawData, "check_unchanged", recorded)
    source.__getitems__(range(30, 34))
    # Before and after; a worker that only reads ahead makes nothing that could be wrong after.
    assert looked == [0, 1] * (1 if assemble_on == "auto" else 2)


@pytest.mark.parametrize("persistent", [False, True])
def test_workers_of_a_plain_loader_refuse_a_scan_that_was_rewritten(
    tmp_path: Path, persistent: bool
) -> None:
    path = SCAN.to_file(tmp_path / "scan.npz")
    os.utime(path, (1e9, 1e9))
    loader = DataLoader(
        PtychoDataset(path, grouping=GROUPING, patch_positions="scan"),
        batch_size=8,
        collate_fn=same,
        num_workers=2,
        persistent_workers=persistent,
        multiprocessing_context="fork",
    )
    list(loader)
    with path.open("r+b") as stream:
        stream.seek(20_000)
        stream.write(bytes(64))
    with pytest.raises(Exception, match="modified since it was opened"):
        list(loader)


@pytest.mark.parametrize("assemble_on", ["auto", "worker"])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_scan_rewritten_between_epochs_is_refused(
    tmp_path: Path, assemble_on: str, workers: int
) -> None:
    path = SCAN.to_file(tmp_path / "scan.npz")
    data = module(path, assemble_on=assemble_on, num_workers=workers, patch_positions="scan")
    data.setup("fit")
    loader = data.train_dataloader()
    list(loader)
    with path.open("r+b") as stream:
        stream.seek(20_000)
        stream.write(bytes(64))
    os.utime(path, (1e9, 1e9))
    with pytest.raises(ScanFileError, match=r"scan\.npz.*Open the scan again"):
        list(loader)


@pytest.mark.parametrize("start", ["fork", "spawn"])
@pytest.mark.parametrize("policy", ["auto", "off"])
def test_workers_see_the_frames_of_the_parent(scan: Path, start: str, policy: str) -> None:
    dataset = PtychoDataset(scan, grouping=GROUPING, cache=policy)
    with pytest.raises(ValueError, match="read-only"):
        dataset.scans[0].diff3d[0] = 0
    context = multiprocessing.get_context(start)
    loader = DataLoader(
        dataset, batch_size=32, collate_fn=same, num_workers=1, multiprocessing_context=context
    )
    wanted = dataset.__getitems__(range(32))
    for batch in loader:
        assert torch.equal(batch.X, wanted.X)
        assert torch.equal(batch.Y, wanted.Y)
