"""Scans of different weight in one epoch.

In every epoch the groups of a scan of weight w come floor(w) times each, and a share w - floor(w)
of them, drawn by (seed, scan) once for the whole run, comes once more. So the training groups stay
a list of fixed length, which order, ranks and resumption divide like any other.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from ptycho_torch.batches.dataset import PtychoDataset

logger = logging.getLogger(__name__)


def weighted(dataset: PtychoDataset, weights: Sequence[float], seed: int) -> PtychoDataset:
    """The dataset with the groups of every scan as often as its weight says; of weights 1, itself.

    Parameters
    ----------
    dataset
        Training groups, each once.
    weights
        One per scan, above 0; below 1, so many of the scan's groups stay away.
    seed
        Of which groups come once more.
    """
    if all(weight == 1 for weight in weights):
        return dataset
    drawn = []
    for number, weight in enumerate(weights):
        rows = np.flatnonzero(dataset.index.scan_id == number)
        times, share = divmod(weight, 1)
        random = np.random.Generator(np.random.Philox(key=[seed, number]))
        more = np.sort(random.permutation(rows)[: round(share * len(rows))])
        drawn.append(np.concatenate([np.tile(rows, int(times)), more]))
        text = "scan %d: weight %g, %d groups are drawn %d times an epoch"
        logger.info(text, number, weight, len(rows), len(drawn[-1]))
    return dataset.subset(np.concatenate(drawn))
