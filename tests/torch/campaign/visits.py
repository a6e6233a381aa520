"""Training runs that write down which samples they see, in one process or on two ranks."""

from __future__ import annotations

import json
import logging
import os
import signal
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer

from ptycho_torch.data.config import GroupingConfig
from ptycho_torch.datamodule import PtychoDataModule

FRAMES_OF_A_SCAN = 1000
"""More than any scan here has: samples of several scans have different numbers."""
Visits = dict[str, list[tuple[int, list[int]]]]


@dataclass(frozen=True)
class Run:
    """One run.

    Parameters
    ----------
    scan
        Scan file, or a pattern; every frame is a group of its own. ``{node}`` becomes the number of
        the node.
    folder
        Where the ranks write what they saw, and the checkpoint.
    ranks, workers, epochs, batch_size
        Of the run.
    stop_after
        Training steps after which a checkpoint is written and the run ends; one process is killed
        two steps later, ranks are told to stop.
    resume
        Checkpoint to start from.
    evaluate
        Also run test and predict.
    plain
        The Trainer gets loaders, and no data module.
    nodes
        Machines that the ranks are on; where there are two, torchrun starts the ranks.
    prepare_per_node
        Every node prepares, and not only the first.
    kills
        Rank that is killed two steps after the checkpoint, where there are several.
    """

    scan: str
    folder: str
    ranks: int = 1
    workers: int = 0
    epochs: int = 3
    batch_size: int = 5
    stop_after: int | None = None
    resume: str | None = None
    evaluate: bool = False
    plain: bool = False
    nodes: int = 1
    prepare_per_node: bool = True
    kills: int | None = None

    @property
    def checkpoint(self) -> str:
        """Where the checkpoint goes."""
        return f"{self.folder}/stopped.ckpt"


class Visitor(LightningModule):
    """A model of one number that keeps the samples of every step."""

    def __init__(self, run: Run) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.run = run
        self.steps = 0
        self.seen: Visits = {"train": [], "val": [], "test": [], "predict": []}

    def training_step(self, batch: Any, index: int) -> Any:
        """Note a batch."""
        self._note("train", batch)
        return self.weight.sum() * batch.X.mean()

    def validation_step(self, batch: Any, index: int) -> None:
        """Note a batch."""
        self._note("val", batch)

    def test_step(self, batch: Any, index: int) -> None:
        """Note a batch."""
        self._note("test", batch)

    def predict_step(self, batch: Any, index: int) -> Any:
        """Note a batch."""
        self._note("predict", batch)
        return batch.X.sum()

    def on_train_batch_end(self, *_: Any) -> None:
        """Stop where the run is told to."""
        self.steps += 1
        if self.run.stop_after is None:
            return
        if self.steps == self.run.stop_after:
            self.trainer.save_checkpoint(self.run.checkpoint)
            self.write()
            if self.run.ranks > 1 and self.run.kills is None:
                self.trainer.should_stop = True
        elif self.steps == self.run.stop_after + 2 and self.global_rank == (self.run.kills or 0):
            os.kill(os.getpid(), signal.SIGKILL)

    def write(self) -> None:
        """Tell what this rank saw; each stage may run in a process of its own."""
        for stage, visits in self.seen.items():
            if visits:
                path = Path(self.run.folder) / f"rank{self.global_rank}.{stage}.json"
                path.write_text(json.dumps(visits), encoding="utf-8")

    def on_fit_end(self) -> None:
        """Tell, unless a checkpoint did."""
        if self.run.stop_after is None:
            self.write()

    def on_test_end(self) -> None:
        """Tell again, with what was tested."""
        self.write()

    def on_predict_end(self) -> None:
        """Tell again, with what was predicted."""
        self.write()

    def configure_optimizers(self) -> Any:
        """Any will do."""
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def _note(self, stage: str, batch: Any) -> None:
        samples = batch.nn_indices[:, 0] + FRAMES_OF_A_SCAN * batch.scan_id
        self.seen[stage].append((self.current_epoch, samples.tolist()))


def fit(run: Run) -> None:
    """Run it; in a process of its own, which may be killed."""
    warnings.simplefilter("ignore")
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    torch.set_num_threads(1)
    Path(run.folder).mkdir(parents=True, exist_ok=True)
    data = PtychoDataModule(
        run.scan.format(node=os.environ.get("NODE", 0)),
        split="none",
        ground_truth="none",
        grouping=GroupingConfig(gridsize=1),
        batch_size=run.batch_size,
        num_workers=run.workers,
        multiprocessing_context="fork" if run.workers else None,
        prepare_data_per_node=run.prepare_per_node,
    )
    trainer = Trainer(
        accelerator="cpu",
        devices=run.ranks // run.nodes,
        num_nodes=run.nodes,
        strategy="auto" if run.ranks == 1 else "ddp_fork" if run.nodes == 1 else "ddp",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        max_epochs=run.epochs,
        default_root_dir=run.folder,
    )
    model = Visitor(run)

    def of(*stages: str) -> dict[str, Any]:
        if not run.plain:
            return {"datamodule": data}
        names = {"train": "train_dataloaders", "val": "val_dataloaders"}
        return {names.get(s, "dataloaders"): getattr(data, f"{s}_dataloader")() for s in stages}

    trainer.fit(model, **of("train", "val"), ckpt_path=run.resume, weights_only=True)
    if run.evaluate:
        trainer.test(model, **of("test"), verbose=False)
        trainer.predict(model, **of("predict"), return_predictions=False)


def read_visits(run: Run) -> list[Visits]:
    """What each rank saw."""
    ranks: list[Visits] = []
    for rank in range(run.ranks):
        found = {path.name.split(".")[1]: path for path in Path(run.folder).glob(f"rank{rank}.*")}
        texts = {stage: path.read_text(encoding="utf-8") for stage, path in found.items()}
        ranks.append({stage: json.loads(text) for stage, text in texts.items()})
    return ranks


def training_order(run: Run) -> list[list[int]]:
    """Samples of each epoch, in the order of all ranks together."""
    ranks = read_visits(run)
    epochs: list[list[int]] = []
    for epoch in sorted({e for visits in ranks for e, _ in visits["train"]}):
        parts = [
            [sample for e, samples in visits["train"] if e == epoch for sample in samples]
            for visits in ranks
        ]
        epochs.append([sample for together in zip(*parts, strict=True) for sample in together])
    return epochs
