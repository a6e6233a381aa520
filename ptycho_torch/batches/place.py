"""What a place in an epoch is a place in: the groups of all training scans, in one order.

Owns what a checkpoint says about them and the comparison on resuming. Ranks, workers and batch size
do not matter.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from ptycho_torch.batches.dataset import PtychoDataset
from ptycho_torch.batches.simulated_scans import SimulatedScans
from ptycho_torch.data.errors import OptionError


def groups_of(dataset: PtychoDataset) -> dict[str, Any]:
    """Describe groups with plain values, so that others are told from them.

    Parameters
    ----------
    dataset
        The training groups.

    Returns
    -------
    described
        ``groups`` (their number), ``fingerprint`` (SHA-256 of the groups' frame numbers and of each
        scan's positions) and ``frames`` (SHA-256 of the checksums of the scans' frames; None where
        a scan has none, as in memory).
    """
    if isinstance(dataset, SimulatedScans):
        told = hashlib.sha256(dataset.described().encode()).hexdigest()
        return {"groups": len(dataset), "fingerprint": told, "frames": None}
    index, digest = dataset.index, hashlib.sha256()
    for scan in index.scans:
        digest.update(f"{len(scan)} {scan.N};".encode())
        digest.update(np.stack([scan.xcoords, scan.ycoords]).astype("<f8").tobytes())
    digest.update(index.scan_id.astype("<i8").tobytes())
    digest.update(index.frame_labels().astype("<i8").tobytes())
    checksums = [scan.frames.identity().crc32 for scan in index.scans]
    known = None not in checksums
    return {
        "groups": len(index),
        "fingerprint": digest.hexdigest(),
        "frames": hashlib.sha256(repr(checksums).encode()).hexdigest() if known else None,
    }


def require_same_order(state: Mapping[str, Any], drawn: Mapping[str, Any]) -> None:
    """Refuse a checkpoint made with another order of the groups.

    Raises
    ------
    OptionError
        Seed, shuffling or the kind of order differ.
    """
    for name, now in drawn.items():
        if state.get(name, now) != now:
            raise OptionError(
                f"{name} of the data",
                state[name],
                f"{now}, as configured now",
                action=f"Set data.{name}={str(state[name]).lower()} to resume",
                file="checkpoint",
            )


def require_same_groups(state: Mapping[str, Any], dataset: PtychoDataset) -> None:
    """Refuse a checkpoint whose place is a place in other groups.

    Parameters
    ----------
    state
        What :func:`groups_of` said when the checkpoint was made. A checkpoint of version 0.2.0 or
        older says nothing; it is believed, with a warning.
    dataset
        The training groups now.

    Raises
    ------
    OptionError
        The groups differ, or the frames do where both sides know their checksums.
    """
    if "fingerprint" not in state:
        warnings.warn(
            "the checkpoint does not say which training groups its place is a place in, so nothing "
            "tells whether these are the same: resume with the scans, grouping and split it had",
            stacklevel=3,
        )
        return
    now = groups_of(dataset)
    frames = {state["frames"], now["frames"]} - {None}
    if state["fingerprint"] != now["fingerprint"] or len(frames) > 1:
        raise OptionError(
            "training groups of the data",
            f"{state['groups']} of other scans, another grouping or another split",
            f"the {now['groups']} groups of the data as configured now",
            action="Give the scans, grouping (with a subsample_seed) and split of the checkpoint",
            file="checkpoint",
        )
