"""Checkpoints on the command line: refused where absent, junk, foreign or able to run code."""

from __future__ import annotations

from pathlib import Path

import pytest
from builders import assert_one_line, listing, write_fit_config

from ptycho_torch.cli import DATA_AT_FAULT, WRONG_USAGE, main

pytest.importorskip("lightning", reason="lightning is not installed: fit")
torch = pytest.importorskip("torch", reason="torch is not installed: checkpoints")


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_a_model_without_a_checkpoint_is_refused(folder, capsys, command):
    write_fit_config(folder)
    before = listing(folder)
    assert main([command, "--config", "fit.yaml"]) == WRONG_USAGE
    assert_one_line(capsys.readouterr().err, "fit.yaml", "pass --ckpt_path")
    assert listing(folder) == before


@pytest.mark.parametrize("content", ["text", "empty", "no state", "absent", "folder"])
def test_a_junk_checkpoint_is_one_line_that_names_it(folder, capsys, content):
    write_fit_config(folder)
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

    class Evil:
        def __reduce__(self):
            return Path.touch, (folder / "ran",)

    write_fit_config(folder)
    torch.save({"state_dict": {}, "pytorch-lightning_version": "2.6.0", "x": Evil()}, folder / name)
    before = listing(folder)
    options = ["--config", "fit.yaml", "--ckpt_path", name, "--weights_only", "false"]
    assert main(["predict", *options]) == DATA_AT_FAULT
    assert_one_line(capsys.readouterr().err, name, "holds more than tensors and plain values")
    assert listing(folder) == before


def test_a_checkpoint_on_the_web_is_not_fetched(folder, capsys, monkeypatch):
    fetched = []
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda url, **_: fetched.append(url))
    write_fit_config(folder)
    address = "http://127.0.0.1:9/evil.ckpt"
    assert main(["predict", "--config", "fit.yaml", "--ckpt_path", address]) == WRONG_USAGE
    assert_one_line(capsys.readouterr().err, address, "Download it first")
    assert not fetched


@pytest.mark.parametrize("path", ["pathlib.Path", "nowhere.Model", "ptycho_torch.PtychoPINN"])
def test_a_checkpoint_of_another_model_than_the_configurations_is_one_line(folder, capsys, path):
    write_fit_config(folder)
    content = {"state_dict": {}, "pytorch-lightning_version": "2.6.0"}
    torch.save({**content, "hyper_parameters": {"_class_path": path}}, folder / "other.ckpt")
    before = listing(folder)
    arguments = ["predict", "--config", "fit.yaml", "--ckpt_path", "other.ckpt"]
    assert main(arguments) == DATA_AT_FAULT
    found = (
        f"other.ckpt: hyper_parameters is those of {path}; expected those of ptycho_torch.models"
    )
    assert_one_line(capsys.readouterr().err, found, "or leave model: out")
    assert listing(folder) == before


@pytest.mark.parametrize(
    "parameters",
    [
        {"_class_path": "ptycho_torch.ObjectFit", "schedule": "banana"},
        {"_class_path": ["a"]},
        3,
    ],
)
def test_a_checkpoint_of_another_model_is_one_line(folder, capsys, parameters):
    write_fit_config(folder)
    content = {"state_dict": {}, "pytorch-lightning_version": "2.6.0"}
    torch.save({**content, "hyper_parameters": parameters}, folder / "other.ckpt")
    before = listing(folder)
    arguments = ["predict", "--config", "fit.yaml", "--ckpt_path", "other.ckpt"]
    assert main(arguments) == DATA_AT_FAULT
    assert_one_line(capsys.readouterr().err, "other.ckpt", "hyper_parameters", "expected")
    assert listing(folder) == before
