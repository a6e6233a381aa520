"""The command line: what it prints, what it writes, and how it refuses."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from ptycho_torch import GroupingConfig, RawData, simulate_scan
from ptycho_torch.cli import DATA_AT_FAULT, DONE, WRONG_USAGE, main
from ptycho_torch.cli.coverage import nearest_step, probe_width_px

ROOT = Path(__file__).parents[3]
FRAMES, SIDE = 40, 16


@pytest.fixture(scope="module")
def fields(tmp_path_factory):
    path = tmp_path_factory.mktemp("scan") / "scan.npz"
    simulate_scan(n_frames=FRAMES, N=SIDE, photons=1e4, seed=3).to_file(path)
    with np.load(path) as archive:
        return {name: archive[name] for name in archive.files}


@pytest.fixture
def folder(tmp_path, monkeypatch, fields):
    monkeypatch.chdir(tmp_path)
    np.savez("scan.npz", **fields)
    return tmp_path


def listing(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        if path.is_file()
        else "folder"
        for path in folder.rglob("*")
    }


def write_config(folder: Path, data: str = "", model: str = "", trainer: str = "") -> None:
    (folder / "fit.yaml").write_text(
        f"""
seed_everything: 0
trainer:
  max_epochs: 2
  accelerator: cpu
  enable_progress_bar: false
  enable_model_summary: false
  log_every_n_steps: 1
  limit_val_batches: 0
  logger:
    class_path: lightning.pytorch.loggers.CSVLogger
    init_args: {{save_dir: out, name: logs}}
  callbacks:
    - class_path: ptycho_torch.results.report.ReconstructionReport
      init_args: {{output_dir: out}}
{trainer}
model:
  class_path: ptycho_torch.models.object_fit.ObjectFit
  init_args:
    learning_rate: 0.05
{model}
data:
  train: scan.npz
  batch_size: 8
  split: none
  ground_truth: none
{data}
""",
        encoding="utf-8",
    )


# -- what it does -------------------------------------------------------------------------------


def test_simulate_writes_a_canonical_scan(folder, capsys):
    code = main(["simulate", "sim.npz", "--frames", "30", "--size", "16", "--seed", "5"])
    assert code == DONE
    raw = RawData.from_file("sim.npz")
    again = simulate_scan(n_frames=30, N=16, seed=5)
    np.testing.assert_array_equal(raw.diff3d, again.diff3d)
    np.testing.assert_array_equal(raw.objectGuess, again.objectGuess)
    assert "30 frames of 16 x 16" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "same"),
    [
        ([], True),
        (["--pattern", "fermat"], False),
        (["--photons", "none"], False),
        (["--photons", "1e3"], False),
        (["--modes", "2"], False),
        (["--seed", "1"], False),
    ],
)
def test_every_option_of_simulate_changes_the_frames(folder, options, same):
    base = ["--frames", "20", "--size", "16"]
    assert main(["simulate", "a.npz", *base]) == DONE
    assert main(["simulate", "b.npz", *base, *options]) == DONE
    a, b = RawData.from_file("a.npz"), RawData.from_file("b.npz")
    assert np.array_equal(a.diff3d, b.diff3d) is same


@pytest.mark.parametrize("command", [["simulate", "scan.npz"], ["convert", "scan.npz", "scan.npz"]])
def test_an_existing_file_is_replaced_on_request_alone(folder, capsys, command):
    before = listing(folder)
    assert main(command) == WRONG_USAGE
    assert "--overwrite" in capsys.readouterr().err
    assert listing(folder) == before
    assert main([*command, "--overwrite"]) == DONE


def test_convert_gives_the_same_scan(folder):
    assert main(["convert", "scan.npz", "copy.npz"]) == DONE
    one, other = RawData.from_file("scan.npz"), RawData.from_file("copy.npz")
    for name in ("diff3d", "xcoords", "ycoords", "probeGuess", "objectGuess"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_inspect_says_what_the_scan_is_and_writes_nothing(folder, capsys):
    before = listing(folder)
    assert main(["inspect", "scan.npz", "--gridsize", "3", "--neighbors", "10"]) == DONE
    text = capsys.readouterr().out
    assert f"{FRAMES} x {SIDE} x {SIDE} float32, amplitude" in text
    assert f"{FRAMES} of 9 frames (gridsize 3, K 10)" in text
    assert "none yet" in text
    assert listing(folder) == before


def test_inspect_draws_the_picture_asked_for(folder):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: pictures")
    before = listing(folder)
    assert main(["inspect", "scan.npz", "--png", "pictures/scan.png"]) == DONE
    made = set(listing(folder)) - set(before)
    assert made == {"pictures", "pictures/scan.png"}
    assert Path("pictures/scan.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("png", "word"),
    [
        ("scan.npz", "the scan itself"),
        ("other.png", "notes.txt"),
        ("notes.txt", ".png"),
        ("linked.png", "the scan itself"),
        ("folder.png", "a directory"),
    ],
)
def test_inspect_refuses_a_picture_over_the_scan_or_another_file(folder, capsys, png, word):
    (folder / "notes.txt").write_text("mine", encoding="utf-8")
    (folder / "linked.png").symlink_to("scan.npz")
    (folder / "other.png").symlink_to("notes.txt")
    (folder / "folder.png").mkdir()
    before = listing(folder)
    assert main(["inspect", "scan.npz", "--png", png]) == WRONG_USAGE
    captured = capsys.readouterr()
    assert_one_line(captured.err, png, word)
    assert captured.out == ""
    assert listing(folder) == before


def test_inspect_asks_for_matplotlib_before_it_prints(folder, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert main(["inspect", "scan.npz", "--png", "scan.png"]) == WRONG_USAGE
    captured = capsys.readouterr()
    assert_one_line(captured.err, "matplotlib", "pip install")
    assert captured.out == ""


def test_inspect_makes_no_sidecar_of_a_compressed_scan(folder, fields):
    np.savez_compressed("packed.npz", **fields)
    before = listing(folder)
    assert main(["inspect", "packed.npz"]) == DONE
    assert listing(folder) == before


@pytest.mark.parametrize(
    ("wrong", "found"),
    [
        (lambda y: y.real.copy(), "float"),
        (lambda y: y[:-1], str(FRAMES - 1)),
        (lambda y: y[:, 1:, 1:], str(SIDE - 1)),
    ],
)
def test_inspect_does_not_call_a_wrong_y_kept(folder, fields, capsys, wrong, found):
    patches = np.ones((FRAMES, SIDE, SIDE), np.complex64)
    np.savez_compressed("right.npz", **fields, Y=patches)
    before = listing(folder)
    assert main(["inspect", "right.npz"]) == DONE
    assert re.search(r"contract +kept: .*\bY\b", capsys.readouterr().out)
    assert listing(folder) == before
    np.savez("wrong.npz", **fields, Y=wrong(patches))
    assert main(["inspect", "wrong.npz"]) == DATA_AT_FAULT
    captured = capsys.readouterr()
    assert_one_line(captured.err, "wrong.npz", "Y", found, "expected")
    assert captured.out == ""


def test_inspect_tells_a_cache_that_fits_from_one_that_does_not(folder, fields, capsys):
    assert main(["prepare", "scan.npz"]) == DONE
    capsys.readouterr()
    assert main(["inspect", "scan.npz"]) == DONE
    assert re.search(r"cache +scan\.g2k6\.groups_cache\.npz\n", capsys.readouterr().out)
    np.savez("scan.npz", **{**fields, "xcoords": fields["xcoords"] + 1})
    assert main(["inspect", "scan.npz"]) == DONE
    assert re.search(r"cache +not usable: scan\.g2k6.* of other positions", capsys.readouterr().out)
    Path("scan.g2k6.groups_cache.npz").write_bytes(b"foreign")
    assert main(["inspect", "scan.npz"]) == DONE
    assert re.search(r"cache +not usable: scan\.g2k6", capsys.readouterr().out)


def test_inspect_works_on_fewer_frames_than_a_group_has(folder, fields, capsys):
    few = {name: fields[name][:2] for name in ("diff3d", "xcoords", "ycoords")}
    np.savez("few.npz", **few, probeGuess=fields["probeGuess"])
    assert main(["inspect", "few.npz"]) == DONE
    assert "none: a group has 4 frames" in capsys.readouterr().out


def test_prepare_groups_once(folder, capsys):
    assert main(["prepare", "scan.npz"]) == DONE
    assert "groups cache written" in capsys.readouterr().err
    first, stamp = listing(folder), Path("scan.g2k6.groups_cache.npz").stat().st_mtime_ns
    assert main(["prepare", "scan.npz"]) == DONE
    assert "groups cache reused: scan.g2k6.groups_cache.npz" in capsys.readouterr().err
    assert listing(folder) == first
    assert Path("scan.g2k6.groups_cache.npz").stat().st_mtime_ns == stamp


def test_prepare_takes_gridsize_and_neighbors(folder):
    assert main(["prepare", "scan.npz", "--gridsize", "3"]) == DONE
    assert main(["prepare", "scan.npz", "--neighbors", "9"]) == DONE
    caches = {path.name for path in folder.glob("*.groups_cache.npz")}
    assert caches == {"scan.g3k9.groups_cache.npz", "scan.g2k9.groups_cache.npz"}


def test_measurement_says_what_integers_mean(folder, fields, capsys):
    counts = np.round(fields["diff3d"] ** 2).astype(np.uint16)
    np.savez("counts.npz", **{**fields, "diff3d": counts})
    assert main(["inspect", "counts.npz"]) == DATA_AT_FAULT
    line = capsys.readouterr().err
    assert "amplitude" in line
    assert "counts" in line
    assert main(["inspect", "counts.npz", "--measurement", "counts"]) == DONE
    assert "uint16, counts" in capsys.readouterr().out


def test_convert_keeps_ready_made_patches(folder, fields):
    shape = fields["diff3d"].shape
    patches = np.random.default_rng(0).random((2, *shape)).astype("f4")
    np.savez("patches.npz", Y=patches[0] + 1j * patches[1], **fields)
    assert main(["convert", "patches.npz", "out.npz"]) == DONE
    with np.load("out.npz") as written, np.load("patches.npz") as given:
        np.testing.assert_array_equal(written["Y"], given["Y"])


def test_convert_takes_the_measurement_that_its_refusal_asks_for(folder, fields, capsys):
    counts = np.round(fields["diff3d"] ** 2).astype(np.uint16)
    np.savez("counts.npz", **{**fields, "diff3d": counts})
    assert main(["convert", "counts.npz", "out.npz"]) == DATA_AT_FAULT
    assert_one_line(capsys.readouterr().err, "measurement='counts'", "--measurement counts")
    assert main(["convert", "counts.npz", "out.npz", "--measurement", "counts"]) == DONE
    written = RawData.from_file("out.npz").diff3d
    np.testing.assert_allclose(written, np.sqrt(counts.astype(np.float32)), rtol=1e-6)


def test_convert_refuses_frames_that_are_damaged(folder, fields, capsys):
    content = bytearray(Path("scan.npz").read_bytes())
    # In the middle of the stored frames; still a plausible amplitude.
    place = content.find(fields["diff3d"][FRAMES // 2].tobytes())
    assert place > 0
    content[place] ^= 0x01
    Path("scan.npz").write_bytes(content)
    before = listing(folder)
    assert main(["convert", "scan.npz", "out.npz"]) == DATA_AT_FAULT
    assert_one_line(capsys.readouterr().err, "scan.npz", "diff3d")
    assert listing(folder) == before


def test_verify_tells_good_from_bad(folder, fields, capsys):
    main(["prepare", "scan.npz"])
    cache = Path("scan.g2k6.groups_cache.npz")
    capsys.readouterr()
    assert main(["verify", "scan.npz", str(cache)]) == DONE
    assert capsys.readouterr().out.splitlines() == ["scan.npz: ok", f"{cache}: ok"]
    content = bytearray(cache.read_bytes())
    content[len(content) // 2] ^= 0xFF
    cache.write_bytes(content)
    frames = fields["diff3d"].copy()
    frames[7, 3, 3] = np.nan
    np.savez("nan.npz", **{**fields, "diff3d": frames})
    np.savez("good.npz", **fields)
    assert main(["verify", "good.npz", str(cache), "nan.npz", "absent.npz"]) == DATA_AT_FAULT
    captured = capsys.readouterr()
    assert captured.out == "good.npz: ok\n"
    for name in (str(cache), "nan.npz", "absent.npz"):
        assert name in captured.err


def test_bench_needs_a_checkout(folder, capsys, monkeypatch):
    import ptycho_torch

    monkeypatch.setattr(ptycho_torch, "__file__", str(folder / "ptycho_torch" / "__init__.py"))
    assert main(["bench"]) == WRONG_USAGE
    assert "source checkout" in capsys.readouterr().err


@pytest.mark.filterwarnings("default")
def test_fit_reconstructs_and_predict_reads_its_checkpoint(folder, capsys):
    pytest.importorskip("lightning", reason="torch is not installed: fit")
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: the report's picture")
    write_config(folder)
    assert main(["fit", "--config", "fit.yaml"]) == DONE
    text = capsys.readouterr().out
    assert re.search(r"complex correlation with the truth: 0\.\d{4}", text)
    assert "picture: out/reconstruction.png" in text
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


def test_fit_without_a_model_fits_object_and_probe_with_seed_0(folder, capsys):
    pytest.importorskip("lightning", reason="torch is not installed: fit")
    assert main(["fit", "--data.train", "scan.npz", "--print_config"]) == DONE
    text = capsys.readouterr().out
    assert "class_path: ptycho_torch.ObjectFit" in text
    assert "seed_everything: 0" in text


@pytest.mark.parametrize("name", ["demo", "siemens_star"])
def test_the_shipped_configurations_are_valid(folder, capsys, name):
    pytest.importorskip("lightning", reason="torch is not installed: fit")
    config = ROOT / "configs" / f"{name}.yaml"
    assert main(["fit", "--config", str(config), "--print_config"]) == DONE
    assert f"train: datasets/{name}.npz" in capsys.readouterr().out


# -- how it refuses -----------------------------------------------------------------------------


def without(name):
    return lambda fields: {key: value for key, value in fields.items() if key != name}


def changed(name, change):
    return lambda fields: {**fields, name: change(fields[name].copy())}


def put_nan(array):
    array[5] = np.nan
    return array


BROKEN = {
    "no probe": (without("probeGuess"), "probeGuess", "missing"),
    "no frames key": (without("diff3d"), "diff3d", "missing"),
    "no positions": (without("ycoords"), "ycoords", "missing"),
    "short positions": (changed("xcoords", lambda x: x[:-1]), "xcoords", str(FRAMES - 1)),
    "flat frames": (changed("diff3d", lambda d: d[0]), "diff3d", f"({SIDE}, {SIDE})"),
    "NaN position": (changed("ycoords", put_nan), "ycoords", "nan"),
    "no frames": (
        lambda f: {
            **f,
            **{name: f[name][:0] for name in ("diff3d", "xcoords", "ycoords", "scan_index")},
            **{name: f[name][:0] for name in ("xcoords_start", "ycoords_start")},
        },
        "diff3d",
        "(0, ",
    ),
    "probe of another size": (
        changed("probeGuess", lambda p: np.pad(p, 1)),
        "probeGuess",
        str(SIDE + 2),
    ),
}


def assert_one_line(err: str, *words: str) -> None:
    lines = err.splitlines()
    assert len(lines) == 1, err
    for word in words:
        assert word in lines[0]


@pytest.mark.parametrize("command", ["inspect", "prepare", "convert", "verify", "fit"])
@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_scan_is_one_line_and_writes_nothing(folder, fields, capsys, fault, command):
    breaking, field, found = BROKEN[fault]
    np.savez("scan.npz", **breaking(fields))
    arguments = {"convert": ["scan.npz", "out.npz"], "fit": ["--config", "fit.yaml"]}
    if command == "fit":
        pytest.importorskip("lightning", reason="torch is not installed: fit")
        write_config(folder)
    before = listing(folder)
    assert main([command, *arguments.get(command, ["scan.npz"])]) == DATA_AT_FAULT
    err = capsys.readouterr().err
    assert_one_line(err, "scan.npz", field, found, "expected")
    assert listing(folder) == before


@pytest.mark.parametrize("command", ["inspect", "prepare", "convert", "verify"])
def test_a_missing_scan_is_one_line(folder, capsys, command):
    before = listing(folder)
    out = ["out.npz"] if command == "convert" else []
    assert main([command, "absent.npz", *out]) == DATA_AT_FAULT
    assert_one_line(capsys.readouterr().err, "absent.npz", "missing", "expected")
    assert listing(folder) == before


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
    pytest.importorskip("lightning", reason="torch is not installed: fit")
    parts, words = CONFIG_FAULTS[fault]
    write_config(folder, **parts)
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
    pytest.importorskip("lightning", reason="torch is not installed: fit")
    write_config(folder)
    (folder / "broken.yaml").write_text("data: [", encoding="utf-8")
    before = listing(folder)
    assert main(["fit", *arguments]) in (DATA_AT_FAULT, WRONG_USAGE)
    err = capsys.readouterr().err
    assert_one_line(err, *words)
    assert str(folder) not in err
    assert listing(folder) == before


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_a_model_without_a_checkpoint_is_refused(folder, capsys, command):
    pytest.importorskip("lightning", reason="torch is not installed: fit")
    write_config(folder)
    before = listing(folder)
    assert main([command, "--config", "fit.yaml"]) == WRONG_USAGE
    assert_one_line(capsys.readouterr().err, "fit.yaml", "pass --ckpt_path")
    assert listing(folder) == before


def test_validate_with_no_batches_says_so(folder, capsys):
    pytest.importorskip("lightning", reason="torch is not installed: fit")
    write_config(folder)
    assert main(["validate", "--config", "fit.yaml", "--ckpt_path", "any.ckpt"]) == WRONG_USAGE
    assert_one_line(capsys.readouterr().err, "fit.yaml", "trainer.limit_val_batches", "0")


@pytest.mark.parametrize("content", ["text", "empty", "no state", "absent", "folder"])
def test_a_junk_checkpoint_is_one_line_that_names_it(folder, capsys, content):
    torch = pytest.importorskip("torch", reason="torch is not installed: checkpoints")
    pytest.importorskip("lightning", reason="lightning is not installed: fit")
    write_config(folder)
    file = folder / "junk.ckpt"
    if content == "no state":
        torch.save({"a": 1}, file)
    elif content == "folder":
        file.mkdir()
    elif content != "absent":
        file.write_text("junk" if content == "text" else "", encoding="utf-8")
    before = listing(folder)
    arguments = ["predict", "--config", "fit.yaml", "--ckpt_path", "junk.ckpt"]
    assert main(arguments) == DATA_AT_FAULT
    assert_one_line(capsys.readouterr().err, "junk.ckpt", "checkpoint")
    assert listing(folder) == before


@pytest.mark.parametrize("name", ["evil.ckpt", "a:b.ckpt"])
def test_a_checkpoint_that_would_run_code_is_refused_unread(folder, capsys, name):
    torch = pytest.importorskip("torch", reason="torch is not installed: checkpoints")
    pytest.importorskip("lightning", reason="lightning is not installed: fit")

    class Evil:
        def __reduce__(self):
            return Path.touch, (folder / "ran",)

    write_config(folder)
    torch.save({"state_dict": {}, "pytorch-lightning_version": "2.6.0", "x": Evil()}, folder / name)
    before = listing(folder)
    options = ["--config", "fit.yaml", "--ckpt_path", name, "--weights_only", "false"]
    assert main(["predict", *options]) == DATA_AT_FAULT
    assert_one_line(capsys.readouterr().err, name, "holds more than tensors and plain values")
    assert listing(folder) == before


def test_a_checkpoint_on_the_web_is_not_fetched(folder, capsys, monkeypatch):
    torch = pytest.importorskip("torch", reason="torch is not installed: checkpoints")
    pytest.importorskip("lightning", reason="lightning is not installed: fit")
    fetched = []
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda url, **_: fetched.append(url))
    write_config(folder)
    address = "http://127.0.0.1:9/evil.ckpt"
    assert main(["predict", "--config", "fit.yaml", "--ckpt_path", address]) == WRONG_USAGE
    assert_one_line(capsys.readouterr().err, address, "Download it first")
    assert not fetched


@pytest.mark.parametrize(
    "parameters",
    [
        {"_class_path": "pathlib.Path"},
        {"_class_path": "nowhere.Model"},
        {"_class_path": "ptycho_torch.ObjectFit", "schedule": "banana"},
        {"_class_path": ["a"]},
        3,
    ],
)
def test_a_checkpoint_of_another_model_is_one_line(folder, capsys, parameters):
    torch = pytest.importorskip("torch", reason="torch is not installed: checkpoints")
    pytest.importorskip("lightning", reason="lightning is not installed: fit")
    write_config(folder)
    content = {"state_dict": {}, "pytorch-lightning_version": "2.6.0"}
    torch.save({**content, "hyper_parameters": parameters}, folder / "other.ckpt")
    before = listing(folder)
    arguments = ["predict", "--config", "fit.yaml", "--ckpt_path", "other.ckpt"]
    assert main(arguments) == DATA_AT_FAULT
    assert_one_line(capsys.readouterr().err, "other.ckpt", "hyper_parameters", "expected")
    assert listing(folder) == before


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nonsense"],
        ["simulate"],
        ["simulate", "out.npz", "--frames", "many"],
        ["simulate", "out.npz", "--frames", "0"],
        ["simulate", "out.npz", "--pattern", "zigzag"],
        ["simulate", "out.npz", "--photons", "-5"],
        ["simulate", "out.txt"],
        ["inspect", "scan.npz", "--gridsize", "0"],
        ["inspect", "scan.npz", "--gridsize", "3", "--neighbors", "4"],
        ["convert", "scan.npz", "out.npz", "--format", "nonsense"],
    ],
)
def test_wrong_usage_ends_in_code_2_and_writes_nothing(folder, capsys, arguments):
    before = listing(folder)
    assert main(arguments) == WRONG_USAGE
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines()[-1].startswith("ptycho-torch")
    assert listing(folder) == before


def test_a_folder_that_cannot_be_written_is_one_line(folder, capsys):
    (folder / "file").write_text("", encoding="utf-8")
    assert main(["simulate", "file/out.npz", "--frames", "9", "--size", "16"]) == WRONG_USAGE
    assert_one_line(capsys.readouterr().err, "file", "a directory")
    if not Path("/proc/self").is_dir():
        pytest.skip("no /proc: a folder that nobody can write")
    assert main(["simulate", "/proc/out.npz", "--frames", "9", "--size", "16"]) == DATA_AT_FAULT
    assert_one_line(capsys.readouterr().err, "/proc")


def test_a_warning_is_one_line(folder, capsys, monkeypatch):
    import warnings

    from ptycho_torch.cli import scans

    def warn_and_work(*arguments, **options):
        warnings.warn("beware of\nthe dog", UserWarning, stacklevel=2)
        return simulate_scan(*arguments, **options)

    monkeypatch.setattr(scans, "simulate_scan", warn_and_work)
    shown = warnings.showwarning
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert main(["simulate", "out.npz", "--frames", "9", "--size", "16"]) == DONE
    assert capsys.readouterr().err == "ptycho-torch: warning: beware of the dog\n"
    assert warnings.showwarning is shown


@pytest.mark.parametrize("command", ["simulate", "convert"])
def test_a_folder_that_is_not_there_is_not_made(folder, capsys, command):
    before = listing(folder)
    source = ["scan.npz"] if command == "convert" else []
    assert main([command, *source, "typo/out.npz"]) == WRONG_USAGE
    assert_one_line(capsys.readouterr().err, "typo", "missing", "expected")
    assert listing(folder) == before


def interruptible():
    """Undo what a shell does to its background jobs: it has them ignore SIGINT."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_an_error_that_an_interruption_made_is_an_interruption(folder, monkeypatch, capsys):
    def simulate(options):
        try:
            raise KeyboardInterrupt
        finally:
            raise ValueError("interrupted while tidying up")

    monkeypatch.setattr("ptycho_torch.cli.scans.simulate", simulate)
    assert main(["simulate", "out.npz"]) == 130
    assert capsys.readouterr().err == "ptycho-torch: interrupted\n"


def test_interruption_is_one_line_and_leaves_nothing(folder, request):
    code = """
import sys
import ptycho_torch.data.simulate
from ptycho_torch.cli import main
print("started", flush=True)
sys.exit(main(["simulate", "out.npz", "--frames", "20000", "--size", "64"]))
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": str(ROOT)},
        preexec_fn=interruptible,
    )
    request.addfinalizer(process.kill)
    assert process.stdout.readline() == "started\n"
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    err = process.communicate(timeout=30)[1]
    assert process.returncode == 130
    assert err == "ptycho-torch: interrupted\n"
    assert [path.name for path in folder.iterdir()] == ["scan.npz"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_fit_says_so_in_its_code(folder, request, number, code):
    pytest.importorskip("lightning", reason="torch is not installed: fit")
    write_config(folder)
    command = [sys.executable, "-m", "ptycho_torch.cli", "fit", "--config", "fit.yaml"]
    process = subprocess.Popen(
        [*command, "--trainer.max_epochs=100000"],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(folder / "xdg")},
        preexec_fn=interruptible,
    )
    request.addfinalizer(process.kill)
    deadline = time.monotonic() + 120
    while not list(folder.rglob("config.yaml")) and time.monotonic() < deadline:
        time.sleep(0.2)
    time.sleep(1.0)
    process.send_signal(number)
    err = process.communicate(timeout=60)[1]
    assert process.returncode == code
    assert "Traceback" not in err
    if number == signal.SIGINT:
        assert err.splitlines()[-1] == "ptycho-torch: interrupted"
    assert not Path("out/reconstruction.png").exists()


def test_a_reader_that_leaves_is_no_error(folder):
    code = "import sys; from ptycho_torch.cli import main; sys.exit(main(['inspect', 'scan.npz']))"
    process = subprocess.Popen(
        [sys.executable, "-u", "-c", code],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": str(ROOT)},
    )
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=60) == DONE
    assert err == ""


# -- the numbers inspect gives ------------------------------------------------------------------


def test_the_width_of_an_evenly_lit_disc_is_its_diameter():
    y, x = np.indices((128, 128)) - 64
    disc = (np.hypot(x, y) <= 20).astype(np.complex64)
    assert probe_width_px(disc) == pytest.approx(40, rel=0.01)
    halves = np.stack([disc * (x < 0), 1j * disc * (x >= 0)])
    assert probe_width_px(halves) == pytest.approx(40, rel=0.01)


def test_the_step_of_a_raster_is_its_pitch_even_with_repeated_positions():
    y, x = (axis.ravel() * 3.5 for axis in np.indices((6, 7)))
    assert nearest_step(x, y) == pytest.approx(3.5)
    assert nearest_step(x[:1], y[:1]) != nearest_step(x[:1], y[:1])
    assert nearest_step(np.zeros(5), np.zeros(5)) == 0.0


def test_inspect_groups_as_the_dataset_does(folder):
    from ptycho_torch.cli.inspection import group_indices

    raw = RawData.from_file("scan.npz")
    config = GroupingConfig()
    np.testing.assert_array_equal(
        group_indices(raw, config), raw.group(config, cache="off").nn_indices
    )


# -- how it is installed ------------------------------------------------------------------------


@pytest.mark.parametrize(("version", "pinned"), [("3, 10, 4", False), ("3, 11, 0", True)])
def test_make_pins_versions_only_where_they_exist(folder, version, pinned):
    if shutil.which("make") is None or not (ROOT / "Makefile").is_file():
        pytest.skip("make or the Makefile is absent: installation")
    python = folder / "python"
    pretend = f"import sys; sys.version_info = ({version}); exec(sys.argv[1])"
    python.write_text(f"#!/bin/sh\nexec '{sys.executable}' -c '{pretend}' \"$2\"\n")
    python.chmod(0o755)
    variables = [f"PYTHON={python}", f"VENV={folder}/venv", f"NOTORCH={folder}/notorch"]
    command = ["make", "-n", "-C", str(ROOT), "install", "test-notorch", *variables]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    installs = [
        line for line in text.splitlines() if " install " in line and "--no-deps" not in line
    ]
    assert len(installs) == 2
    assert all(("-c constraints.txt" in line) is pinned for line in installs)


@pytest.mark.parametrize(
    ("message", "start"),
    [
        (
            "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate "
            "memory: you tried to allocate 69222400 bytes.\nframe #0: somewhere\n",
            "out of memory",
        ),
        ("CUDA out of memory. Tried to allocate 20.00 MiB", "out of memory"),
        ("can't start new thread", "out of memory or processes"),
        ("DataLoader worker (pid 7) is killed by signal: Killed. ", "out of memory or processes"),
        ("DataLoader worker (pid(s) 7) exited unexpectedly", "out of memory or processes"),
        ("[gloo/pair.cc:553] Connection closed by peer [127.0.0.1]:2701", "another rank ended"),
    ],
)
def test_circumstances_that_torch_calls_runtime_errors_are_one_line(
    folder, monkeypatch, capsys, message, start
):
    def fail(options):
        raise RuntimeError(message)

    monkeypatch.setattr("ptycho_torch.cli.scans.prepare", fail)
    assert main(["prepare", "scan.npz"]) == DATA_AT_FAULT
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"ptycho-torch: {start}")


def test_other_runtime_error_is_a_mistake_of_ours_and_shows_its_traceback(folder, monkeypatch):
    def mistaken(options):
        raise RuntimeError("shape mismatch")

    monkeypatch.setattr("ptycho_torch.cli.scans.prepare", mistaken)
    with pytest.raises(RuntimeError, match="shape mismatch"):
        main(["prepare", "scan.npz"])
