"""Names and places of caches, spelled once; what a load of the groups cache plans to do."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from ptycho_torch.data.caches import names
from ptycho_torch.data.caches.groups_cache import Plan
from ptycho_torch.data.caches.groups_file import CacheFile
from ptycho_torch.data.caches.groups_key import BuiltGroups


@pytest.fixture(autouse=True)
def user_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize("stem", ["scan", "scan.v1", "a.g2k4", "with space", "two\nlines"])
def test_groups_name_is_read_back_as_it_was_written(stem: str) -> None:
    name = names.GroupsName(stem, 3, 14)
    assert names.GroupsName.parse(str(name)) == name
    assert names.cache_path(f"d/{stem}.npz", 3, 14) == Path("d") / str(name)


@pytest.mark.parametrize("letter", ["s", "\u00e9", "\u65e5", "\U0001f52c", "\udcff"])
def test_long_names_fit_with_lock_and_temporary_and_are_read_back(letter: str) -> None:
    for count in range(40, 252):
        stem = letter * count
        name = names.GroupsName(stem, 3, 14)
        plain = f"{stem}.g3k14.groups_cache.npz"
        fits = len(os.fsencode(f".{plain}.part")) <= 255
        assert (str(name) == plain) == fits
        assert len(os.fsencode(f".{name}.part")) <= 255
        parsed = names.GroupsName.parse(str(name))
        assert parsed is not None and str(parsed) == str(name) and parsed.of_whole(stem)
        sidecar = names.sidecar_name(Path(f"{stem}.npz"), "diff3d")
        assert len(os.fsencode(f".{sidecar}.part")) <= 255
        assert names.is_cache_name(sidecar) and names.sidecar_of(sidecar)


def test_long_names_of_one_beginning_stay_apart() -> None:
    first, second = ("s" * 240 + end for end in "ab")
    name = names.GroupsName(first, 2, 4)
    assert str(name) != str(names.GroupsName(second, 2, 4))
    assert name.of_whole(first) and not name.of_whole(second)


def test_users_directory_for_a_folder_with_a_long_name_can_be_made(tmp_path: Path) -> None:
    folder = names.user_cache_directory(tmp_path / ("\U0001f52c" * 63))
    folder.mkdir(parents=True)


@pytest.mark.parametrize("name", ["scan.npz", "scan.g2.groups_cache.npz", "scan.g2k4.npz"])
def test_other_names_are_no_groups_caches(name: str) -> None:
    assert names.GroupsName.parse(name) is None


def test_caches_and_sidecars_are_told_from_scans(tmp_path: Path) -> None:
    scan = tmp_path / "scan.v1.npz"
    (sidecar, _) = names.sidecar_places(scan, "diff3d", "auto")
    assert sidecar == tmp_path / "scan.v1.diff3d.sidecar.npz"
    assert names.sidecar_of(sidecar.name) == ("scan.v1", "diff3d")
    assert names.is_cache_name(sidecar.name)
    assert names.is_cache_name(names.cache_path(scan, 2, 4).name)
    assert not names.is_cache_name(scan.name) and names.sidecar_of(scan.name) is None


def test_caches_of_a_scan_lie_beside_it_and_in_the_users_directory(tmp_path: Path) -> None:
    scan = tmp_path / "scan.npz"
    here, there = names.groups_places(scan, 2, 4, "auto")
    there.parent.mkdir(parents=True)
    for path in (here, there, tmp_path / "scan.gxky.groups_cache.npz", tmp_path / "other.npz"):
        path.touch()
    assert [path for path, _ in names.caches_of(scan)] == [here, there]
    assert names.caches_of(scan, "off") == []


def test_caches_of_other_stems_are_not_those_of_a_scan(tmp_path: Path) -> None:
    stems = ("scan", "scan.gold_k", "scan.g2k4", "scan.n9s1", "scan.n9", "scan2")
    for stem in stems:
        names.cache_path(tmp_path / f"{stem}.npz", 2, 4).touch()
    found = {name.stem: name.of_whole("scan") for _, name in names.caches_of(tmp_path / "scan.npz")}
    assert found == {"scan": True, "scan.n9s1": False}
    for stem in stems[1:]:
        ((path, _),) = names.caches_of(tmp_path / f"{stem}.npz")
        assert path.name == f"{stem}.g2k4.groups_cache.npz"


@pytest.mark.parametrize("stem", ["[scan]", "s*", "s" * 250, "\U0001f52c" * 62])
def test_caches_of_any_name_are_found(tmp_path: Path, stem: str) -> None:
    scan = tmp_path / f"{stem}.npz"
    cache = names.cache_path(scan, 2, 4)
    cache.touch()
    assert [path for path, _ in names.caches_of(scan)] == [cache]


def test_caches_in_a_directory_are_found_through_it(tmp_path: Path) -> None:
    scan, directory = tmp_path / "scans" / "scan.npz", tmp_path / "caches"
    own, users, plain = names.groups_places(scan, 2, 4, directory)
    assert plain.parent == directory and own.parent.parent == directory
    for path in (own, plain, users):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert [path for path, _ in names.caches_of(scan, directory)] == [own, users, plain]


def test_only_the_users_own_directory_is_private() -> None:
    assert names.place_mode(0, "auto") is None
    assert names.place_mode(0, "caches") == 0o777
    assert names.place_mode(1, "auto") == names.place_mode(1, "caches") == 0o700


def test_plan_says_what_is_read_built_and_written() -> None:
    here, there = Path("a/scan.g2k4.groups_cache.npz"), Path("b/scan.g2k4.groups_cache.npz")
    found = CacheFile(
        here,
        "usable",
        arrays=BuiltGroups(all_groups=np.zeros((1, 4), np.int64)),
        groups_origin="found",
    )
    plan = Plan.of([found, CacheFile(there, "absent", replaceable=True)], {"crc32": 1})
    assert str(plan) == f"read {here}; build neighbor_table, frame_energies; write {there}"
    assert (plan.kept, plan.origin, plan.writes) == (False, "found", (there,))
    assert list(plan.refusals) == [here]
