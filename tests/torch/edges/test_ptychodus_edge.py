"""What Ptychodus calls: a network trains, its checkpoint travels, an object lies where it was."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import lightning.pytorch as pl  # noqa: E402
from ptychodus_calls import (  # noqa: E402
    config,
    export,
    loaded,
    reconstruct,
    small_scan,
    trainer_of,
)

from ptycho_torch import PtychoDataModule, RawData  # noqa: E402
from ptycho_torch.api.base_api import (  # noqa: E402
    ConfigManager,
    PtychoDataLoader,
    PtychoModel,
    accelerator,
)
from ptycho_torch.api.placing import notes_of, object_shape  # noqa: E402
from ptycho_torch.api.scans import training_scans, without_mean_phase  # noqa: E402
from ptycho_torch.config_params import DataConfig, ModelConfig  # noqa: E402
from ptycho_torch.data.errors import (  # noqa: E402
    OptionError,
    ScanError,
    ScanFileError,
    ScanFileNotFoundError,
)
from ptycho_torch.lightning_utils import find_best_checkpoint  # noqa: E402
from ptycho_torch.model import PtychoPINN_Lightning  # noqa: E402
from ptycho_torch.models.pinn import PtychoPINN  # noqa: E402

WARNINGS = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers", "ignore:The number of training batches"
)


@pytest.fixture(scope="module", name="run")
def fixture_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[float]]:
    """A folder with a checkpoint, trained beside a callback of a local class; its losses."""
    folder = tmp_path_factory.mktemp("exported")
    export(folder / "scan.npz", small_scan())
    losses: list[float] = []

    class Collector(pl.Callback):
        def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            losses.append(float(trainer.callback_metrics[trainer.lightning_module.loss_name]))

        def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
            assert trainer.sanity_checking or pl_module.val_loss_name in trainer.callback_metrics

    trainer = trainer_of(folder, folder / "runs", config(epochs=3, notes="night"))
    trainer._trainer.callbacks.append(Collector())
    trainer.train(orchestration="lightning", experiment_name="")
    assert [path.name for path in folder.glob("*.npz")] == ["scan.npz"]
    return trainer.output_dir, losses


@pytest.mark.slow
@WARNINGS
def test_training_tells_the_callback_and_keeps_the_best(run: tuple[Path, list[float]]) -> None:
    folder, losses = run
    assert len(losses) == 3 and losses[-1] < losses[0]
    assert find_best_checkpoint(folder) == folder / "best.ckpt"
    assert "train_loss" in (folder / "metrics.csv").read_text(encoding="utf-8")


@pytest.mark.slow
@WARNINGS
def test_checkpoint_gives_its_settings_back_to_both_doors(run: tuple[Path, list[float]]) -> None:
    checkpoint = run[0] / "best.ckpt"
    manager, model = loaded(checkpoint)
    assert manager.training_config.notes == "night"
    assert manager.data_config == config().data_config
    ours = PtychoPINN.load_from_checkpoint(checkpoint, weights_only=True)
    theirs = model.network.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.state_dict().items())


@pytest.mark.slow
@WARNINGS
def test_object_has_the_shape_and_place_of_the_one_trained_on(
    run: tuple[Path, list[float]],
) -> None:
    scan = small_scan()
    found = reconstruct(run[0] / "best.ckpt", scan)
    assert found.shape == scan.objectGuess.shape and found.dtype == np.complex64
    ours = PtychoPINN.load_from_checkpoint(run[0] / "best.ckpt", weights_only=True)
    data = PtychoDataModule(scan, split="none", cache="off", patch_positions="scan")
    covered = (found != 0) & ((expected := ours.predict_object(data)) != 0)
    assert covered.mean() > 0.5
    # Counts are whole there and amplitudes here, and groups overlap otherwise.
    assert np.abs(found - expected)[covered].mean() < 0.1 * np.abs(expected[covered]).mean()


@pytest.mark.slow
@WARNINGS
def test_supervised_network_learns_the_exported_object(tmp_path: Path) -> None:
    export(tmp_path / "scan.npz", small_scan())
    trainer = trainer_of(tmp_path, tmp_path, config(mode="Supervised", epochs=4))
    before = trainer.data.dataset("train")
    assert before.ground_truth == "object" and before.patch_positions == "scan"
    trainer.train()
    assert trainer._trainer.callback_metrics["train_loss"] < 0.5


@pytest.mark.slow
@WARNINGS
def test_checkpoint_of_our_command_opens_in_ptychodus(tmp_path: Path) -> None:
    """As LightningCLI writes it: with notes on how it built the network."""
    model = PtychoPINN(width=12, depth=2, loss="amplitude_mae")
    trainer = pl.Trainer(
        max_epochs=1, logger=False, accelerator="cpu", default_root_dir=tmp_path,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
    )  # fmt: skip
    data = PtychoDataModule(small_scan(), split="none", cache="off", patch_positions="scan")
    trainer.fit(model, datamodule=data)
    name = f"{PtychoPINN.__module__}.{PtychoPINN.__qualname__}"
    model.hparams.update(_instantiator="lightning.pytorch.cli.instantiate_module", _class_path=name)
    trainer.save_checkpoint(tmp_path / "ours.ckpt")
    manager, _ = loaded(tmp_path / "ours.ckpt")
    assert manager.model_config.loss_function == "MAE" and manager.data_config.C == 4
    assert reconstruct(tmp_path / "ours.ckpt", small_scan()).any()


def test_file_that_is_no_checkpoint_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "junk.ckpt").write_bytes(b"junk")
    with pytest.raises(ScanFileError, match=r"junk\.ckpt: file is broken"):
        PtychoModel._extract_configs_from_checkpoint(tmp_path / "junk.ckpt")
    torch.save({"hyper_parameters": {"N": 64}, "state_dict": {}}, tmp_path / "other.ckpt")
    with pytest.raises(ScanFileError, match=r"other\.ckpt: hyper_parameters is those of another"):
        PtychoModel._extract_configs_from_checkpoint(tmp_path / "other.ckpt")


def test_weights_of_another_network_are_refused_in_one_line(tmp_path: Path) -> None:
    model = PtychoPINN_Lightning(ModelConfig(n_filters_scale=1))
    weights = {name: value[:1] for name, value in model.state_dict().items() if value.ndim}
    content = {"hyper_parameters": dict(model.hparams), "state_dict": weights}
    torch.save({**content, "pytorch-lightning_version": pl.__version__}, tmp_path / "bad.ckpt")
    with pytest.raises(ScanFileError, match=r"bad\.ckpt: checkpoint is weights of another") as info:
        PtychoPINN_Lightning.load_from_checkpoint(tmp_path / "bad.ckpt")
    assert "\n" not in str(info.value)


def test_network_of_another_width_than_the_settings_is_refused() -> None:
    manager = ConfigManager(model_config=ModelConfig(n_filters_scale=1))
    model = PtychoModel._new_model(PtychoPINN_Lightning, manager)
    manager.validate_arch_compatibility(model)
    other = ConfigManager(model_config=ModelConfig(n_filters_scale=2))
    with pytest.raises(OptionError, match="width is 8; expected 16, which n_filters_scale=2"):
        other.validate_arch_compatibility(model)


def test_best_checkpoint_is_the_one_of_the_least_loss(tmp_path: Path) -> None:
    assert find_best_checkpoint(tmp_path) is None
    for name, score in (("a", 0.3), ("b", 0.1), ("c", 0.2)):
        state = {"ModelCheckpoint{'monitor': 'val_loss'}": {"current_score": torch.tensor(score)}}
        torch.save({"callbacks": state}, tmp_path / f"{name}.ckpt")
    torch.save({}, tmp_path / "last.ckpt")
    assert find_best_checkpoint(tmp_path) == tmp_path / "b.ckpt"


def test_runs_of_one_moment_have_folders_of_their_own(tmp_path: Path) -> None:
    export(tmp_path / "scan.npz", small_scan())
    folders = {PtychoDataLoader(tmp_path, config(), output_dir=tmp_path).output_dir for _ in "ab"}
    assert len(folders) == 2 and all(folder.name.startswith("run_") for folder in folders)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_without_a_gpu_is_the_cpu(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert accelerator("cuda") == accelerator("cpu") == "cpu"
    assert len(caplog.records) == 1 and "no GPU" in caplog.text


# -- scans ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("counts", [np.uint16, np.float32, np.float64])
def test_exports_are_counts_half_a_pixel_further_whatever_their_type(
    counts: Any, tmp_path: Path
) -> None:
    scan = small_scan()
    (read,) = training_scans(export(tmp_path / "scan.npz", scan, counts))
    np.testing.assert_allclose([read.xcoords, read.ycoords], [scan.xcoords, scan.ycoords])
    assert read.xcoords_start is read.xcoords and read.frames.measurement == "counts"
    np.testing.assert_allclose(read.diff3d, np.sqrt(np.rint(scan.diff3d**2)), atol=0.5)


def test_folder_gives_training_files_and_nothing_else(tmp_path: Path) -> None:
    with pytest.raises(ScanFileNotFoundError, match="without a training file; expected"):
        training_scans(tmp_path)
    export(tmp_path / "b.npz", small_scan(2))
    small_scan(1).to_file(tmp_path / "a.npz")
    np.savez(tmp_path / "product.npz", probe_position_x_m=np.zeros(3))
    (tmp_path / "settings.ini").write_text("", encoding="utf-8")
    found = training_scans(tmp_path)
    assert [scan.path.name for scan in found] == ["a.npz", "b.npz"]
    assert [scan.frames.measurement for scan in found] == ["amplitude", "counts"]


def test_arrays_of_a_reconstruction_are_counts_at_y_x() -> None:
    counts = np.arange(3 * 16 * 16, dtype=np.uint16).reshape(3, 16, 16)
    probe = np.ones((2, 16, 16), complex)
    places = np.array([[7.5, 9.5], [8.5, 10.5], [9.5, 11.5]])
    (scan,) = PtychoDataLoader.from_np(counts, probe, places, config()).scans
    assert scan.ycoords.tolist() == [8, 9, 10] and scan.xcoords.tolist() == [10, 11, 12]
    np.testing.assert_allclose(scan.diff3d, np.sqrt(counts), rtol=1e-6)
    with pytest.raises(OptionError, match=r"positions is of shape \(2, 3\); expected \(M, 2\)"):
        PtychoDataLoader.from_np(counts, probe, places.T, config())
    with pytest.raises(ScanError, match="xcoords"):
        PtychoDataLoader.from_np(counts, probe, places[:2], config())


def test_labels_lose_the_mean_phase_of_the_scanned_area() -> None:
    scan = small_scan()
    turned = RawData.sharing(scan, objectGuess=scan.objectGuess * np.exp(2j))
    first, second = (without_mean_phase(each).objectGuess for each in (scan, turned))
    np.testing.assert_allclose(first, second, atol=1e-5)
    np.testing.assert_allclose(np.abs(first), np.abs(scan.objectGuess), rtol=1e-5)
    y, x = (slice(int(c.min()), int(c.max()) + 1) for c in (scan.ycoords, scan.xcoords))
    assert abs(np.angle(first[y, x].mean())) < 1e-5


# -- where an object lies ------------------------------------------------------------------------


def scan_at(x: Any, y: Any, N: int = 16, obj: Any = None) -> RawData:
    frames = np.ones((len(x), N, N), np.float32)
    probe = np.ones((N, N), np.complex64)
    return RawData.from_coords_without_pc(
        np.array(x, float), np.array(y, float), frames, probe, objectGuess=obj
    )


@pytest.mark.parametrize("shift", [0.0, 0.25, 3.0])
def test_object_whose_middle_is_the_scans_has_a_known_shape(shift: float) -> None:
    """An object of (40, 50) with the scan in its middle, as Ptychodus sizes them or padded."""
    x = [10.25 + shift, 39.75 - shift]
    assert object_shape(scan_at(x, [8.5, 31.5]), []) == (40, 50)


def test_object_trained_on_has_its_own_shape_wherever_the_scan_lies_in_it() -> None:
    obj = np.ones((61, 70), np.complex64)
    trained = scan_at([9.2, 30.7], [20.1, 44.4], obj=obj)
    same = scan_at([9.2, 30.7 + 1e-9], [20.1, 44.4])
    assert object_shape(same, notes_of([trained])) == (61, 70)


def test_shape_that_cannot_be_known_is_the_smallest_and_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    scan = scan_at([9.2, 30.7], [20.1, 44.4])
    other = scan_at([9.2, 30.7], [20.1, 44.6], obj=np.ones((61, 70), np.complex64))
    assert object_shape(scan, notes_of([other])) == (53, 39)
    assert "the object's shape is not known" in caplog.text and "53 x 39" in caplog.text


def test_scan_whose_patches_leave_the_object_is_not_taken_for_its_middle(
    caplog: pytest.LogCaptureFixture,
) -> None:
    object_shape(scan_at([5.0, 35.0], [10.0, 30.0]), [])
    assert "not known" in caplog.text


def test_default_groups_are_those_of_the_lineage_settings(tmp_path: Path) -> None:
    export(tmp_path / "scan.npz", small_scan(n_frames=100))
    manager = ConfigManager(DataConfig())
    groups = PtychoDataLoader(tmp_path, manager).training_data().grouping
    assert (groups.gridsize, groups.neighbor_count, groups.groups_per_seed) == (2, 6, 7)
    assert groups.x_bounds == groups.y_bounds == (0.1, 0.9)
    assert groups.max_neighbor_distance is None
