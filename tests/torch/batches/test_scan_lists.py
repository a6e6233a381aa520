"""Many scans: directories, lists in YAML, weights, and scans that go whole to one part."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed: batches need it")

from ptycho_torch import GroupingConfig, PtychoDataModule, PtychoDataset, simulate_scan
from ptycho_torch.batches.epoch_order import epoch_order
from ptycho_torch.data.errors import OptionError, PtychoTorchError
from ptycho_torch.data.scan_list import expand_scans

FRAMES, N = 100, 16
OPTIONS: dict[str, Any] = {"ground_truth": "none", "cache": "off", "batch_size": 8}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four scans, with one and two modes and objects of different size, and a list of them."""
    for number in range(4):
        scan = simulate_scan(n_frames=FRAMES + 4 * number, N=N, seed=number, n_modes=1 + number % 2)
        scan.to_file(tmp_path / f"scan_{number}.npz")
    return tmp_path


def write_list(folder: Path, *entries: str) -> str:
    (folder / "scans.yaml").write_text("scans:\n" + "".join(f"  - {each}\n" for each in entries))
    return str(folder / "scans.yaml")


def scans_of(dataset: PtychoDataset) -> Counter[int]:
    return Counter(dataset.index.scan_id.tolist())


def module(train: str, **options: Any) -> PtychoDataModule:
    return PtychoDataModule(train, **{**OPTIONS, **options})


def test_directory_is_every_scan_in_it(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    PtychoDataset(str(folder / "scan_0.npz"), ground_truth="none").prepare()  # leaves a cache
    np.savez(folder / "probe.npz", probe=np.ones(3))
    (folder / "notes.txt").write_text("none")
    (folder / "broken.npz").write_bytes(b"PK")
    (folder / "more").mkdir()
    with caplog.at_level(logging.INFO):
        found = expand_scans(folder)
    assert [Path(str(each.scan)).name for each in found] == [f"scan_{i}.npz" for i in range(4)]
    assert "4 scans; 3 other files left out" in caplog.text
    assert len(PtychoDataset(str(folder), cache="off").scans) == 4
    with pytest.raises(PtychoTorchError, match="more: the directory is without a scan; expected"):
        expand_scans(folder / "more")


def test_list_gives_each_scan_its_options(folder: Path) -> None:
    (folder / "probes").mkdir()
    np.save(folder / "probes" / "mine.npy", np.full((N, N), 2 + 1j))
    listed = write_list(
        folder, "scan_[01].npz", "{path: scan_2.npz, probe: initial}",
        "{path: scan_3.npz, probe: probes/mine.npy}",
    )  # fmt: skip
    scans = PtychoDataset(listed, cache="off", ground_truth="none").scans
    assert len(scans) == 4
    assert "probe_guess" not in (scans[1].metadata or {})
    assert (scans[2].metadata or {})["probe_guess"] == "average pattern"
    assert (scans[3].probeGuess == 2 + 1j).all()


def test_groups_of_a_scan_come_as_often_as_its_weight_says(folder: Path) -> None:
    listed = write_list(
        folder,
        "{path: scan_0.npz, weight: 2}",
        "scan_1.npz",
        "{path: scan_2.npz, weight: 1.5}",
        "{path: scan_3.npz, weight: 0.25}",
    )
    once = PtychoDataset(listed, cache="off", ground_truth="none")
    data = module(listed, split="none")
    drawn = data.dataset("train")
    sizes = scans_of(once)
    wanted = {0: 2 * sizes[0], 1: sizes[1], 2: sizes[2] + sizes[2] // 2, 3: sizes[3] // 4}
    assert scans_of(drawn) == wanted
    groups = Counter(map(tuple, drawn.index.nn_indices[drawn.index.scan_id == 2].tolist()))
    assert set(groups.values()) == {1, 2}, "of a fraction, different groups come once more"
    again = module(listed, split="none").dataset("train")
    np.testing.assert_array_equal(again.index.nn_indices, drawn.index.nn_indices)
    other = module(listed, split="none", seed=1).dataset("train")
    assert not np.array_equal(other.index.nn_indices, drawn.index.nn_indices)
    np.testing.assert_array_equal(drawn.index.scales, once.index.scales)
    assert scans_of(data.dataset("val")) == sizes, "validation visits every group once"
    assert scans_of(data.dataset("predict")) == sizes


def test_weights_are_exact_across_ranks_and_resumption(folder: Path) -> None:
    from ptycho_torch.batches.sampler import EpochSampler

    listed = write_list(folder, "{path: scan_0.npz, weight: 3}", "scan_1.npz")
    dataset = module(listed, split="none").dataset("train")
    ranks = [EpochSampler(dataset, num_replicas=2, rank=rank, seed=5) for rank in range(2)]
    for sampler in ranks:
        sampler.resume(1, 20)
    rest = sorted(number for sampler in ranks for number in sampler)
    order = epoch_order(len(dataset), 5, 1, shuffle=True)
    assert rest == sorted(order[20:].tolist())
    seen = Counter(dataset.index.scan_id[order].tolist())
    assert seen[0] == 3 * FRAMES


def test_weight_of_one_changes_nothing(folder: Path) -> None:
    plain = module(str(folder / "scan_[01].npz"), val_fraction=0.3).dataset("train")
    listed = write_list(folder, "{path: scan_0.npz, weight: 1}", "scan_1.npz")
    dataset = module(listed, val_fraction=0.3).dataset("train")
    np.testing.assert_array_equal(dataset.index.nn_indices, plain.index.nn_indices)
    assert dataset[0].X.equal(plain[0].X)


def test_list_gives_whole_scans_to_parts_and_cuts_the_others(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    listed = write_list(
        folder,
        "{path: scan_0.npz, weight: 2}",
        "{path: scan_1.npz, split: train}",
        "{path: scan_2.npz, split: val}",
        "{path: scan_3.npz, split: test}",
    )
    data = module(listed, val_fraction=0.2)
    with caplog.at_level(logging.INFO):
        train, val, test = (data.dataset(stage) for stage in ("train", "val", "test"))
    assert set(scans_of(train)) == {0, 1}
    assert set(scans_of(val)) == {0, 2}
    assert set(scans_of(test)) == {3}
    assert scans_of(val)[2] == FRAMES + 8 and scans_of(train)[1] == FRAMES + 4
    kept = train.index.nn_indices[train.index.scan_id == 0]
    held = val.index.nn_indices[val.index.scan_id == 0]
    assert not set(kept.ravel().tolist()) & set(held.ravel().tolist())
    assert "scan_2.npz: whole split" in caplog.text
    assert "scan_0.npz: region split" in caplog.text
    assert set(scans_of(data.dataset("predict"))) == {0, 1, 2, 3}
    whole = module(listed, split="scans", val_fraction=0.2)
    assert set(scans_of(whole.dataset("train"))) == {0, 1}
    assert set(scans_of(whole.dataset("val"))) == {2}


def test_part_named_in_a_list_counts_without_a_fraction(folder: Path) -> None:
    listed = write_list(folder, "scan_0.npz", "{path: scan_1.npz, split: val}")
    for split in ("none", "region", "scans"):
        data = module(listed, split=split, val_fraction=0.0)
        assert set(scans_of(data.dataset("val"))) == {1}
        assert set(scans_of(data.dataset("train"))) == {0}


def test_whole_scans_are_drawn_where_no_list_names_them(folder: Path) -> None:
    data = module(str(folder), split="scans", val_fraction=0.25, test_fraction=0.25)
    parts = [set(scans_of(data.dataset(stage))) for stage in ("train", "val", "test")]
    assert list(map(len, parts)) == [2, 1, 1]
    assert set.union(*parts) == {0, 1, 2, 3}
    again = module(str(folder), split="scans", val_fraction=0.25, test_fraction=0.25)
    assert set(scans_of(again.dataset("val"))) == parts[1]
    with pytest.raises(PtychoTorchError, match=r"scans to split is 1; expected more than 1"):
        module(str(folder / "scan_0.npz"), split="scans").dataset("train")


def test_scans_of_several_modes_and_objects_make_one_batch(folder: Path) -> None:
    data = module(write_list(folder, "scan_0.npz", "scan_1.npz"), split="none", batch_size=400)
    batch = next(iter(data.train_dataloader()))
    assert set(batch.scan_id.tolist()) == {0, 1}
    probes = data.dataset("train").tables.probes
    assert [int(probe.abs().amax((1, 2)).count_nonzero()) for probe in probes] == [1, 2]


@pytest.mark.parametrize(
    ("entries", "line"),
    [
        (["{path: scan_0.npz, weight: 0}"], r"scans\[0\].weight is 0; expected a number above 0"),
        (["{path: scan_0.npz, weight: two}"], r"scans\[0\].weight is 'two'; expected a number"),
        (["{path: scan_0.npz, split: valid}"], r"split is 'valid'; expected one of train, val,"),
        (["scan_0.npz", "{weight: 1}"], r"scans\[1\] is \{'weight': 1\}; expected a path"),
        (["scans.yaml"], r"scans\[0\].path is 'scans.yaml'; expected a scan, not another list"),
        (["scan_0.npz", "scan_0.npz"], r"twice; expected each once. Give it a weight"),
        (["no_*.npz"], r"no_\*.npz: the pattern is matching no file"),
        (["{path: scan_0.npz, detector: {sise: 3}}"], r"scans\[0\].detector is \{'sise': 3\}"),
        (["{path: scan_0.npz, measured: x}"], r"option of format npz is measured; expected one"),
        (["{path: scan_0.npz, split: val}"], r"training scans is 0; expected at least one"),
        (
            ["{path: scan_0.npz, split: train}", "{path: scan_1.npz, split: test}"],
            r"validation scans is 0; expected at least one. Add split: val to a scan of the list",
        ),
    ],
)
def test_mistakes_in_a_list_are_one_line(folder: Path, entries: list[str], line: str) -> None:
    listed = write_list(folder, *entries)
    with pytest.raises(PtychoTorchError, match=line) as raised:
        module(listed).dataset("train")
    assert "\n" not in str(raised.value)


def test_a_path_and_a_pattern_name_a_scan_once(folder: Path) -> None:
    for scans in ([folder / "scan_0.npz", folder / "scan_*.npz"], [folder, folder / "scan_0.npz"]):
        with pytest.raises(OptionError, match=r"scan_0\.npz twice; expected each once"):
            expand_scans(scans)


def test_part_named_twice_is_refused(folder: Path) -> None:
    listed = write_list(folder, "scan_0.npz", "{path: scan_1.npz, split: val}")
    data = module(listed, val=str(folder / "scan_2.npz"))
    with pytest.raises(PtychoTorchError, match="split is val in the list, beside scans for val"):
        data.dataset("train")
    with pytest.raises(PtychoTorchError, match="split is 'frames'; expected 'region', 'scans'"):
        module(listed, split="frames").dataset("train")


def test_grouping_is_that_of_each_scan(folder: Path) -> None:
    listed = write_list(folder, "{path: scan_0.npz, weight: 2}", "scan_1.npz")
    data = module(listed, split="none", grouping=GroupingConfig(gridsize=1, neighbor_count=4))
    assert scans_of(data.dataset("train")) == {0: 2 * FRAMES, 1: FRAMES + 4}
