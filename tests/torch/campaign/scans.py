"""Small scans, what their batches must be, and what their folders must hold."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from ptycho_torch.data.config import GroupingConfig
from ptycho_torch.simulation.scan import simulate_scan

GROUPING = GroupingConfig(gridsize=2, neighbor_count=5, seed=4)
CACHE_NAME = "scan.g2k5.groups_cache.npz"
SIDECAR_NAME = "scan.diff3d.sidecar.npz"


def write_scan(
    folder: Path, *, compressed: bool, n_frames: int = 120, N: int = 16, seed: int = 0
) -> Path:
    """A scan whose frames are mapped in place, or one that needs a sidecar."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "scan.npz"
    simulate_scan(n_frames=n_frames, N=N, seed=seed).to_file(path)
    if compressed:
        with np.load(path) as archive:
            content = {name: archive[name] for name in archive.files}
        np.savez_compressed(path, **content)
    return path


def expected_names(compressed: bool) -> list[str]:
    """What lies in a scan's folder after it was prepared."""
    return sorted(["scan.npz", CACHE_NAME, *([SIDECAR_NAME] if compressed else [])])


def names_in(folder: Path) -> list[str]:
    """File names, sorted."""
    return sorted(path.name for path in folder.iterdir())


def batches_digest(path: Path, cache: str | Path = "auto") -> str:
    """Open and prepare a scan; sha256 over every batch it gives."""
    from ptycho_torch.batches.dataset import PtychoDataset

    dataset = PtychoDataset(path, grouping=GROUPING, patch_positions="scan", cache=cache)
    dataset.prepare()
    digest = hashlib.sha256()
    for start in range(0, len(dataset), 64):
        batch = dataset.__getitems__(range(start, min(start + 64, len(dataset))))
        for name in ("X", "Y", "coords", "positions", "nn_indices", "scale"):
            digest.update(np.ascontiguousarray(getattr(batch, name).numpy()).tobytes())
    return digest.hexdigest()


class Listener(logging.Handler):
    """Collects what the package logs."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.lines: list[str] = []
        self.warnings: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one line."""
        self.lines.append(record.getMessage())
        if record.levelno >= logging.WARNING:
            self.warnings.append(record.getMessage())

    def builds(self) -> int:
        """Caches and sidecars that were made here."""
        return sum("groups cache written" in line or ": converting " in line for line in self.lines)


@contextmanager
def listening() -> Iterator[Listener]:
    """Hear the package's log for a while."""
    logger = logging.getLogger("ptycho_torch")
    listener, level = Listener(), logger.level
    logger.addHandler(listener)
    logger.setLevel(logging.INFO)
    try:
        yield listener
    finally:
        logger.removeHandler(listener)
        logger.setLevel(level)
