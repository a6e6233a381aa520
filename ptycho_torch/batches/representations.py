"""What a batch, a dataset and a data module say of themselves in a terminal and in a notebook.

Knows of them what it prints. Groups no scan, reads no frame but a few for a picture, and starts no
device.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.batches.scans import scans_text
from ptycho_torch.data.representation import (
    SCAN,
    SHOWN_FRAMES,
    Description,
    Say,
    array,
    axes,
    sample_counts,
)

LISTED = 3
"""Scans that are named; of more only the number."""

_AXES = MappingProxyType(
    {
        "X": ("BNNC", "scaled amplitude"),
        "coords_nominal": ("B12C", "centre - nominal position, x and y, px"),
        "global_offsets": ("B121", "centre, x and y, px"),
        "local_offsets": ("B12C", "centre - position, x and y, px"),
        "nn_indices": ("BC", "frames of the scan"),
        "scan_id": ("B", "scan of the dataset"),
        "probe": ("BPNN", "sqrt(counts)"),
        "scale": ("B", "X = scale * amplitude"),
        "Y": ("BNNC", "object patches"),
        "bad_pixels": ("BNN", "True = bad"),
        "frame_photons": ("BC", "photons"),
    }
)


def _batch_title(batch: Any) -> str:
    sizes = [*batch.batch_size]
    groups = f"{np.prod(sizes):.0f} groups of" if sizes else "one group of"
    return (
        f"{type(batch).__name__}({groups} {batch.X.shape[-1]} frames of "
        f"{batch.X.shape[-2]} x {batch.X.shape[-2]}, on {batch.X.device})"
    )


def _field(name: str) -> Say:
    letters, meaning = _AXES[name]
    names = tuple("" if letter.isdigit() else letter for letter in letters)

    def say(batch: Any) -> str:
        value = getattr(batch, name)
        return array(value) if value is None else f"{array(value, *names)}, {meaning}"

    return say


def _batch_counts(batch: Any) -> NDArray[Any]:
    """Of the first group; X as it is, whose logarithm the picture shows up to a constant."""
    X = batch.X.detach()
    first = X.reshape(-1, *X.shape[-3:])[0, ..., :SHOWN_FRAMES]
    return np.asarray(first.movedim(-1, 0).float().cpu().numpy().astype(np.float64) ** 2)


BATCH = Description(_batch_title, tuple((name, _field(name)) for name in _AXES), _batch_counts)


def _dataset_title(dataset: Any) -> str:
    scans = "1 scan" if len(dataset.scans) == 1 else f"{len(dataset.scans)} scans"
    groups = f"{len(dataset)} groups" if dataset.is_grouped else "not grouped yet"
    gridsize = dataset.grouping.gridsize
    return f"{type(dataset).__name__}({scans}, N={dataset.N}, gridsize={gridsize}, {groups})"


def _scans(dataset: Any) -> str:
    names = ["memory" if scan.path is None else str(scan.path) for scan in dataset.scans[:LISTED]]
    more = len(dataset.scans) - len(names)
    return ", ".join([*names, f"and {more} more"] if more else names)


def _sample(dataset: Any) -> str:
    shape = (dataset.N, dataset.N, dataset.grouping.gridsize**2)
    return f"X {axes(shape, 'NNC')} float32, scaled amplitude"


def _truth(dataset: Any) -> str:
    if dataset.ground_truth != "object":
        return {"file": "ready-made patches", "none": "none"}[dataset.ground_truth]
    return f"objectGuess, patches cut at {dataset.patch_positions!r} positions"


def _shared(what: str) -> Say:
    """How many scans have it; of one scan, all that it says."""
    say = dict(SCAN.lines)[what]
    has = {
        "bad pixels": lambda scan: scan.frames.bad_pixels is not None,
        "photons": lambda scan: scan.frame_photons is not None,
        "geometry": lambda scan: scan.geometry is not None,
    }.get(what)

    def text(dataset: Any) -> object:
        scans = dataset.scans
        if len(scans) == 1:
            return say(scans[0])
        if has is None:
            return f"{say(scans[0])}; the first scan's"
        return f"of {sum(map(has, scans))} of {len(scans)} scans"

    return text


DATASET = Description(
    _dataset_title,
    (
        ("scans", _scans),
        ("frames", lambda d: f"{axes((sum(s.n_frames for s in d.scans), d.N, d.N), 'MNN')} "
            f"{d.scans[0].frames.dtype}, {d.scans[0].frames.measurement}"),
        ("sample", _sample),
        ("truth", _truth),
        *((name, _shared(name)) for name in ("probe", "bad pixels", "geometry", "photons")),
        ("cache", lambda d: d.cache),
    ),
    lambda dataset: sample_counts(dataset.scans[0]),
)  # fmt: skip

SIMULATED = Description(
    lambda d: (
        f"SimulatedScans({d.n_scans} scans of {d.recipe.frames_per_scan} frames, "
        f"N={d.N}, seed={d.seed})"
    ),
    (
        ("sample", _sample),
        ("groups", lambda d: f"{d.groups_per_scan} of each scan"),
    ),
    lambda dataset: None,
)


def _module_title(module: Any) -> str:
    scans = [f"{stage}={scans_text(s)}" for stage, s in module.scans.items() if s is not None]
    groups = [f"{len(d)} {stage}" for stage, d in module._datasets.items() if d.is_grouped]
    return (
        f"PtychoDataModule({', '.join(scans)}, groups={' + '.join(groups) or 'not made yet'}, "
        f"batch_size={module.batch_size}, split={module.split!r})"
    )


def _batch(module: Any) -> str:
    B, C = module.batch_size, module.grouping.gridsize**2
    dataset = module._datasets.get("train")
    N = module._dataset_options["N"] if dataset is None else dataset.N
    side = f"N={N}" if N else "N"
    return f"X (B={B}, {side}, {side}, C={C}) float32, scaled amplitude"


def _opened(say: Say) -> Say:
    """What the training dataset says, where it is opened: saying it opens nothing."""

    def text(module: Any) -> object:
        dataset = module._datasets.get("train")
        return None if dataset is None else say(dataset)

    return text


MODULE = Description(
    _module_title,
    (
        ("batch", _batch),
        ("order", lambda m: f"{'shuffled ' if m.shuffle else ''}{m.order}, seed {m.seed}"),
        ("shares", lambda m: f"validation {m.val_fraction:g}, test {m.test_fraction:g}"),
        ("changes", lambda m: m.augmentation or "none"),
        *((name, _opened(dict(DATASET.lines)[name]))
            for name in ("frames", "probe", "truth", "bad pixels", "geometry", "photons")),
    ),
    lambda m: sample_counts(m._datasets["train"].measured[0]) if "train" in m._datasets else None,
)  # fmt: skip
