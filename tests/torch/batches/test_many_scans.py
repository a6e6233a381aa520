"""A thousand scans, by a process that may hold 256 files open."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from builders import run_python, simulated_arrays

pytest.importorskip("torch", reason="torch is not installed: batches need it")

SCANS, FRAMES = 1000, 200

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="descriptors are counted in /proc"),
]

EPOCH = """
import contextlib, gc, os, resource, sys, warnings
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
sys.path.insert(0, "tests/torch")
folder, workers = sys.argv[1], int(sys.argv[2])
import numpy as np, torch
from builders import quiet_trainer
from lightning.pytorch import LightningModule
from ptycho_torch import PtychoDataModule
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

def visit(stop_at, resumed):
    data = PtychoDataModule(
        f"{folder}/*", split="none", ground_truth="none", batch_size=4096, num_workers=workers
    )
    data.prepare_data()
    dataset = data.dataset("train")
    dataset.prepare()  # maps the frames of every scan
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
dataset, first = visit(20, None)
dataset, second = visit(None, "stopped.ckpt")
visited = np.concatenate([first, second])
groups = np.column_stack([dataset.index.scan_id, dataset.index.nn_indices])
same = np.array_equal(np.unique(visited, axis=0), np.unique(groups, axis=0))
print("scans", len(dataset.scans), "groups", len(groups), "visited", len(visited), same)
"""


@pytest.fixture(scope="module", params=["stored", "compressed"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A thousand scans; the compressed ones get a sidecar each."""
    arrays = simulated_arrays(tmp_path_factory.mktemp("one"), n_frames=FRAMES, N=16, seed=1)
    del arrays["objectGuess"]
    folder = tmp_path_factory.mktemp(request.param)
    method = zipfile.ZIP_STORED if request.param == "stored" else zipfile.ZIP_DEFLATED
    for number in range(SCANS):
        arrays["diff3d"] = arrays["diff3d"] * np.float32(1.001)
        path = folder / f"scan{number:04d}.npz"
        with zipfile.ZipFile(path, "w", method, compresslevel=1) as archive:
            for name, array in arrays.items():
                with archive.open(f"{name}.npy", "w") as member:
                    np.lib.format.write_array(member, np.asarray(array), allow_pickle=False)
    return folder


@pytest.mark.parametrize("workers", [0, 2])
def test_a_thousand_scans_hold_no_files_open(folder: Path, tmp_path: Path, workers: int) -> None:
    result = run_python(EPOCH, folder, workers, tmp_path)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    held = [int(line.split()[-1]) for line in lines if line.startswith("held")]
    busy = [int(line.split()[-1]) for line in lines if line.startswith("while training")]
    groups = SCANS * FRAMES
    assert lines[-1] == f"scans {SCANS} groups {groups} visited {groups} True"
    # Pipes and queues of the workers; nothing that grows with the scans.
    assert max(held) <= 32 and max(busy) <= 32, result.stdout
    assert workers or not any(held + busy), result.stdout
