"""Every experiment: its function, its rounds, and its rounds when there is only a minute."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from . import (
    changes,
    damage,
    growth,
    hostile,
    interrupts,
    kill,
    names,
    restarts,
    stops,
    storage,
    together,
)
from .record import Outcome

Experiment = Callable[[Path, int, int], Outcome]

EXPERIMENTS: dict[str, tuple[Experiment, int, int]] = {
    "kill-random": (kill.random_moments, 200, 6),
    "kill-each": (kill.every_file_call, 1, 12),
    "together": (together.all_at_once, 50, 4),
    "flip-cache": (damage.flip_cache, 500, 30),
    "flip-sidecar": (damage.flip_sidecar, 500, 30),
    "flip-silent": (damage.flip_silently, 300, 30),
    "cut-scan": (damage.cut_scan, 200, 30),
    "cut-cache": (damage.cut_cache, 200, 20),
    "cut-sidecar": (damage.cut_sidecar, 200, 20),
    "renamed-over": (changes.renamed_over, 2000, 24),
    "rewritten": (changes.rewritten, 100, 12),
    "sidecar-altered": (changes.sidecar_altered, 100, 8),
    "taken-names": (names.taken, 42, 8),
    "shared-folders": (names.shared, 100, 6),
    "disk-full": (storage.full_disk, 60, 8),
    "forbidden": (storage.forbidden, 24, 8),
    "broken-calls": (storage.broken_calls, 9, 130),
    "interrupted-calls": (storage.interrupted_calls, 5, 60),
    "resume": (restarts.resume, 20, 2),
    "resume-ranks": (restarts.resume_on_ranks, 20, 2),
    "stops": (stops.anywhere, 200, 16),
    "stops-plain": (stops.plain_loader, 40, 6),
    "coverage": (restarts.coverage, 12, 2),
    "cycles": (growth.open_and_close, 200, 30),
    "epochs": (growth.epochs, 20, 3),
    "interrupt-prepare": (interrupts.prepare, 40, 5),
    "interrupt-fit": (interrupts.fit, 20, 4),
    "hostile-scans": (hostile.mutated_scans, 20_000, 400),
    "hostile-caches": (hostile.mutated_caches, 5_000, 100),
}

ON_DISK = {"kill-random", "kill-each", "together"}
"""Experiments on files that are synced to a real disk; the others run in memory if they can."""
