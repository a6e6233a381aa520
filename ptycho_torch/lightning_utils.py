"""Finding the best of a run's checkpoints."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch


def find_best_checkpoint(run_dir: str | Path) -> Path | None:
    """The checkpoint below a folder whose monitored loss is least, or None where there is none.

    Parameters
    ----------
    run_dir
        Folder of a run. Among checkpoints that note no loss, the newest.
    """
    found = sorted(Path(run_dir).rglob("*.ckpt"), key=lambda path: path.stat().st_mtime)
    return min(reversed(found), key=_loss, default=None)


def _loss(path: Path) -> float:
    content: Any = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    scores = [
        state["current_score"]
        for name, state in content.get("callbacks", {}).items()
        if name.startswith("ModelCheckpoint") and state.get("current_score") is not None
    ]
    return float(scores[0]) if scores else math.inf
