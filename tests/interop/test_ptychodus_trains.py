"""Ptychodus 1.7, without its windows, exports, trains and reconstructs with this package.

``make interop`` installs it in an environment of its own; elsewhere this module skips.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ptychodus", reason="Ptychodus is not installed: make interop")

from ptychodus.model import ModelCore

from ptycho_torch import centred_correlation
from ptycho_torch.lightning_utils import find_best_checkpoint
from ptycho_torch.models.pinn import PtychoPINN

SHARED = Path(os.environ.get("PTYCHO_TORCH_DATA", "")) / "data" / "formats"
EPOCHS = int(os.environ.get("INTEROP_EPOCHS", "3"))
LEAST = 0.8

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("default"),  # Ptychodus and its dependencies have some
    pytest.mark.skipif(
        not (SHARED / "truth.npz").is_file(),
        reason="PTYCHO_TORCH_DATA has no data/formats/truth.npz",
    ),
]


@pytest.fixture(name="core")
def fixture_core(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ModelCore]:
    monkeypatch.setenv("HOME", str(tmp_path))  # Ptychodus keeps tokens there
    with ModelCore() as core:
        yield core


@pytest.mark.parametrize(("mode", "workers"), [("Unsupervised", 0), ("Supervised", 4)])
def test_ptychodus_trains_and_reconstructs(
    core: ModelCore, mode: str, workers: int, tmp_path: Path
) -> None:
    exports, runs = tmp_path / "exports", tmp_path / "runs"
    exports.mkdir()
    algorithm = f"PtychoPINN-Torch_{mode}"
    settings = tmp_path / "settings.ini"
    text = f"[PtychoPINNTorchTraining]\nepochs = {EPOCHS}\nnum_dataloader_workers = {workers}\n"
    settings.write_text(text, encoding="utf-8")
    core.settings_registry.open_settings(settings)
    files = SHARED / "ptychodus170"
    frames = core.workflow_api.load_assembled_diffraction_data(files / "diffraction.h5")
    product = core.workflow_api.load_product(files / "product.h5", diffraction=frames)
    product.export_training_data(exports / "scan.npz", algorithm=algorithm)
    product.train_reconstructor_local(exports, runs, algorithm=algorithm, block=True)

    checkpoint = find_best_checkpoint(runs)
    assert checkpoint is not None
    assert PtychoPINN.load_from_checkpoint(checkpoint, weights_only=True).hparams["width"] == 16
    assert [path.name for path in exports.iterdir()] == ["scan.npz"]

    given = product.get_product()
    result = product.reconstruct_local(algorithm=algorithm, block=True).get_product()
    before, after = given.object_.get_geometry(), result.object_.get_geometry()
    assert after == before
    truth = np.load(SHARED / "truth.npz")
    found = result.object_.get_layer(0)
    x, y = (truth[name].astype(int) for name in ("xcoords", "ycoords"))
    mask = np.zeros(found.shape, bool)
    mask[y.min() : y.max() + 1, x.min() : x.max() + 1] = True
    score = centred_correlation(found, truth["objectGuess"], mask)
    flat = centred_correlation(np.ones_like(found), truth["objectGuess"], mask)
    shifted = centred_correlation(np.roll(found, 3, axis=1), truth["objectGuess"], mask)
    print(
        f"{mode}, {workers} workers: centred {score:.3f}, 3 px off {shifted:.3f}, flat {flat:.3f}"
    )
    assert score >= LEAST > flat
    assert shifted < score
