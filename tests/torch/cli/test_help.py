"""Help that fits a screen, imports little and is complete on demand; words that nobody knows."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from builders import ROOT, assert_one_line, run_python, write_fit_config

from ptycho_torch.cli import DONE, WRONG_USAGE, main
from ptycho_torch.cli.options import TRAINING, command_line
from ptycho_torch.cli.spellings import advice_in_configuration

COMMANDS = tuple(command_line().commands())
HEAVY = ("torch", "lightning", "scipy", "matplotlib", "h5py", "jsonargparse", "tqdm")
HELP = """
import json, sys
from ptycho_torch.cli import main
code = main(sys.argv[1:])
print(json.dumps([code, sorted(sys.modules)]))
"""


def help_of(capsys, *words: str) -> str:
    assert main([*words]) == DONE
    return capsys.readouterr().out


@pytest.mark.parametrize("command", COMMANDS)
def test_help_fits_a_screen_and_has_an_example(capsys, monkeypatch, command):
    monkeypatch.setenv("COLUMNS", "80")
    text = help_of(capsys, command, "--help")
    assert len(text.splitlines()) <= (40 if command == "fit" else 45)
    assert max(map(len, text.splitlines())) <= 100
    assert command == "bench" or f"example:\n  ptycho-torch {command}" in text


@pytest.mark.parametrize("command", sorted(set(COMMANDS) - set(TRAINING)))
def test_every_option_is_in_the_full_help(capsys, command):
    text = help_of(capsys, command, "--help-all")
    assert not [word for word in command_line().commands()[command].words() if word not in text]


@pytest.mark.parametrize("command", ["inspect", "prepare", "convert", "fit"])
def test_rare_options_are_in_the_full_help_only(capsys, command):
    scan = ["scan.npz"] if command == "fit" else []
    short, full = help_of(capsys, command, "--help"), help_of(capsys, command, *scan, "--help-all")
    for word in ("--layout", "--axis-order", "--saturation", "--flip-x"):
        assert f" {word} " in full and f" {word} " not in short


@pytest.mark.slow
@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_imports_nothing_heavy(command):
    result = run_python(HELP, *command.split(), "--help")
    code, modules = json.loads(result.stdout.splitlines()[-1])
    assert code == DONE, result.stderr
    assert not {name.partition(".")[0] for name in modules} & set(HEAVY)


@pytest.mark.slow
def test_the_package_runs_as_the_command():
    command = [sys.executable, "-m", "ptycho_torch", "--version"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.startswith("ptycho-torch ")


@pytest.mark.slow
@pytest.mark.parametrize("command", TRAINING)
def test_the_full_help_describes_every_option_of_the_data_module(capsys, monkeypatch, command):
    pytest.importorskip("lightning", reason="lightning is not installed: its options")
    monkeypatch.setenv("COLUMNS", "200")
    text = help_of(capsys, command, "--help-all")
    start, end = (text.index(f"\n  --data.{name}") for name in ("train.help", "multiprocessing"))
    text = text[start:end]
    assert text.count("\n  --data.") > 25
    for name in ("val", "N", "ground_truth", "measurement", "probe", "cache", "normalization"):
        words = text[text.index(f"  --data.{name} ") :].split("\n  --")[0]
        described = words.partition("(type:")[0].split("}")[-1].split()
        assert len(described) > 5, words
    assert "``" not in text


# What somebody types, the command it belongs to, and what is said to type.
UNKNOWN = [
    ("inspect scan.npz --data.measurement counts", "--measurement counts"),
    ("inspect scan.npz --data.grouping.neighbor_count 9", "--neighbors 9"),
    ("inspect scan.npz --position_unit m", "--position-unit m"),
    ("inspect scan.npz --gridsiz=3", "--gridsize 3"),
    ("fit scan.npz --data.measurement counts", "--measurement counts"),
    ("fit scan.npz --trainer.max_epochs 3", "--epochs 3"),
    ("inspect scan.npz --nonsense", "ptycho-torch inspect --help-all"),
    ("inspect scan.npz other.npz", "ptycho-torch inspect --help-all"),
]
UNKNOWN_TO_A_CONFIGURATION = [
    ("--measurement counts", "--data.measurement counts"),
    ("--gridsize 3", "--data.grouping.gridsize 3"),
    ("--epochs 3", "--trainer.max_epochs 3"),
    ("--data.batchsize 3", "--data.batch_size 3"),
    ("--axis-order frames_last", "ptycho-torch convert SCAN OUT.npz --axis-order frames_last"),
    ("--nonsense", "ptycho-torch fit --help-all"),
]


@pytest.mark.parametrize(("words", "typed"), UNKNOWN)
def test_an_unknown_word_names_what_to_type(folder, capsys, words, typed):
    assert main(words.split()) == WRONG_USAGE
    err = capsys.readouterr().err
    assert_one_line(err, words.split()[2].partition("=")[0])
    assert err.endswith(f"Type: {typed}\n")


@pytest.mark.parametrize(("words", "typed"), UNKNOWN_TO_A_CONFIGURATION)
def test_an_option_unknown_to_a_configuration_names_what_to_type(folder, capsys, words, typed):
    pytest.importorskip("lightning", reason="lightning is not installed: fit")
    assert main(["fit", "--data.train", "scan.npz", *words.split()]) == WRONG_USAGE
    err = capsys.readouterr().err
    assert_one_line(err, words.split()[0])
    assert err.endswith(f"Type: {typed}\n")


@pytest.mark.parametrize(
    ("line", "typed"),
    [
        ("Choose by --measurement counts.", "Choose by --data.measurement counts."),
        ("Lower --gridsize (gridsize).", "Lower --data.grouping.gridsize (gridsize)."),
        (
            "Add --position-unit m --pixel-size METRES.",
            "Add --position-unit m --pixel-size METRES in: ptycho-torch convert SCAN OUT.npz.",
        ),
        ("Pass --ckpt_path FILE.", "Pass --ckpt_path FILE."),
        ("Add --trainer.limit_val_batches=1.0.", "Add --trainer.limit_val_batches=1.0."),
        ("Type: ptycho-torch fit --help-all", "Type: ptycho-torch fit --help-all"),
        ("Try ptycho-torch inspect SCAN --orientations", None),
        ("a-file--size.npz is broken.", "a-file--size.npz is broken."),
    ],
)
def test_advice_is_spelt_as_a_configuration_has_it(line, typed):
    assert advice_in_configuration(line) == (typed or line)


def test_a_scan_that_a_configuration_names_is_refused_in_its_spelling(folder, fields, capsys):
    pytest.importorskip("lightning", reason="lightning is not installed: fit")
    np.savez("scan.npz", **{**fields, "diff3d": (fields["diff3d"] ** 2).astype("u2")})
    write_fit_config(folder)
    assert main(["fit", "--config", "fit.yaml"]) != DONE
    assert_one_line(capsys.readouterr().err, "scan.npz", "--data.measurement counts")
