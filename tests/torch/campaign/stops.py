"""Runs stopped in any hook of a trainer with any limit, and resumed: the samples in their order."""

from __future__ import annotations

import contextlib
import logging
import random
import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer

from ptycho_torch.data.config import GroupingConfig
from ptycho_torch.datamodule import PtychoDataModule

from .record import Outcome
from .scans import write_scan

GROUPS = 61

TRAINERS = MappingProxyType[str, dict[str, Any]](
    {
        "whole epochs": {},
        "limit": {"limit_train_batches": 10},
        "share": {"limit_train_batches": 0.5},
        "overfit": {"overfit_batches": 3},
        "accumulate": {"accumulate_grad_batches": 4},
        "validation inside": {"val_check_interval": 4},
        "reload": {"reload_dataloaders_every_n_epochs": 1},
        "all together": {
            "limit_train_batches": 10,
            "accumulate_grad_batches": 3,
            "val_check_interval": 5,
            "reload_dataloaders_every_n_epochs": 1,
        },
    }
)

HOOKS = (
    "on_train_start",
    "on_train_epoch_start",
    "on_train_batch_start",
    "training_step",
    "on_train_batch_end",
    "on_validation_start",
    "validation_step",
    "on_validation_end",
    "on_train_epoch_end",
    "cut short",
)

Seen = list[tuple[int, int]]


class Stopped(BaseException):
    """Ends a run as a kill would: Lightning gets no chance to put anything in order."""


class Stopper(LightningModule):
    """Keeps the samples of finished steps; saves and stops at the ``at``-th call of a hook.

    ``"cut short"`` lets Lightning stop after a step, as a limit of steps or time does.
    """

    def __init__(self, hook: str = "", at: int = 0, checkpoint: Path | None = None) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.hook, self.at, self.checkpoint = hook, at, checkpoint
        self.calls: Counter[str] = Counter()
        self.seen: Seen = []

    def training_step(self, batch: Any, index: int) -> Any:
        """Compute anything."""
        self._called("training_step")
        return self.weight.sum() * batch.X.mean()

    def on_train_batch_end(self, outputs: Any, batch: Any, index: int) -> None:
        """Note a batch."""
        self.seen += [(self.current_epoch, frame) for frame in batch.nn_indices[:, 0].tolist()]
        self._called("on_train_batch_end")
        self._called("cut short")

    def validation_step(self, batch: Any, index: int) -> None:
        """Compute nothing."""
        self._called("validation_step")

    def on_train_batch_start(self, batch: Any, index: int) -> None:
        """Before a step."""
        self._called("on_train_batch_start")

    def on_train_start(self) -> None:
        """Before the first step."""
        self._called("on_train_start")

    def on_train_epoch_start(self) -> None:
        """Between two epochs."""
        self._called("on_train_epoch_start")

    def on_train_epoch_end(self) -> None:
        """Where Lightning's own checkpoints are made."""
        self._called("on_train_epoch_end")

    def on_validation_start(self) -> None:
        """Before validation."""
        self._called("on_validation_start")

    def on_validation_end(self) -> None:
        """Where checkpoints of the best model are made."""
        self._called("on_validation_end")

    def configure_optimizers(self) -> Any:
        """Any will do."""
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def _called(self, hook: str) -> None:
        self.calls[hook] += 1
        if hook == self.hook and self.calls[hook] == self.at:
            if hook == "cut short":
                self.trainer.should_stop = True
                return
            self.trainer.save_checkpoint(self.checkpoint)
            raise Stopped


@dataclass(frozen=True)
class Setting:
    """A scan, and how a trainer runs over it.

    Parameters
    ----------
    scan, folder
        Scan file, and the trainer's folder.
    trainer
        Name in :data:`TRAINERS`.
    workers
        Of the loaders.
    plain
        Give the trainer the loaders, not the data module.
    """

    scan: Path
    folder: Path
    trainer: str = "whole epochs"
    workers: int = 0
    plain: bool = False

    def run(self, model: Stopper, resume: Path | None = None) -> Seen:
        """Train to the end or the stop; the samples of finished steps with their epochs."""
        data = PtychoDataModule(
            str(self.scan),
            split="none",
            ground_truth="none",
            grouping=GroupingConfig(gridsize=1),
            batch_size=5,
            num_workers=self.workers,
            multiprocessing_context="fork" if self.workers else None,
        )
        trainer = Trainer(
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            max_epochs=3,
            default_root_dir=self.folder,
            **TRAINERS[self.trainer],
        )
        given: dict[str, Any] = {"datamodule": data}
        if self.plain:
            data.setup("fit")
            loaders = data.train_dataloader(), data.val_dataloader()
            given = dict(zip(("train_dataloaders", "val_dataloaders"), loaders, strict=True))
        with contextlib.suppress(Stopped):
            trainer.fit(model, ckpt_path=resume, weights_only=True, **given)
        if model.hook == "cut short":
            trainer.save_checkpoint(model.checkpoint)
        return model.seen

    def resumed(self, hook: str, at: int, again: int = 0, then: str = "on_train_batch_end") -> Seen:
        """The samples of a run stopped there, and of those that go on; the first stops again."""
        checkpoint = self.folder / "stopped.ckpt"
        found = list(self.run(Stopper(hook, at, checkpoint)))
        second = Stopper(then, again, checkpoint)
        found += self.run(second, checkpoint)
        if 0 < again == second.calls[then]:
            found += self.run(Stopper(), checkpoint)
        return found


def anywhere(folder: Path, rounds: int, seed: int) -> Outcome:
    """Stop at random calls of random hooks, with every kind of trainer in turn, and go on."""
    figure = "sample sequence identical to the uninterrupted run"
    fault = "stopped once or twice in any hook, under any limit of a trainer"
    outcome = Outcome(fault, figure, rounds, seed)
    rng = random.Random(seed)
    scan = write_scan(folder, compressed=False, n_frames=GROUPS, N=8)
    with _quiet():
        for number in range(rounds):
            name = list(TRAINERS)[number % len(TRAINERS)]
            workers = 2 * (number % 20 >= 18)
            setting = Setting(scan, folder, name, workers)
            whole = Stopper()
            order = setting.run(whole)
            hook = rng.choice(HOOKS)
            at = rng.randrange(whole.calls[hook]) + 1
            again, then = rng.randrange(8), rng.choice((*HOOKS, "on_train_batch_end"))
            found = setting.resumed(hook, at, again, then)
            label = f"{name}, {workers} workers, call {at} of {hook}, then {again} of {then}"
            outcome.check(found == order, label)
            outcome.seen[name] += 1
    return outcome


def plain_loader(folder: Path, rounds: int, seed: int) -> Outcome:
    """Stop runs that got loaders without their data module; the resumed run has to warn."""
    figure = "warned, or sample sequence identical to the uninterrupted run"
    outcome = Outcome("stopped and resumed with a plain loader", figure, rounds, seed)
    rng = random.Random(seed)
    scan = write_scan(folder, compressed=False, n_frames=GROUPS, N=8)
    setting = Setting(scan, folder, plain=True)
    with _quiet():
        whole = Stopper()
        order = setting.run(whole)
        for _ in range(rounds):
            hook = rng.choice([hook for hook in HOOKS if hook != "cut short"])
            at = rng.randrange(whole.calls[hook]) + 1
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                found = setting.resumed(hook, at)
            warned = any("no place in the epoch" in str(each.message) for each in caught)
            outcome.check(warned or found == order, f"call {at} of {hook}")
            outcome.seen["warned" if warned else "identical"] += 1
    return outcome


@contextlib.contextmanager
def _quiet() -> Any:
    names = "lightning.pytorch", "lightning.fabric"
    levels = {name: logging.getLogger(name).level for name in names}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in names:
            logging.getLogger(name).setLevel(logging.ERROR)
        try:
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)
