"""What a fit leaves behind, and that its figures are those of the final parameters."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from builders import quiet_trainer

pytest.importorskip("torch", reason="torch is not installed: the report of a fit")
pytest.importorskip("matplotlib", reason="matplotlib is not installed: pictures")

import lightning.pytorch as pl
import torch

from ptycho_torch.data.config import GroupingConfig
from ptycho_torch.data.errors import MissingDependencyError, OptionError
from ptycho_torch.data.geometry import Geometry
from ptycho_torch.data.raw_data import RawData
from ptycho_torch.datamodule import PtychoDataModule
from ptycho_torch.models.object_fit import ObjectFit
from ptycho_torch.results import metrics
from ptycho_torch.results.report import ReconstructionReport
from ptycho_torch.results.ring_correlation import fourier_ring_correlation
from ptycho_torch.simulation.scan import simulate_scan


def fit(scan, folder, epochs=2, val=0, **options):
    options = {"split": "none", "ground_truth": "none", "cache": "off", **options}
    data = PtychoDataModule(scan, batch_size=7, grouping=GroupingConfig(), **options)
    report = ReconstructionReport(str(folder))
    trainer = quiet_trainer(max_epochs=epochs, limit_val_batches=val, callbacks=[report])
    model = ObjectFit()
    trainer.fit(model, datamodule=data)
    return model, data, json.loads((folder / "metrics.json").read_text())


@pytest.fixture(scope="module")
def scan():
    return simulate_scan(n_frames=50, N=16, seed=5)


@pytest.fixture(scope="module")
def reported(scan, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "outputs" / "demo"
    return (*fit(scan, folder), folder)


@pytest.mark.slow
def test_report_writes_picture_arrays_figures_and_page(reported):
    folder = reported[3]
    assert sorted(entry.name for entry in folder.iterdir()) == [
        "metrics.json", "reconstruction.npz", "reconstruction.png", "report.html",
    ]  # fmt: skip
    assert (folder / "reconstruction.png").read_bytes()[:4] == b"\x89PNG"


def test_arrays_are_the_final_object_and_probe(reported):
    model, _, _, folder = reported
    with np.load(folder / "reconstruction.npz", allow_pickle=False) as file:
        for name, expected in zip(("object", "probe"), model.reconstruction(), strict=True):
            assert np.array_equal(file[name], expected.numpy())


def test_fourier_error_is_a_pass_over_all_training_groups_with_the_final_parameters(reported):
    model, data, figures, _ = reported
    batch = data.dataset("train").__getitems__(range(50))
    with torch.no_grad():
        expected = metrics.fourier_error(model(batch), batch.channels_first())
    assert figures["fourier_error"] == pytest.approx(expected, rel=1e-5)


def test_figures_are_with_the_scans_object_over_the_illuminated_area(scan, reported):
    obj, probe = (part.numpy() for part in reported[0].reconstruction())
    positions = np.stack([scan.xcoords, scan.ycoords], axis=1)
    mask = metrics.illuminated_mask(probe, positions, obj.shape)
    figures, flat = reported[2], np.ones_like(obj)
    for name in (
        "centred_correlation",
        "phase_pearson",
        "amplitude_pearson",
    ):
        figure = getattr(metrics, name)
        assert figures[name] == pytest.approx(figure(obj, scan.objectGuess, mask), rel=1e-5)
        beside = figure(flat, scan.objectGuess, mask)
        assert figures["flat_object"][name] == pytest.approx(beside, rel=1e-5)
    rings = fourier_ring_correlation(obj, scan.objectGuess, mask)
    expected = rings.half_period_px if np.isfinite(rings.half_period_px) else None
    assert figures["half_period_px"] == pytest.approx(expected)
    assert figures["compared_with"] == "the truth"
    assert "validation" not in figures


def test_error_of_a_flat_object_is_the_least_of_any_modulus(scan, reported):
    model, data, figures, _ = reported
    batch = data.dataset("train").__getitems__(range(50))
    waves = np.fft.fft2(model.reconstruction()[1].numpy(), norm="ortho")
    empty = np.fft.fftshift(np.sqrt((abs(waves) ** 2).sum(axis=0)))
    frames = batch.channels_first().numpy()
    moduli = np.linspace(0, 2, 401) * float(batch.scale[0])
    errors = [metrics.frame_nrmse(m * np.broadcast_to(empty, frames.shape), frames) for m in moduli]
    assert figures["flat_object"]["fourier_error"] == pytest.approx(min(errors), rel=1e-3)


def test_figures_say_what_the_fit_was(reported):
    model, _, figures, _ = reported
    assert (figures["epochs"], figures["steps"]) == (2, 2 * 8)
    assert (figures["frames"], figures["groups"], figures["frames_per_group"]) == (50, 50, 4)
    assert figures["hyperparameters"]["learning_rate"] == 0.05
    assert figures["parameters"] == model.obj.numel() + model.probe.numel()
    assert figures["seconds"] > 0
    assert (figures["model"], figures["scan"]) == ("ObjectFit", None)


@pytest.mark.slow
def test_scan_without_an_object_has_no_correlation(scan, tmp_path):
    bare = RawData(
        scan.xcoords, scan.ycoords, scan.xcoords, scan.ycoords, scan.diff3d, scan.probeGuess,
        scan.scan_index,
    )  # fmt: skip
    figures = fit(bare, tmp_path)[2]
    assert figures["centred_correlation"] is figures["compared_with"] is None
    assert figures["fourier_error"] < figures["flat_object"]["fourier_error"]


@pytest.mark.slow
def test_objects_of_a_measured_scan_are_no_truth(scan, tmp_path):
    earlier = RawData.sharing(scan, metadata=None)
    assert fit(earlier, tmp_path)[2]["compared_with"] == "objectGuess, an earlier reconstruction"


@pytest.mark.slow
def test_a_fits_figures_of_validation_are_over_the_area_that_its_frames_show(scan, tmp_path):
    model, data, figures = fit(scan, tmp_path, split="region", val_fraction=0.3)
    obj, probe = (part.numpy() for part in model.reconstruction())
    for part, found in (("train", figures), ("val", figures["validation"])):
        dataset = data.dataset(part)
        rows = np.unique(dataset.index.nn_indices)
        positions = np.stack([scan.xcoords, scan.ycoords], axis=1)[rows]
        mask = metrics.illuminated_mask(probe, positions, obj.shape)
        expected = metrics.centred_correlation(obj, scan.objectGuess, mask)
        assert found["centred_correlation"] == pytest.approx(expected, rel=1e-5)
        assert found["groups"] == len(dataset)


@pytest.mark.slow
def test_scan_file_is_named(scan, tmp_path):
    scan.to_file(tmp_path / "scan.npz")
    figures = fit(str(tmp_path / "scan.npz"), tmp_path / "out")[2]
    assert figures["scan"] == str(tmp_path / "scan.npz")


@pytest.mark.slow
def test_error_curve_has_a_point_an_epoch_for_training_and_validation(scan, tmp_path):
    report = ReconstructionReport(str(tmp_path))
    trainer = quiet_trainer(max_epochs=3, callbacks=[report], num_sanity_val_steps=0)
    data = PtychoDataModule(scan, split="none", ground_truth="none", batch_size=25)
    trainer.fit(ObjectFit(), datamodule=data)
    assert {name: len(values) for name, values in report.history.items()} == {
        "training": 3, "validation": 3,
    }  # fmt: skip
    assert report.history["training"][2] < report.history["training"][0]


def test_missing_matplotlib_is_named_before_the_fit(scan, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingDependencyError, match="matplotlib"):
        fit(scan, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_error_is_judged_in_evaluation_mode(scan, tmp_path, monkeypatch):
    modes = []
    forward = ObjectFit.forward
    monkeypatch.setattr(
        ObjectFit, "forward", lambda self, b: modes.append(self.training) or forward(self, b)
    )
    model = fit(scan, tmp_path)[0]
    assert modes == [True] * 16 + [False] * 8
    assert model.training


def test_report_of_a_model_without_reconstruction_is_refused_before_the_fit(scan, tmp_path):
    trainer = pl.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, max_epochs=1,
        limit_val_batches=0, callbacks=[ReconstructionReport(str(tmp_path / "out"))],
    )  # fmt: skip

    class Other(pl.LightningModule):
        def training_step(self, batch, batch_idx):
            raise AssertionError("the fit began")

        def validation_step(self, batch, batch_idx):
            raise AssertionError("the fit began")

        def configure_optimizers(self):
            return None

    data = PtychoDataModule(scan, split="none", ground_truth="none", cache="off")
    with pytest.raises(OptionError, match=r"model is Other; .* reconstruction\(\).* predict_step"):
        trainer.fit(Other(), datamodule=data)
    assert not (tmp_path / "out").exists()


def test_report_writes_a_product_where_the_geometry_is_known(scan, tmp_path):
    h5py = pytest.importorskip(
        "h5py", reason="h5py is not installed: pip install ptycho-torch[formats]"
    )
    geometry = Geometry.from_energy(8000.0, distance_m=0.5, detector_pixel_m=75e-6)
    known = RawData.sharing(scan, geometry=geometry.for_frames(scan.N))
    model = fit(known, tmp_path)[0]
    with h5py.File(tmp_path / "product.h5") as file:
        obj, probe = (part.numpy() for part in model.reconstruction())
        assert np.array_equal(file["object"][0], obj)
        assert np.array_equal(file["probe"][0], probe)
        pixel = file["object"].attrs["pixel_width_m"]
        places = file["probe_position_x_m"][()] / pixel + obj.shape[1] / 2
        assert np.allclose(places, scan.xcoords, rtol=0, atol=1e-9)
        assert len(file["loss_values"]) == 2


def test_fit_without_h5py_ends_without_a_product(scan, tmp_path, monkeypatch):
    geometry = Geometry.from_energy(8000.0, distance_m=0.5, detector_pixel_m=75e-6)
    monkeypatch.setitem(sys.modules, "h5py", None)
    fit(RawData.sharing(scan, geometry=geometry.for_frames(scan.N)), tmp_path)
    assert not (tmp_path / "product.h5").exists()
