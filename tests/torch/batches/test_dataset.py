"""PtychoDataset: lazy, grouped through RawData, equal to the arrays RawData gives."""

from __future__ import annotations

import hashlib
import logging
import multiprocessing
import pickle
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: PtychoDataset needs it")

from torch.utils.data import DataLoader  # noqa: E402

from ptycho_torch import GroupingConfig, PtychoDataset, RawData, read_scan, simulate_scan  # noqa: E402
from ptycho_torch.data import grouping as grouping_room  # noqa: E402
from ptycho_torch.data.errors import (  # noqa: E402
    OptionError,
    OptionTypeError,
    PtychoTorchError,
    ScanError,
    ScanFileNotFoundError,
)
from ptycho_torch.data.patches import MirroredPatchesWarning  # noqa: E402


@pytest.fixture
def scan_file(tmp_path: Path) -> Path:
    return simulate_scan(n_frames=90, N=16, object_size=60, seed=3).to_file(tmp_path / "scan.npz")


def stacked(dataset: PtychoDataset) -> dict[str, np.ndarray]:
    batch = dataset.__getitems__(range(len(dataset)))
    names = ("X", "Y", "coords_nominal", "global_offsets", "local_offsets", "nn_indices")
    return {
        name: getattr(batch, name).numpy() for name in names if getattr(batch, name) is not None
    }


@pytest.mark.parametrize("gridsize", [1, 2, 3])
@pytest.mark.parametrize("positions", ["scan", "reference"])
def test_batches_equal_the_arrays_of_raw_data(
    scan_file: Path, gridsize: int, positions: str
) -> None:
    options = {"gridsize": gridsize, "neighbor_count": 10, "n_groups": 40, "seed": 5}
    raw = RawData.from_file(scan_file)
    mirrored = positions == "reference" and gridsize > 1
    dataset = PtychoDataset(
        scan_file, grouping=GroupingConfig(**options), patch_positions=positions
    )
    if mirrored:
        with pytest.warns(MirroredPatchesWarning, match="patch_positions='scan'"):
            dataset.prepare()
        with pytest.warns(MirroredPatchesWarning):
            wanted = raw.generate_grouped_data(16, 10, 40, seed=5, gridsize=gridsize)
    else:
        wanted = raw.generate_grouped_data(
            16, 10, 40, seed=5, gridsize=gridsize, patch_positions=positions
        )
    got = stacked(dataset)
    np.testing.assert_array_equal(got["X"], wanted["X_full"])
    np.testing.assert_array_equal(got["nn_indices"], wanted["nn_indices"])
    np.testing.assert_array_equal(
        got["coords_nominal"], wanted["coords_start_relative"].astype(np.float32)
    )
    np.testing.assert_array_equal(got["global_offsets"], wanted["coords_offsets"])
    np.testing.assert_array_equal(got["local_offsets"], wanted["coords_relative"])
    np.testing.assert_allclose(got["Y"], wanted["Y"], atol=2e-7)


def test_one_item_equals_its_row_of_a_batch(scan_file: Path) -> None:
    dataset = PtychoDataset(scan_file, patch_positions="scan")
    batch = dataset.__getitems__([4, 7])
    item = dataset[7]
    assert item.batch_size == torch.Size([])
    for name in ("X", "Y", "coords", "positions", "probe", "scale"):
        assert torch.equal(getattr(item, name), getattr(batch[1], name)), name
    assert torch.equal(dataset[-1].X, dataset[len(dataset) - 1].X)
    with pytest.raises(IndexError, match="group 90 of a dataset of 90 groups"):
        dataset[90]


def test_opening_reads_no_frame_and_makes_no_file(scan_file: Path, caplog) -> None:
    before = sorted(scan_file.parent.iterdir())
    dataset = PtychoDataset(scan_file, patch_positions="scan")
    assert sorted(scan_file.parent.iterdir()) == before
    assert "not grouped yet" in repr(dataset)
    assert len(dataset) == 90
    names = {path.name for path in scan_file.parent.iterdir()}
    assert names == {"scan.npz", "scan.g2k6.groups_cache.npz"}


def test_second_open_reuses_the_cache_and_searches_no_neighbours(
    scan_file: Path, caplog, monkeypatch
) -> None:
    first = stacked(PtychoDataset(scan_file, patch_positions="scan"))
    cache = scan_file.parent / "scan.g2k6.groups_cache.npz"
    before = cache.stat().st_mtime_ns, hashlib.sha256(cache.read_bytes()).digest()

    def refuse(*args: object, **options: object) -> None:
        raise AssertionError("the neighbours are in the cache")

    monkeypatch.setattr("scipy.spatial.cKDTree", refuse)
    with caplog.at_level(logging.INFO, logger="ptycho_torch"):
        second = stacked(PtychoDataset(scan_file, patch_positions="scan"))
    assert "groups cache reused" in caplog.text
    assert (cache.stat().st_mtime_ns, hashlib.sha256(cache.read_bytes()).digest()) == before
    for name, values in first.items():
        np.testing.assert_array_equal(second[name], values)


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1},
        {"n_groups": 50},
        {"neighbor_count": 7},
        {"gridsize": 3, "neighbor_count": 9},
        {"sequential_sampling": True, "n_groups": 30},
        {"n_subsample": 60, "subsample_seed": 2},
        {"n_groups": 120, "enable_oversampling": True},
        {"n_groups": 120, "enable_oversampling": True, "neighbor_pool_size": 8},
        {"strategy": "group_first", "n_groups": 30},
    ],
)
def test_cache_never_answers_another_request(scan_file: Path, changes: dict) -> None:
    len(PtychoDataset(scan_file, patch_positions="scan"))
    config = GroupingConfig(**changes)
    cached = PtychoDataset(scan_file, grouping=config, patch_positions="scan")
    plain = PtychoDataset(scan_file, grouping=config, patch_positions="scan", cache="off")
    again = PtychoDataset(scan_file, grouping=config, patch_positions="scan")
    for other in (plain, again):
        np.testing.assert_array_equal(cached.index.nn_indices, other.index.nn_indices)
        np.testing.assert_array_equal(cached.index.scales, other.index.scales)


def test_moved_positions_are_grouped_anew(scan_file: Path) -> None:
    before = PtychoDataset(scan_file, patch_positions="scan").index.nn_indices
    raw = RawData.from_file(scan_file)
    rng = np.random.default_rng(0)
    order = rng.permutation(90)
    moved = RawData(
        raw.xcoords[order], raw.ycoords[order], raw.xcoords_start, raw.ycoords_start,
        np.array(raw.diff3d), raw.probeGuess, raw.scan_index, raw.objectGuess,
    )  # fmt: skip
    moved.to_file(scan_file)
    dataset = PtychoDataset(scan_file, patch_positions="scan")
    plain = PtychoDataset(scan_file, patch_positions="scan", cache="off")
    np.testing.assert_array_equal(dataset.index.nn_indices, plain.index.nn_indices)
    assert (dataset.index.nn_indices != before).any()


def test_scans_of_a_list_keep_their_own_scale_probe_and_object(tmp_path: Path) -> None:
    paths = []
    for i in range(3):
        scan = simulate_scan(
            n_frames=40 + 10 * i, N=16, object_size=50 + i, photons=10.0 ** (3 + i), seed=i
        )
        paths.append(scan.to_file(tmp_path / f"s{i}.npz"))
    whole = PtychoDataset(str(tmp_path / "s*.npz"), patch_positions="scan")
    parts = [PtychoDataset(path, patch_positions="scan") for path in paths]
    assert len(whole) == sum(len(part) for part in parts) == 150
    rng = np.random.default_rng(0)
    order = rng.permutation(150)
    batch = whole.__getitems__(order)
    starts = np.cumsum([0, 40, 50])
    for row, index in enumerate(order):
        scan = int(np.searchsorted(starts, index, side="right")) - 1
        wanted = parts[scan][int(index - starts[scan])]
        assert int(batch.scan_id[row]) == scan
        for name in ("X", "Y", "coords", "global_offsets", "probe", "scale", "nn_indices"):
            assert torch.equal(getattr(batch[row], name), getattr(wanted, name)), name


def test_one_scale_for_all_scans_pools_their_energies(tmp_path: Path) -> None:
    for i in range(2):
        simulate_scan(n_frames=40, N=16, object_size=50, photons=10.0 ** (3 + i), seed=i).to_file(
            tmp_path / f"s{i}.npz"
        )
    dataset = PtychoDataset(str(tmp_path / "s*.npz"), patch_positions="scan", normalization="all")
    X = dataset.__getitems__(range(80)).X.double()
    assert len(set(dataset.index.scales.tolist())) == 1
    assert float((X**2).sum((1, 2)).mean()) == pytest.approx((16 / 2) ** 2, rel=1e-6)


def test_a_write_to_a_batch_never_reaches_the_file(scan_file: Path) -> None:
    before = hashlib.sha256(scan_file.read_bytes()).digest()
    dataset = PtychoDataset(scan_file, patch_positions="scan")
    batch = dataset.__getitems__(range(8))
    batch.X.fill_(-1)
    batch.probe.fill_(0)
    assert hashlib.sha256(scan_file.read_bytes()).digest() == before


@pytest.mark.parametrize("n_scans", [1, 2])
@pytest.mark.parametrize("ground_truth", ["object", "none"])
def test_batches_one_after_the_other_equal_batches_one_by_one(
    scan_file: Path, n_scans: int, ground_truth: str
) -> None:
    dataset = PtychoDataset(
        [scan_file] * n_scans, patch_positions="scan", ground_truth=ground_truth
    )
    order = np.random.default_rng(0).permutation(len(dataset))
    groups = [part.tolist() for part in np.array_split(order, 7)]
    together = list(dataset.batches(groups, planned=3))
    assert len(together) == 7
    for batch, wanted in zip(together, map(dataset.__getitems__, groups), strict=True):
        assert batch.batch_size == wanted.batch_size
        assert (batch == wanted).all()
        assert (batch.Y is None) == (ground_truth == "none")


@pytest.mark.parametrize(
    "method",
    ["fork", *(pytest.param(name, marks=pytest.mark.slow) for name in ("spawn", "forkserver"))],
)
def test_workers_of_every_start_method_give_the_same_batches(scan_file: Path, method: str) -> None:
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system has no {method}")
    dataset = PtychoDataset(scan_file, patch_positions="scan")
    loader = DataLoader(
        dataset, batch_size=32, num_workers=2, collate_fn=_same, multiprocessing_context=method
    )
    batches = list(loader)
    wanted = dataset.__getitems__(range(90))
    for name in ("X", "Y", "coords", "nn_indices"):
        got = torch.cat([getattr(batch, name) for batch in batches])
        assert torch.equal(got, getattr(wanted, name)), name


def _same(batch: object) -> object:
    return batch


def test_pickled_dataset_holds_no_frames(scan_file: Path) -> None:
    dataset = PtychoDataset(scan_file, patch_positions="scan", ground_truth="none")
    wanted = dataset[3].X
    data = pickle.dumps(dataset)
    assert len(data) < 40_000 < dataset.bank.nbytes
    assert torch.equal(pickle.loads(data)[3].X, wanted)  # noqa: S301


def test_file_patches_are_used_when_asked_for(tmp_path: Path) -> None:
    raw = simulate_scan(n_frames=40, N=16, object_size=50, seed=1)
    rng = np.random.default_rng(0)
    Y = np.exp(1j * rng.standard_normal((40, 16, 16))).astype(np.complex64)
    with_Y = RawData(
        raw.xcoords, raw.ycoords, raw.xcoords_start, raw.ycoords_start, raw.diff3d,
        raw.probeGuess, raw.scan_index, raw.objectGuess, Y=Y,
    )  # fmt: skip
    path = with_Y.to_file(tmp_path / "scan.npz")
    batch = PtychoDataset(path, ground_truth="file").__getitems__([0, 5])
    np.testing.assert_array_equal(
        batch.Y.numpy(), Y[batch.nn_indices.numpy()].transpose(0, 2, 3, 1)
    )
    assert PtychoDataset(path, ground_truth="auto").ground_truth == "object"
    assert PtychoDataset(with_Y, ground_truth="auto").ground_truth == "file"


def test_missing_ground_truth_is_named(tmp_path: Path) -> None:
    raw = simulate_scan(n_frames=40, N=16, object_size=50, seed=1)
    path = RawData.from_coords_without_pc(
        raw.xcoords, raw.ycoords, raw.diff3d, raw.probeGuess, raw.scan_index
    ).to_file(tmp_path / "scan.npz")
    with pytest.raises(ScanError, match=r"scan\.npz: objectGuess is absent"):
        PtychoDataset(path, ground_truth="object")
    dataset = PtychoDataset(path)
    batch = dataset.__getitems__([0])
    assert batch.Y is None
    assert torch.equal(batch.Y_I, torch.ones_like(batch.X))
    assert torch.equal(batch.Y_phi, torch.zeros_like(batch.X))


def test_pattern_without_a_match_and_another_N_are_refused(scan_file: Path) -> None:
    with pytest.raises(ScanFileNotFoundError, match="matching no file; expected at least one"):
        PtychoDataset(str(scan_file.parent / "none*.npz"))
    with pytest.raises(ScanError, match="diff3d axis 1 is 16; expected N = 64"):
        PtychoDataset(scan_file, N=64)


@pytest.mark.parametrize("pattern", ["*", "scan*", "*.npz*", "**", ".*", "../*/scan*"])
def test_pattern_takes_scans_and_nothing_that_lies_with_them(tmp_path: Path, pattern: str) -> None:
    folder = tmp_path / "scans"
    (folder / "scan.npz.folder").mkdir(parents=True)
    (folder / "scan3.npz").symlink_to(folder / "scan.npz.folder")
    scan = simulate_scan(n_frames=30, N=16, object_size=60, seed=1)
    with np.load(scan.to_file(tmp_path / "one.npz")) as arrays:
        for name in ("scan1.npz", "scan2.npz", f"scan{'s' * 246}.npz"):
            np.savez_compressed(folder / name, **arrays)
    if pattern == ".*":
        (folder / "scan1.npz").rename(folder / ".scan1.npz")
    for cache in ("auto", folder / "caches"):
        dataset = PtychoDataset(str(folder / pattern), cache=cache, patch_positions="scan")
        dataset.prepare()
        for path in list(folder.rglob("*.npz")):
            for left in (".part", ".1a2b3c4d.part", ".lock"):
                if len(path.name) < 200:
                    path.with_name(f".{path.name}{left}").touch()
        assert len(dataset.scans) == (1 if pattern == ".*" else 3)
    with pytest.raises(ScanFileNotFoundError, match="matching no file"):
        PtychoDataset(str(folder / "caches*"))


def test_scans_of_different_sides_are_refused(tmp_path: Path) -> None:
    for N in (16, 32):
        simulate_scan(n_frames=30, N=N, object_size=80, seed=1).to_file(tmp_path / f"s{N}.npz")
    with pytest.raises(ScanError, match=r"s32\.npz: diff3d shape .* expected \(M, 16, 16\)"):
        PtychoDataset(str(tmp_path / "s*.npz"))


@pytest.mark.parametrize(("count", "expected"), [(100, 100), (10_000, None), (None, 90)])
def test_groups_chosen_first_are_as_many_as_there_are_whatever_the_frames(
    scan_file: Path, count: int | None, expected: int | None
) -> None:
    config = GroupingConfig(strategy="group_first", neighbor_count=4, n_groups=count)
    dataset = PtychoDataset(scan_file, grouping=config, patch_positions="scan")
    raw = dataset.scans[0]
    every = grouping_room.legacy_groups(raw.xcoords, raw.ycoords, 2, 4)
    assert len(every) > 100
    assert len(dataset) == (len(every) if expected is None else expected)
    rows = {tuple(row) for row in every.tolist()}
    assert {tuple(row) for row in dataset.index.nn_indices.tolist()} <= rows


def test_groups_chosen_first_may_hold_their_own_position(scan_file: Path) -> None:
    config = GroupingConfig(strategy="group_first", neighbor_count=3, n_groups=20)
    dataset = PtychoDataset(scan_file, grouping=config, patch_positions="scan")
    assert dataset.index.nn_indices.shape == (20, 4)
    with pytest.raises(OptionError, match="neighbor_count is 2; expected >= 3"):
        GroupingConfig(strategy="group_first", neighbor_count=2)
    with pytest.raises(OptionError, match="neighbor_count is 3; expected >= 4"):
        GroupingConfig(neighbor_count=3)


def test_frames_without_signal_and_scans_of_too_few_are_refused_before_a_cache(
    tmp_path: Path,
) -> None:
    raw = simulate_scan(n_frames=30, N=8, object_size=40, seed=1)
    dark = RawData.from_coords_without_pc(
        raw.xcoords, raw.ycoords, np.zeros_like(raw.diff3d), raw.probeGuess, None
    ).to_file(tmp_path / "dark.npz")
    few = raw.choose(np.arange(3)).to_file(tmp_path / "few.npz")
    with pytest.raises(ScanError, match=r"dark\.npz: diff3d is zero in every frame"):
        PtychoDataset(dark).prepare()
    with pytest.raises(ScanError, match=r"few\.npz: the number of positions is 3; expected at"):
        PtychoDataset(few).prepare()
    assert not list(tmp_path.glob("*.groups_cache.npz"))


def _for_numpy(index: object) -> object:
    return index if isinstance(index, slice) else np.asarray(index)


@pytest.mark.parametrize(
    "index",
    [
        slice(0, 4),
        slice(-3, None),
        [0, 1],
        (5, 2),
        np.array([3, 1, 3]),
        torch.tensor([0, -1]),
        np.arange(40) % 7 == 0,
        [],
    ],
)
def test_slices_lists_arrays_and_tensors_give_batches(index: object) -> None:
    scan = simulate_scan(n_frames=40, N=8, object_size=60, seed=3)
    dataset = PtychoDataset(scan, ground_truth="none")
    rows = (
        np.array([], int)
        if isinstance(index, list) and not index
        else np.arange(40)[_for_numpy(index)]
    )
    batch = dataset[index]  # type: ignore[index]
    assert len(batch) == len(rows)
    for group, row in zip(batch, rows.tolist(), strict=True):
        assert torch.equal(group.X, dataset[row].X)
        assert torch.equal(group.nn_indices, dataset[row].nn_indices)


def test_a_number_of_any_kind_gives_one_group() -> None:
    dataset = PtychoDataset(
        simulate_scan(n_frames=40, N=8, object_size=60, seed=3), ground_truth="none"
    )
    for one in (3, np.int64(3), np.array(3), torch.tensor(3), -37):
        assert dataset[one].nn_indices.tolist() == dataset.index.nn_indices[3].tolist()
    with pytest.raises(IndexError, match="group 40 of a dataset of 40"):
        dataset[40]


def test_option_that_lives_elsewhere_is_refused_with_its_home() -> None:
    scan = simulate_scan(n_frames=40, N=8, object_size=60, seed=3)
    with pytest.raises(OptionTypeError, match=r"gridsize is .*grouping=GroupingConfig\(gridsize="):
        PtychoDataset(scan, gridsize=2)
    with pytest.raises(OptionTypeError, match="colour is no option of PtychoDataset"):
        PtychoDataset(scan, colour=2)


def test_random_split_warns_once_and_names_the_split_that_shares_no_frame(recwarn) -> None:
    scan = simulate_scan(n_frames=40, N=8, object_size=60, seed=3)
    torch.utils.data.random_split(
        PtychoDataset(scan, ground_truth="none", grouping=GroupingConfig(gridsize=1)), [30, 10]
    )
    assert not recwarn
    dataset = PtychoDataset(scan, ground_truth="none")
    with pytest.warns(UserWarning, match=r"share frames.*split='region'") as caught:
        torch.utils.data.random_split(dataset, [0.7, 0.3])
        torch.utils.data.random_split(dataset, [0.5, 0.5])
    assert len(caught) == 1


@pytest.mark.parametrize("compressed", [True, False])
def test_relative_path_survives_a_change_of_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compressed: bool
) -> None:
    scan = simulate_scan(n_frames=40, N=8, object_size=60, seed=3)
    scan.to_file(tmp_path / "stored.npz")
    with np.load(tmp_path / "stored.npz") as file:
        (np.savez_compressed if compressed else np.savez)(tmp_path / "scan.npz", **dict(file))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    dataset = PtychoDataset("scan.npz", ground_truth="none")
    scans = RawData.from_file("scan.npz"), read_scan("scan.npz")
    monkeypatch.chdir("elsewhere")
    assert all(np.array_equal(each.diff3d, scan.diff3d) for each in scans)
    again = PtychoDataset(scans[0], ground_truth="none")
    assert torch.equal(again[:40].X, dataset[:40].X)
    expected = PtychoDataset(scan, ground_truth="none")
    assert torch.equal(dataset[:40].X, expected[:40].X)
    assert not list((tmp_path / "elsewhere").iterdir())
    with pytest.raises(ScanFileNotFoundError, match=r"^absent\.npz: "):
        PtychoDataset("absent.npz")
    with pytest.raises(ScanFileNotFoundError, match=r"^absent\.npz: "):
        RawData.from_file("absent.npz")


@pytest.mark.parametrize("name", ["*" + 255 * "x", 256 * "x", "a\0b.npz", "a\0*.npz", "*\0/*.npz"])
def test_name_that_no_file_can_have_is_one_line(name: str) -> None:
    with pytest.raises(PtychoTorchError) as caught:
        PtychoDataset(name)
    assert "\n" not in str(caught.value)
    assert "\0" not in str(caught.value)
    with pytest.raises(PtychoTorchError):
        RawData.from_file(name)
