"""Faults done on purpose, a few of each; ``make campaign`` does them in numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed: faults are judged by batches")

from campaign import (
    changes,
    damage,
    growth,
    hostile,
    interrupts,
    kill,
    names,
    record,
    storage,
    together,
)

from ptycho_torch import GroupingConfig
from ptycho_torch.data.caches import scan_groups
from ptycho_torch.data.files import build_lock
from ptycho_torch.data.raw_data import RawData

Experiment = Callable[[Path, int, int], record.Outcome]

EXPERIMENTS: dict[str, tuple[Experiment, int]] = {
    "killed at a random moment of prepare": (kill.random_moments, 3),
    "killed before every 16th file operation of prepare": (kill.every_file_call, 16),
    "eight processes open one scan at once": (together.all_at_once, 2),
    "bytes of the groups cache flipped": (damage.flip_cache, 20),
    "bytes of the sidecar flipped": (damage.flip_sidecar, 20),
    "bytes flipped in silence": (damage.flip_silently, 18),
    "scans cut short": (damage.cut_scan, 20),
    "groups caches cut short": (damage.cut_cache, 10),
    "sidecars cut short": (damage.cut_sidecar, 10),
    "another scan renamed over the file": (changes.renamed_over, 24),
    "another scan written into the file": (changes.rewritten, 12),
    "a sidecar altered between and during epochs": (changes.sidecar_altered, 4),
    "names that are taken": (names.taken, 8),
    "folders that two users share": (names.shared, 4),
    "disk full": (storage.full_disk, 8),
    "no permission": (storage.forbidden, 8),
    "every 130th file operation broken": (storage.broken_calls, 130),
    "every 40th file operation interrupted": (storage.interrupted_calls, 40),
    "mutated scans": (hostile.mutated_scans, 300),
    "mutated groups caches": (hostile.mutated_caches, 60),
    "prepare interrupted": (interrupts.prepare, 3),
    "fit interrupted": (interrupts.fit, 1),
    "opened and closed": (growth.open_and_close, 30),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_fault_is_noticed_or_harmless(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user_cache"))
    experiment, rounds = EXPERIMENTS[name]
    (tmp_path / "place").mkdir()
    outcome = experiment(tmp_path / "place", rounds, 1)
    assert not outcome.failures, outcome.failures
    assert sum(outcome.seen.values()) > 0, "nothing was seen"


def test_processes_wait_for_a_builder_as_long_as_it_may_have_to_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ptycho_torch import simulate_scan

    waits: list[float] = []
    genuine = scan_groups.groups_cache.load_or_build

    def listen(*arguments: object, **options: object) -> object:
        waits.append(float(options["timeout_s"]))  # type: ignore[arg-type]
        return genuine(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(scan_groups.groups_cache, "load_or_build", listen)
    monkeypatch.setattr(build_lock, "_SLOWEST_BYTES_PER_S", 1.0)
    path = simulate_scan(n_frames=20, N=8, seed=0).to_file(tmp_path / "scan.npz")
    RawData.from_file(path).group(GroupingConfig(gridsize=1))
    assert waits == [build_lock.LOCK_TIMEOUT_S + 20 * 8 * 8 * np.dtype(np.float32).itemsize]
