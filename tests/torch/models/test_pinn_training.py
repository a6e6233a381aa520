"""PtychoPINN under a Trainer, as users train: rates, checkpoints, objects, usual switches."""

from __future__ import annotations

import csv
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from builders import ROOT, quiet_trainer
from test_pinn import SMALL, data_for, known_scan

torch = pytest.importorskip("torch", reason="torch is not installed: a network is trained")
pytest.importorskip("lightning", reason="lightning is not installed: it trains")

import lightning.pytorch as pl  # noqa: E402
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint  # noqa: E402
from lightning.pytorch.tuner import Tuner  # noqa: E402

from ptycho_torch.data.config import GroupingConfig  # noqa: E402
from ptycho_torch.data.errors import OptionError  # noqa: E402
from ptycho_torch.datamodule import PtychoDataModule  # noqa: E402
from ptycho_torch.models.pinn import PtychoPINN  # noqa: E402
from ptycho_torch.physics import stitch  # noqa: E402
from ptycho_torch.simulation.scan import simulate_scan  # noqa: E402


@pytest.fixture(scope="module")
def scan():
    return known_scan(2)


def trained(model, data, **options):
    torch.manual_seed(0)
    trainer = quiet_trainer(**{"num_sanity_val_steps": 0, "max_epochs": 2, **options})
    trainer.fit(model, datamodule=data)
    return trainer


class Rates(pl.Callback):
    """Learning rate of every step."""

    def __init__(self):
        self.seen = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.seen.append(trainer.optimizers[0].param_groups[0]["lr"])


@pytest.mark.parametrize(
    "schedule, factors",
    [
        ("constant", [1.0] * 10),
        ("cosine", [0.5 * (1 + math.cos(math.pi * step / 10)) for step in range(10)]),
        ("stages", [1.0] * 5 + [0.3] * 3 + [0.1] * 2),
    ],
)
def test_rates_fall_as_the_schedule_says(scan, schedule, factors):
    rates, data = Rates(), data_for(scan)
    trained(PtychoPINN(**SMALL, schedule=schedule), data, callbacks=[rates])
    assert rates.seen == pytest.approx([1e-2 * factor for factor in factors])


def test_a_fit_without_end_needs_a_constant_rate(scan):
    model = PtychoPINN(**SMALL, schedule="cosine")
    with pytest.raises(OptionError, match=r"schedule is 'cosine' in a fit without end; expected"):
        trained(model, data_for(scan), max_epochs=-1)


def patches_of(model, data, **options):
    trainer = quiet_trainer(**options)
    return torch.cat([out["patches"] for out in trainer.predict(model, datamodule=data)])


def test_a_checkpoint_without_pickled_code_predicts_the_same(scan, tmp_path):
    model = PtychoPINN(**SMALL, loss="poisson", learn_intensity=True)
    trainer = trained(model, data_for(scan))
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    loaded = PtychoPINN.load_from_checkpoint(tmp_path / "model.ckpt", weights_only=True)
    assert loaded.hparams == model.hparams
    assert loaded.intensity.item() == model.intensity.item() != 0
    before, after = (patches_of(each, data_for(scan)) for each in (model, loaded))
    assert torch.equal(before, after)
    assert before.std() > 1e-4


@pytest.fixture(scope="module")
def learned(scan):
    model = PtychoPINN(**SMALL)
    trained(model, data_for(scan), max_epochs=4)
    return model


def test_an_object_is_that_of_a_file_of_a_scan_and_of_its_patches_by_hand(scan, learned, tmp_path):
    obj = learned.predict_object(scan)
    assert obj.shape == scan.objectGuess.shape
    assert obj.dtype == np.complex64
    path = scan.to_file(tmp_path / "scan.npz")
    np.testing.assert_array_equal(learned.predict_object(path), obj)
    once = GroupingConfig(gridsize=1, neighbor_count=1)
    data = PtychoDataModule(scan, grouping=once, split="none", ground_truth="none", cache="off")
    np.testing.assert_allclose(
        learned.predict_object(data, quiet_trainer()), obj, rtol=1e-5, atol=1e-5
    )
    patches = patches_of(learned, data)[:, 0]
    where = torch.tensor(np.stack([scan.xcoords, scan.ycoords], axis=1))
    probe = torch.tensor(scan.probeGuess)
    assert len(patches) == len(where)
    by_hand = stitch(patches, where, obj.shape, probe=probe).numpy()
    np.testing.assert_allclose(obj, by_hand, rtol=1e-4, atol=1e-5)
    # The weights matter: the plain mean of the patches is another object.
    assert np.abs(stitch(patches, where, obj.shape).numpy() - obj).max() > 1e-3


def test_an_object_of_groups_is_the_mean_of_all_their_patches(scan, learned):
    data = data_for(scan, 2)
    out = quiet_trainer().predict(learned, datamodule=data)
    patches, where = (
        torch.cat([part[name] for part in out]) for name in ("patches", "positions_px")
    )
    assert patches.shape[1] == 4
    by_hand = stitch(
        patches, where, scan.objectGuess.shape, probe=torch.tensor(scan.probeGuess)[None]
    )
    obj = learned.predict_object(data)
    np.testing.assert_allclose(obj, by_hand.numpy(), rtol=1e-4, atol=1e-5)


def test_a_trainer_of_ones_own_predicts_and_keeps_its_callbacks(scan, learned):
    trainer = quiet_trainer(precision="bf16-mixed")
    callbacks = list(trainer.callbacks)
    obj = learned.predict_object(scan, trainer)
    assert trainer.callbacks == callbacks
    full = learned.predict_object(scan)
    assert 0 < np.abs(obj - full).max() < 0.1
    again = learned.predict_object(scan, trainer)
    np.testing.assert_array_equal(again, obj)


def test_objects_of_two_scans_and_of_a_side_that_does_not_fit_are_refused(learned):
    two = data_for([known_scan(seed=1), known_scan(seed=2)])
    with pytest.raises(OptionError, match=r"predict is 2 scans; expected one.*Predict each scan"):
        learned.predict_object(two)
    with pytest.raises(OptionError, match="depth is 3 for frames of N = 18"):
        learned.predict_object(simulate_scan(n_frames=20, N=18))


CLIPPED = 1e-4


def switches(folder: Path):
    """What users set, by name: options of the Trainer."""
    watched = {"monitor": "val_loss", "mode": "min"}
    by_value = {"gradient_clip_val": CLIPPED, "gradient_clip_algorithm": "value"}
    return {
        "early stopping": {"callbacks": [EarlyStopping(stopping_threshold=1e9, **watched)]},
        "checkpoints": {
            "callbacks": [ModelCheckpoint(folder, save_top_k=1, **watched)],
            "enable_checkpointing": True,
        },
        "accumulation": {"accumulate_grad_batches": 2},
        "overfit_batches": {"overfit_batches": 2},
        "limit_train_batches": {"limit_train_batches": 2, "limit_val_batches": 1},
        "fast_dev_run": {"fast_dev_run": True},
        "bf16-mixed": {"precision": "bf16-mixed"},
        "bf16-true": {"precision": "bf16-true"},
        "64-true": {"precision": "64-true"},
        "clipping by norm": {"gradient_clip_val": CLIPPED},
        "clipping by value": by_value,
        "sanity check": {"num_sanity_val_steps": 2},
        "anomalies": {"detect_anomaly": True},
    }


class Effects(pl.Callback):
    """What a switch does to a training, as its steps see it."""

    def __init__(self):
        self.norm = self.largest = 0.0
        self.anomalies = self.mixed = False
        self.sanity_batches, self.val_losses, self.dtype = 0, [], None

    def on_fit_start(self, trainer, pl_module):
        def look(module, inputs, output):
            self.mixed, self.dtype = torch.is_autocast_enabled("cpu"), module.head.weight.dtype

        pl_module.network.register_forward_hook(look)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        weights = (each.grad for each in pl_module.parameters() if each.grad is not None)
        gradient = torch.cat([each.flatten().double() for each in weights])
        self.norm = max(self.norm, float(gradient.norm()))
        self.largest = max(self.largest, float(gradient.abs().max()))
        self.anomalies = torch.is_anomaly_enabled()

    def on_validation_batch_end(
        self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0
    ):
        self.sanity_batches += trainer.sanity_checking

    def on_validation_epoch_end(self, trainer, pl_module):
        if not trainer.sanity_checking:
            self.val_losses.append(float(trainer.callback_metrics["val_loss"]))


@pytest.mark.slow
@pytest.mark.parametrize("switch", switches(Path()))
def test_switches_of_the_trainer_do_what_they_say_and_nothing_else(scan, switch, tmp_path):
    options, effects = switches(tmp_path)[switch], Effects()
    options["callbacks"] = [*options.get("callbacks", []), effects]
    model = PtychoPINN(**SMALL)
    trainer = trained(model, data_for(scan, split="frames", val_fraction=0.2), **options)
    metrics = trainer.callback_metrics
    for name in ("train_loss", "val_loss", "train_fourier_error", "val_fourier_error"):
        assert math.isfinite(metrics[name]), name
    assert all(torch.isfinite(weight).all() for weight in model.parameters())
    assert model.network.head.weight.any()  # it has learned
    steps = dict.fromkeys(("accumulation", "overfit_batches", "limit_train_batches"), 4)
    steps |= {"fast_dev_run": 1, "early stopping": 4}
    assert trainer.global_step == steps.get(switch, 8)
    assert (effects.norm <= 1.001 * CLIPPED) == (switch == "clipping by norm")
    assert (effects.largest <= 1.001 * CLIPPED) == switch.startswith("clipping")
    assert effects.anomalies == (switch == "anomalies")
    assert effects.mixed == (switch == "bf16-mixed")
    dtypes = {"bf16-true": torch.bfloat16, "64-true": torch.float64}
    assert effects.dtype == dtypes.get(switch, torch.float32)
    assert (effects.sanity_batches > 0) == (switch == "sanity check")
    if switch == "checkpoints":
        (file,) = tmp_path.glob("*.ckpt")
        PtychoPINN.load_from_checkpoint(file, weights_only=True)
        best = effects.val_losses.index(min(effects.val_losses))
        assert torch.load(file, weights_only=True)["epoch"] == best


@pytest.mark.slow
def test_a_rate_is_found_and_taken(scan, tmp_path):
    model = PtychoPINN(**{**SMALL, "learning_rate": 1e-6}, learn_intensity=True)
    trainer = quiet_trainer(tmp_path, max_epochs=4)
    found = Tuner(trainer).lr_find(model, datamodule=data_for(scan), num_training=20)
    assert len(found.results["lr"]) == 20
    assert model.learning_rate == found.suggestion() > 1e-6
    trainer.fit(model, datamodule=data_for(scan))


@pytest.mark.slow
def test_a_batch_size_is_scaled(scan, tmp_path):
    data, model = data_for(scan, batch_size=2), PtychoPINN(**SMALL)
    trainer = quiet_trainer(tmp_path, max_epochs=1)
    size = Tuner(trainer).scale_batch_size(model, datamodule=data, max_trials=3, steps_per_trial=2)
    assert size == data.batch_size == 8
    trainer.fit(model, datamodule=data)
    assert trainer.num_training_batches == 5
    assert trainer.global_step == 5


LOSSES = """
import json, sys, warnings
warnings.simplefilter("ignore")
import torch
import lightning.pytorch as pl
from ptycho_torch import GroupingConfig, PtychoDataModule
from lightning.pytorch.loggers import CSVLogger
from ptycho_torch.models.pinn import PtychoPINN
from ptycho_torch.results.report import ReconstructionReport

class Losses(pl.Callback):
    def __init__(self):
        self.seen = []

    def on_train_batch_end(self, trainer, model, outputs, batch, batch_idx):
        self.seen.append(float(trainer.strategy.reduce(outputs["loss"].detach(), reduce_op="mean")))

def main(scan, out, ranks, batch_size, loss, rate, precision):
    torch.set_num_threads(1)
    pl.seed_everything(0, verbose=False)
    model = PtychoPINN(width=4, depth=3, loss=loss, learning_rate=rate)
    data = PtychoDataModule(
        scan, grouping=GroupingConfig(gridsize=2), split="none", batch_size=batch_size, cache="off"
    )
    losses = Losses()
    report = ReconstructionReport(out + ".report", every_n_epochs=3)
    trainer = pl.Trainer(
        accelerator="cpu", devices=ranks, strategy="ddp" if ranks > 1 else "auto", max_steps=50,
        max_epochs=-1, logger=CSVLogger(out + ".log", name="", version=""),
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        limit_val_batches=0, log_every_n_steps=1, callbacks=[losses, report], precision=precision,
    )
    trainer.fit(model, datamodule=data)
    if trainer.is_global_zero:
        error = float(trainer.callback_metrics["train_fourier_error"])
        with open(out, "w") as file:
            json.dump({"losses": losses.seen, "error": error}, file)

scan, out, ranks, batch_size, loss, rate, precision = sys.argv[1:]
main(scan, out, int(ranks), int(batch_size), loss, float(rate), precision)
"""


def losses_of(folder: Path, ranks: int, batch_size: int, loss: str, *options: str):
    """Loss of every step, the mean over ranks, started by torchrun where there are several."""
    (folder / "losses.py").write_text(LOSSES, encoding="utf-8")
    out = folder / f"{loss}{ranks}.json"
    words = [sys.executable]
    if ranks > 1:
        words += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    words += ["losses.py", "scan.npz", str(out), str(ranks), str(batch_size), loss, *options]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    ran = subprocess.run(
        words, cwd=folder, env=env, capture_output=True, text=True, check=False, timeout=600
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    return json.loads(out.read_text(encoding="utf-8"))


def shown_figures(folder: Path) -> dict[str, list[float]]:
    """What the report gave to the logger, by name, and at which steps."""
    with (folder / "metrics.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["reconstruction/fourier_error"]]
    names = [name for name in rows[0] if name.startswith("reconstruction/") or name == "step"]
    return {
        name: [float(row[name]) for row in rows if row[name]]
        for name in names
        if not name.endswith("/seconds")
    }


# At the default rate the rounding of a sum taken in another order grows tenfold in 4 steps, with
# ranks and without: in float64 it is too small to be seen after 50.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("loss", "rate", "precision"),
    [
        ("amplitude_mse", "2e-4", "32-true"),
        ("poisson", "2e-4", "32-true"),
        ("amplitude_mse", "2e-3", "64-true"),
    ],
)
def test_two_ranks_learn_as_one_process_with_the_same_global_batch(tmp_path, loss, rate, precision):
    simulate_scan(n_frames=64, N=16, seed=3).to_file(tmp_path / "scan.npz")
    one = losses_of(tmp_path, 1, 8, loss, rate, precision)
    two = losses_of(tmp_path, 2, 4, loss, rate, precision)
    first, second = (np.array(run["losses"]) for run in (one, two))
    assert len(first) == len(second) == 50
    off = np.abs(second / first - 1).max()
    print(f"largest relative difference of a step's loss {off:.1e}")
    assert off < 1e-4
    assert first[-8:].mean() < 0.9 * first[:8].mean()
    assert two["error"] == pytest.approx(one["error"], rel=1e-4)
    shown = [shown_figures(tmp_path / f"{loss}{ranks}.json.log") for ranks in (1, 2)]
    assert shown[0]["step"] == [24, 48] and len(shown[0]) >= 10
    # A correlation near 0 is the difference of larger sums.
    near = {name: pytest.approx(each, rel=1e-3, abs=1e-3) for name, each in shown[0].items()}
    assert shown[1] == near
    assert (
        shown[0]["reconstruction/fourier_error"][0] != shown[0]["reconstruction/fourier_error"][1]
    )
    files = [tmp_path / f"{loss}{ranks}.json.report" / "metrics.json" for ranks in (1, 2)]
    figures = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    assert figures[0]["flat_object"]["fourier_error"] > 0.1
    nested = ("flat_object", "hyperparameters", "seconds")
    one, two = ({k: v for k, v in each.items() if k not in nested} for each in figures)
    assert two == {
        name: pytest.approx(value, rel=1e-3, abs=1e-3) if isinstance(value, float) else value
        for name, value in one.items()
    }
