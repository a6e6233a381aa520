"""Batches of an unshuffled epoch, put together, are the container built from the same call."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: batches need it")

from golden_builders import grouped_of_case, mirror_warning_ignored, raw_data_of_case  # noqa: E402
from golden_records import COMMITTED, WHOLE_ABSENT, Records, seed_of_call, whole_root  # noqa: E402

from ptycho_torch import GroupingConfig, PtychoDataContainerTorch, PtychoDataModule  # noqa: E402
from ptycho_torch.batches.selection import FrameSelection  # noqa: E402
from ptycho_torch.data.raw_data import RawData  # noqa: E402

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
# Its call asks for patches of another side than the frames'; a dataset's N is the frames'.
ANOTHER_SIDE = "b_gs2_N16arg_n3_s42"


def config_of_case(case: dict[str, Any], raw: RawData) -> GroupingConfig:
    call = case["call"]
    return GroupingConfig(
        gridsize=call.get("gridsize", case["cfg"]["gridsize"]),
        neighbor_count=call.get("K", 4),
        n_groups=call.get("nsamples", 1),
        seed=seed_of_call(call, case["prelude_seed"], raw.n_frames),
        sequential_sampling=call.get("sequential_sampling", False),
        enable_oversampling=call.get("enable_oversampling", False),
        neighbor_pool_size=call.get("neighbor_pool_size"),
    )


def epoch(raw: RawData, config: GroupingConfig, device: str, **options: Any) -> Any:
    """All batches of an unshuffled epoch, assembled as the options say, put together."""
    data = PtychoDataModule(raw, grouping=config, split="none", shuffle=False, **options)
    with mirror_warning_ignored():
        loader = data.train_dataloader()
    batches = []
    for batch in loader:
        moved = data.transfer_batch_to_device(batch, torch.device(device), 0)
        if options.get("assemble_on") == "device":
            assert isinstance(moved, FrameSelection)
        batches.append(data.on_after_batch_transfer(moved, 0))
    return torch.cat(batches)


def assert_equal_to_container(batch: Any, raw: RawData, case: dict[str, Any]) -> None:
    container = PtychoDataContainerTorch(grouped_of_case(raw, case), raw.probeGuess)
    assert len(batch) == len(container)
    for name in ("X", "coords_nominal", "coords_true", "coords", "global_offsets", "local_offsets"):
        got, want = getattr(batch, name).cpu().numpy(), np.asarray(getattr(container, name))
        np.testing.assert_array_equal(got, want, err_msg=name)
    np.testing.assert_array_equal(batch.nn_indices.cpu().numpy(), np.asarray(container.nn_indices))
    np.testing.assert_array_equal(batch.probe[0, 0].cpu().numpy(), np.asarray(container.probe))
    for name in ("Y_I", "Y_phi"):
        got, want = getattr(batch, name).cpu().numpy(), np.asarray(getattr(container, name))
        if name == "Y_phi":
            # The angle of a pixel outside the object, or of a faint one, magnifies rounding.
            close = np.abs(np.exp(1j * got) - np.exp(1j * want)) * np.asarray(container.Y_I)
        else:
            close = np.abs(got - want)
        assert close.max() <= 2e-7, name
    if batch.Y is not None:
        assert np.abs(batch.Y.cpu().numpy() - np.asarray(container.Y)).max() <= 2e-7


def check_every_case(records: Records, folder: Path, device: str) -> None:
    for name, case in records.cases.items():
        if name == ANOTHER_SIDE:
            continue
        raw = raw_data_of_case(records, case, folder)
        batch = epoch(raw, config_of_case(case, raw), device, batch_size=5)
        assert_equal_to_container(batch, raw, case)


@pytest.mark.slow
@pytest.mark.parametrize("device", DEVICES)
def test_batches_equal_the_container_in_every_committed_case(tmp_path: Path, device: str) -> None:
    check_every_case(Records(COMMITTED), tmp_path, device)


@pytest.mark.slow
@pytest.mark.parametrize("device", DEVICES)
def test_batches_equal_the_container_in_every_recorded_case(tmp_path: Path, device: str) -> None:
    root = whole_root()
    if root is None:
        pytest.skip(WHOLE_ABSENT)
    check_every_case(Records(root), tmp_path, device)


@pytest.mark.slow
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("assemble_on", ["auto", "worker", "device"])
@pytest.mark.parametrize("residency", ["host", "device"])
@pytest.mark.parametrize(("workers", "batch_size"), [(0, 1), (0, 64), (2, 3)])
def test_every_route_gives_the_same_bits(
    tmp_path: Path, device: str, assemble_on: str, residency: str, workers: int, batch_size: int
) -> None:
    records = Records(COMMITTED)
    kinds = {(case["input"], case["call"].get("gridsize")): case for case in records.cases.values()}
    chosen = [case for (name, _), case in kinds.items() if name[0] in "bgj"][:3]
    assert len(chosen) == 3
    for case in chosen:
        if case["name"] == ANOTHER_SIDE:
            continue
        raw = raw_data_of_case(records, case, tmp_path)
        batch = epoch(
            raw,
            config_of_case(case, raw),
            device,
            batch_size=batch_size,
            num_workers=workers,
            assemble_on=assemble_on,
            residency=residency,
        )
        assert_equal_to_container(batch, raw, case)
