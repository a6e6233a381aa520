"""A thousand scans, by a process that may hold 256 files open."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from builders import run_python, simulated_arrays

pytest.importorskip("torch", reason="torch is not installed: batches need it")

SCANS, FRAMES, GROUPS = 1000, 200, 50

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="descriptors are counted in /proc"),
]

EPOCH = """
import contextlib, gc, os, resource, sys, warnings
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
sys.path.insert(0, "tests/torch")
folder, workers = sys.argv[1], sys.argv[2].split("-")
import numpy as np, torch
from builders import quiet_trainer
from lightning.pytorch import LightningModule
from ptycho_torch import GroupingConfig, PtychoDataModule
warnings.simplefilter("ignore")

class Visitor(LightningModule):
    def __init__(self, stop_at):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.stop_at, self.visited, self.open = stop_at, [], []
    def training_step(self, batch, number):
        self.visited.append(np.column_stack([batch.scan_id, batch.nn_indices]))
        self.open.append(open_files())
        return self.weight.sum() * batch.X.mean()
    def on_train_batch_end(self, *_):
        if len(self.visited) == self.stop_at:
            self.trainer.save_checkpoint("stopped.ckpt")
            raise KeyboardInterrupt
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

def open_files():
    return len(os.listdir("/proc/self/fd"))

def visit(workers, stop_at, resumed):
    data = PtychoDataModule(
        f"{folder}/*", grouping=GroupingConfig(n_groups=int(sys.argv[4])), split="none",
        ground_truth="none", batch_size=4096, num_workers=int(workers),
    )
    dataset = data.dataset("train")
    dataset.prepare()  # maps the frames of every scan
    data.prepare_data = lambda: None  # done
    gc.collect()
    print("held", open_files() - before)
    model = Visitor(stop_at)
    trainer = quiet_trainer(max_epochs=1, limit_val_batches=0)
    with contextlib.suppress(KeyboardInterrupt, SystemExit):
        trainer.fit(model, datamodule=data, ckpt_path=resumed, weights_only=True)
    print("while training", max(model.open) - before)
    return dataset, np.concatenate(model.visited)

os.chdir(sys.argv[3])
before = open_files()
dataset, first = visit(workers[0], 5, None)
dataset, second = visit(workers[1], None, "stopped.ckpt")
visited = np.concatenate([first, second])
groups = np.column_stack([dataset.index.scan_id, dataset.index.nn_indices])
same = np.array_equal(np.unique(visited, axis=0), np.unique(groups, axis=0))
print("scans", len(dataset.scans), "groups", len(groups), "visited", len(visited), same)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A thousand scans; every other one is compressed, and gets a sidecar."""
    arrays = simulated_arrays(tmp_path, n_frames=FRAMES, N=16, seed=1)
    del arrays["objectGuess"]
    folder = tmp_path / "scans"
    folder.mkdir()
    for number in range(SCANS):
        method = zipfile.ZIP_DEFLATED if number % 2 else zipfile.ZIP_STORED
        arrays["diff3d"] = arrays["diff3d"] * np.float32(1.001)
        path = folder / f"scan{number:04d}.npz"
        with zipfile.ZipFile(path, "w", method, compresslevel=1) as archive:
            for name, array in arrays.items():
                with archive.open(f"{name}.npy", "w") as member:
                    np.lib.format.write_array(member, np.asarray(array), allow_pickle=False)
    return folder


def numbers(text: str, start: str) -> list[int]:
    return [int(line.split()[-1]) for line in text.splitlines() if line.startswith(start)]


def test_a_thousand_scans_hold_no_files_open(folder: Path, tmp_path: Path) -> None:
    result = run_python(EPOCH, folder, "0-2", tmp_path, GROUPS)
    assert result.returncode == 0, result.stderr
    groups = SCANS * GROUPS
    last = result.stdout.splitlines()[-1]
    assert last == f"scans {SCANS} groups {groups} visited {groups} True"
    assert len(list(folder.glob("*.sidecar.npz"))) == SCANS // 2
    assert numbers(result.stdout, "held") == [0, 0]
    alone, with_workers = numbers(result.stdout, "while training")
    assert alone <= 8 and with_workers <= 32  # workers have pipes and queues
