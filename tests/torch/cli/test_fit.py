"""``fit``, ``validate`` and ``predict``: what they leave, and how they refuse a configuration."""

from __future__ import annotations

import json
import re
from html import unescape
from pathlib import Path

import numpy as np
import pytest
from builders import FRAMES, ROOT, SIDE, assert_one_line, listing, write_fit_config

from ptycho_torch import RawData
from ptycho_torch.cli import DATA_AT_FAULT, DONE, WRONG_USAGE, main

pytest.importorskip("lightning", reason="lightning is not installed: fit")


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_fit_reconstructs_and_predict_reads_its_checkpoint(folder, capsys):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: the report's picture")
    write_fit_config(folder)
    assert main(["fit", "--config", "fit.yaml"]) == DONE
    text = capsys.readouterr().out
    flat = r"\(flat object 0\.00\), phase 0\.\d+ \(0\.00\), amplitude -?0\.\d+ \(0\.00\), detail"
    assert re.search(rf"^correlation with the truth: centred 0\.\d+ {flat}", text, re.MULTILINE)
    assert re.search(r"Fourier error 0\.\d{4} \(flat object 0\.\d{4}\)$", text, re.MULTILINE)
    assert "picture: out/reconstruction.png" in text
    assert "page: out/report.html" in text
    page = unescape(Path("out/report.html").read_text(encoding="utf-8"))
    assert "ptycho-torch fit --config fit.yaml" in page
    assert "learning_rate: 0.05" in page
    assert json.loads(Path("out/metrics.json").read_text())["epochs"] == 2
    checkpoint = next(Path("out/logs").rglob("*.ckpt"))
    stamp = Path("scan.g2k6.groups_cache.npz").stat().st_mtime_ns
    again = ["--config", "fit.yaml", "--ckpt_path", str(checkpoint), "--trainer.default_root_dir=p"]
    assert (
        main(["validate", *again, "--trainer.limit_val_batches=1.0", "--data.val=scan.npz"]) == DONE
    )
    capsys.readouterr()
    assert main(["predict", *again]) == DONE
    assert "predictions: p/predictions.npz" in capsys.readouterr().out
    with np.load("p/predictions.npz") as predictions:
        groups = predictions["nn_indices"]
        assert groups.shape == (FRAMES, 4)
        assert predictions["patches"].shape == (FRAMES, 4, SIDE, SIDE)
        assert predictions["patches"].dtype == np.complex64
        raw = RawData.from_file("scan.npz")
        positions = np.stack([raw.xcoords, raw.ycoords], axis=-1)[groups]
        np.testing.assert_allclose(predictions["positions_px"], positions, rtol=1e-6)
    assert Path("scan.g2k6.groups_cache.npz").stat().st_mtime_ns == stamp


def test_a_configuration_reaches_augmentation_and_the_choice_of_neighbours(folder, capsys):
    choice = "{neighbor_choice: quadrants, neighbor_count: 9, x_bounds: [0.1, 0.9]}"
    write_fit_config(folder, data=f"  grouping: {choice}\n  augmentation: {{scale: [0.5, 2]}}")
    assert main(["fit", "--config", "fit.yaml"]) != DONE
    assert "augmentation is one beside ObjectFit" in capsys.readouterr().err
    write_fit_config(folder, data=f"  grouping: {choice}")
    assert main(["fit", "--config", "fit.yaml"]) == DONE
    far = "{min_neighbor_distance: 900, neighbor_count: 9}"
    write_fit_config(folder, data=f"  grouping: {far}")
    assert main(["fit", "--config", "fit.yaml"]) != DONE
    assert "is 0 from 900 px on" in capsys.readouterr().err


def test_a_missing_tensorboard_is_named_in_one_line(folder, capsys, monkeypatch):
    for name in ("_TENSORBOARD_AVAILABLE", "_TENSORBOARDX_AVAILABLE"):
        monkeypatch.setattr(f"lightning.fabric.loggers.tensorboard.{name}", "")
    write_fit_config(folder)
    config = Path("fit.yaml")
    config.write_text(config.read_text().replace("CSVLogger", "TensorBoardLogger"))
    assert main(["fit", "--config", "fit.yaml"]) == WRONG_USAGE
    assert_one_line(capsys.readouterr().err, "tensorboard is not", "ptycho-torch[tensorboard]")


def test_fit_without_a_model_fits_object_and_probe_with_seed_0(folder, capsys):
    assert main(["fit", "--data.train", "scan.npz", "--print_config"]) == DONE
    text = capsys.readouterr().out
    assert "class_path: ptycho_torch.ObjectFit" in text
    assert "seed_everything: 0" in text


@pytest.mark.parametrize("name", ["demo", "siemens_star"])
def test_the_shipped_configurations_are_valid(folder, capsys, name):
    config = ROOT / "configs" / f"{name}.yaml"
    assert main(["fit", "--config", str(config), "--print_config"]) == DONE
    assert f"train: datasets/{name}.npz" in capsys.readouterr().out


CONFIG_FAULTS = {
    "unknown data key": ({"data": "  batchsize: 8"}, ["data.batchsize", "unknown", "batch_size"]),
    "unknown grouping key": (
        {"data": "  grouping: {gridsizes: 2}"},
        ["data.grouping.gridsizes", "unknown", "gridsize"],
    ),
    "unknown trainer key": ({"trainer": "  max_epoch: 3"}, ["trainer.max_epoch", "max_epochs"]),
    "unknown model key": ({"model": "    learnrate: 1"}, ["model", "learnrate", "unknown"]),
    "wrong type": ({"data": "  num_workers: many"}, ["data.num_workers", "many", "int"]),
    "unknown choice": (
        {"data": "  residency: banana"},
        ["data.residency", "banana", "one of 'auto', 'device', 'host'"],
    ),
    "unknown choice of a model": (
        {"model": "    schedule: banana"},
        ["schedule", "banana", "one of 'constant', 'cosine'"],
    ),
    "contradiction": (
        {"data": "  grouping: {gridsize: 3, neighbor_count: 4}"},
        ["neighbor_count", "4", "gridsize**2 = 9"],
    ),
}


@pytest.mark.parametrize("fault", CONFIG_FAULTS)
def test_a_wrong_configuration_is_one_line_and_writes_nothing(folder, capsys, fault):
    parts, words = CONFIG_FAULTS[fault]
    write_fit_config(folder, **parts)
    before = listing(folder)
    assert main(["fit", "--config", "fit.yaml"]) == WRONG_USAGE
    assert_one_line(capsys.readouterr().err, "fit.yaml", *words, "expected")
    assert listing(folder) == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--config", "absent.yaml"], ["absent.yaml", "missing", "expected"]),
        (["--config", "broken.yaml"], ["broken.yaml", "YAML"]),
        (["--config=fit.yaml", "--data.train=absent.npz"], ["absent.npz", "missing", "expected"]),
        (["--config", "fit.yaml", "--nonsense"], ["--nonsense"]),
        ([], ["train", "missing"]),
    ],
)
def test_a_wrong_fit_command_is_one_line_and_writes_nothing(folder, capsys, arguments, words):
    write_fit_config(folder)
    (folder / "broken.yaml").write_text("data: [", encoding="utf-8")
    before = listing(folder)
    assert main(["fit", *arguments]) in (DATA_AT_FAULT, WRONG_USAGE)
    err = capsys.readouterr().err
    assert_one_line(err, *words)
    assert str(folder) not in err
    assert listing(folder) == before


def test_validate_with_no_batches_says_so(folder, capsys):
    write_fit_config(folder)
    assert main(["validate", "--config", "fit.yaml", "--ckpt_path", "any.ckpt"]) == WRONG_USAGE
    assert_one_line(capsys.readouterr().err, "fit.yaml", "trainer.limit_val_batches", "0")


@pytest.mark.slow
def test_a_network_without_a_rate_has_its_own_and_not_that_of_the_default_model(folder):
    (folder / "fit.yaml").write_text(
        "trainer: {max_steps: 1, accelerator: cpu, logger: false, default_root_dir: out}\n"
        "model: {class_path: ptycho_torch.PtychoPINN, init_args: {width: 4, depth: 2}}\n"
        "data: {train: scan.npz, ground_truth: none, split: none, batch_size: 8}\n",
        encoding="utf-8",
    )
    assert main(["fit", "--config", "fit.yaml"]) == DONE
    torch = pytest.importorskip("torch", reason="torch is not installed: checkpoints")
    (file,) = Path("out").rglob("*.ckpt")
    options = torch.load(file, weights_only=True)["hyper_parameters"]
    assert (options["learning_rate"], options["schedule"]) == (2e-3, "cosine")


def fit_simulated(folder, scans):
    train = f"  train: {{class_path: ptycho_torch.SimulatedScans, init_args: {{{scans}}}}}"
    write_fit_config(folder)
    text = Path("fit.yaml").read_text(encoding="utf-8").replace("  train: scan.npz", train)
    Path("fit.yaml").write_text(text, encoding="utf-8")
    return main(["fit", "--config", "fit.yaml"])


@pytest.mark.parametrize(
    "option, line",
    [
        ("n_scan: 3", "data.train.init_args.n_scan is an unknown key; expected a known one, such "
         "as data.train.init_args.n_scans."),
        ("specimens: [cells, stars]", "data.train.init_args.specimens is stars; expected one of "
         "'star', 'shapes', 'cells', 'dead_leaves', 'grf', 'siemens', 'text', 'texture', 'mixed'."),
        ("pattern: spiral", "data.train.init_args.pattern is spiral; expected one of "
         "'jittered_raster', 'raster', 'fermat', 'random'."),
        ("photons: many", "data.train.init_args.photons is many; expected float or tuple or null."),
        ("frames_per_scan: x", "data.train.init_args.frames_per_scan is x; expected int."),
        ("grouping: {gridsiz: 3}", "data.train.init_args.grouping.gridsiz is an unknown key; "
         "expected a known one, such as data.train.init_args.grouping.gridsize."),
        ("n_modes: 0", "n_modes is 0; expected an integer >= 1."),
        ("probes: [random, no.npz]", "no.npz: file is missing; expected a scan file. Check the "
         "path."),
    ],
)  # fmt: skip
def test_options_of_simulated_scans_that_will_not_do_are_one_short_line(
    folder, capsys, option, line
):
    assert fit_simulated(folder, option) == WRONG_USAGE
    assert capsys.readouterr().err == f"ptycho-torch: fit.yaml: {line}\n"


@pytest.mark.slow
def test_a_configuration_names_simulated_scans_to_train_on(folder, capsys):
    def fit(scans):
        return fit_simulated(folder, scans)

    scans = f"specimens: [cells, grf], probes: [random, scan.npz], N: {SIDE}, photons: [100, 1000]"
    assert fit(f"{scans}, n_scans: 4, frames_per_scan: 16") == WRONG_USAGE
    assert_one_line(capsys.readouterr().err, "train is SimulatedScans; expected one scan")
    assert main(["fit", "--config", "fit.yaml", "--print_config"]) == DONE
    assert "      probes:\n      - random\n      - scan.npz\n" in capsys.readouterr().out
    assert fit(f"{scans}, n_scans: 0") == WRONG_USAGE
    assert_one_line(capsys.readouterr().err, "n_scans is 0; expected an integer >= 1")
