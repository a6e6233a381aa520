"""Every route to a GPU: the CPU's batches, pinned, without waiting, nothing sent twice."""

from __future__ import annotations

import functools
import math
import tempfile
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: batches on a device")

import pretended_cuda  # noqa: E402
from device_cases import (  # noqa: E402
    BATCH,
    GROUPS,
    SIDE,
    Recorder,
    assert_same,
    cases,
    data_of,
    device,
    fitted,
    pretending,
    scan_of,
    trainer_on,
)
from lightning.pytorch import Callback, LightningModule, Trainer  # noqa: E402

from ptycho_torch import PtychoBatch, PtychoDataModule  # noqa: E402
from ptycho_torch.batches import counted_random  # noqa: E402

EVERY_ROUTE = [
    pytest.param(assemble_on, residency, workers, id=f"{assemble_on}-{residency}-{workers}")
    for assemble_on in ("auto", "device", "worker")
    for residency in ("device", "host")
    for workers in (0, 2)
]


@pytest.mark.parametrize(("assemble_on", "residency", "workers"), EVERY_ROUTE)
def test_batches_on_a_gpu_are_those_of_the_cpu_and_travel_beside_the_step(
    assemble_on: str, residency: str, workers: int, tmp_path: Path
) -> None:
    for case in cases(few=workers > 0):
        wanted = on_the_cpu(**case)
        options = {"assemble_on": assemble_on, "residency": residency, "num_workers": workers}
        data = data_of(tmp_path, **case, **options)
        if pretending():
            pretended_cuda.forget()
            waits = pretended_cuda.waits_of_streams()
        seen = fitted(data).seen
        found, batches = seen["train"], sum(map(len, seen.values()))
        assert {batch.X.device for batch in found} == {device()}, case
        if pretending():
            assert pretended_cuda.waits_of_streams() - waits >= batches, case
            # What is small together; frames or X; ready-made patches or Y.
            assert_nothing_waits(case, 3 * batches)
        assert_same(found, wanted)


@pytest.mark.parametrize(
    ("assemble_on", "residency", "workers"),
    [("auto", "device", 0), ("device", "host", 2), ("worker", "host", 2)],
)
def test_batches_augmented_on_a_gpu_are_those_of_the_cpu(
    assemble_on: str, residency: str, workers: int, tmp_path: Path
) -> None:
    # Photons are drawn by functions that round otherwise there.
    change = {"dihedral": True, "dead_pixels": 0.1, "beamstop_px": (1.0, 3.0), "scale": (0.5, 2.0)}
    for case in cases(few=True):
        case["augmentation"] = change
        options = {"assemble_on": assemble_on, "residency": residency, "num_workers": workers}
        found = fitted(data_of(tmp_path, **case, **options), max_epochs=2).seen["train"]
        wanted = fitted(data_of(tmp_path, **case), "cpu", max_epochs=2).seen["train"]
        plain = fitted(data_of(tmp_path, **{**case, "augmentation": None}), "cpu", max_epochs=2)
        assert {batch.X.device for batch in found} == {device()}, case
        assert len(found) == len(wanted)
        for one, other, raw in zip(found, wanted, plain.seen["train"], strict=True):
            assert torch.equal(one.bad_pixels.cpu(), other.bad_pixels)
            torch.testing.assert_close(one.X.cpu(), other.X, rtol=1e-6, atol=0)
            torch.testing.assert_close(one.local_offsets.cpu(), other.local_offsets)
            assert not torch.equal(other.X, raw.X)


def test_counts_drawn_on_a_gpu_have_the_mean_and_spread_of_those_of_the_cpu(tmp_path: Path) -> None:
    n = torch.tensor([0.0, 1.0, 5.0, 20.0, 300.0])[:, None].expand(5, 4096)
    u = (torch.arange(4096) + 0.5) / 4096
    drawn = [
        counted_random.thinned(n.to(place), torch.tensor(0.3).to(place), u.expand(5, -1).to(place))
        for place in ("cpu", device())
    ]
    assert (drawn[0] - drawn[1].cpu()).abs().max() <= 1
    torch.testing.assert_close(drawn[0].mean(1), drawn[1].cpu().mean(1), rtol=1e-3, atol=1e-3)


def assert_nothing_waits(case: dict[str, object], copies: int) -> None:
    waited = pretended_cuda.synchronisations()
    assert not waited, (case, waited)
    sent = [copy for copy in pretended_cuda.COPIES if copy.of_batches]
    assert 0 < len(sent) <= copies, (case, len(sent), copies, sent)
    for copy in sent:
        assert copy.pinned, copy
        assert copy.non_blocking, copy
        assert copy.stream, copy


@functools.cache
def on_the_cpu(**case: Any) -> list[PtychoBatch]:
    with tempfile.TemporaryDirectory() as folder:
        return fitted(data_of(Path(folder), **case), "cpu").seen["train"]


@pytest.mark.parametrize("truth", ["none", "object", "file"])
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("assemble_on", ["auto", "device"])
def test_frames_that_live_on_the_gpu_are_sent_once(
    assemble_on: str, workers: int, truth: str, tmp_path: Path
) -> None:
    if not pretending():
        pytest.skip("a GPU keeps no record of copies")
    data = data_of(tmp_path, truth=truth, assemble_on=assemble_on, num_workers=workers)
    pretended_cuda.forget()
    model = fitted(data, max_epochs=3)
    assert len(model.seen["train"]) == 3 * math.ceil(GROUPS / BATCH)
    images = [copy for copy in pretended_cuda.COPIES if copy.shape[-2:] == (SIDE, SIDE)]
    frames = [copy.nbytes for copy in images if copy.dtype == torch.float32]
    assert sum(frames) == GROUPS * SIDE**2 * 4


def test_a_batch_has_the_probe_of_its_own_scan_while_another_stage_runs(tmp_path: Path) -> None:
    def data(place: str) -> PtychoDataModule:
        other = str(scan_of(5).to_file(tmp_path / f"{place}.npz"))
        return data_of(tmp_path, val=other, assemble_on="worker")

    class Looks(Recorder):
        def on_train_batch_start(self, batch: PtychoBatch, index: int) -> None:
            if not self.seen["val"]:
                module = self.trainer.datamodule
                closed = next(iter(module.val_dataloader()))
                place = self.trainer.strategy.root_device
                there = module.transfer_batch_to_device(closed, place, 0)
                self.seen["val"].append(there)

    wanted = fitted(data("cpu"), "cpu", Looks(), limit_val_batches=0).seen["val"]
    assert_same(fitted(data("gpu"), model=Looks(), limit_val_batches=0).seen["val"], wanted)


def test_a_broadcast_probe_is_pinned_and_sent_once(tmp_path: Path) -> None:
    batch = data_of(tmp_path).dataset("train").__getitems__(list(range(BATCH)))
    pinned = batch.pin_memory()
    assert pinned.probe.is_pinned()
    assert pinned.probe.stride(0) == 0
    there = pinned.to(device(), non_blocking=True)
    assert there.probe.stride(0) == 0
    assert_same([there], [batch])
    if pretending():
        probes = [copy for copy in pretended_cuda.COPIES if copy.dtype == torch.complex64]
        assert sum(copy.nbytes for copy in probes) == 8 * SIDE**2 * (1 + BATCH * 4)  # and Y
        assert all(copy.pinned and copy.non_blocking for copy in probes)


@pytest.mark.parametrize("truth", ["object", "file"])
@pytest.mark.parametrize("assemble_on", ["auto", "device"])
def test_frames_are_gathered_straight_into_pinned_memory(
    assemble_on: str, truth: str, tmp_path: Path
) -> None:
    if not pretending():
        pytest.skip("a GPU keeps no record of copies")
    data = data_of(tmp_path, truth=truth, assemble_on=assemble_on, residency="host")
    data.trainer = trainer_on("gpu")
    again: list[torch.Tensor] = []
    pin = torch.Tensor.pin_memory

    def recorded(tensor: torch.Tensor) -> torch.Tensor:
        if not tensor.is_pinned():
            again.append(tensor)
        return pin(tensor)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "pin_memory", recorded)
        next(iter(data.train_dataloader()))
    assert {tensor.dtype for tensor in again} == {torch.uint8}  # what is small together
    copies = [copy for copy in pretended_cuda.COPIES if copy.shape[1:] == (SIDE, SIDE)]
    assert copies
    assert all(copy.pinned for copy in copies)


@pytest.mark.parametrize("assemble_on", ["auto", "device", "worker"])
def test_loops_of_others_get_batches_during_and_after_a_run(
    assemble_on: str, tmp_path: Path
) -> None:
    class Curious(Callback):
        def on_train_epoch_end(self, trainer: Trainer, model: LightningModule) -> None:
            assert trainer.train_dataloader is not None
            parcel = next(iter(trainer.train_dataloader))
            with pytest.raises(AttributeError, match=r"no X: take batch.to\(device\)"):
                _ = parcel.X
            batches.extend((parcel.to(device()), parcel.to("cpu")))

    batches: list[PtychoBatch] = []
    options = {"scans": 3, "shuffle": False}
    data = data_of(tmp_path, assemble_on=assemble_on, **options)
    trainer_on("gpu", callbacks=[Curious()]).fit(Recorder(), datamodule=data)
    assert [batch.X.device.type for batch in batches] == ["cuda", "cpu"]
    assert_same(batches, fitted(data_of(tmp_path, **options), "cpu").seen["train"][:1] * 2)


def test_a_plain_loop_and_another_trainer_get_batches_after_a_run(tmp_path: Path) -> None:
    wanted = fitted(data_of(tmp_path, shuffle=False), "cpu").seen["train"]
    for precision in ("32-true", "bf16-true"):
        data = data_of(tmp_path, shuffle=False)
        fitted(data, precision=precision)
        assert_same(list(data.val_dataloader()), wanted)
        model = Recorder()
        trainer_on("gpu", limit_val_batches=0).fit(model, data.val_dataloader())
        assert_same(model.seen["train"], wanted)
        assert not data._copies._frames
