"""A place in an epoch: exact under every limit of a trainer, and refused in other data."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed: places are a trainer's")

from builders import quiet_trainer
from campaign import stops
from lightning.pytorch.callbacks import ModelCheckpoint

from ptycho_torch import GroupingConfig, PtychoDataModule, RawData, simulate_scan
from ptycho_torch.data.errors import OptionError

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers", "ignore:.*smaller than the logging interval"
)


@pytest.fixture(scope="module")
def scan_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scan")
    scan = simulate_scan(n_frames=stops.GROUPS, N=8, object_size=60, seed=3, pattern="raster")
    return scan.to_file(folder / "scan.npz")


@pytest.mark.parametrize("trainer", stops.TRAINERS)
def test_run_stopped_at_the_end_of_an_epoch_goes_on_with_the_next(
    scan_file: Path, tmp_path: Path, trainer: str
) -> None:
    setting = stops.Setting(scan_file, tmp_path, trainer)
    whole = stops.Stopper()
    order = setting.run(whole)
    steps = whole.calls["on_train_batch_end"] // 3
    for hook, at in (
        ("on_train_batch_end", steps),
        ("on_train_batch_end", 2 * steps),
        ("on_train_epoch_end", 1),
        ("on_train_epoch_start", 2),
        ("on_train_batch_start", steps),
        ("on_train_batch_end", 1),
        ("cut short", 2),
        ("cut short", steps),
        ("cut short", 2 * steps + 1),
    ):
        for again in (0, 2):
            assert setting.resumed(hook, at, again) == order, (hook, at, again)


@pytest.mark.parametrize("trainer", stops.TRAINERS)
@pytest.mark.parametrize("then", ["on_validation_start", "on_validation_end", "on_train_epoch_end"])
def test_run_stopped_again_before_its_next_step_goes_on_with_it(
    scan_file: Path, tmp_path: Path, trainer: str, then: str
) -> None:
    setting = stops.Setting(scan_file, tmp_path, trainer)
    order = setting.run(stops.Stopper())
    for hook, at in (("on_validation_start", 1), ("on_validation_end", 2)):
        assert setting.resumed(hook, at, 1, then) == order, (hook, at)


@pytest.mark.parametrize("again", [3, 6])
def test_run_stopped_at_the_end_of_a_resumed_epoch_goes_on_with_the_next(
    scan_file: Path, tmp_path: Path, again: int
) -> None:
    setting = stops.Setting(scan_file, tmp_path, "overfit")
    assert setting.resumed("on_train_batch_end", 3, again) == setting.run(stops.Stopper())


@pytest.mark.parametrize("trainer", ["limit", "overfit", "reload"])
def test_workers_start_at_the_place_too(scan_file: Path, tmp_path: Path, trainer: str) -> None:
    setting = stops.Setting(scan_file, tmp_path, trainer, workers=2)
    order = stops.Setting(scan_file, tmp_path, trainer).run(stops.Stopper())
    assert setting.resumed("on_train_epoch_end", 1) == order
    assert setting.resumed("on_train_batch_end", 2) == order


@pytest.mark.slow
def test_runs_stopped_in_any_hook_see_every_sample_at_its_place(tmp_path: Path) -> None:
    outcome = stops.anywhere(tmp_path, 24, 1)
    assert not outcome.failures, outcome.failures


class CutShort(stops.Stopper):
    """Has its run cut short in a hook."""

    def __init__(self, hook: str, epoch: int) -> None:
        super().__init__()
        self.where = hook, epoch

    def _called(self, hook: str) -> None:
        super()._called(hook)
        if (hook, self.current_epoch) == self.where:
            self.trainer.should_stop = True


def trainer_for(folder: Path, **limits: Any) -> Any:
    options = {"max_epochs": 3, "limit_val_batches": 0, **limits}
    return quiet_trainer(folder, **options)


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
@pytest.mark.parametrize("max_steps", [1, 4, 12, 13, 14, 30])
def test_run_with_more_steps_goes_on_within_the_epoch(
    scan_file: Path, tmp_path: Path, max_steps: int
) -> None:
    order = stops.Setting(scan_file, tmp_path).run(stops.Stopper())
    every_epoch = ModelCheckpoint(tmp_path, filename="epoch", save_last=True)
    model = stops.Stopper()
    limits = {"max_steps": max_steps, "callbacks": [every_epoch], "enable_checkpointing": True}
    trainer = trainer_for(tmp_path, **limits)
    trainer.fit(model, datamodule=data_of(str(scan_file), split="none", batch_size=5))
    assert model.seen == order[: len(model.seen)] != order
    trainer.save_checkpoint(tmp_path / "after.ckpt")
    for name in ("last", "epoch", "after"):
        rest = stops.Stopper()
        trainer_for(tmp_path).fit(
            rest,
            datamodule=data_of(str(scan_file), split="none", batch_size=5),
            ckpt_path=tmp_path / f"{name}.ckpt",
            weights_only=True,
        )
        assert model.seen + rest.seen == order, name


@pytest.mark.parametrize("hook", ["on_train_epoch_start", "on_train_batch_end"])
@pytest.mark.parametrize("epoch", [0, 1])
def test_trainer_stopped_within_an_epoch_goes_on_there(
    scan_file: Path, tmp_path: Path, hook: str, epoch: int
) -> None:
    order = stops.Setting(scan_file, tmp_path).run(stops.Stopper())
    model = CutShort(hook, epoch)
    data = data_of(str(scan_file), split="none", batch_size=5)
    trainer = trainer_for(tmp_path)
    trainer.fit(model, datamodule=data)
    assert model.seen == order[: len(model.seen)] != order
    model.where = "", 0
    trainer.should_stop = False
    trainer.fit(model, datamodule=data)
    assert model.seen == order


def test_epoch_that_the_model_skips_is_over(scan_file: Path, tmp_path: Path) -> None:
    class Skipping(stops.Stopper):
        def on_train_batch_start(self, batch: Any, index: int) -> Any:
            return -1 if index == 4 and self.current_epoch == 0 else None

    def run(model: stops.Stopper, resume: Path | None = None) -> list[tuple[int, int]]:
        data = data_of(str(scan_file), split="none", batch_size=5)
        trainer = trainer_for(tmp_path)
        with contextlib.suppress(stops.Stopped):
            trainer.fit(model, datamodule=data, ckpt_path=resume, weights_only=True)
        return model.seen

    order = run(Skipping())
    first = run(Skipping("on_train_epoch_end", 1, tmp_path / "skipped.ckpt"))
    assert first + run(Skipping(), tmp_path / "skipped.ckpt") == order


def test_run_resumed_with_a_plain_loader_is_warned(scan_file: Path, tmp_path: Path) -> None:
    plain = stops.Setting(scan_file, tmp_path, plain=True)
    module = stops.Setting(scan_file, tmp_path)
    for first, second in ((plain, plain), (module, plain), (plain, module)):
        checkpoint = tmp_path / "stopped.ckpt"
        first.run(stops.Stopper("on_train_batch_end", 4, checkpoint))
        with pytest.warns(UserWarning, match="no place in the epoch") as caught:
            second.run(stops.Stopper(), checkpoint)
        assert sum("no place" in str(each.message) for each in caught) == 1


def data_of(scan: Any, **options: Any) -> PtychoDataModule:
    return PtychoDataModule(
        scan, ground_truth="none", **{"grouping": GroupingConfig(gridsize=1), **options}
    )


def state_of(scan: Any, **options: Any) -> dict[str, Any]:
    data = data_of(scan, **options)
    data.setup("fit")
    return {**data.state_dict(), "epoch": 1, "consumed": 20}


def go_on(data: PtychoDataModule, state: dict[str, Any]) -> None:
    data.load_state_dict(state)
    assert data.state_dict() == state
    data.train_dataloader()


def with_other_frames(scan_file: Path, folder: Path) -> Path:
    with np.load(scan_file) as file:
        fields = {name: file[name] for name in file.files}
    np.savez(folder / "other.npz", **{**fields, "diff3d": fields["diff3d"] * 2})
    return folder / "other.npz"


@pytest.mark.parametrize(
    "options",
    [
        {"split": "none"},
        {"split": "frames"},
        {"val_fraction": 0.2},
        {"grouping": GroupingConfig(gridsize=1, n_subsample=50)},
        {"grouping": GroupingConfig(gridsize=1, n_groups=50)},
    ],
)
def test_another_split_or_grouping_than_the_checkpoints_is_refused(
    scan_file: Path, options: dict[str, Any]
) -> None:
    state = state_of(str(scan_file))
    with pytest.raises(OptionError, match=r"^checkpoint: training groups of the data is \d+ of"):
        go_on(data_of(str(scan_file), **options), state)


def test_other_scans_than_the_checkpoints_are_refused(scan_file: Path, tmp_path: Path) -> None:
    state = state_of(str(scan_file))
    elsewhere = simulate_scan(n_frames=stops.GROUPS, N=8, object_size=60, seed=3)
    for other in (elsewhere, str(with_other_frames(scan_file, tmp_path)), [str(scan_file)] * 2):
        with pytest.raises(OptionError, match="of other scans"):
            go_on(data_of(other), state)


def test_order_of_a_file_shuffled_or_not_is_another_order(scan_file: Path) -> None:
    state = state_of(str(scan_file))
    with pytest.raises(OptionError, match=r"shuffle of the data is True; expected False.*=true"):
        data_of(str(scan_file), shuffle=False).load_state_dict(state)


def test_workers_batch_size_place_of_the_file_and_memory_do_not_matter(
    scan_file: Path, tmp_path: Path
) -> None:
    state = state_of(str(scan_file))
    moved = tmp_path / "moved.npz"
    moved.write_bytes(scan_file.read_bytes())
    for scan in (str(moved), RawData.from_file(moved)):
        go_on(data_of(scan, num_workers=2, batch_size=9), state)


def test_checkpoint_without_a_fingerprint_is_believed_with_a_warning(scan_file: Path) -> None:
    data = data_of(str(scan_file))
    with pytest.warns(UserWarning, match="does not say which training groups"):
        go_on(data, {"seed": 0, "epoch": 1, "consumed": 20})
