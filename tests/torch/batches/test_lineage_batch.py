"""Batches as PtychoPINN's own torch loader hands them out, and a model in that style."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed: batches")

import torch
from builders import quiet_trainer
from lightning.pytorch import LightningModule

from ptycho_torch import GroupingConfig, PtychoDataModule, RawData, simulate_scan


@pytest.fixture(name="scan")
def fixture_scan(tmp_path: Path) -> RawData:
    scan = simulate_scan(n_frames=64, N=16, n_modes=2, seed=0, photons=1e4)
    return RawData.from_file(scan.to_file(tmp_path / "scan.npz"))


def data_of(scan: RawData, **options: Any) -> PtychoDataModule:
    grouping = GroupingConfig(gridsize=2, seed=1)
    return PtychoDataModule(
        scan, grouping=grouping, batch_size=16, split="none", cache="off", patch_positions="scan",
        **options,
    )  # fmt: skip


def test_every_array_is_that_of_the_scan(scan: RawData) -> None:
    batch = next(iter(data_of(scan).train_dataloader()))
    arrays, probe, scaling = batch.as_lineage(nphotons=1e6)
    nn = batch.nn_indices.numpy()
    assert arrays.batch_size == (16,)
    np.testing.assert_allclose(arrays["images"], scan.diff3d[nn], rtol=1e-6)
    assert torch.equal(arrays["observed_images"], arrays["images"])
    positions = np.stack([scan.xcoords[nn], scan.ycoords[nn]], -1)[:, :, None]
    np.testing.assert_allclose(arrays["coords_global"], positions)
    centre = positions.mean(1, keepdims=True)
    np.testing.assert_allclose(arrays["coords_center"], centre)
    np.testing.assert_allclose(arrays["coords_relative"], centre - positions, atol=1e-5)
    assert arrays["coords_relative"].dtype == torch.float32
    np.testing.assert_array_equal(arrays["nn_indices"], nn)
    assert arrays["experiment_id"].tolist() == [0] * 16
    assert probe.shape == (16, 4, 2, 16, 16)
    np.testing.assert_array_equal(probe[3, 1], scan.probeGuess)
    np.testing.assert_allclose(arrays["images"] * scaling, batch.channels_first(), rtol=1e-6)
    assert torch.equal(scaling, arrays["rms_scaling_constant"])
    np.testing.assert_allclose(
        torch.polar(arrays["label_amp"], arrays["label_phase"]), batch.Y.movedim(-1, 1), atol=1e-6
    )


def test_physics_constant_gives_the_photons_that_are_said(scan: RawData) -> None:
    data = data_of(scan)
    whole = [batch.as_lineage(nphotons=1e6)[0] for batch in data.predict_dataloader()]
    counts = [(a["images"] * a["physics_scaling_constant"]) ** 2 for a in whole]
    assert torch.cat(counts).sum((-2, -1)).mean().item() == pytest.approx(1e6, rel=1e-4)
    plain = next(iter(data.predict_dataloader())).as_lineage()[0]
    assert (plain["physics_scaling_constant"] == 1).all()
    assert plain["physics_scaling_constant"].shape == (16, 1, 1, 1)


def test_batches_without_ground_truth_have_no_labels(scan: RawData) -> None:
    data = data_of(scan, ground_truth="none")
    arrays, _, _ = next(iter(data.train_dataloader())).as_lineage()
    assert not {"label_amp", "label_phase"} & set(arrays.keys())


class LineageModel(LightningModule):
    """A model as one writes it for PtychoPINN's loader: a triple in, a physics loss out."""

    def __init__(self) -> None:
        super().__init__()
        self.net = torch.nn.Conv2d(4, 8, 3, padding=1)
        self.losses: list[float] = []

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        arrays, probe, scaling = batch.as_lineage()
        real, imaginary = self.net(arrays["images"] * scaling).chunk(2, dim=1)
        waves = probe * torch.complex(1 + real, imaginary)[:, :, None]
        counts = torch.fft.fftshift(torch.fft.fft2(waves, norm="ortho"), dim=(-2, -1)).abs() ** 2
        amplitude = (counts.sum(2) + 1e-9).sqrt() * arrays["physics_scaling_constant"]
        loss = (amplitude - arrays["observed_images"]).abs().mean()
        self.losses.append(loss.item())
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Nothing to validate: what counts is that training goes down."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-3)


def test_model_for_the_lineages_loader_trains_on_the_data_module(scan: RawData) -> None:
    torch.manual_seed(0)
    model = LineageModel()
    quiet_trainer(max_epochs=8, limit_val_batches=0).fit(model, datamodule=data_of(scan))
    assert len(model.losses) == 32
    assert np.mean(model.losses[-4:]) < 0.8 * np.mean(model.losses[:4])
