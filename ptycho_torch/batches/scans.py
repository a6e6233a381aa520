"""The scans a dataset is made of: opened, and what they share.

Knows no groups and no tensors.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ptycho_torch.data.config import GroundTruth, Measurement
from ptycho_torch.data.errors import ScanError, naming
from ptycho_torch.data.raw_data import RawData
from ptycho_torch.data.scan_list import ListedScan
from ptycho_torch.physics import object_shape_for

logger = logging.getLogger(__name__)

MOST_APART = 2.0
"""How far a scan's photons per frame may be from its probe's; further, they are a monitor's."""


def open_scan(
    listed: ListedScan,
    measurement: Measurement,
    ground_truth: GroundTruth,
    cache: str | Path,
    probe: str = "file",
) -> RawData:
    """Open a scan's file, reading headers and small arrays; a scan in memory is taken as it is.

    What a list of scans says of it goes before these options. Photons per frame that are plainly
    in another unit than the probe's light, such as the readings of a monitor, are scaled to its
    mean, which a line of the log says.
    """
    # The reference ignores a file's Y; it is better than no ground truth at all.
    use_file_Y = None if ground_truth == "auto" else ground_truth == "file"
    reading = {"measurement": measurement, "probe": probe}
    return _in_the_probes_photons(listed.opened(sidecar=cache, use_file_Y=use_file_Y, **reading))


def _in_the_probes_photons(scan: RawData) -> RawData:
    if scan.frame_photons is None:
        return scan
    mean, light = float(scan.frame_photons.mean()), float((np.abs(scan.probeGuess) ** 2).sum())
    if light == 0 or light / MOST_APART <= mean <= light * MOST_APART:
        return scan
    logger.info(
        "%s: frame_photons are %.3g in the mean beside a probe of %.3g photons, so they count "
        "relative to their mean, as a monitor's",
        scan.path or "scan in memory",
        mean,
        light,
    )
    photons = scan.frame_photons * (light / mean)
    photons.flags.writeable = False
    return scan.sharing(scan, frame_photons=photons)


def resolve_ground_truth(ground_truth: GroundTruth, scans: Sequence[RawData]) -> GroundTruth:
    """Decide where Y comes from: ``"object"``, ``"file"`` or ``"none"``, whatever all scans have.

    Raises
    ------
    ScanError
        A scan lacks what was asked for.
    """
    has_object = [scan.objectGuess is not None for scan in scans]
    has_patches = [scan.patches is not None for scan in scans]
    if ground_truth == "auto":
        return "file" if all(has_patches) else "object" if all(has_object) else "none"
    if ground_truth == "none":
        return ground_truth
    field, have = ("Y", has_patches) if ground_truth == "file" else ("objectGuess", has_object)
    if all(have):
        return ground_truth
    with naming(scans[have.index(False)].path):
        wanted = f"present, for ground_truth='{ground_truth}'"
        raise ScanError(field, "absent", wanted, action="Use ground_truth='auto' or 'none'")


def object_shape(scans: Sequence[RawData]) -> tuple[int, int]:
    """(H, W) in pixels of an object that holds every patch of every scan.

    A scan's ``objectGuess`` has its own shape; without one, the positions decide.
    """
    shapes = [
        object_shape_for(np.column_stack([scan.xcoords, scan.ycoords]), scan.N)
        if scan.objectGuess is None
        else scan.objectGuess.shape
        for scan in scans
    ]
    return max(shape[0] for shape in shapes), max(shape[1] for shape in shapes)


def scans_text(scans: object) -> str:
    """Scans in a few words, for a repr."""
    if isinstance(scans, (str, os.PathLike)):
        return repr(os.fspath(scans))
    return f"{len(scans)} scans" if isinstance(scans, Sequence) else repr(scans).partition("\n")[0]
