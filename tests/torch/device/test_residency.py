"""Frames on the GPU: once for all stages, given back, sent batch by batch where they do not fit."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: devices are its")

from device_cases import (  # noqa: E402
    GROUPS,
    SIDE,
    Recorder,
    assert_same,
    data_of,
    device,
    fitted,
    scan_of,
    trainer_on,
)
from lightning.pytorch import Trainer  # noqa: E402

from ptycho_torch import PtychoDataModule  # noqa: E402
from ptycho_torch.batches.frame_bank import FrameBank  # noqa: E402


@contextmanager
def copies_counted() -> Iterator[list[Any]]:
    copies: list[Any] = []
    copy_to = FrameBank.copy_to

    def counted(self: FrameBank, place: torch.device) -> torch.Tensor:
        copies.append(place)
        return copy_to(self, place)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FrameBank, "copy_to", counted)
        yield copies


@pytest.mark.parametrize("split", ["none", "region", "frames"])
@pytest.mark.parametrize("from_files", [True, False])
def test_stages_of_the_same_frames_share_one_copy(
    split: str, from_files: bool, tmp_path: Path
) -> None:
    path = scan_of(0).to_file(tmp_path / "scan.npz") if from_files else scan_of(0)
    data = PtychoDataModule(path, split=split, ground_truth="none", val_fraction=0.3, predict=path)
    data.trainer = trainer_on("gpu")
    with copies_counted() as copies:
        data.train_dataloader()
        data.val_dataloader()
        data.predict_dataloader()
    assert copies == [device()]


def test_scans_of_the_same_frames_keep_their_own_probes(tmp_path: Path) -> None:
    scan = scan_of(0, truth="file")
    other = type(scan)(
        scan.xcoords, scan.ycoords, scan.xcoords_start, scan.ycoords_start, scan.diff3d,
        2 * scan.probeGuess, scan.scan_index,
    )  # fmt: skip
    options: dict[str, Any] = {"ground_truth": "none", "split": "none", "val": other}
    seen = []
    for place in ("cpu", "gpu"):
        with copies_counted() as copies:
            model = fitted(PtychoDataModule(scan, **options), place)
        seen.append(model.seen["train"] + model.seen["val"])
        assert len(copies) == (place == "gpu")
    assert_same(seen[1], seen[0])


def test_a_run_gives_the_memory_of_the_frames_back(tmp_path: Path) -> None:
    data = data_of(tmp_path)
    with copies_counted() as copies:
        fitted(data)
        assert not data._copies._frames
        assert not data._copies._tables
        trainer_on("gpu").predict(Recorder(), datamodule=data, return_predictions=False)
    assert len(copies) == 2


def test_frames_that_do_not_fit_are_sent_batch_by_batch_with_one_warning(tmp_path: Path) -> None:
    def full(self: FrameBank, place: torch.device) -> None:
        raise torch.OutOfMemoryError("no memory left")

    wanted = fitted(data_of(tmp_path), "cpu", max_epochs=3).seen
    data = data_of(tmp_path, residency="device")
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        patch.setattr(FrameBank, "copy_to", full)
        found = fitted(data, max_epochs=3, reload_dataloaders_every_n_epochs=1).seen
    texts = [str(warning.message) for warning in said if "do not fit" in str(warning.message)]
    assert len(texts) == 1, texts
    assert f"do not fit on {device()}" in texts[0]
    for stage in ("train", "val"):
        assert_same(found[stage], wanted[stage])


def test_only_what_fits_in_half_of_the_memory_lives_there(tmp_path: Path) -> None:
    nbytes = GROUPS * SIDE**2 * 4
    for free, copied in ((2 * nbytes, 1), (2 * nbytes - 1, 0)):
        data = data_of(tmp_path)
        data.trainer = trainer_on("gpu")
        with pytest.MonkeyPatch.context() as patch, copies_counted() as copies:
            patch.setattr(torch.cuda, "mem_get_info", lambda place, free=free: (free, 10**12))
            data.train_dataloader()
        assert len(copies) == copied


def test_workers_read_no_frame_that_lives_on_the_device(tmp_path: Path) -> None:
    data = data_of(tmp_path, num_workers=2)
    data.trainer = trainer_on("gpu")
    assert not data.train_dataloader().dataset.read
    host = data_of(tmp_path, num_workers=2, residency="host")
    host.trainer = trainer_on("gpu")
    assert host.train_dataloader().dataset.read


def test_ranks_of_which_one_has_no_room_give_the_batches_of_ranks_that_agree(
    tmp_path: Path,
) -> None:
    def full(self: FrameBank, place: torch.device) -> None:
        raise torch.OutOfMemoryError("no memory left")

    # One rank runs to its end before the other begins: a rank that waited for the other would hang.
    for rank in (0, 1):
        seen = []
        for place, has_room in (("cpu", True), ("gpu", rank == 0)):
            with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
                warnings.filterwarnings("ignore", ".*do not fit.*")
                share = {"num_replicas": 2, "rank": rank}
                patch.setattr(Trainer, "distributed_sampler_kwargs", share)
                if not has_room:
                    patch.setattr(FrameBank, "copy_to", full)
                data = data_of(tmp_path, residency="device")
                seen.append(fitted(data, place, max_epochs=2).seen["train"])
        assert sum(len(batch.X) for batch in seen[0]) == GROUPS  # half of them, twice
        assert_same(seen[1], seen[0])
