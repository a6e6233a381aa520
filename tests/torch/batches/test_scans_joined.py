"""Batches of many scans: the numbers of each scan alone, with the calls of one."""

from __future__ import annotations

import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import simulated_arrays

torch = pytest.importorskip("torch", reason="torch is not installed: batches need it")

from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

from ptycho_torch import GroupingConfig, PtychoDataset, RawData, simulate_scan  # noqa: E402

FIELDS = ("X", "Y", "coords_nominal", "global_offsets", "local_offsets", "probe", "nn_indices")


class Calls(TorchDispatchMode):
    """Counts torch's operations by name."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        self.counts[str(func)] += 1
        return func(*args, **(kwargs or {}))


def scan_of(folder: Path, number: int, **changes: np.dtype[Any]) -> RawData:
    arrays = simulated_arrays(folder, n_frames=30 + number, N=16, photons=1e4, seed=number)
    arrays.pop("_metadata", None)
    nominal = {f"{name}_start": arrays[name] + 0.25 * number for name in ("xcoords", "ycoords")}
    arrays.update(nominal)
    for name, dtype in changes.items():
        arrays[name] = arrays[name].astype(dtype)
    names = ("xcoords", "ycoords", "xcoords_start", "ycoords_start", "diff3d", "probeGuess")
    return RawData(*(arrays[name] for name in names), None, arrays["objectGuess"])


def files_of(folder: Path, scans: list[RawData], *, compressed: tuple[int, ...] = ()) -> list[Path]:
    paths = []
    for number, scan in enumerate(scans):
        path = scan.to_file(folder / f"s{number}.npz")
        if number in compressed:
            with np.load(path) as archive:
                np.savez_compressed(path, **dict(archive))
        paths.append(path)
    return paths


def assert_each_equals_its_scan(whole: PtychoDataset, alone: list[PtychoDataset]) -> None:
    order = np.random.default_rng(0).permutation(len(whole))
    batch = whole.__getitems__(order)
    in_parts = torch.cat([part.X for part in whole.batches(np.array_split(order, 7))])
    assert torch.equal(batch.X, in_parts)
    starts = np.cumsum([0, *(len(part) for part in alone)])
    for scan, part in enumerate(alone):
        rows = np.flatnonzero((starts[scan] <= order) & (order < starts[scan + 1]))
        wanted = part.__getitems__(order[rows] - starts[scan])
        assert (batch.scan_id[rows] == scan).all()
        for name in FIELDS:
            assert torch.equal(getattr(batch, name)[rows], getattr(wanted, name)), (scan, name)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("n_subsample", [None, 20])
def test_groups_of_several_files_are_those_of_each_alone(
    tmp_path: Path, dtype: type, n_subsample: int | None
) -> None:
    places = dict.fromkeys(("xcoords", "ycoords", "xcoords_start", "ycoords_start"), dtype)
    scans = [scan_of(tmp_path, number, **places) for number in range(5)]
    paths = files_of(tmp_path, scans, compressed=(1, 3))
    options: dict[str, Any] = {
        "patch_positions": "scan",
        "grouping": GroupingConfig(n_subsample=n_subsample, subsample_seed=3),
    }
    whole = PtychoDataset([*paths[:4], scans[4]], **options)
    alone = [PtychoDataset(scan, **options) for scan in [*paths[:4], scans[4]]]
    assert_each_equals_its_scan(whole, alone)
    assert_each_equals_its_scan(pickle.loads(pickle.dumps(whole)), alone)  # noqa: S301


def test_scans_of_other_dtypes_and_strides_are_those_of_each_alone(tmp_path: Path) -> None:
    scans = [
        scan_of(tmp_path, 0),
        scan_of(tmp_path, 1, xcoords=np.float32, ycoords=np.float32),
        scan_of(tmp_path, 2, diff3d=np.float64),
        scan_of(tmp_path, 3),
    ]
    strided = np.asfortranarray(scans[3].diff3d)
    scans[3] = RawData.sharing(scans[3], frames=type(scans[3].frames).from_array(strided))
    alone = [PtychoDataset(scan, patch_positions="scan") for scan in scans]
    whole = PtychoDataset(scans, patch_positions="scan")
    assert_each_equals_its_scan(whole, alone)
    pair = PtychoDataset([scans[0], scans[3]], patch_positions="scan")
    assert_each_equals_its_scan(pair, [alone[0], alone[3]])


def test_a_batch_of_many_scans_takes_as_many_calls_as_one_of_two() -> None:
    counts = []
    for scans in (2, 30):
        simulated = [simulate_scan(n_frames=16, N=8, seed=seed) for seed in range(scans)]
        dataset = PtychoDataset(simulated, ground_truth="none")
        order = np.random.default_rng(0).permutation(len(dataset))[:32]
        assert len(set(dataset.index.scan_id[order])) > scans // 2
        dataset.__getitems__(order)
        with Calls() as calls:
            dataset.__getitems__(order)
        counts.append(calls.counts)
    assert counts[0] == counts[1]
    assert counts[0]["aten.index_select.out"] == 2  # the frames, straight into X, and the probes
    assert not counts[0]["aten.index_select.default"]


def test_frames_far_apart_in_memory_are_those_of_each_scan(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scans = [simulate_scan(n_frames=16, N=8, seed=seed) for seed in range(3)]
    dataset = PtychoDataset(scans, ground_truth="none")
    wanted = dataset.__getitems__(range(48)).X.clone()
    monkeypatch.setattr("ptycho_torch.batches.frame_bank.MOST_BYTES", 0)
    assert torch.equal(dataset.__getitems__(range(48)).X, wanted)
