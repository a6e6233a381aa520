"""Every setting of Ptychodus is in the table of docs/howto/ptychodus.md, and behaves as it says."""

from __future__ import annotations

import dataclasses
import logging
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

from builders import ROOT
from ptychodus_calls import SETTINGS, config, export, small_scan, trainer_of

from ptycho_torch.api.base_api import ConfigManager, PtychoDataLoader
from ptycho_torch.config_params import DatagenConfig, ModelConfig, roles
from ptycho_torch.data.errors import OptionError, PtychoTorchError
from ptycho_torch.model import network_options, rate_factor

ROW = re.compile(r"\| .*? \| `(\w+)` \| `(.*?)` \| (\w+) \| .*\S \|")


def tables() -> dict[str, dict[str, tuple[str, str]]]:
    """Default and role of each field, by the class named as the section is."""
    text = (ROOT / "docs" / "howto" / "ptychodus.md").read_text(encoding="utf-8")
    sections = re.split(r"^### ", text, flags=re.MULTILINE)[1:]
    return {
        section.partition("\n")[0].lower() + "_config": {
            name: (default, role) for name, default, role in ROW.findall(section)
        }
        for section in sections
    }


def fields(role: str) -> list[Any]:
    return [
        pytest.param(config_name, name, id=f"{config_name}.{name}")
        for config_name, kind in SETTINGS.items()
        for name, found in roles(kind).items()
        if found == role
    ]


def another(default: Any) -> Any:
    if default is None:
        return "Total_Variation"
    if isinstance(default, bool):
        return not default
    return "another" if isinstance(default, str) else default + 1


@pytest.fixture(scope="module", name="folder")
def fixture_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    export(folder / "scan.npz", small_scan())
    return folder


def changed(config_name: str, name: str, value: Any) -> ConfigManager:
    manager = config()
    setattr(getattr(manager, config_name), name, value)
    return manager


def test_table_has_every_field_with_its_default_and_its_role() -> None:
    expected = {
        config_name: {
            entry.name: (repr(entry.default), roles(kind)[entry.name])
            for entry in dataclasses.fields(kind)
        }
        for config_name, kind in SETTINGS.items()
    }
    assert tables() == expected
    assert not dataclasses.fields(DatagenConfig)


def test_settings_travel_to_another_process() -> None:
    for kind in (*SETTINGS.values(), DatagenConfig):
        assert pickle.loads(pickle.dumps(kind())) == kind()  # noqa: S301


@pytest.mark.parametrize(("config_name", "name"), fields("fixed"))
def test_fixed_setting_with_another_value_is_refused_by_name(
    config_name: str, name: str, folder: Path
) -> None:
    default = SETTINGS[config_name].__dataclass_fields__[name].default
    manager = changed(config_name, name, another(default))
    with pytest.raises(OptionError, match=rf"^{name} is .*; expected .*docs/howto/ptychodus.md"):
        PtychoDataLoader(folder, manager)


def test_probe_mask_in_an_array_is_refused_by_name(folder: Path) -> None:
    manager = ConfigManager(model_config=ModelConfig(probe_mask=np.ones((2, 2))))
    with pytest.raises(OptionError, match=r"^probe_mask is "):
        PtychoDataLoader(folder, manager)


def effects(manager: ConfigManager, folder: Path, output: Path) -> dict[str, Any]:
    """All that settings change: groups, labels, loaders, network, optimizer, and predictions."""
    trainer = trainer_of(folder, output, manager)
    data, lightning = trainer.data, trainer._trainer
    training, dataset = data.dataset("train"), data.dataset("val")
    predicted = PtychoDataLoader.from_np(
        np.ones((3, 16, 16), np.uint16),
        np.ones((1, 16, 16), complex),
        np.array([[7.5, 7.5], [9.5, 7.5], [9.5, 9.5]]),
        manager,
    ).prediction_data([])
    steps = range(0, 40, 3)
    return {
        "groups": training.index.nn_indices.tolist(),
        "validation": dataset.index.nn_indices.tolist(),
        "labels": training.ground_truth == "object" and training[0].Y_phi.tolist(),
        "loaders": (data.batch_size, data.num_workers),
        "network": network_options(manager.model_config, manager.training_config),
        "weights": sum(p.numel() for p in trainer.network.parameters()),
        "run": (lightning.max_epochs, lightning.accumulate_grad_batches),
        "clip": lightning.gradient_clip_val,
        "rates": [rate_factor(manager.training_config, 10, step) for step in steps],
        "kept": [trainer.network.hparams["training_config"][n] for n in ("notes", "model_name")],
        "predicted": predicted.batch_size,
    }


@pytest.mark.parametrize(("config_name", "name"), fields("unread"))
def test_unread_setting_changes_nothing_and_is_logged(
    config_name: str, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    default = SETTINGS[config_name].__dataclass_fields__[name].default
    manager = changed(config_name, name, another(default))
    with caplog.at_level(logging.INFO):
        manager.check()
    said = [record.message for record in caplog.records if f"{name}=" in record.message]
    assert said == [f"settings that change nothing here: {name}={another(default)!r}"]


def test_all_unread_settings_together_change_no_effect(folder: Path, tmp_path: Path) -> None:
    manager = config()
    for param in fields("unread"):
        config_name, name = param.values
        settings = getattr(manager, config_name)
        setattr(settings, name, another(getattr(settings, name)))
    assert effects(manager, folder, tmp_path) == effects(config(), folder, tmp_path)


# What to change it to, and what it takes beside.
USED = {
    "C": (1, {"grid_size": (1, 1), "C_model": 1, "C_forward": 1, "decoder_last_amp_channels": 1}),
    "neighbor_function": ("4_quadrant", {}),
    "x_bounds": ((0.2, 0.9), {}),
    "y_bounds": ((0.2, 0.9), {}),
    "min_neighbor_distance": (2.5, {"neighbor_function": "Min_dist", "max_neighbor_distance": 99}),
    "max_neighbor_distance": (99.0, {"neighbor_function": "Min_dist"}),
    "K_quadrant": (12, {"neighbor_function": "4_quadrant"}),
    "n_subsample": (2, {}),
    "K": (8, {}),
    "phase_subtraction": (False, {"mode": "Supervised"}),
    "mode": ("Supervised", {}),
    "loss_function": ("MAE", {}),
    "n_filters_scale": (2, {}),
    "intensity_scale_trainable": (True, {}),
    "epochs": (2, {}),
    "learning_rate": (1e-2, {}),
    "num_workers": (1, {}),
    "accum_steps": (2, {}),
    "epochs_fine_tune": (2, {}),
    "fine_tune_gamma": (0.5, {"epochs_fine_tune": 2}),
    "gradient_clip_val": (1.0, {}),
    "scheduler": ("Cosine", {"epochs": 4}),
    "warmup_epochs": (1, {"epochs": 4}),
    "min_lr_ratio": (0.5, {"epochs": 4, "scheduler": "Exponential"}),
    "notes": ("night shift", {}),
    "model_name": ("mine", {}),
    "finetune_val_split": (0.3, {}),
    "training_batch_size": (4, {}),
    "batch_size": (2, {"training_batch_size": 16}),
}
BEFORE = {"max_neighbor_distance": 1.3}
REFUSED = {
    "grid_size": ((3, 3), "C is 4; expected 9"),
    "C_model": (9, "C_model is 9; expected 4"),
    "C_forward": (9, "C_forward is 9; expected 4"),
    "decoder_last_amp_channels": (9, "decoder_last_amp_channels is 9; expected 4"),
    "n_devices": (2, r"n_devices is 2; expected 1\. Set it to 1; ptycho-torch fit --trainer"),
    "nll": (False, "nll is False; expected True .* Set loss_function to MAE"),
    "device": ("tpu", "device is 'tpu'; expected one of cuda, cpu"),
}


def test_every_used_setting_is_tried() -> None:
    names = {param.values[1] for param in fields("used")}
    assert names == (set(USED) | set(REFUSED)) - {"training_batch_size"}


@pytest.mark.parametrize("name", USED)
def test_used_setting_has_an_effect(name: str, folder: Path, tmp_path: Path) -> None:
    value, beside = USED[name]
    before = {**beside, name: BEFORE[name]} if name in BEFORE else dict(beside)
    if name in ("C", "epochs"):
        before = {}
    after = {**beside, name: value}
    assert effects(config(**after), folder, tmp_path) != effects(config(**before), folder, tmp_path)


@pytest.mark.parametrize("name", REFUSED)
def test_used_setting_that_contradicts_another_is_refused(name: str, folder: Path) -> None:
    value, line = REFUSED[name]
    with pytest.raises(PtychoTorchError, match=line):
        PtychoDataLoader(folder, config(**{name: value}))


@pytest.mark.parametrize("name", ["neighbor_function", "mode", "loss_function", "scheduler"])
def test_word_that_is_no_choice_is_refused_with_the_choices(
    name: str, folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(OptionError, match=rf"^{name} is 'other'; expected one of "):
        trainer_of(folder, tmp_path, config(**{name: "other"}))


def test_learning_rate_rises_falls_and_ends_low() -> None:
    training = config(
        epochs=4, epochs_fine_tune=2, warmup_epochs=1, scheduler="Cosine", min_lr_ratio=0.2
    ).training_config
    rates = [rate_factor(training, 10, step) for step in range(60)]
    assert 0 < rates[0] < 0.1 and max(rates) == rates[10] == 1.0
    assert all(np.diff(rates[10:40]) < 0) and 0.2 < rates[39] < 0.21
    assert set(rates[40:]) == {0.1}
