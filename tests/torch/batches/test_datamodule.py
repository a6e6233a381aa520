"""PtychoDataModule: the same batches by every route, splits that do not leak, Lightning's loops."""

from __future__ import annotations

import inspect
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from builders import quiet_trainer

torch = pytest.importorskip("torch", reason="torch is not installed: PtychoDataModule needs it")

from lightning.pytorch import LightningModule, Trainer  # noqa: E402
from lightning.pytorch.loggers import CSVLogger  # noqa: E402
from lightning.pytorch.trainer.states import TrainerState  # noqa: E402

from ptycho_torch import (  # noqa: E402
    GroupingConfig,
    PtychoDataModule,
    PtychoDataset,
    simulate_scan,
)
from ptycho_torch.batches.batch import PtychoBatch  # noqa: E402
from ptycho_torch.batches.frame_bank import FrameBank  # noqa: E402
from ptycho_torch.data.errors import (  # noqa: E402
    OptionError,
    OptionTypeError,
    ScanFileError,
    ScanFileNotFoundError,
)


@pytest.fixture(scope="module")
def scan_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scan")
    return simulate_scan(n_frames=200, N=16, object_size=90, seed=3).to_file(folder / "scan.npz")


class Recorder(LightningModule):
    """Keeps every batch a loop gives it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen: dict[str, list[PtychoBatch]] = {
            "train": [],
            "val": [],
            "test": [],
            "predict": [],
        }

    def training_step(self, batch: PtychoBatch, index: int) -> Any:
        self.seen["train"].append(batch)
        return self.weight.sum() * batch.X.mean()

    def validation_step(self, batch: PtychoBatch, index: int) -> None:
        self.seen["val"].append(batch)

    def test_step(self, batch: PtychoBatch, index: int) -> None:
        self.seen["test"].append(batch)

    def predict_step(self, batch: PtychoBatch, index: int) -> Any:
        self.seen["predict"].append(batch)
        return batch.X.sum()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer(folder: Path, **options: Any) -> Trainer:
    return quiet_trainer(folder, num_sanity_val_steps=0, **{"max_epochs": 1, **options})


def frames_of(batches: list[PtychoBatch]) -> np.ndarray:
    return np.unique(torch.cat([batch.nn_indices for batch in batches]).numpy())


@pytest.mark.filterwarnings("ignore:.*does not have many workers:UserWarning")
@pytest.mark.filterwarnings("ignore:.*fit_loop.*log_every_n_steps:UserWarning")
@pytest.mark.filterwarnings("ignore:.*logging interval:UserWarning")
class TestLoops:
    def test_fit_trains_on_one_region_and_validates_on_another(
        self, scan_file: Path, tmp_path: Path
    ) -> None:
        data = PtychoDataModule(str(scan_file), batch_size=16, patch_positions="scan")
        model = Recorder()
        trainer(tmp_path).fit(model, datamodule=data)
        assert len(model.seen["train"]) > 5
        assert len(model.seen["val"]) >= 1
        shared = np.intersect1d(frames_of(model.seen["train"]), frames_of(model.seen["val"]))
        assert not len(shared)

    @pytest.mark.parametrize("split", ["region", "frames"])
    @pytest.mark.parametrize("gridsize", [1, 2])
    def test_every_split_shares_no_frame_in_the_file(
        self, scan_file: Path, split: str, gridsize: int
    ) -> None:
        data = PtychoDataModule(
            str(scan_file), grouping=GroupingConfig(gridsize=gridsize), split=split,
            patch_positions="scan",
        )  # fmt: skip
        train, val = data.dataset("train"), data.dataset("val")
        numbers = [
            part.select(range(len(part)), gather=False).inverse.unique() for part in (train, val)
        ]
        assert not len(np.intersect1d(*[part.numpy() for part in numbers]))
        assert min(len(train), len(val)) > 0
        scan = train.scans[0] if split == "region" else PtychoDataset(scan_file).scans[0]
        for part, used in zip((train, val), numbers, strict=True):
            batch = part.__getitems__(range(len(part)))
            assert torch.equal(batch.nn_indices.unique(), used)
            x, y = scan.xcoords[batch.nn_indices], scan.ycoords[batch.nn_indices]
            np.testing.assert_allclose(batch.positions, np.stack([x, y], axis=-1), rtol=1e-12)
        np.testing.assert_array_equal(train.index.scales, val.index.scales)

    def test_without_a_split_validation_is_the_training_scan(self, scan_file: Path) -> None:
        data = PtychoDataModule(str(scan_file), split="none", patch_positions="scan")
        assert data.dataset("val") is data.dataset("train")

    def test_all_stages_run_and_predict_keeps_the_order_of_the_scan(
        self, scan_file: Path, tmp_path: Path
    ) -> None:
        data = PtychoDataModule(str(scan_file), batch_size=32, patch_positions="scan")
        model = Recorder()
        run = trainer(tmp_path)
        run.validate(model, datamodule=data, verbose=False)
        run.test(model, datamodule=data, verbose=False)
        run.predict(model, datamodule=data)
        predicted = torch.cat([batch.nn_indices for batch in model.seen["predict"]])
        assert torch.equal(
            predicted, torch.from_numpy(data.dataset("predict").index.nn_indices.astype(np.int64))
        )
        assert torch.equal(
            torch.cat([batch.X for batch in model.seen["val"]]),
            torch.cat([batch.X for batch in model.seen["test"]]),
        )

    @pytest.mark.slow
    @pytest.mark.parametrize("assemble_on", ["worker", "device"])
    @pytest.mark.parametrize("residency", ["host", "device"])
    @pytest.mark.parametrize("workers", [0, 2])
    def test_every_route_gives_the_same_batches(
        self, scan_file: Path, tmp_path: Path, assemble_on: str, residency: str, workers: int
    ) -> None:
        def batches(**options: Any) -> list[PtychoBatch]:
            data = PtychoDataModule(
                str(scan_file), batch_size=48, patch_positions="scan", split="none", **options
            )
            model = Recorder()
            trainer(tmp_path).fit(model, datamodule=data)
            return model.seen["train"]

        plain = batches(assemble_on="worker")
        routed = batches(assemble_on=assemble_on, residency=residency, num_workers=workers)
        assert [len(batch) for batch in plain] == [len(batch) for batch in routed]
        for first, second in zip(plain, routed, strict=True):
            for name in (
                "X",
                "Y",
                "coords",
                "positions",
                "nn_indices",
                "probe",
                "scale",
                "scan_id",
            ):
                assert torch.equal(getattr(first, name), getattr(second, name)), name


def test_unshuffled_epoch_concatenates_to_the_grouped_arrays(scan_file: Path) -> None:
    data = PtychoDataModule(
        str(scan_file), batch_size=7, patch_positions="scan", split="none", shuffle=False
    )
    epoch = torch.cat(list(data.train_dataloader()))
    raw = data.dataset("train").scans[0]
    wanted = raw.generate_grouped_data(16, 6, 200, seed=0, gridsize=2, patch_positions="scan")
    np.testing.assert_array_equal(epoch.X.numpy(), wanted["X_full"])
    np.testing.assert_allclose(epoch.Y.numpy(), wanted["Y"], atol=2e-7)


def test_epochs_differ_and_a_seed_repeats_them(scan_file: Path) -> None:
    def order(seed: int, epoch: int) -> torch.Tensor:
        data = PtychoDataModule(str(scan_file), seed=seed, patch_positions="scan", split="none")
        loader = data.train_dataloader()
        loader.sampler.set_epoch(epoch)
        return torch.cat([batch.nn_indices for batch in loader])

    assert torch.equal(order(2, 1), order(2, 1))
    assert not torch.equal(order(2, 1), order(2, 0))
    assert not torch.equal(order(2, 1), order(3, 1))


def test_object_shape_holds_every_patch(scan_file: Path) -> None:
    data = PtychoDataModule(str(scan_file), patch_positions="scan")
    assert data.object_shape == (90, 90)
    assert data.initial_probe.shape == (1, 16, 16)
    assert data.N == 16


def test_split_that_leaves_no_validation_group_says_what_to_change(tmp_path: Path) -> None:
    path = simulate_scan(n_frames=30, N=16, object_size=60, seed=1).to_file(tmp_path / "s.npz")
    data = PtychoDataModule(str(path), patch_positions="scan", val_fraction=0.05)
    with pytest.raises(OptionError, match="validation groups after the region split is 0"):
        data.setup("fit")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0; expected an integer >= 1"),
        ({"split": "random"}, "split is 'random'; expected one of region, frames, scans, none"),
        ({"assemble_on": "gpu"}, "assemble_on is 'gpu'"),
        ({"val_fraction": 1.5}, "split fractions"),
        ({"seed": None}, "seed is None"),
        ({"cache": "fo"}, "cache is 'fo'; expected auto, off, readonly or a directory"),
        (
            {"grouping": {"gridsize": 2, "foo": 1}},
            "grouping.foo is an unknown key; expected one of",
        ),
    ],
)
def test_contradictory_options_are_refused_by_name(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        PtychoDataModule("scan.npz", **options)


@pytest.mark.parametrize("residency", ["host", "device"])
def test_batches_of_another_scan_get_its_probe_and_object_without_a_trainer(
    scan_file: Path, tmp_path: Path, residency: str
) -> None:
    other = simulate_scan(n_frames=260, N=16, object_size=100, photons=1e3, seed=8)
    options: dict[str, Any] = {
        "patch_positions": "scan",
        "val": str(other.to_file(tmp_path / "o.npz")),
    }
    plain = PtychoDataModule(str(scan_file), **options)
    data = PtychoDataModule(str(scan_file), assemble_on="device", residency=residency, **options)
    for wanted, selection in zip(plain.val_dataloader(), data.val_dataloader(), strict=True):
        batch = data.on_after_batch_transfer(selection, 0)
        for name in ("X", "Y", "probe", "nn_indices"):
            assert torch.equal(getattr(batch, name), getattr(wanted, name)), name


def test_a_file_cut_short_or_replaced_is_noticed_when_an_epoch_starts(tmp_path: Path) -> None:
    path = simulate_scan(n_frames=60, N=16, object_size=60, seed=1).to_file(tmp_path / "s.npz")
    data = PtychoDataModule(str(path), split="none", ground_truth="none")
    loader = data.train_dataloader()
    assert sum(len(batch) for batch in loader) == 60
    with open(path, "r+b") as handle:
        handle.truncate(2000)
    with pytest.raises(ScanFileError, match=r"s\.npz"):
        iter(loader)


def test_no_scan_is_grouped_before_all_of_them_open(scan_file: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copy(scan_file, tmp_path / "train.npz"))
    data = PtychoDataModule(str(copy), test=str(tmp_path / "absent.npz"))
    with pytest.raises(ScanFileNotFoundError, match=r"absent\.npz"):
        data.prepare_data()
    assert [path.name for path in tmp_path.iterdir()] == ["train.npz"]


FIELDS = {
    "batch_size": 16, "split": "frames", "val_fraction": 0.2, "seed": 5, "patch_positions": "scan",
    "ground_truth": "none",
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*does not have many workers:UserWarning")
@pytest.mark.filterwarnings("ignore:.*fit_loop.*log_every_n_steps:UserWarning")
@pytest.mark.filterwarnings("ignore:.*logging interval:UserWarning")
class TestCheckpoints:
    def checkpoint(self, folder: Path, data: PtychoDataModule) -> Path:
        run = trainer(folder)
        run.fit(Recorder(), datamodule=data)
        run.save_checkpoint(folder / "run.ckpt")
        return folder / "run.ckpt"

    def test_data_of_files_are_built_again_from_a_checkpoint(
        self, scan_file: Path, tmp_path: Path
    ) -> None:
        grouping = GroupingConfig(gridsize=1, n_groups=np.int64(150), n_subsample=170)
        data = PtychoDataModule([scan_file], grouping=grouping, **FIELDS)
        path = self.checkpoint(tmp_path, data)
        loaded = PtychoDataModule.load_from_checkpoint(path, weights_only=True)
        assert loaded.grouping == grouping
        assert loaded.hparams == data.hparams
        assert loaded.hparams["train"] == [str(scan_file)]
        for stage in ("train", "val"):
            wanted, got = data.dataset(stage), loaded.dataset(stage)
            np.testing.assert_array_equal(got.index.nn_indices, wanted.index.nn_indices)
        again = PtychoDataModule.load_from_checkpoint(path, weights_only=True, batch_size=3)
        assert (again.batch_size, again.seed) == (3, 5)

    def test_scans_in_memory_are_given_anew(self, tmp_path: Path) -> None:
        scan = simulate_scan(n_frames=40, N=8, object_size=60, seed=3)
        data = PtychoDataModule(scan, val=[scan, "other.npz"], test="test.npz", **FIELDS)
        assert not {"train", "val"} & set(data.hparams)
        assert (data.hparams["test"], data.hparams["predict"]) == ("test.npz", None)
        path = self.checkpoint(tmp_path, PtychoDataModule(scan, **FIELDS))
        assert torch.load(path, weights_only=True)["datamodule_hyper_parameters"]["seed"] == 5
        with pytest.raises(TypeError, match="train"):
            PtychoDataModule.load_from_checkpoint(path, weights_only=True)
        loaded = PtychoDataModule.load_from_checkpoint(path, weights_only=True, train=scan)
        assert len(loaded.dataset("val")) == 8

    def test_a_logger_may_meet_the_same_names_in_a_model(
        self, scan_file: Path, tmp_path: Path
    ) -> None:
        model = Recorder()
        model.save_hyperparameters({"batch_size": "of another kind"})
        data = PtychoDataModule(str(scan_file), **FIELDS)
        run = trainer(tmp_path, logger=CSVLogger(tmp_path))
        run.fit(model, datamodule=data)


def test_options_are_saved_as_given_by_every_name() -> None:
    names = set(inspect.signature(PtychoDataModule).parameters)
    assert set(PtychoDataModule("scan.npz").hparams) == names


def test_an_unknown_stage_and_missing_scans_are_refused_by_name(scan_file: Path) -> None:
    data = PtychoDataModule(scan_file)
    with pytest.raises(OptionError, match="stage is 'foo'; expected None or one of fit"):
        data.setup("foo")
    with pytest.raises(OptionError, match="stage is 'foo'; expected one of train, val"):
        data.dataset("foo")  # type: ignore[arg-type]
    with pytest.raises(OptionTypeError, match="train is None; expected a path"):
        PtychoDataModule(None)  # type: ignore[arg-type]


def test_a_grouping_that_is_none_is_refused() -> None:
    with pytest.raises(OptionTypeError, match="grouping is int; expected a GroupingConfig"):
        PtychoDataModule("scan.npz", grouping=4)


def test_data_module_says_scans_groups_batch_size_and_split(scan_file: Path) -> None:
    scan = simulate_scan(n_frames=40, N=16, object_size=60, seed=3)
    data = PtychoDataModule(
        str(scan_file), test=scan, predict=[scan, scan], split="frames", batch_size=16,
        ground_truth="none",
    )  # fmt: skip
    said = (
        f"PtychoDataModule(train='{scan_file}', test=RawData(memory: 40 frames of 16 x 16), "
        "predict=2 scans, groups={}, batch_size=16, split='frames')"
    )
    assert repr(data).partition("\n")[0] == said.format("not made yet")
    data.setup("fit")
    assert repr(data).partition("\n")[0] == said.format("180 train + 20 val")
    assert str(data) == repr(data)


def test_printing_leaves_the_place_in_an_epoch_alone(scan_file: Path) -> None:
    data = PtychoDataModule(str(scan_file), ground_truth="none")
    data.setup("fit")
    data.load_state_dict({"seed": 0, "epoch": 3, "consumed": 32})
    str(data)
    assert data.state_dict() == {"seed": 0, "epoch": 3, "consumed": 32}


@pytest.mark.parametrize(
    ("options", "stages"),
    [
        ({}, {"train", "val"}),
        ({"split": "none"}, {"train"}),
        ({"test_fraction": 0.2}, {"train", "val", "test"}),
        ({"predict": None, "test": "scan", "val": "scan"}, {"train", "val", "test"}),
        ({"predict": "scan", "val_fraction": 0.0}, {"train", "predict"}),
    ],
)
def test_setup_of_no_stage_opens_every_stage_that_has_scans(
    scan_file: Path, options: dict[str, Any], stages: set[str]
) -> None:
    options = {name: str(scan_file) if v == "scan" else v for name, v in options.items()}
    data = PtychoDataModule(str(scan_file), ground_truth="none", **options)
    data.setup(None)
    assert set(data._datasets) == stages


@pytest.mark.parametrize("assemble_on", ["auto", "device"])
def test_frames_live_on_gpus_only(
    scan_file: Path, tmp_path: Path, assemble_on: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def copied(self: FrameBank, device: torch.device) -> None:
        raise AssertionError("all frames are copied into the memory of the CPU")

    monkeypatch.setattr(FrameBank, "copy_to", copied)
    options: dict[str, Any] = {"patch_positions": "scan", "split": "none", "shuffle": False}
    data = PtychoDataModule(str(scan_file), assemble_on=assemble_on, residency="device", **options)
    for batch in data.train_dataloader():
        assert torch.isfinite(data.on_after_batch_transfer(batch, 0).X).all()
    trainer(tmp_path).predict(Recorder(), datamodule=data, return_predictions=False)


def test_prediction_of_many_batches_sees_every_group_once(tmp_path: Path) -> None:
    scan = simulate_scan(n_frames=40, N=8, object_size=60, seed=3)
    data = PtychoDataModule(
        scan, grouping=GroupingConfig(gridsize=1), ground_truth="none", batch_size=1
    )
    model = Recorder()
    quiet_trainer(tmp_path).predict(model, datamodule=data, return_predictions=False)
    assert [int(batch.nn_indices) for batch in model.seen["predict"]] == list(range(40))


def test_loader_takes_ranks_as_the_strategy_counts_them_and_not_its_processes() -> None:
    # Four processes, two by two parts of one model: FSDP with tensor parallelism.
    data = PtychoDataModule(simulate_scan(n_frames=9, N=16), grouping=GroupingConfig(gridsize=1))
    ranks = {"num_replicas": 2, "rank": 1}
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    data.trainer = SimpleNamespace(
        world_size=4,
        global_rank=3,
        distributed_sampler_kwargs=ranks,
        strategy=strategy,
        precision_plugin=SimpleNamespace(convert_input=lambda X: X),
        state=TrainerState(),
    )
    sampler = data.val_dataloader().sampler
    assert (sampler.num_replicas, sampler.rank) == (2, 1)
