"""What users do with a batch: cast it, keep it, log over it, write to it."""

from __future__ import annotations

import copy
import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from builders import quiet_trainer

torch = pytest.importorskip("torch", reason="torch is not installed: batches are its")

from lightning.pytorch import LightningModule  # noqa: E402
from lightning.pytorch.trainer.states import TrainerState  # noqa: E402
from tensordict import TensorDict  # noqa: E402
from torch import Tensor  # noqa: E402
from torch.utils.data import DataLoader  # noqa: E402

from ptycho_torch import PtychoBatch, PtychoDataModule, PtychoDataset, simulate_scan  # noqa: E402
from ptycho_torch.batches.loader import same  # noqa: E402
from ptycho_torch.data.errors import OptionError  # noqa: E402


@pytest.fixture(scope="module")
def scan() -> Any:
    return simulate_scan(n_frames=40, N=16, object_size=60, seed=3)


@pytest.fixture
def batch(scan: Any) -> PtychoBatch:
    return PtychoDataset(scan, patch_positions="scan")[:5]


@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")
@pytest.mark.parametrize(
    ("name", "dtype", "of_Y"),
    [
        ("float", torch.float32, torch.complex64),
        ("half", torch.float16, torch.complex32),
        ("bfloat16", torch.bfloat16, torch.complex64),
        ("double", torch.float64, torch.complex128),
        ("float16", torch.float16, torch.complex32),
        ("float32", torch.float32, torch.complex64),
        ("float64", torch.float64, torch.complex128),
    ],
)
def test_a_dtype_is_for_X_and_Y_and_nothing_else(
    batch: PtychoBatch, name: str, dtype: Any, of_Y: Any
) -> None:
    kept = {key: value.clone() for key, value in batch.items()}
    several = batch.to(dtype), batch.to("cpu", dtype=dtype), batch.type(dtype)
    for cast in (getattr(batch, name)(), *several):
        assert cast.X.dtype == dtype
        assert cast.Y is not None
        assert cast.Y.dtype == of_Y
        assert torch.equal(cast.X, kept["X"].to(dtype))
        for key, value in cast.items():
            if key not in ("X", "Y"):
                assert value.dtype == kept[key].dtype
                assert torch.equal(value, kept[key])
    assert all(torch.equal(value, kept[key]) for key, value in batch.items())


def test_a_dtype_that_is_not_floating_is_refused_in_one_line(batch: PtychoBatch) -> None:
    names = [name for name in dir(batch) if isinstance(getattr(torch, name, None), torch.dtype)]
    floating = [name for name in names if getattr(torch, name).is_floating_point]
    assert len(floating) >= 7
    for name in set(names) - set(floating):
        with pytest.raises(OptionError, match=r"^dtype of a batch is torch\..*batch\.X\.to\("):
            getattr(batch, name)()
    for dtype in (torch.int64, torch.complex64, torch.bool):
        for cast in (batch.type, batch.to):
            with pytest.raises(OptionError, match="expected a floating one"):
                cast(dtype)


class Keeper(LightningModule):
    """Keeps its batches."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen: list[PtychoBatch] = []

    def training_step(self, batch: PtychoBatch, index: int) -> Tensor:
        self.seen.append(batch)
        return (self.weight * batch.X.mean()).sum()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*logging interval")
@pytest.mark.parametrize("loader", ["of torch", "of a data module"])
@pytest.mark.parametrize(
    ("precision", "dtype"),
    [
        ("bf16-true", torch.bfloat16),
        ("16-true", torch.float16),
        ("64-true", torch.float64),
        ("bf16-mixed", torch.float32),
    ],
)
def test_a_trainer_with_a_plain_loader_casts_X_and_no_position(
    scan: Any, precision: Any, dtype: Any, loader: str
) -> None:
    dataset = PtychoDataset(scan, patch_positions="scan")
    batches: Any = DataLoader(dataset, batch_size=16, collate_fn=same)
    if loader == "of a data module":
        data = PtychoDataModule(
            scan, split="none", shuffle=False, batch_size=16, patch_positions="scan"
        )
        data.setup("fit")
        batches = data.train_dataloader()
    model = Keeper()
    quiet_trainer(max_epochs=1, precision=precision).fit(model, batches)
    assert len(model.seen) == 3
    for batch, groups in zip(model.seen, torch.arange(40).split(16), strict=True):
        wanted = dataset[groups]
        assert torch.equal(batch.X, wanted.X.to(dtype))
        assert batch.probe.stride(0) == 0
        for name in set(wanted.keys()) - {"X"}:
            value = batch.get(name)
            assert value.dtype == wanted.get(name).dtype, name
            assert torch.equal(value, wanted.get(name)), name


@pytest.mark.filterwarnings("error")
def test_dtype_of_another_tensor_or_batch_is_for_X_and_Y_too(batch: PtychoBatch) -> None:
    other = torch.zeros(1, dtype=torch.float64)
    for cast in (batch.to(other), batch.to(other=other), batch.to(batch.double())):
        assert cast.X.dtype == torch.float64
        assert torch.equal(cast.probe, batch.probe)


def test_batch_without_ground_truth_is_cast(scan: Any) -> None:
    cast = PtychoDataset(scan, ground_truth="none")[:2].half()
    assert cast.Y is None
    assert cast.X.dtype == torch.float16


@pytest.mark.parametrize("weights_only", [True, False])
def test_batch_is_saved_and_loaded(batch: PtychoBatch, weights_only: bool) -> None:
    file = io.BytesIO()
    torch.save(batch, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=weights_only)
    for again in (loaded, copy.deepcopy(batch)):
        assert type(again) is PtychoBatch
        assert again.batch_size == batch.batch_size
        assert set(again.keys()) == set(batch.keys())
        assert all(torch.equal(value, batch.get(key)) for key, value in again.items())


class Logger(LightningModule):
    """Logs as users do, without a batch size."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.rows: list[tuple[float, int]] = []

    def training_step(self, batch: PtychoBatch, index: int) -> Tensor:
        loss = self.weight.sum() * batch.X.mean()
        self.log("loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: PtychoBatch, index: int) -> None:
        value = batch.X.mean()
        self.rows.append((float(value), len(batch)))
        self.log("v", value)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.parametrize("ground_truth", ["none", "object"])
def test_log_finds_the_batch_size_itself(scan: Any, tmp_path: Path, ground_truth: Any) -> None:
    data = PtychoDataModule(
        scan, val=scan, split="none", batch_size=16, ground_truth=ground_truth,
        patch_positions="scan",
    )  # fmt: skip
    trainer = quiet_trainer(tmp_path, max_epochs=1, num_sanity_val_steps=0)
    model = Logger()
    trainer.fit(model, datamodule=data)
    assert [size for _, size in model.rows] == [16, 16, 8]
    mean = sum(value * size for value, size in model.rows) / 40
    assert float(trainer.callback_metrics["v"]) == pytest.approx(mean, rel=1e-5)


def test_groups_of_a_batch_come_one_by_one(batch: PtychoBatch) -> None:
    assert [torch.equal(group.X, batch.X[i]) for i, group in enumerate(batch)] == [True] * 5


def test_what_a_batch_cannot_do_is_said_in_one_line(batch: PtychoBatch) -> None:
    doings = {
        r"attribute or get\('X'\)": lambda: batch["X"],
        "has no such field": lambda: setattr(batch, "mask", batch.X),
        r"clone\(\)": lambda: batch.probe.mul_(2),
    }
    for said, do in doings.items():
        with pytest.raises((ValueError, AttributeError, RuntimeError), match=said) as caught:
            do()
        assert "\n" not in str(caught.value)


def test_a_device_without_float64_is_refused_in_one_line(batch: PtychoBatch, scan: Any) -> None:
    said = r"^device is mps; expected one with float64.*accelerator=cpu\.$"
    with pytest.raises(OptionError, match=said):
        batch.to("mps")
    data = PtychoDataModule(scan, ground_truth="none", split="none")
    strategy = SimpleNamespace(root_device=torch.device("mps"))
    data.trainer = SimpleNamespace(strategy=strategy, state=TrainerState())  # type: ignore[assignment]
    with pytest.raises(OptionError, match=said):
        data.val_dataloader()


def test_only_a_copy_to_cuda_goes_on_behind_the_loop(
    batch: PtychoBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, object]] = []
    to = TensorDict.to

    def recorded(self: TensorDict, *args: object, **options: object) -> TensorDict:
        asked.append(options)
        return to(self, *args, **options)

    monkeypatch.setattr(TensorDict, "to", recorded)
    batch.to("cpu", non_blocking=True)
    batch.to("cpu", True)
    assert batch.to("cpu", torch.float64, True).X.dtype == torch.float64
    batch.to(torch.device("meta"), non_blocking=True)
    assert asked
    assert not any(options.get("non_blocking") for options in asked)
