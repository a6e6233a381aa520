"""What the tests of a GPU share: scans, a model that keeps its batches, a Trainer on a device."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from builders import quiet_trainer
from lightning.pytorch import LightningModule, Trainer

from ptycho_torch import PtychoBatch, PtychoDataModule, RawData, simulate_scan

GROUPS, SIDE, BATCH = 60, 16, 16
FIELDS = (
    "X", "Y", "coords_nominal", "global_offsets", "local_offsets", "nn_indices", "scan_id", "scale",
    "probe",
)  # fmt: skip


def pretending() -> bool:
    """Whether the devices are those of the stand-in, which keeps a record."""
    return torch.version.cuda is None


def device() -> torch.device:
    """The last device there is: what takes the first by mistake shows."""
    return torch.device("cuda", torch.cuda.device_count() - 1)


def scan_of(number: int, *, truth: str = "object") -> RawData:
    """A scan unlike those of other numbers, with an object or with ready-made patches."""
    side = 70 + 6 * number
    raw = simulate_scan(n_frames=GROUPS, N=SIDE, object_size=side, seed=number)
    if truth != "file":
        return raw
    rng = np.random.default_rng(number)
    Y = np.exp(1j * rng.standard_normal((GROUPS, SIDE, SIDE))).astype(np.complex64)
    return RawData(
        raw.xcoords, raw.ycoords, raw.xcoords_start, raw.ycoords_start, raw.diff3d, raw.probeGuess,
        raw.scan_index, raw.objectGuess, Y=Y,
    )  # fmt: skip


def scan_files(folder: Path, scans: int, truth: str = "object") -> list[str]:
    """Files of that many scans, made once a folder."""
    paths = [folder / f"{truth}{number}.npz" for number in range(scans)]
    for number, path in enumerate(paths):
        if not path.exists():
            scan_of(number, truth=truth).to_file(path)
    return [str(path) for path in paths]


def data_of(folder: Path, *, scans: int = 1, truth: str = "object", **options: Any) -> Any:
    """A data module of simulated scans."""
    options = {"batch_size": BATCH, "split": "none", "patch_positions": "scan", **options}
    return PtychoDataModule(scan_files(folder, scans, truth), ground_truth=truth, **options)


class Recorder(LightningModule):
    """Keeps what each loop gives it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen: dict[str, list[PtychoBatch]] = {"train": [], "val": [], "predict": []}

    def training_step(self, batch: PtychoBatch, index: int) -> Any:
        self.seen["train"].append(batch)
        return (self.weight * batch.X.mean()).sum()

    def validation_step(self, batch: PtychoBatch, index: int) -> None:
        self.seen["val"].append(batch)

    def predict_step(self, batch: PtychoBatch, index: int) -> Any:
        self.seen["predict"].append(batch)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer_on(place: str, **options: Any) -> Trainer:
    """A Trainer on the CPU, or on the last device."""
    on_gpu = {"accelerator": "gpu", "devices": [device().index]}
    where: dict[str, Any] = {"accelerator": "cpu", "devices": 1} if place == "cpu" else on_gpu
    shown = {"num_sanity_val_steps": 0, "inference_mode": False, "barebones": False}
    return quiet_trainer(**{**where, **shown, "max_epochs": 1, **options})


def fitted(data: Any, place: str = "gpu", model: Any = None, **options: Any) -> Recorder:
    """The model after a fit."""
    model = Recorder() if model is None else model
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*(workers|log_every_n_steps|logging interval).*")
        trainer_on(place, **options).fit(model, datamodule=data)
    return model


def on_host(batch: PtychoBatch) -> dict[str, torch.Tensor]:
    """The values of a batch, wherever it is."""
    fields = {name: getattr(batch, name) for name in FIELDS}
    return {name: value.detach().cpu() for name, value in fields.items() if value is not None}


def assert_same(found: list[PtychoBatch], wanted: list[PtychoBatch]) -> None:
    """Equal batches: bits on the stand-in; on a GPU Y may differ in its last bits."""
    for one, other in itertools.zip_longest(found, wanted):
        one, other = on_host(one), on_host(other)
        assert one.keys() == other.keys()
        for name, value in one.items():
            assert value.dtype == other[name].dtype, name
            exact = pretending() or name != "Y"
            torch.testing.assert_close(
                value, other[name], rtol=0, atol=0 if exact else 2e-7, msg=lambda text: text
            )


def cases(*, few: bool) -> Iterator[dict[str, Any]]:
    """Scans and ground truths that a route has to carry."""
    for scans, truth in itertools.product((1, 3), ("none", "object", "file")):
        if not few or (scans, truth) in ((1, "none"), (3, "object"), (3, "file")):
            yield {"scans": scans, "truth": truth}
