"""A run stopped anywhere and resumed from its checkpoint sees the samples it had not seen."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path
from typing import Any

import pytest
from builders import quiet_trainer

torch = pytest.importorskip("torch", reason="torch is not installed: resuming needs Lightning")

from lightning.pytorch import LightningModule  # noqa: E402

from ptycho_torch import GroupingConfig, PtychoDataModule, simulate_scan  # noqa: E402
from ptycho_torch.data.errors import OptionError  # noqa: E402

EPOCHS = 3
GROUPS = 60

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*The number of training batches:UserWarning"),
]


class Visitor(LightningModule):
    """Writes down which sample each step saw, and stops after ``stop_at`` steps."""

    def __init__(self, stop_at: int | None = None, checkpoint: Path | None = None) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.stop_at = stop_at
        self.checkpoint = checkpoint
        self.visited: list[tuple[int, list[int]]] = []

    def training_step(self, batch: Any, index: int) -> Any:
        self.visited.append((self.current_epoch, batch.nn_indices[:, 0].tolist()))
        return self.weight.sum() * batch.X.mean()

    def validation_step(self, batch: Any, index: int) -> None:
        """Lightning asks for one where there is a validation loader."""

    def on_train_batch_end(self, *args: Any) -> None:
        if self.stop_at is not None and len(self.visited) == self.stop_at:
            self.trainer.save_checkpoint(self.checkpoint)
            raise KeyboardInterrupt

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.fixture(scope="module")
def scan_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scan")
    scan = simulate_scan(n_frames=GROUPS, N=8, object_size=60, seed=3)
    return scan.to_file(folder / "scan.npz")


def run(
    scan_file: Path, model: Visitor, folder: Path, *, resume: Path | None = None, **options: Any
) -> list[tuple[int, int]]:
    data = PtychoDataModule(
        str(scan_file), split="none", ground_truth="none", grouping=GroupingConfig(gridsize=1),
        **{"batch_size": 7, **options},
    )  # fmt: skip
    trainer = quiet_trainer(folder, max_epochs=EPOCHS, limit_val_batches=0)
    with contextlib.suppress(KeyboardInterrupt, SystemExit):
        trainer.fit(model, datamodule=data, ckpt_path=resume, weights_only=True)
    return [(epoch, sample) for epoch, samples in model.visited for sample in samples]


@pytest.mark.parametrize("stop_at", [1, 8, 9, *random.Random(0).sample(range(2, 27), 5)])
def test_resumed_run_sees_the_same_samples_in_the_same_order(
    scan_file: Path, tmp_path: Path, stop_at: int
) -> None:
    whole = run(scan_file, Visitor(), tmp_path)
    assert len(whole) == EPOCHS * GROUPS
    checkpoint = tmp_path / "stopped.ckpt"
    before = run(scan_file, Visitor(stop_at, checkpoint), tmp_path)
    after = run(scan_file, Visitor(), tmp_path, resume=checkpoint)
    assert before + after == whole


@pytest.mark.parametrize("stop_at", [1, 9, 13])
def test_run_by_blocks_is_a_plain_loops_and_resumes_exactly(
    scan_file: Path, tmp_path: Path, stop_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ptycho_torch.batches.blocks.BLOCK_BYTES", 4 * 8 * 8 * 4)
    monkeypatch.setattr("ptycho_torch.batches.blocks.FEWEST_MIXED", 3)
    monkeypatch.setattr("ptycho_torch.batches.blocks.OPEN_BYTES", 0)
    model, checkpoint = Visitor(), tmp_path / "stopped.ckpt"
    whole = run(scan_file, model, tmp_path, order="blocks")
    data = PtychoDataModule(
        str(scan_file), split="none", ground_truth="none", grouping=GroupingConfig(gridsize=1),
        batch_size=7, order="blocks",
    )  # fmt: skip
    data.setup("fit")
    loader = data.train_dataloader()
    plain = []
    for epoch in range(EPOCHS):
        loader.sampler.set_epoch(epoch)
        plain += [(epoch, batch.nn_indices[:, 0].tolist()) for batch in loader]
    assert model.visited == plain
    assert whole != run(scan_file, Visitor(), tmp_path)
    before = run(scan_file, Visitor(stop_at, checkpoint), tmp_path, order="blocks")
    after = run(scan_file, Visitor(), tmp_path, resume=checkpoint, order="blocks")
    assert before + after == whole


@pytest.mark.parametrize("stop_at", [4, 9, 13])
@pytest.mark.parametrize("batch_size", [3, 14])
def test_resumed_run_may_have_another_batch_size(
    scan_file: Path, tmp_path: Path, stop_at: int, batch_size: int
) -> None:
    whole = run(scan_file, Visitor(), tmp_path)
    checkpoint = tmp_path / "stopped.ckpt"
    before = run(scan_file, Visitor(stop_at, checkpoint), tmp_path)
    after = run(scan_file, Visitor(), tmp_path, resume=checkpoint, batch_size=batch_size)
    assert before + after == whole


@pytest.mark.slow
def test_resumed_run_may_have_workers(scan_file: Path, tmp_path: Path) -> None:
    whole = run(scan_file, Visitor(), tmp_path)
    for stop_at in (5, 9):
        checkpoint = tmp_path / f"{stop_at}.ckpt"
        before = run(scan_file, Visitor(stop_at, checkpoint), tmp_path, num_workers=2)
        after = run(scan_file, Visitor(), tmp_path, resume=checkpoint)
        assert before + after == whole
        again = run(scan_file, Visitor(), tmp_path, resume=checkpoint, num_workers=2)
        assert before + again == whole


def test_another_seed_than_the_checkpoints_is_refused(scan_file: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "stopped.ckpt"
    run(scan_file, Visitor(2, checkpoint), tmp_path)
    with pytest.raises(OptionError, match=r"seed of the data is 0; expected 5.*data\.seed=0"):
        run(scan_file, Visitor(), tmp_path, resume=checkpoint, seed=5)
