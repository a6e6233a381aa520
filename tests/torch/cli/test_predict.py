"""``ptycho-torch predict`` stitches what a network predicts to an object, and judges it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from builders import assert_one_line

torch = pytest.importorskip("torch")

from ptycho_torch import PtychoPINN, simulate_scan  # noqa: E402
from ptycho_torch.cli import WRONG_USAGE, main  # noqa: E402

pytestmark = pytest.mark.slow

CONFIG = """
trainer: {max_steps: 3, max_epochs: -1, accelerator: cpu, logger: false, default_root_dir: out,
          enable_progress_bar: false, enable_model_summary: false,
          callbacks: [{class_path: lightning.pytorch.callbacks.ModelCheckpoint,
                       init_args: {dirpath: out, filename: network}}]}
model: {class_path: ptycho_torch.PtychoPINN, init_args: {width: 4, depth: 2}}
data: {train: seen.npz, ground_truth: none, batch_size: 16}
"""


@pytest.fixture(scope="module", name="folder")
def fixture_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("predict")
    for name, seed, size in (("seen", 1, None), ("other", 2, (60, 48))):
        scan = simulate_scan(n_frames=400, N=16, seed=seed, object_size=size)
        scan.to_file(folder / f"{name}.npz")
    (folder / "pinn.yaml").write_text(CONFIG, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["fit", "--config", "pinn.yaml"]) == 0
    return folder


def predict(folder, capsys, *more):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        words = ["predict", "--config", "pinn.yaml", "--ckpt_path", "out/network.ckpt", *more]
        assert main(words) == 0
    figures = json.loads((folder / "out" / "predicted_metrics.json").read_text(encoding="utf-8"))
    with np.load(folder / "out" / "predicted_reconstruction.npz") as arrays:
        return figures, arrays["object"], capsys.readouterr().out


def test_another_scan_is_predicted_whole_and_put_where_its_object_is(folder, capsys):
    figures, obj, text = predict(folder, capsys, "--data.predict=other.npz")
    model = PtychoPINN.load_from_checkpoint(folder / "out" / "network.ckpt", weights_only=True)
    wanted = model.predict_object(folder / "other.npz")
    assert obj.shape == wanted.shape == (60, 48)
    # Groups of four weigh frames by how often they are in one; here each counts once.
    shown = (obj != 0) & (wanted != 0)
    assert np.abs(obj - wanted)[shown].mean() < 0.02 * np.abs(wanted[shown]).mean()
    assert figures["predicted"]["flat_object"]["centred_correlation"] == 0
    assert "predicted" in text and "picture: out/predicted_reconstruction.png" in text
    # Nothing was trained here.
    assert not {"epochs", "steps", "seconds"} & set(figures)


@pytest.mark.filterwarnings("ignore:The dirpath has changed")
def test_the_end_of_a_training_is_not_resumed_without_a_word(folder, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    words = ["fit", "--config", "pinn.yaml", "--ckpt_path", "out/network.ckpt"]
    assert main([*words, "--trainer.default_root_dir=resumed"]) == WRONG_USAGE
    said = "max_steps is 3, and the checkpoint has 3 behind it; expected above 3. To train on: "
    assert_one_line(capsys.readouterr().err, "network.ckpt", said, "--trainer.max_steps=6")
    assert main([*words, "--trainer.max_steps=-1", "--trainer.max_epochs=1"]) == WRONG_USAGE
    assert_one_line(capsys.readouterr().err, "network.ckpt", "max_epochs is 1")
    elsewhere = "--trainer.callbacks.init_args.dirpath=resumed"
    assert main([*words, "--trainer.max_steps=4", elsewhere]) == 0
    assert torch.load("resumed/network.ckpt", weights_only=True)["global_step"] == 4


def test_the_scan_of_training_is_judged_part_by_part(folder, capsys):
    figures, _, text = predict(folder, capsys)
    assert figures["validation"]["groups"] < figures["groups"]
    assert "training: " in text and "validation: " in text
