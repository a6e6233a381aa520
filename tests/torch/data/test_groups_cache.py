"""The groups cache: equal to the 2025-07 reference's, keyed by content, gentle to others' files."""

from __future__ import annotations

import json
import logging
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from cache_cases import Identity, Scan, assert_same, fingerprint
from legacy_reference import (
    GOLDEN,
    RECORDS,
    VERDICTS,
    all_groups_slowly,
    checksum,
    loader_verdict,
    positions,
    variant_file,
)

from ptycho_torch.data.caches import building
from ptycho_torch.data.caches.groups_cache import load_or_build, verify
from ptycho_torch.data.caches.groups_file import read_cache, write_cache
from ptycho_torch.data.caches.groups_key import (
    BuiltGroups,
    CacheKey,
    Missing,
    dataset_checksum,
    positions_digest,
)
from ptycho_torch.data.caches.names import cache_path
from ptycho_torch.data.errors import OptionError, ScanError

CACHES = [(record["input"], record["K"]) for record in RECORDS["caches"]]
ACCEPTED = [name for name, record in VERDICTS.items() if record["loader"] == "ACCEPTED"]
# Accepted by the reference, which then fails on them or returns wrong groups.
NONSENSE = [name for name in ACCEPTED if any(w in name for w in ("1-D", "(G,9)", "(0,4)", "range"))]
NONSENSE.append("all_groups negative")
LOG = "ptycho_torch.data.caches.groups_cache"


@pytest.fixture(autouse=True)
def user_cache(tmp_path, monkeypatch):
    home = tmp_path / "user-cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))
    return home


@pytest.fixture
def scan_path(tmp_path):
    folder = tmp_path / "scans"
    folder.mkdir()
    return folder / "scan.npz"


def recorded_scan(name, K=4):
    return Scan(*positions(name), K=K)


def contents(path):
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


class TestAgainstTheReference:
    @pytest.mark.parametrize(("name", "K"), CACHES)
    def test_slow_oracle_reproduces_the_recorded_groups_and_selections(self, name, K):
        x, y = positions(name)
        with np.load(GOLDEN / f"{name}.g2k{K}.groups_cache.npz") as file:
            recorded = file["all_groups"]
            assert file["dataset_checksum"] == checksum(x, y) == dataset_checksum(x, y)
        random = np.random.RandomState(0)
        groups = all_groups_slowly(x, y, 4, K, random)
        np.testing.assert_array_equal(groups, recorded)
        with np.load(GOLDEN / "legacy_outputs.npz") as outputs:
            for kind, draws in (("miss", random), ("hit", np.random.RandomState(0))):
                selected = outputs[f"{name}.g2k{K}.{kind}.nn_indices"]
                order = draws.permutation(len(groups)) if len(selected) < len(groups) else ...
                np.testing.assert_array_equal(groups[order][: len(selected)], selected)

    @pytest.mark.parametrize("name", VERDICTS)
    def test_loader_rule_gives_the_recorded_verdict(self, name, tmp_path):
        x, y = positions("b_jitter")
        with np.load(GOLDEN / "b_jitter.g2k4.groups_cache.npz") as file:
            content = variant_file(name, dict(file))
        path = tmp_path / "v.npz"
        if content is not None:
            path.write_bytes(content)
        expected = VERDICTS[name]["loader"], VERDICTS[name]["file"]
        assert loader_verdict(path, checksum(x, y), 2, 4) == expected

    @pytest.mark.parametrize(("name", "K"), CACHES)
    def test_file_we_write_is_accepted_and_holds_the_recorded_groups(self, name, K, scan_path):
        scan = recorded_scan(name, K)
        scan.load(scan_path)
        path = scan.cache(scan_path)
        assert loader_verdict(path, checksum(scan.x, scan.y), 2, K) == ("ACCEPTED", "kept")
        recorded = GOLDEN / f"{name}.g2k{K}.groups_cache.npz"
        with np.load(path) as ours, np.load(recorded) as theirs:
            for key in theirs.files:
                assert ours[key].dtype == theirs[key].dtype
                np.testing.assert_array_equal(ours[key], theirs[key])

    @pytest.mark.parametrize(("name", "K"), CACHES)
    def test_reference_file_is_used_and_never_touched(
        self, name, K, scan_path, user_cache, record_property
    ):
        scan = recorded_scan(name, K)
        path = scan.cache(scan_path)
        shutil.copy(GOLDEN / f"{name}.g2k{K}.groups_cache.npz", path)
        before = fingerprint(path)
        assert loader_verdict(path, checksum(scan.x, scan.y), 2, K) == ("ACCEPTED", "kept")
        found = scan.load(scan_path)
        assert scan.requests == [Missing(False, True, True)]
        assert_same(found, scan.truth())
        (ours,) = user_cache.rglob(path.name)
        assert loader_verdict(ours, checksum(scan.x, scan.y), 2, K) == ("ACCEPTED", "kept")
        assert verify(ours, scan.x, scan.y) == []
        kept = fingerprint(ours)
        assert_same(scan.load(scan_path), scan.truth())
        assert len(scan.requests) == 1
        assert (fingerprint(path), fingerprint(ours)) == (before, kept)
        record_property("mtime_ns and sha256", before)

    @pytest.mark.parametrize("name", VERDICTS)
    def test_no_variant_is_believed_wrongly_or_loses_content(self, name, scan_path, user_cache):
        scan = recorded_scan("b_jitter")
        path = scan.cache(scan_path)
        with np.load(GOLDEN / "b_jitter.g2k4.groups_cache.npz") as file:
            content = variant_file(name, dict(file))
        if content is not None:
            path.write_bytes(content)
        found = scan.load(scan_path)
        truth = scan.truth()
        if name == "all_groups unsorted + dup rows":
            expected = np.concatenate([truth.all_groups[::-1, ::-1], truth.all_groups[:3]])
            np.testing.assert_array_equal(found.all_groups, expected)
        else:
            assert_same(found, truth)
        used = name in ACCEPTED and name not in NONSENSE
        assert scan.requests[0].all_groups != used
        if content:
            assert path.read_bytes() == content, "another program's file is never touched"
        ours = path if not content else next(user_cache.rglob(path.name))
        verdict = loader_verdict(ours, checksum(scan.x, scan.y), 2, 4)
        assert verdict == ("ACCEPTED", "kept")
        again = scan.load(scan_path)
        assert len(scan.requests) == 1, "the second load finds a cache, here or in the user's"
        np.testing.assert_array_equal(again.all_groups, found.all_groups)

    def test_extra_keys_of_another_program_are_kept(self, scan_path, user_cache):
        scan = recorded_scan("b_jitter")
        path = scan.cache(scan_path)
        with np.load(GOLDEN / "b_jitter.g2k4.groups_cache.npz") as file:
            good = dict(file)
        path.write_bytes(variant_file("extra keys", good))
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("README", "not an array")
        before = fingerprint(path)
        scan.load(scan_path)
        # and still when the energies are of other frames
        scan.load(scan_path, frames_identity=Identity(crc32=9))
        assert fingerprint(path) == before
        assert [request.all_groups for request in scan.requests] == [False, False]
        assert len(list(user_cache.rglob(path.name))) == 1

    def test_member_added_to_a_file_of_ours_makes_it_anothers(self, scan_path, user_cache):
        scan = Scan.of(9)
        scan.load(scan_path)
        path = scan.cache(scan_path)
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("README", "not an array")
        before = fingerprint(path)
        assert_same(scan.load(scan_path), scan.truth())
        assert len(scan.requests) == 1, "it still serves"
        scan.load(scan_path, frames_identity=Identity(crc32=9))
        scan.x = scan.x + 1
        scan.load(scan_path)
        assert fingerprint(path) == before
        assert len(list(user_cache.rglob(path.name))) == 1

    def test_pickle_in_a_file_leaves_it_alone_and_unread(self, scan_path, tmp_path, user_cache):
        class Bomb:
            def __reduce__(self):
                return Path.touch, (tmp_path / "exploded",)

        scan = recorded_scan("b_jitter")
        path = scan.cache(scan_path)
        with np.load(GOLDEN / "b_jitter.g2k4.groups_cache.npz") as file:
            np.savez(path, **file, thing=np.array(Bomb(), dtype=object))
        before = fingerprint(path)
        for _ in range(2):
            assert_same(scan.load(scan_path), scan.truth())
        assert len(scan.requests) == 1
        assert fingerprint(path) == before
        assert not (tmp_path / "exploded").exists()
        assert len(list(user_cache.rglob("scan.g2k4.groups_cache.npz"))) == 1

    def test_copy_made_beside_a_file_left_alone_is_ours(self, scan_path, user_cache):
        """It holds the groups found, in their order, and yields when the positions change."""
        scan = recorded_scan("b_jitter")
        path = scan.cache(scan_path)
        with np.load(GOLDEN / "b_jitter.g2k4.groups_cache.npz") as file:
            arrays = {**file, "all_groups": file["all_groups"][::-1]}
        np.savez(path, **arrays, thing=np.array({}, dtype=object))
        for _ in range(2):
            np.testing.assert_array_equal(scan.load(scan_path).all_groups, arrays["all_groups"])
        assert scan.requests == [Missing(False, True, True)]
        scan.x = scan.x + 1
        for _ in range(2):
            scan.load(scan_path)
        assert scan.requests[1:] == [Missing(True, True, True)]

    @pytest.mark.parametrize("name", ["all_groups", "frame_energies", "format_version"])
    def test_pickle_under_a_key_of_ours_is_never_loaded(self, name, scan_path, tmp_path):
        class Bomb:
            def __reduce__(self):
                return Path.touch, (tmp_path / "exploded",)

        scan = Scan.of(9)
        scan.load(scan_path)
        path = scan.cache(scan_path)
        with np.load(path) as file:
            arrays = dict(file)
        np.savez(path, **{**arrays, name: np.array([Bomb()], dtype=object)})
        assert_same(scan.load(scan_path), scan.truth())
        assert len(scan.requests) == 2
        assert not (tmp_path / "exploded").exists()

    @pytest.mark.parametrize("other", ["positions", "gridsize", "K"])
    def test_file_of_another_program_for_another_scan_is_left_alone(
        self, other, scan_path, user_cache, caplog
    ):
        scan = recorded_scan("b_jitter")
        path = scan.cache(scan_path)
        with np.load(GOLDEN / "b_jitter.g2k4.groups_cache.npz") as file:
            arrays = dict(file)
        if other == "positions":
            scan.x = scan.x + 1.0
        else:
            arrays["gridsize" if other == "gridsize" else "overlap_factor"] = np.array(3)
        np.savez(path, **arrays)
        before = fingerprint(path)
        with caplog.at_level(logging.INFO, LOG):
            for _ in range(2):
                assert_same(scan.load(scan_path), scan.truth())
        assert fingerprint(path) == before
        assert len(scan.requests) == 1
        assert f"left alone: {path}: written by another program" in caplog.text
        assert [record.levelname for record in caplog.records] == ["INFO", "INFO"]

    @pytest.mark.parametrize("name", NONSENSE)
    def test_nonsense_beside_a_key_of_another_program_is_left_alone(self, name, scan_path):
        scan = recorded_scan("b_jitter")
        path = scan.cache(scan_path)
        with np.load(GOLDEN / "b_jitter.g2k4.groups_cache.npz") as file:
            good = {**file, "note": np.array("mine")}
        path.write_bytes(variant_file(name, good))
        before = fingerprint(path), scan_path.parent.stat().st_mtime_ns
        for _ in range(2):
            assert_same(scan.load(scan_path), scan.truth())
        assert len(scan.requests) == 1
        assert (fingerprint(path), scan_path.parent.stat().st_mtime_ns) == before

    def test_frame_twice_in_a_group_is_refused(self, scan_path):
        scan = recorded_scan("b_jitter")
        path = scan.cache(scan_path)
        with np.load(GOLDEN / "b_jitter.g2k4.groups_cache.npz") as file:
            groups = file["all_groups"].copy()
            groups[7, 1] = groups[7, 0]
            np.savez(path, **{**file, "all_groups": groups})
        assert_same(scan.load(scan_path), scan.truth())

    def test_file_that_appears_while_waiting_is_left_alone(self, scan_path, monkeypatch):
        scan = recorded_scan("b_jitter")
        path = scan.cache(scan_path)
        genuine = building.build_lock

        def late(target, timeout_s):
            shutil.copy(GOLDEN / "a_raster.g2k4.groups_cache.npz", path)
            return genuine(target, timeout_s)

        monkeypatch.setattr(building, "build_lock", late)
        assert_same(scan.load(scan_path), scan.truth())
        assert len(scan.requests) == 1
        expected = (GOLDEN / "a_raster.g2k4.groups_cache.npz").read_bytes()
        assert path.read_bytes() == expected


class TestKey:
    def test_second_load_builds_nothing_and_touches_nothing(self, scan_path, caplog):
        scan = Scan.of(30)
        scan.load(scan_path)
        path = scan.cache(scan_path)
        before = fingerprint(path)
        with caplog.at_level(logging.INFO, LOG):
            assert_same(scan.load(scan_path), scan.truth())
        assert scan.requests == [Missing(True, True, True)]
        assert fingerprint(path) == before
        assert caplog.messages == [f"groups cache reused: {path}"]
        assert sorted(scan_path.parent.iterdir()) == [path], "no lock, no temporary is left"

    def test_equal_content_makes_equal_files(self, scan_path):
        Scan.of(30).load(scan_path)
        Scan.of(30).load(scan_path.with_name("b.npz"))
        first, second = sorted(scan_path.parent.iterdir())
        assert first.read_bytes() == second.read_bytes()

    @pytest.mark.parametrize(
        "change",
        [
            {"x": 1e-9},
            {"y": 1e-9},
            {"swapped": True},
            {"dtype": np.float32},
            {"fewer": 1},
            {"gridsize": 1},
            {"K": 5},
        ],
        ids=str,
    )
    def test_changed_positions_or_options_never_reuse(self, change, scan_path, caplog):
        scan = Scan.of(30)
        scan.x, scan.y = (a.astype(np.float32).astype(np.float64) for a in (scan.x, scan.y))
        scan.load(scan_path)
        keep = len(scan.x) - change.get("fewer", 0)
        x, y = scan.x + change.get("x", 0.0), scan.y + change.get("y", 0.0)
        if "swapped" in change:
            x, y = y, x
        dtype = change.get("dtype", np.float64)
        changed = Scan(
            x[:keep].astype(dtype),
            y[:keep].astype(dtype),
            gridsize=change.get("gridsize", 2),
            K=change.get("K", 4),
        )
        # under the old name too, as after a file was renamed or copied
        shutil.copy(scan.cache(scan_path), changed.cache(scan_path.with_name("copy.npz")))
        for path in (scan_path, scan_path.with_name("copy.npz")):
            assert_same(changed.load(path), changed.truth())
        assert changed.requests == [Missing(True, True, True)] * 2
        assert not caplog.messages, "a file of other options is not a damaged one"

    def test_dtype_and_length_of_the_positions_count(self):
        zeros = [np.zeros(3, dtype=dtype) for dtype in (np.int64, np.uint64, np.float64)]
        digests = {positions_digest(zero, zero) for zero in zeros}
        long, short = zeros[2], zeros[2][:2]
        digests |= {positions_digest(long, short), positions_digest(short, long)}
        assert len(digests) == 5

    def test_byte_order_of_the_positions_does_not_count(self, scan_path):
        scan = Scan.of(30)
        scan.load(scan_path)
        scan.load(scan_path, xcoords=scan.x.astype(">f8"), ycoords=scan.y.astype(">f8"))
        assert len(scan.requests) == 1

    def test_stale_file_of_ours_is_replaced(self, scan_path, user_cache):
        Scan.of(30, seed=1).load(scan_path)
        scan = Scan.of(30, seed=2)
        scan.load(scan_path)
        assert verify(scan.cache(scan_path), scan.x, scan.y) == []
        assert not user_cache.exists()

    def test_file_of_another_program_survives_changed_positions(self, scan_path):
        scan = recorded_scan("b_jitter")
        path = scan.cache(scan_path)
        shutil.copy(GOLDEN / "b_jitter.g2k4.groups_cache.npz", path)
        before = fingerprint(path)
        scan.load(scan_path)
        scan.x = scan.x + 1
        scan.load(scan_path)
        assert fingerprint(path) == before

    @pytest.mark.parametrize(
        ("change", "reused"),
        [
            ({}, True),
            ({"path": "/elsewhere/a.npz"}, True),
            ({"mtime_ns": 5, "size": 9999}, True),
            ({"crc32": 1}, False),
            ({"crc32": None}, False),
            ({"dtype": "<u2"}, False),
            ({"shape": (9, 16, 16)}, False),
        ],
        ids=str,
    )
    def test_energies_belong_to_the_frames(self, change, reused, scan_path):
        scan = Scan.of(9)
        scan.load(scan_path)
        scan.load(scan_path, frames_identity=Identity(**change))
        assert scan.requests[1:] == ([] if reused else [Missing(False, False, True)])
        scan.load(scan_path, frames_identity=Identity(**change))
        assert len(scan.requests) == (1 if reused else 2)

    @pytest.mark.parametrize(
        ("change", "reused"),
        [({}, True), ({"path": "b"}, False), ({"mtime_ns": 5}, False), ({"size": 7}, False)],
        ids=str,
    )
    def test_frames_without_checksum_are_told_by_path_size_and_time(
        self, change, reused, scan_path
    ):
        scan = Scan.of(9)
        scan.load(scan_path, frames_identity=Identity(crc32=None))
        scan.load(scan_path, frames_identity=Identity(**{"crc32": None, **change}))
        assert len(scan.requests) == (1 if reused else 2)

    def test_counts_and_amplitudes_have_their_own_energies(self, scan_path):
        scan = Scan.of(9)
        scan.load(scan_path)
        scan.load(scan_path, measurement="counts")
        assert scan.requests[1:] == [Missing(False, False, True)]

    def test_energies_of_frames_in_memory_are_neither_kept_nor_read(self, scan_path):
        scan = Scan.of(9)
        memory = Identity(path=None, mtime_ns=None, crc32=None)
        scan.load(scan_path, frames_identity=memory)
        assert "frame_energies.npy" not in contents(scan.cache(scan_path))
        scan.load(scan_path)
        before = fingerprint(scan.cache(scan_path))
        scan.load(scan_path, frames_identity=memory)
        assert fingerprint(scan.cache(scan_path)) == before
        assert [request.all_groups for request in scan.requests] == [True, False, False]
        assert all(request.frame_energies for request in scan.requests)


class TestPolicy:
    def test_off_reads_and_writes_nothing(self, scan_path):
        scan = Scan.of(9)
        for _ in range(2):
            assert_same(scan.load(scan_path, policy="off"), scan.truth())
        assert len(scan.requests) == 2
        assert list(scan_path.parent.iterdir()) == []

    def test_readonly_uses_a_file_and_writes_none(self, scan_path, user_cache):
        scan = Scan.of(9)
        scan.load(scan_path, policy="readonly")
        assert list(scan_path.parent.iterdir()) == []
        scan.load(scan_path)
        before = fingerprint(scan.cache(scan_path))
        scan.load(scan_path, policy="readonly")
        scan.load(scan_path, policy="readonly", frames_identity=Identity(crc32=1))
        assert fingerprint(scan.cache(scan_path)) == before
        assert len(scan.requests) == 3
        assert not user_cache.exists()

    def test_readonly_says_why_it_does_not_use_a_file(self, scan_path, caplog):
        scan = Scan.of(9)
        scan.cache(scan_path).write_bytes(b"garbage")
        scan.load(scan_path, policy="readonly")
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert scan.cache(scan_path).read_bytes() == b"garbage"

    def test_directory_is_made_and_used(self, scan_path, tmp_path):
        scan = Scan.of(9)
        directory = tmp_path / "new" / "caches"
        for _ in range(2):
            scan.load(scan_path, policy=directory)
        assert len(scan.requests) == 1
        assert [path.name for path in directory.rglob("*.npz")] == [scan.cache(scan_path).name]
        assert list(scan_path.parent.iterdir()) == []

    def test_scans_of_one_name_in_one_directory_are_each_grouped_once(self, tmp_path):
        names = ("a/scan.npz", "b/scan.npz", "c/scan.npz", "c/scan.npz.bz2")
        scans = {name: Scan.of(9, seed=seed) for seed, name in enumerate(names)}
        for _ in range(3):
            for name, scan in scans.items():
                found = scan.load(tmp_path / name, policy=tmp_path / "caches")
                assert_same(found, scan.truth())
        assert [len(scan.requests) for scan in scans.values()] == [1, 1, 1, 1]

    @pytest.mark.parametrize("spelled", [".", "link"])
    def test_directory_that_is_the_scans_own_keeps_the_name_that_the_reference_reads(
        self, spelled, scan_path, monkeypatch
    ):
        monkeypatch.chdir(scan_path.parent)
        (scan_path.parent / "link").symlink_to(scan_path.parent)
        scan = Scan.of(9)
        scan.load(scan_path, policy=spelled)
        assert scan.cache(scan_path).is_file()

    def test_cache_that_lies_in_the_directory_itself_is_used(self, scan_path, tmp_path):
        scan, directory = Scan.of(9), tmp_path / "caches"
        scan.load(scan_path)
        directory.mkdir()
        kept = directory / scan.cache(scan_path).name
        scan.cache(scan_path).rename(kept)
        assert_same(scan.load(scan_path, policy=directory), scan.truth())
        assert len(scan.requests) == 1
        assert list(directory.iterdir()) == [kept]

    def test_cache_of_another_scan_in_the_directory_itself_stays(self, scan_path, tmp_path):
        first, second, directory = Scan.of(9, seed=1), Scan.of(9, seed=2), tmp_path / "caches"
        directory.mkdir()
        first.load(scan_path)
        kept = directory / first.cache(scan_path).name
        first.cache(scan_path).rename(kept)
        before = kept.read_bytes()
        for _ in range(2):
            assert_same(second.load(scan_path, policy=directory), second.truth())
        assert len(second.requests) == 1
        assert kept.read_bytes() == before

    @pytest.mark.parametrize("stem", ["s" * 250, "\u00e9" * 125, "\u65e5" * 83])
    def test_scan_with_the_longest_of_names_keeps_its_cache(self, stem, tmp_path):
        scan = Scan.of(9)
        for _ in range(2):
            assert_same(scan.load(tmp_path / f"{stem}.npz"), scan.truth())
        assert len(scan.requests) == 1
        assert list(tmp_path.glob("*.groups_cache.npz"))

    @pytest.mark.parametrize("policy", ["", "Off", "read-only"])
    def test_word_that_is_no_policy_is_refused_and_makes_no_directory(
        self, policy, scan_path, tmp_path, monkeypatch
    ):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(OptionError, match="auto, off, readonly or a directory"):
            Scan.of(9).load(scan_path, policy=policy)
        assert policy == "" or not Path(policy).exists()

    def test_missing_scan_directory_is_not_made(self, tmp_path, user_cache, caplog):
        scan = Scan.of(9)
        assert_same(scan.load(tmp_path / "nowhere" / "scan.npz"), scan.truth())
        assert not (tmp_path / "nowhere").exists()
        assert not user_cache.exists()
        assert "not kept" in caplog.text


class TestShapes:
    def test_name_keeps_all_but_the_last_suffix(self):
        assert cache_path("d/scan.v1.npz", 2, 4) == Path("d/scan.v1.g2k4.groups_cache.npz")

    def test_gridsize_1_keeps_energies_and_every_frame_as_a_group(self, scan_path):
        scan = Scan.of(9, gridsize=1, K=4)
        for _ in range(2):
            assert_same(scan.load(scan_path), scan.truth())
        assert len(scan.requests) == 1
        path = scan.cache(scan_path)
        assert loader_verdict(path, checksum(scan.x, scan.y), 1, 4) == ("ACCEPTED", "kept")

    @pytest.mark.parametrize("gridsize", [2, 3])
    def test_scan_smaller_than_its_neighbourhood_is_kept_too(self, gridsize, scan_path):
        scan = Scan.of(10, gridsize=gridsize, K=14)
        for _ in range(2):
            assert_same(scan.load(scan_path), scan.truth())
        assert len(scan.requests) == 1

    def test_arrays_are_the_callers_own(self, scan_path):
        scan = Scan.of(9)
        scan.load(scan_path)
        for name in ("all_groups", "neighbor_table", "frame_energies"):
            getattr(scan.load(scan_path), name)[:] = 0
        assert_same(scan.load(scan_path), scan.truth())

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("all_groups", np.zeros((3, 4), dtype=np.int64)),
            ("all_groups", np.array([[0, 1, 2, 9]])),
            ("neighbor_table", np.zeros((9, 5), dtype=np.int64)),
            ("frame_energies", np.full(9, np.nan)),
            ("frame_energies", np.ones(8)),
            ("frame_energies", None),
        ],
        ids=str,
    )
    def test_builder_that_builds_wrongly_is_refused(self, name, value, scan_path):
        scan = Scan.of(9)

        def build(missing):
            return BuiltGroups(**{**vars(scan.truth()), name: value})

        with pytest.raises(ScanError, match=name):
            scan.load(scan_path, build=build)
        assert list(scan_path.parent.iterdir()) == []

    def test_error_of_the_builder_passes_and_leaves_nothing(self, scan_path):
        def build(missing):
            raise ScanError("frame 3 is NaN")

        with pytest.raises(ScanError, match="frame 3 is NaN"):
            Scan.of(9).load(scan_path, build=build)
        assert list(scan_path.parent.iterdir()) == []


class TestVerify:
    def test_good_file_has_no_faults(self, scan_path):
        scan = Scan.of(9)
        scan.load(scan_path)
        assert verify(scan.cache(scan_path)) == []
        assert verify(scan.cache(scan_path), scan.x, scan.y) == []

    @pytest.mark.parametrize(("name", "K"), CACHES)
    def test_reference_files_have_no_faults(self, name, K):
        assert verify(GOLDEN / f"{name}.g2k{K}.groups_cache.npz") == []
        assert verify(GOLDEN / f"{name}.g2k{K}.groups_cache.npz", *positions(name)) == []

    def test_faults_are_named(self, scan_path, tmp_path):
        scan = Scan.of(9)
        scan.load(scan_path)
        path = scan.cache(scan_path)
        assert "of other positions" in verify(path, scan.x + 1, scan.y)[0]
        renamed = path.with_name("scan.g2k5.groups_cache.npz")
        shutil.copy(path, renamed)
        assert "K 4 inside" in verify(renamed)[0]
        assert verify(tmp_path / "absent.npz")
        (tmp_path / "garbage.npz").write_bytes(b"PK")
        assert verify(tmp_path / "garbage.npz")
        np.savez(tmp_path / "other.npz", a=np.zeros(3))
        assert "not a groups cache" in verify(tmp_path / "other.npz")[0]

    @pytest.mark.parametrize("gridsize", [0, -2, 2j, np.nan, 10**300])
    def test_gridsize_that_is_none_is_a_fault(self, gridsize, tmp_path):
        with np.load(GOLDEN / "b_jitter.g2k4.groups_cache.npz") as file:
            np.savez(tmp_path / "v.npz", **{**file, "gridsize": np.array(gridsize)})
        (fault,) = verify(tmp_path / "v.npz", *positions("b_jitter"))
        assert "not a groups cache" in fault

    @pytest.mark.parametrize("name", NONSENSE)
    def test_nonsense_the_reference_accepts_is_a_fault(self, name, tmp_path):
        with np.load(GOLDEN / "b_jitter.g2k4.groups_cache.npz") as file:
            (tmp_path / "v.npz").write_bytes(variant_file(name, dict(file)))
        assert verify(tmp_path / "v.npz", *positions("b_jitter"))

    def test_broken_member_that_nothing_reads_is_a_fault(self, tmp_path):
        with np.load(GOLDEN / "b_jitter.g2k4.groups_cache.npz") as file:
            np.savez(tmp_path / "v.npz", **file, note=np.array("a note to be broken"))
        content = (tmp_path / "v.npz").read_bytes()
        note = "broken".encode("utf-32-le")
        (tmp_path / "v.npz").write_bytes(content.replace(note, b"x" + note[1:]))
        assert "note" in verify(tmp_path / "v.npz")[0]


def test_newer_format_is_left_alone(scan_path):
    scan = Scan.of(9)
    scan.load(scan_path)
    path = scan.cache(scan_path)
    with np.load(path) as file:
        np.savez(path, **{**file, "format_version": np.array(99)})
    before = fingerprint(path)
    for _ in range(2):
        assert_same(scan.load(scan_path), scan.truth())
    assert fingerprint(path) == before
    assert len(scan.requests) == 2


def test_lying_own_file_with_a_right_digest_is_refused(scan_path):
    """A digest proves what was written, not that it is right."""
    scan = Scan.of(9)
    scan.load(scan_path)
    path = scan.cache(scan_path)
    with np.load(path) as file:
        arrays = {key: file[key] for key in file.files if key != "content_digest"}
    key = CacheKey.of(scan.x, scan.y, 2, 4)
    write_cache(path, arrays)
    assert read_cache(path, key).state == "usable"
    lies = {
        "all_groups": [arrays["all_groups"][::-1].copy(), arrays["all_groups"] + 5],
        "neighbor_table": [
            arrays["neighbor_table"] - 1,
            arrays["neighbor_table"][:-1],
            np.zeros_like(arrays["neighbor_table"]),
        ],
        "frame_energies": [-arrays["frame_energies"], arrays["frame_energies"] * np.inf],
        "frames_identity": [np.array(json.dumps([1])), np.array("{"), np.array("[" * 15000)],
        "format_version": [np.array(0), np.array("one")],
    }
    for name, values in lies.items():
        for value in values:
            write_cache(path, {**arrays, name: value})
            assert read_cache(path, key).state == "damaged", (name, value)


def test_signature_needs_the_measurement(scan_path):
    """Left out, counts could be served the energies of amplitudes."""
    with pytest.raises(TypeError, match="measurement"):
        load_or_build(scan_path)
