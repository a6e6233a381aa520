"""A worker that is started anew imports what it works with, and nothing else."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("tensordict")
pytest.importorskip("lightning")
from ptycho_torch import simulate_scan

NOTED = """
import json, os, sys

def noted(batch):
    with open(os.environ["NOTED"], "w") as file:
        json.dump(sorted(sys.modules), file)
    return batch
"""
LOOP = """
import sys
from noted import noted
from ptycho_torch import PtychoDataModule

data = PtychoDataModule(
    sys.argv[1], num_workers=1, multiprocessing_context=sys.argv[2], assemble_on=sys.argv[3],
    val_fraction=0, ground_truth="none", cache="off",
)
data.setup("fit")
loader = data.train_dataloader()
loader.collate_fn = noted
assert len(list(loader))
"""
NOT_NEEDED = ("lightning", "pytorch_lightning", "torchmetrics", "matplotlib", "scipy", "ptychopinn")


@pytest.mark.slow
@pytest.mark.parametrize("assemble_on", ["auto", "worker"])
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_worker_imports_no_lightning_matplotlib_or_scipy(
    tmp_path: Path, method: str, assemble_on: str
) -> None:
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system has no {method}")
    (tmp_path / "noted.py").write_text(NOTED)
    scan = simulate_scan(n_frames=40, N=16, seed=1).to_file(tmp_path / "scan.npz")
    path = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    environment = {**os.environ, "PYTHONPATH": path, "NOTED": str(tmp_path / "modules.json")}
    arguments = [sys.executable, "-c", LOOP, str(scan), method, assemble_on]
    subprocess.run(arguments, env=environment, check=True)
    modules = json.loads((tmp_path / "modules.json").read_text())
    assert "ptycho_torch.batches.dataset" in modules
    rooms = {name for name in modules if name.startswith("ptycho_torch")}
    assert not rooms & {"ptycho_torch.datamodule", "ptycho_torch.cli", "ptycho_torch.models"}
    packages = {name.partition(".")[0] for name in modules}
    assert not packages & set(NOT_NEEDED)
