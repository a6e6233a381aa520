"""Whole runs on a GPU: a fit and its memory, mixed precision, two GPUs."""

from __future__ import annotations

import gc
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: devices are its")

from builders import ROOT  # noqa: E402
from device_cases import Recorder, assert_same, data_of, device, fitted, pretending  # noqa: E402

from ptycho_torch import ObjectFit, PtychoDataModule, RawData  # noqa: E402

DEVICES = torch.cuda.device_count()


@pytest.mark.skipif(not DEVICES, reason="the stand-in for CUDA loses conjugates in gradients")
def test_an_object_fitted_on_a_gpu_is_that_of_the_cpu(tmp_path: Path) -> None:
    models = [
        fitted(data_of(tmp_path, residency=residency), place, ObjectFit(), max_epochs=3)
        for place, residency in (("cpu", "auto"), ("gpu", "device"), ("gpu", "host"))
    ]
    cpu, *others = models
    for model in others:
        assert model.obj.shape == cpu.obj.shape
        for name in ("obj", "probe"):
            found, wanted = (getattr(each, name).detach().cpu() for each in (model, cpu))
            # Adam divides by the root of a sum: what a GPU adds in another order shows there.
            torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)
        errors = [each.trainer.callback_metrics["train_fourier_error"] for each in (model, cpu)]
        assert float(errors[0]) == pytest.approx(float(errors[1]), rel=1e-3)


class Looks(Recorder):
    """Keeps the bytes that were taken while it trained, and no batch."""

    def __init__(self, free: int) -> None:
        super().__init__()
        self.free = free
        self.taken: list[int] = []

    def training_step(self, batch: Any, index: int) -> Any:
        self._look(batch)
        return (self.weight * batch.X.mean()).sum()

    def predict_step(self, batch: Any, index: int) -> None:
        self._look(batch)

    validation_step = predict_step

    def _look(self, batch: Any) -> None:
        assert batch.X.device == device()
        self.taken.append(self.free - free_bytes())


def free_bytes() -> int:
    gc.collect()
    torch.cuda.empty_cache()
    return torch.cuda.mem_get_info(device())[0]


def test_frames_take_their_memory_once_for_all_stages_and_a_run_gives_it_back() -> None:
    M, N = 1000, 128
    frames = np.ones((M, N, N), np.float32)
    x, y = np.random.default_rng(0).uniform(100, 300, (2, M))
    scan = RawData(x, y, x, y, frames, np.ones((N, N), np.complex64), np.zeros(M, int))
    first = torch.zeros(1, device=device())  # the device's own memory is taken with it
    few = {"limit_train_batches": 3, "limit_val_batches": 2, "limit_predict_batches": 2}
    for residency, least, most in (("device", 1.0, 1.9), ("host", 0.0, 0.9)):
        data = PtychoDataModule(
            scan, val=scan, batch_size=8, split="none", ground_truth="none", residency=residency
        )
        before = free_bytes()
        model = fitted(data, model=Looks(before), **few)
        model.trainer.predict(model, data, return_predictions=False)
        assert len(model.taken) > 5
        shares = np.array(model.taken) / frames.nbytes
        assert least <= shares.min(), (residency, shares)
        assert shares.max() < most, (residency, shares)
        del model, data
        assert before - free_bytes() < 0.1 * frames.nbytes
    del first


@pytest.mark.skipif(not DEVICES, reason="the stand-in for CUDA knows no autocast")
def test_mixed_precision_leaves_batches_as_they_are_and_an_object_is_fitted(
    tmp_path: Path,
) -> None:
    wanted = fitted(data_of(tmp_path), "cpu").seen["train"]
    assert_same(fitted(data_of(tmp_path), precision="bf16-mixed").seen["train"], wanted)
    errors = []
    for precision in ("32-true", "bf16-mixed"):
        model = fitted(data_of(tmp_path), model=ObjectFit(), max_epochs=3, precision=precision)
        errors.append(float(model.trainer.callback_metrics["train_fourier_error"]))
    assert errors[1] == pytest.approx(errors[0], rel=0.05)


RANK = """
import sys, warnings
warnings.simplefilter("ignore")
sys.path[:0] = ["tests/torch", "tests/torch/device"]
from pathlib import Path
import torch
from builders import quiet_trainer
from device_cases import FIELDS, Recorder, data_of, on_host
place, folder = sys.argv[1], Path(sys.argv[2])
trainer = quiet_trainer(accelerator=place, devices=2, strategy="ddp", max_epochs=2,
                        num_sanity_val_steps=0)
model = Recorder()
trainer.fit(model, datamodule=data_of(folder, scans=2))
seen = model.seen["train"]
content = {name: torch.cat([on_host(batch)[name] for batch in seen]) for name in FIELDS}
content["device"] = str(seen[0].X.device)
torch.save(content, folder / f"rank{trainer.global_rank}.pt")
"""


@pytest.mark.parametrize(
    "place",
    [
        "cpu",
        pytest.param(
            "gpu", marks=pytest.mark.skipif(DEVICES < 2, reason="there are not two CUDA devices")
        ),
    ],
)
def test_two_ranks_share_the_groups_and_have_the_batches_of_one(place: str, tmp_path: Path) -> None:
    dataset = data_of(tmp_path, scans=2).dataset("train")
    dataset.prepare()
    script = tmp_path / "rank.py"
    script.write_text(RANK)
    command = [sys.executable, str(script), place, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    ranks = [torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2)]
    on_gpus = ["cuda:0", "cuda:1"]
    assert [rank.pop("device") for rank in ranks] == (["cpu"] * 2 if place == "cpu" else on_gpus)
    of_one = dataset[:]
    number = {key(of_one, row): row for row in range(len(dataset))}
    found = []
    for rank in ranks:
        rows = [number[key(rank, row)] for row in range(len(rank["scan_id"]))]
        for name, value in rank.items():
            exact = pretending() or place == "cpu" or name != "Y"
            wanted = of_one.get(name)[rows]
            torch.testing.assert_close(value, wanted, rtol=0, atol=0 if exact else 2e-7)
        found += rows
    # In each of two epochs, every group once.
    assert sorted(found) == sorted(2 * list(range(len(dataset))))


def key(batch: Any, row: int) -> tuple[int, ...]:
    fields = batch if isinstance(batch, dict) else {k: batch.get(k) for k in batch.keys()}  # noqa: SIM118
    return int(fields["scan_id"][row]), *fields["nn_indices"][row].tolist()
