"""Open files, maps, threads and processes stay as many as they were."""

from __future__ import annotations

import gc
import logging
import os
import threading
import time
import warnings
from pathlib import Path
from typing import Any

from .processes import call, open_descriptors
from .record import Outcome
from .scans import batches_digest, write_scan

WARM_UP = 5
Census = dict[str, int]


def census() -> Census:
    """What this process holds."""
    gc.collect()
    # Grown heaps are neighbours in the list of maps; what matters is files that stay mapped.
    maps = Path("/proc/self/maps").read_text().splitlines()
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    return {
        "files": open_descriptors(),
        "mapped scans": sum(".npz" in line or ".npy" in line for line in maps),
        "shared memory": sum("/torch_" in line for line in maps),
        "threads": threading.active_count(),
        "processes": len(children.read_text().split()),
    }


def open_and_close(folder: Path, rounds: int, seed: int) -> Outcome:
    """Open a scan, take its batches, drop it; by turns in place and through a sidecar."""
    outcome = Outcome("open/close cycles", "no growth of files, maps, threads", rounds, seed)
    outcome.merge(call(_cycles, folder, rounds))
    outcome.rounds = rounds
    return outcome


def epochs(folder: Path, rounds: int, seed: int) -> Outcome:
    """Train for many epochs with workers; then look what is left of them."""
    figure = "no growth of files, maps, threads, workers; none left at the end"
    outcome = Outcome("epochs with 2 workers", figure, rounds, seed)
    outcome.merge(call(_train, folder, rounds))
    outcome.rounds = rounds
    return outcome


def _cycles(folder: Path, rounds: int) -> Outcome:
    outcome = Outcome("", "", 0, 0)
    scans = [write_scan(folder / f"{kind:d}", compressed=kind) for kind in (False, True)]
    first: Census = {}
    for number in range(rounds):
        batches_digest(scans[number % 2])
        if number == min(WARM_UP, rounds - 2):
            first = census()
    _compare(outcome, first, census(), f"after {rounds} cycles")
    return outcome


def _train(folder: Path, rounds: int) -> Outcome:
    import torch
    from lightning.pytorch import Callback, LightningModule, Trainer

    from ptycho_torch.datamodule import PtychoDataModule

    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    outcome = Outcome("", "", 0, 0)
    scan = write_scan(folder / "scan", compressed=True)

    class Model(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def training_step(self, batch: Any, index: int) -> Any:
            return self.weight.sum() * batch.X.mean()

        def validation_step(self, batch: Any, index: int) -> None:
            pass

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    class Count(Callback):
        def __init__(self, found: list[Census]) -> None:
            self.found = found

        def on_train_epoch_start(self, *_: Any) -> None:
            # What was told to end a moment ago is not what stays.
            first = census()
            time.sleep(0.1)
            second = census()
            self.found.append({what: min(first[what], second[what]) for what in first})

    def run(assemble_on: str, max_epochs: int) -> list[Census]:
        found: list[Census] = []
        data = PtychoDataModule(
            str(scan),
            batch_size=4,
            num_workers=2,
            assemble_on=assemble_on,
            patch_positions="scan",
            val_fraction=0.3,
            multiprocessing_context="fork",
        )
        trainer = Trainer(
            callbacks=[Count(found)], accelerator="cpu", logger=False, enable_checkpointing=False,
            max_epochs=max_epochs, enable_progress_bar=False, enable_model_summary=False,
            default_root_dir=folder,
        )  # fmt: skip
        trainer.fit(Model(), datamodule=data)
        return found

    for assemble_on in ("auto", "device", "worker"):
        run(assemble_on, 2)
        before = census()
        found = run(assemble_on, rounds)
        middle = min(WARM_UP, rounds - 2)
        label = f"assembled on {assemble_on}"
        _compare(outcome, found[middle], found[-1], f"{label}, by epoch {rounds}")
        _compare(outcome, before, _settled(before), f"{label}, after the run")
    return outcome


def _settled(before: Census) -> Census:
    """A census once processes and threads that were told to end have had time to."""
    after = census()
    for _ in range(100):
        if all(count <= before[what] for what, count in after.items()):
            break
        time.sleep(0.1)
        after = census()
    return after


def _compare(outcome: Outcome, before: Census, after: Census, label: str) -> None:
    for what, count in after.items():
        outcome.check(count <= before[what], f"{label}: {count} {what}, were {before[what]}")
        outcome.seen[what] = max(outcome.seen[what], count)
