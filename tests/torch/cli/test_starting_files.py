"""Fits that start from files, in a configuration and on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from builders import assert_one_line, write_fit_config

from ptycho_torch.cli import DATA_AT_FAULT, DONE, WRONG_USAGE, main

pytest.importorskip("lightning", reason="lightning is not installed: fit")


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_a_fit_goes_on_from_the_object_and_probe_of_another(folder):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: the report's picture")

    def error_after_one_epoch(*more: str) -> float:
        words = ["fit", "--config", "fit.yaml", "--trainer.max_epochs=1", *more]
        assert main(words) == DONE
        return json.loads(Path("out/metrics.json").read_text(encoding="utf-8"))["fourier_error"]

    write_fit_config(folder)
    flat = error_after_one_epoch()
    Path("out/reconstruction.npz").rename("start.npz")
    starts = "    initial_object: start.npz\n    initial_probe: start.npz"
    write_fit_config(folder, model=starts)
    configured = error_after_one_epoch()
    write_fit_config(folder)
    typed = [f"--model.init_args.initial_{name}=start.npz" for name in ("object", "probe")]
    assert error_after_one_epoch(*typed) == pytest.approx(configured)
    assert configured < 0.9 * flat
    # A checkpoint has what became of the start, and needs its file no more.
    Path("start.npz").unlink()
    checkpoint = next(Path("out/logs").rglob("*.ckpt"))
    again = ["--ckpt_path", str(checkpoint), "--trainer.default_root_dir=p"]
    assert main(["predict", "--config", "fit.yaml", *again]) == DONE


WRONG = {
    "absent": (None, DATA_AT_FAULT, "missing"),
    "other names": ({"picture": np.ones((4, 4))}, DATA_AT_FAULT, "object is missing"),
    "size": (np.ones((4, 4)), WRONG_USAGE, "initial_object is (4, 4); expected"),
    "axes": (np.ones(4), WRONG_USAGE, "initial_object is (4,); expected"),
    "not finite": (np.full((4, 4), np.nan), WRONG_USAGE, "not finite"),
    "too large": (np.full((4, 4), 1e200), WRONG_USAGE, "not finite"),
    "zero": (np.zeros((4, 4)), WRONG_USAGE, "zero throughout"),
    "text": (np.array(["a"]), WRONG_USAGE, "of dtype <U1"),
    "pickled": (np.array([{}], dtype=object), DATA_AT_FAULT, "opens only by unpickling"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_start_that_will_not_do_is_one_line_that_names_its_file(folder, capsys, wrong):
    content, code, words = WRONG[wrong]
    if isinstance(content, dict):
        np.savez("start.npz", **content)
    elif content is not None:
        with open("start.npz", "wb") as file:
            np.save(file, content, allow_pickle=True)
    write_fit_config(folder)
    word = "--model.init_args.initial_object=start.npz"
    assert main(["fit", "--config", "fit.yaml", word]) == code
    said = capsys.readouterr().err.splitlines(keepends=True)
    assert_one_line(said[-1], "start.npz: ", words)
