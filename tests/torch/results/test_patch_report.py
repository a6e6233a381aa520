"""The report of models that predict patches: true ones, mirrored ones and flat ones."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from builders import NETWORK_BARS, quiet_trainer

torch = pytest.importorskip("torch", reason="torch is not installed: the report of a network")
pytest.importorskip("matplotlib", reason="matplotlib is not installed: pictures")

import lightning.pytorch as pl  # noqa: E402
from lightning.pytorch.loggers import CSVLogger  # noqa: E402

from ptycho_torch import PtychoDataModule, RawData, simulate_scan  # noqa: E402
from ptycho_torch.data.errors import OptionError  # noqa: E402
from ptycho_torch.physics import stitch  # noqa: E402
from ptycho_torch.results.report import ReconstructionReport  # noqa: E402


class LabelPatches(pl.LightningModule):
    """A network that predicts the labels of its batch, or 1 everywhere, times 2j."""

    def __init__(self, flat=False):
        super().__init__()
        self.weight, self.flat = torch.nn.Parameter(torch.ones(())), flat

    def training_step(self, batch, batch_idx):
        return self.weight**2

    def validation_step(self, batch, batch_idx):
        return None

    def predict_step(self, batch, batch_idx):
        assert not self.training
        patches = batch.Y.movedim(-1, 1)
        patches = 2j * (torch.ones_like(patches) if self.flat else patches)
        return {
            "patches": patches,
            "positions_px": batch.positions,
            "nn_indices": batch.nn_indices,
        }

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1e-3)


def report_of(scans, folder, model=None, *, every_n_epochs=None, epochs=1, logger=False, **options):
    options = {"patch_positions": "scan", "cache": "off", "batch_size": 16, **options}
    data = PtychoDataModule(scans, **options)
    report = ReconstructionReport(str(folder), every_n_epochs)
    trainer = quiet_trainer(
        max_epochs=epochs, limit_train_batches=1, limit_val_batches=0, callbacks=[report],
        logger=logger, log_every_n_steps=1,
    )  # fmt: skip
    trainer.fit(model or LabelPatches(), datamodule=data)
    return data, report


def read(folder, name="metrics.json"):
    return json.loads((folder / name).read_text())


@pytest.fixture(scope="module")
def star():
    """The simulated star at N = 64; a smaller one, for time: the bars lie as far apart."""
    return simulate_scan(n_frames=324, N=64)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:patch_positions")
def test_true_patches_pass_every_bar_that_mirrored_and_flat_ones_fail(star, tmp_path):
    kinds = {
        "true": (LabelPatches(), "scan"),
        "mirrored": (LabelPatches(), "reference"),
        "flat": (LabelPatches(flat=True), "scan"),
    }
    unseen = {}
    for name, (model, patch_positions) in kinds.items():
        report_of(star, tmp_path / name, model, patch_positions=patch_positions)
        unseen[name] = read(tmp_path / name)["validation"]
    for figure, bar in NETWORK_BARS.items():
        assert unseen["true"][figure] > bar
        assert unseen["mirrored"][figure] < bar - 0.2
        assert unseen["flat"][figure] == unseen["true"]["flat_object"][figure] == 0
    assert unseen["flat"]["half_period_px"] is None
    error = unseen["flat"]["fourier_error"]
    assert error == pytest.approx(unseen["true"]["flat_object"]["fourier_error"], rel=0.02)
    assert unseen["true"]["fourier_error"] < 0.5 * error


@pytest.fixture(scope="module")
def raster():
    """A scan without noise at whole pixels, where patches stitch to the object itself."""
    return simulate_scan(n_frames=64, N=16, pattern="raster", photons=None)


def test_object_is_stitched_of_training_and_validation_groups_and_judged_by_its_frames(
    raster, tmp_path
):
    data, report = report_of(raster, tmp_path, val_fraction=0.3)
    names = ["metrics.json", "reconstruction.npz", "reconstruction.png", "report.html"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert report.written == [tmp_path / "metrics.json"]
    figures = read(tmp_path)
    several = {"training": figures, "validation": figures["validation"]}
    for part, found in several.items():
        assert found["fourier_error"] < 1e-5, part
        assert found["flat_object"]["fourier_error"] > 0.1, part
        assert found["centred_correlation"] > 0.9999, part
    assert several["validation"]["groups"] == len(data.dataset("val"))
    batches = [data.dataset(part)[:] for part in ("train", "val")]
    patches, positions = (
        torch.cat([each.flatten(0, 1) for each in several])
        for several in ([2j * b.Y.movedim(-1, 1) for b in batches], [b.positions for b in batches])
    )
    weights = torch.from_numpy(np.abs(raster.probeGuess) ** 2)
    expected = stitch(patches, positions, raster.objectGuess.shape, weights).numpy()
    with np.load(tmp_path / "reconstruction.npz") as file:
        np.testing.assert_allclose(file["object"], expected, atol=1e-4)
        np.testing.assert_array_equal(file["probe"][0], raster.probeGuess)


def test_bad_pixels_and_the_light_of_frames_are_those_of_the_measurement(raster, tmp_path):
    photons = np.linspace(0.5, 2, 64)
    frames = raster.diff3d * np.sqrt(photons / photons.mean())[:, None, None].astype(np.float32)
    bad = np.zeros((16, 16), dtype=bool)
    bad[7:9, 8] = True
    frames[:, bad] = 1e4
    measured = RawData(
        raster.xcoords, raster.ycoords, raster.xcoords, raster.ycoords, frames, raster.probeGuess,
        raster.scan_index, raster.objectGuess, bad_pixels=bad, frame_photons=photons,
    )  # fmt: skip
    report_of(measured, tmp_path, split="none")
    assert read(tmp_path)["fourier_error"] < 1e-4


def test_each_of_several_scans_has_its_files(raster, tmp_path):
    first = raster.to_file(tmp_path / "first.npz")
    second = simulate_scan(n_frames=49, N=16, seed=4).to_file(tmp_path / "second.npz")
    out = tmp_path / "out"
    _, report = report_of([str(first), str(second)], out, split="none")
    ends = ("metrics.json", "reconstruction.npz", "reconstruction.png", "report.html")
    names = {f"{stem}.{end}" for stem in ("first", "second") for end in ends}
    assert {path.name for path in out.iterdir()} == names
    assert read(out, "second.metrics.json")["frames"] == 49
    assert [path.name for path in report.written] == ["first.metrics.json", "second.metrics.json"]
    report_of([raster, raster], tmp_path / "same", split="none")
    assert (tmp_path / "same" / "scan in memory-1.metrics.json").is_file()


def test_validation_scans_of_their_own_are_judged_apart(raster, tmp_path):
    other = simulate_scan(n_frames=49, N=16, seed=4).to_file(tmp_path / "other.npz")
    report_of(raster, tmp_path / "out", val=str(other))
    assert "validation" not in read(tmp_path / "out", "scan in memory.metrics.json")
    figures = read(tmp_path / "out", "other.metrics.json")
    assert figures["validation"]["groups"] == 49
    assert "centred_correlation" not in figures


@pytest.mark.parametrize(
    "predicted, message",
    [
        (lambda batch: batch.X, "patches of what predict_step returns is absent"),
        (lambda batch: {"patches": batch.Y}, r"\(16, 16, 16, 4\); expected .*\(16, 4, 16, 16\)"),
        (lambda batch: {"patches": batch.Y.movedim(-1, 1)}, "positions_px .* absent"),
        (
            lambda batch: {"patches": batch.channels_first(), "positions_px": batch.positions},
            "is real; expected complex",
        ),
    ],
)
def test_what_is_no_patches_is_refused_in_a_line(raster, tmp_path, predicted, message):
    model = LabelPatches()
    model.predict_step = lambda batch, batch_idx: predicted(batch)
    with pytest.raises(OptionError, match=message):
        report_of(raster, tmp_path, model, split="none")


class PictureLogger(CSVLogger):
    """A logger that takes pictures, as TensorBoard's does."""

    pictures: list

    @property
    def experiment(self):
        experiment = super().experiment
        experiment.add_figure = lambda *shown: self.pictures.append(shown)
        return experiment


def test_figures_and_pictures_reach_the_loggers_every_so_many_epochs(raster, tmp_path):
    logger, board = CSVLogger(tmp_path / "csv"), PictureLogger(tmp_path / "board")
    board.pictures = []
    report_of(
        raster, tmp_path / "out", split="none", every_n_epochs=2, epochs=5, logger=[logger, board]
    )
    with open(f"{logger.log_dir}/metrics.csv") as file:
        rows = [row for row in csv.DictReader(file) if row["reconstruction/centred_correlation"]]
    assert [row["step"] for row in rows] == ["2", "4"]
    assert float(rows[0]["reconstruction/fourier_error"]) < 1e-5
    assert float(rows[0]["reconstruction/flat_object/fourier_error"]) > 0.1
    assert [(tag, step) for tag, _, step in board.pictures] == [
        ("reconstruction", 2), ("reconstruction", 4),
    ]  # fmt: skip
    assert "2 epochs" in board.pictures[0][1].get_suptitle()


def test_pictures_on_the_way_without_a_logger_are_refused(raster, tmp_path):
    with pytest.raises(OptionError, match="every_n_epochs is 2, without a logger"):
        report_of(raster, tmp_path, split="none", every_n_epochs=2)
    with pytest.raises(OptionError, match="every_n_epochs"):
        ReconstructionReport(str(tmp_path), every_n_epochs=0)


@pytest.mark.slow
def test_tensorboard_has_the_picture(raster, tmp_path):
    pytest.importorskip(
        "tensorboard", reason="tensorboard is not installed: pip install ptycho-torch[tensorboard]"
    )
    from lightning.pytorch.loggers import TensorBoardLogger
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = TensorBoardLogger(tmp_path / "board")
    report_of(raster, tmp_path / "out", split="none", every_n_epochs=1, logger=logger)
    events = EventAccumulator(logger.log_dir).Reload()
    assert events.Tags()["images"] == ["reconstruction"]
    assert events.Images("reconstruction")[0].encoded_image_string[:4] == b"\x89PNG"
    assert "reconstruction/centred_correlation" in events.Tags()["scalars"]
