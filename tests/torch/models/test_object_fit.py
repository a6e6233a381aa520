"""ObjectFit: what it recovers, from what, and that it needs every part of a batch to be right."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import numpy as np
import pytest
from builders import quiet_trainer

torch = pytest.importorskip("torch", reason="torch is not installed: fitting object and probe")


from ptycho_torch.data.config import GroupingConfig  # noqa: E402
from ptycho_torch.data.errors import OptionError, ScanFileError  # noqa: E402
from ptycho_torch.data.geometry import Geometry  # noqa: E402
from ptycho_torch.data.raw_data import RawData, read_scan  # noqa: E402
from ptycho_torch.datamodule import PtychoDataModule  # noqa: E402
from ptycho_torch.models.object_fit import ObjectFit  # noqa: E402
from ptycho_torch.physics import stitch  # noqa: E402
from ptycho_torch.results import metrics  # noqa: E402
from ptycho_torch.simulation.scan import simulate_scan  # noqa: E402

REAL_SCAN = "data/aps_velociprobe_siemens.npz"


def data_for(scan, gridsize=2, batch_size=16, **options):
    grouping = GroupingConfig(gridsize=gridsize)
    options = {"split": "none", "ground_truth": "none", "cache": "off", **options}
    return PtychoDataModule(scan, batch_size=batch_size, grouping=grouping, **options)


def trainer_for(epochs, tmp_path=None, **options):
    return quiet_trainer(tmp_path, **{"max_epochs": epochs, "limit_val_batches": 0, **options})


def correlation(model, scan):
    """Centred correlation with the truth where frames show it; a flat object scores nothing."""
    obj, probe = (part.numpy() for part in model.reconstruction())
    positions = np.stack([scan.xcoords, scan.ycoords], axis=1)
    mask = metrics.illuminated_mask(probe, positions, obj.shape)
    assert metrics.centred_correlation(np.ones_like(obj), scan.objectGuess, mask) < 0.01
    return metrics.centred_correlation(obj, scan.objectGuess, mask)


@pytest.fixture(scope="module")
def scan():
    return simulate_scan(n_frames=196, N=32, object_size=(75, 80), photons=1e5, seed=3)


@pytest.fixture(scope="module")
def fitted(scan):
    model, trainer = ObjectFit(schedule="cosine"), trainer_for(25)
    trainer.fit(model, datamodule=data_for(scan))
    return model, trainer


@pytest.mark.slow
def test_fit_recovers_the_object(scan, fitted):
    assert correlation(fitted[0], scan) > 0.995


def test_fit_keeps_the_probe_it_started_from_when_that_is_right(scan, fitted):
    probe = fitted[0].reconstruction()[1][0].numpy()
    assert metrics.centred_correlation(probe, scan.probeGuess) > 0.999
    # In its own unit, square roots of counts; object and probe may trade a factor.
    assert np.linalg.norm(probe) == pytest.approx(np.linalg.norm(scan.probeGuess), rel=0.1)


def test_fit_reaches_the_noise(scan, fitted):
    model, trainer = fitted
    clean = simulate_scan(n_frames=196, N=32, object_size=(75, 80), photons=None, seed=3)
    noise = metrics.fourier_error(clean.diff3d, scan.diff3d)
    error = trainer.test(model, datamodule=data_for(scan), verbose=False)[0]["test_fourier_error"]
    # A fit of some thousand unknowns takes a little of the noise in: below, not far below.
    assert 0.8 * noise < error < noise


@pytest.mark.slow
@pytest.mark.parametrize("modes, gridsize", [(1, 1), (2, 2)])
def test_fit_works_for_any_gridsize_and_number_of_modes(modes, gridsize):
    scan = simulate_scan(n_frames=144, N=24, photons=1e5, n_modes=modes)
    model = ObjectFit()
    trainer_for(30).fit(model, datamodule=data_for(scan, gridsize))
    assert model.reconstruction()[1].shape == (modes, 24, 24)
    assert correlation(model, scan) > 0.97


@pytest.mark.slow
def test_refined_probe_makes_up_for_a_wrong_guess(scan):
    wrong = np.roll(scan.probeGuess, 2, axis=1) * np.exp(0.002j * np.arange(32) ** 2)
    guess = RawData(
        scan.xcoords, scan.ycoords, scan.xcoords, scan.ycoords, scan.diff3d,
        wrong.astype(np.complex64), scan.scan_index,
    )  # fmt: skip
    errors = {}
    for refine in (True, False):
        model, trainer = ObjectFit(refine_probe=refine), trainer_for(10)
        trainer.fit(model, datamodule=data_for(guess))
        errors[refine] = float(trainer.callback_metrics["train_fourier_error"])
    assert errors[True] < 0.7 * errors[False]


def flip_xy(batch):
    return batch.replace(
        global_offsets=batch.global_offsets.flip(-2),
        local_offsets=batch.local_offsets.flip(-2),
    )


WRONG_BATCHES = {
    "axis order": flip_xy,
    "group sign": lambda batch: batch.replace(local_offsets=-batch.local_offsets),
    "x sign": lambda batch: mirrored(batch, 0, 79),
    "y sign": lambda batch: mirrored(batch, 1, 74),
    "frames transposed": lambda batch: batch.replace(X=batch.X.transpose(1, 2)),
    "frames of other groups": lambda batch: batch.replace(X=batch.X.roll(1, 0)),
    "zero frequency at the corner": lambda batch: batch.replace(
        X=torch.fft.ifftshift(batch.X, dim=(1, 2))
    ),
    "counts for amplitude": lambda batch: batch.replace(X=batch.X**2),
    "scale": lambda batch: batch.replace(scale=2 * batch.scale),
}


def mirrored(batch, axis, side):
    sign, shift = torch.ones(1, 1, 2, 1).double(), torch.zeros(1, 1, 2, 1).double()
    sign[0, 0, axis], shift[0, 0, axis] = -1, side
    return batch.replace(
        global_offsets=sign * batch.global_offsets + shift,
        local_offsets=sign * batch.local_offsets,
    )


@pytest.mark.parametrize("wrong", WRONG_BATCHES)
def test_fit_model_disagrees_with_a_batch_that_has_one_thing_wrong(scan, fitted, wrong):
    model = fitted[0]
    batch = data_for(scan).dataset("train").__getitems__(range(64))

    def error(batch):
        with torch.no_grad():
            return metrics.fourier_error(model(batch), batch.channels_first())

    assert error(batch) < 0.08
    assert error(WRONG_BATCHES[wrong](batch)) > 0.12


def test_probe_of_the_batch_is_used_when_it_is_not_refined(scan):
    model = ObjectFit(refine_probe=False)
    model.initialize((75, 80), torch.tensor(scan.probeGuess)[None])
    batch = data_for(scan).dataset("train").__getitems__(range(4))
    brighter = batch.replace(probe=2 * batch.probe)
    assert torch.allclose(model(brighter), 2 * model(batch))
    model.refine_probe = True
    assert torch.equal(model(brighter), model(batch))


@pytest.mark.parametrize("asked, got", [(None, (75, 80)), ((90, 101), (90, 101))])
def test_object_has_the_shape_of_the_scans_unless_one_is_asked_for(scan, asked, got):
    model = ObjectFit(object_shape=asked)
    trainer_for(1, limit_train_batches=1).fit(model, datamodule=data_for(scan))
    assert model.reconstruction()[0].shape == got


def test_learning_rates_reach_their_parameters():
    model = ObjectFit(learning_rate=0.1, probe_learning_rate=0.01)
    model.initialize((20, 20), torch.ones(1, 8, 8, dtype=torch.complex64))
    groups = model.configure_optimizers().param_groups
    assert [group["lr"] for group in groups] == [0.1, 0.01]
    assert groups[0]["params"] == [model.obj]
    assert groups[1]["params"] == [model.probe]


def test_only_the_object_is_optimised_when_the_probe_is_not_refined():
    model = ObjectFit(refine_probe=False)
    model.initialize((20, 20), torch.ones(1, 8, 8, dtype=torch.complex64))
    assert [group["params"] for group in model.configure_optimizers().param_groups] == [[model.obj]]
    assert not model.probe.requires_grad


@pytest.mark.slow
def test_fit_does_not_depend_on_the_unit_of_the_frames(scan):
    results = []
    for factor in (1.0, 1024.0):
        scaled = RawData(
            scan.xcoords, scan.ycoords, scan.xcoords, scan.ycoords,
            np.float32(factor) * scan.diff3d, np.complex64(factor) * scan.probeGuess,
            scan.scan_index,
        )  # fmt: skip
        model, trainer = ObjectFit(), trainer_for(2)
        trainer.fit(model, datamodule=data_for(scaled))
        results.append(float(trainer.callback_metrics["train_loss"]))
    assert results[1] == pytest.approx(results[0], rel=1e-5)


@pytest.mark.slow
def test_cosine_schedule_ends_at_zero_and_constant_stays(scan):
    ends = {}
    for schedule in ("cosine", "constant"):
        model, trainer = ObjectFit(schedule=schedule), trainer_for(2)
        trainer.fit(model, datamodule=data_for(scan))
        ends[schedule] = trainer.optimizers[0].param_groups[0]["lr"]
    assert ends["cosine"] == pytest.approx(0, abs=1e-9)
    assert ends["constant"] == 0.05


def test_logged_fourier_error_is_that_of_all_groups_together(scan, fitted):
    model, trainer = fitted
    data = data_for(scan, batch_size=50)
    logged = trainer.test(model, datamodule=data, verbose=False)[0]
    batch = data.dataset("train").__getitems__(range(196))
    with torch.no_grad():
        expected = metrics.fourier_error(model(batch), batch.channels_first())
    assert logged["test_fourier_error"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
def test_validation_is_logged_under_its_own_name(scan):
    model, trainer = ObjectFit(), trainer_for(1, limit_val_batches=1.0)
    trainer.fit(model, datamodule=data_for(scan))
    assert set(trainer.callback_metrics) == {
        "train_loss", "train_fourier_error", "val_loss", "val_fourier_error",
    }  # fmt: skip


def test_predicted_patches_stitch_to_the_object(scan, fitted):
    model, trainer = fitted
    parts = trainer.predict(model, datamodule=data_for(scan))
    patches, positions, frames = (
        torch.cat([part[name] for part in parts])
        for name in ("patches", "positions_px", "nn_indices")
    )
    assert patches.shape == (196, 4, 32, 32)
    assert np.array_equal(positions[..., 0].numpy().round(6), scan.xcoords[frames].round(6))
    weights = torch.from_numpy(np.abs(scan.probeGuess) ** 2)
    stitched = stitch(patches, positions, scan.objectGuess.shape, weights).numpy()
    mask = metrics.illuminated_mask(scan.probeGuess, positions[:, 0].numpy(), stitched.shape, 0.3)
    obj = model.reconstruction()[0].numpy()
    assert metrics.centred_correlation(stitched, obj, mask) > 0.995
    assert metrics.centred_correlation(np.ones_like(obj), obj, mask) < 0.01


def test_checkpoint_loads_without_a_datamodule_and_predicts_the_same(scan, fitted, tmp_path):
    model, trainer = fitted
    trainer.save_checkpoint(tmp_path / "fit.ckpt")
    loaded = ObjectFit.load_from_checkpoint(tmp_path / "fit.ckpt", weights_only=True)
    batch = data_for(scan).dataset("train").__getitems__(range(4))
    assert torch.equal(loaded(batch), model(batch))
    assert loaded.hparams == model.hparams
    for ours, theirs in zip(loaded.reconstruction(), model.reconstruction(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.slow
def test_interrupted_fit_goes_on_from_its_checkpoint_as_if_it_had_not_stopped(scan, tmp_path):
    whole = ObjectFit()
    trainer_for(4).fit(whole, datamodule=data_for(scan))
    first, trainer = ObjectFit(), trainer_for(2)
    trainer.fit(first, datamodule=data_for(scan))
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    second = ObjectFit()
    trainer_for(4).fit(
        second, datamodule=data_for(scan), ckpt_path=tmp_path / "half.ckpt", weights_only=False
    )
    assert torch.allclose(second.obj, whole.obj, atol=1e-4)


def test_checkpoint_of_another_model_is_refused(scan, tmp_path):
    other = {"weight": torch.zeros(1)}
    with pytest.raises(ScanFileError, match="checkpoint is without obj"):
        ObjectFit().on_load_checkpoint({"state_dict": other})
    path = tmp_path / "other.ckpt"
    content = {"state_dict": other, "pytorch-lightning_version": "2.6.0"}
    torch.save({**content, "epoch": 0, "global_step": 0}, path)
    with pytest.raises(ScanFileError, match=r"other\.ckpt: checkpoint is without obj"):
        trainer_for(1).fit(
            ObjectFit(), datamodule=data_for(scan), ckpt_path=path, weights_only=True
        )


def test_model_without_a_scan_says_what_it_needs(scan):
    with pytest.raises(OptionError, match="PtychoDataModule"):
        trainer_for(1).fit(ObjectFit(), *2 * [data_for(scan).train_dataloader()])
    with pytest.raises(OptionError, match="initialize"):
        ObjectFit().reconstruction()


def test_two_scans_are_refused_in_one_line(scan):
    with pytest.raises(OptionError, match="train is 2 scans; expected one"):
        trainer_for(1).fit(ObjectFit(), datamodule=data_for([scan, scan]))


def test_near_field_scan_is_refused_with_the_reason(scan):
    near = RawData.sharing(scan, geometry=Geometry(near_field=True))
    with pytest.raises(OptionError, match="geometry is that of the near field; expected the far"):
        trainer_for(1).fit(ObjectFit(), datamodule=data_for(near))


FORMATS = Path(os.environ.get("PTYCHO_TORCH_DATA", "nowhere")) / "data" / "formats"


@pytest.mark.slow
@pytest.mark.skipif(not FORMATS.exists(), reason="PTYCHO_TORCH_DATA has no data/formats")
def test_files_of_ptychodus_are_fitted_as_well_as_the_scan_they_were_made_of():
    pytest.importorskip("h5py", reason="h5py is not installed: pip install ptycho-torch[formats]")
    reached = []
    for name in ("truth.npz", "ptychodus170/product.h5", "ptychodus170/ptychopinn_training.npz"):
        measured = read_scan(FORMATS / name, sidecar="off")
        torch.manual_seed(0)
        model = ObjectFit(object_shape=measured.objectGuess.shape)
        trainer_for(8).fit(model, datamodule=data_for(measured, gridsize=1))
        reached.append(correlation(model, measured))
    assert max(reached) - min(reached) < 0.01, reached
    assert min(reached) > 0.9, reached


def test_positions_that_leave_the_object_are_warned_of(scan, caplog):
    moved = RawData(
        scan.xcoords - 10, scan.ycoords, scan.xcoords, scan.ycoords, scan.diff3d,
        scan.probeGuess, scan.scan_index,
    )  # fmt: skip
    with caplog.at_level(logging.WARNING, logger="ptycho_torch"):
        trainer_for(1, limit_train_batches=1).fit(ObjectFit(), datamodule=data_for(moved))
    missing = 10 - (scan.xcoords.min() - 16)
    assert f"add at least {missing:.1f} px" in caplog.text


@pytest.mark.parametrize(
    "options, message",
    [
        ({"learning_rate": 0}, "learning_rate is 0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"probe_learning_rate": -1}, "probe_learning_rate is -1"),
        ({"schedule": "linear"}, "'linear'; expected one of constant, cosine"),
    ],
)
def test_bad_options_are_refused_by_name(options, message):
    with pytest.raises(OptionError, match=message):
        ObjectFit(**options)


def test_dark_probe_is_refused():
    with pytest.raises(OptionError, match="probe is of root mean square 0"):
        ObjectFit().initialize((20, 20), torch.zeros(1, 8, 8, dtype=torch.complex64))


@pytest.mark.slow
def test_measured_siemens_star_is_reconstructed():
    folder = os.environ.get("PTYCHO_TORCH_DATA")
    if not folder or not (Path(folder) / REAL_SCAN).is_file():
        pytest.skip("PTYCHO_TORCH_DATA names no folder with the measured Siemens star")
    scan = RawData.from_file(Path(folder) / REAL_SCAN, sidecar="off")
    model, trainer = ObjectFit(schedule="cosine"), trainer_for(12)
    data = data_for(scan, gridsize=1)
    trainer.fit(model, datamodule=data)
    error = trainer.test(model, datamodule=data, verbose=False)[0]["test_fourier_error"]
    assert error <= 0.115
