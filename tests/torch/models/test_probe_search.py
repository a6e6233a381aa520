"""Defocus found by short fits, and modes that a fit adds."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from builders import quiet_trainer

torch = pytest.importorskip("torch", reason="torch is not installed: fitting object and probe")

from ptycho_torch import GroupingConfig, ObjectFit, PtychoDataModule, RawData  # noqa: E402
from ptycho_torch.data.errors import OptionError  # noqa: E402
from ptycho_torch.physics import diffract, illuminate  # noqa: E402

REAL_SCAN = "data/aps_velociprobe_siemens.npz"


def initialized(n_modes, probe):
    model = ObjectFit(n_modes=n_modes)
    model.initialize((20, 20), probe)
    return model


def test_modes_are_added_and_load_from_a_checkpoint(tmp_path):
    probe = torch.ones(1, 8, 8, dtype=torch.complex64)
    model = initialized(3, probe)
    modes = model.reconstruction()[1].flatten(1)
    gram = modes @ modes.mH
    assert gram.shape == (3, 3)
    assert torch.allclose(gram, torch.diag(torch.diag(gram)), atol=1e-4)
    assert float(torch.trace(gram).real) == pytest.approx(64, rel=1e-5)
    other = ObjectFit(n_modes=3)
    other.on_load_checkpoint({"state_dict": model.state_dict()})
    assert torch.equal(other.probe, model.probe)
    with pytest.raises(OptionError, match="n_modes is 1, fewer than the scan carries"):
        initialized(1, torch.ones(2, 8, 8, dtype=torch.complex64))


def test_orthogonal_modes_give_the_same_frames():
    torch.manual_seed(0)
    probe = torch.randn(3, 8, 8, dtype=torch.complex64)
    modes = initialized(None, probe).reconstruction()[1]
    patches = torch.randn(2, 8, 8, dtype=torch.complex64)
    assert torch.allclose(
        diffract(illuminate(modes, patches)), diffract(illuminate(probe, patches)), rtol=1e-4
    )
    powers = modes.abs().square().sum(dim=(1, 2))
    assert (powers.diff() <= 0).all()


def test_probe_that_has_to_be_fitted_is_refused_when_it_is_fixed():
    with pytest.raises(OptionError, match="refine_probe is False"):
        ObjectFit(refine_probe=False, probe="initial")


@pytest.mark.slow
@pytest.mark.parametrize(
    "options, most",
    [({"probe": "initial"}, 0.112), ({"n_modes": 3}, 0.095)],
    ids=["probe", "modes"],
)
def test_measured_siemens_star_is_reconstructed(options, most):
    folder = os.environ.get("PTYCHO_TORCH_DATA")
    if not folder or not (Path(folder) / REAL_SCAN).is_file():
        pytest.skip("PTYCHO_TORCH_DATA names no folder with the measured Siemens star")
    scan = RawData.from_file(Path(folder) / REAL_SCAN, sidecar="off")
    if "probe" in options:
        blank = np.ones((128, 128), np.complex64)
        place = (scan.xcoords, scan.ycoords, scan.xcoords, scan.ycoords)
        scan = RawData(*place, scan.frames, blank)
    data = PtychoDataModule(
        scan, batch_size=16, split="none", ground_truth="none", cache="off",
        grouping=GroupingConfig(gridsize=2, neighbor_count=6),
    )  # fmt: skip
    model = ObjectFit(learning_rate=0.15, schedule="cosine", **options)
    trainer = quiet_trainer(max_epochs=8, limit_val_batches=0)
    trainer.fit(model, datamodule=data)
    assert trainer.test(model, datamodule=data, verbose=False)[0]["test_fourier_error"] <= most
