"""Which scans a dataset is made of: paths and patterns opened, and what they have in common.

Knows no groups and no tensors.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.data.caches.names import is_cache_name
from ptycho_torch.data.config import GroundTruth, Measurement
from ptycho_torch.data.errors import (
    OptionError,
    OptionTypeError,
    ScanError,
    ScanFileNotFoundError,
)
from ptycho_torch.data.raw_data import RawData
from ptycho_torch.data.readers import read_fields
from ptycho_torch.physics import object_shape_for

Scan = str | os.PathLike[str] | RawData
Scans = Scan | Sequence[Scan]


def expand_scans(scans: Scans) -> list[Path | RawData]:
    """Paths and scans in order; glob patterns become the sorted files they match.

    Raises
    ------
    ScanFileNotFoundError
        A pattern matches nothing; caches beside scans do not count.
    """
    if isinstance(scans, (str, os.PathLike, RawData)):
        scans = [scans]
    if not isinstance(scans, Iterable):
        raise OptionTypeError(
            "scans", type(scans).__name__, "a path, a pattern, a RawData or a list"
        )
    found: list[Path | RawData] = []
    for scan in scans:
        if isinstance(scan, RawData):
            found.append(scan)
            continue
        if not isinstance(scan, (str, os.PathLike)):
            raise OptionTypeError("scans", type(scan).__name__, "a path, a pattern or a RawData")
        path = Path(scan)
        if glob.has_magic(str(path)) and not path.exists():
            names = sorted(glob.glob(str(path)))
            matches = [Path(name) for name in names if not is_cache_name(name)]
            if not matches:
                raise ScanFileNotFoundError(
                    "the pattern", "matching no file", "at least one scan", file=path
                )
            found.extend(matches)
        else:
            found.append(path)
    if not found:
        raise OptionError("scans", "empty", "at least one scan")
    return found


def open_scan(
    scan: Path | RawData, measurement: Measurement, ground_truth: GroundTruth, cache: str | Path
) -> RawData:
    """A scan from its file; headers and small arrays are read."""
    if isinstance(scan, RawData):
        return scan
    fields = read_fields(scan, measurement=measurement, sidecar=cache)
    # The reference ignores a file's Y; it is better than no ground truth at all.
    wanted = ground_truth == "file" or (ground_truth == "auto" and fields.objectGuess is None)
    return RawData.from_fields(fields, use_file_Y=wanted)


def resolve_ground_truth(ground_truth: GroundTruth, scans: Sequence[RawData]) -> GroundTruth:
    """Where Y comes from when every scan has it: ``"object"``, ``"file"`` or ``"none"``.

    Raises
    ------
    ScanError
        A scan lacks what was asked for.
    """
    have = {
        "object": all(scan.objectGuess is not None for scan in scans),
        "file": all(scan.has_ready_patches for scan in scans),
    }
    if ground_truth == "auto":
        return "file" if have["file"] else "object" if have["object"] else "none"
    if ground_truth != "none" and not have[ground_truth]:
        lacking = {"object": "objectGuess", "file": "Y"}[ground_truth]
        path = next(
            scan.path
            for scan in scans
            if not (
                scan.objectGuess is not None if ground_truth == "object" else scan.has_ready_patches
            )
        )
        raise ScanError(
            lacking,
            "absent",
            f"present, for ground_truth='{ground_truth}'",
            action="Use ground_truth='auto' or 'none'",
            file=path,
        )
    return ground_truth


def scan_object_shape(scan: RawData) -> tuple[int, int]:
    """(H, W) of an object that holds every patch of a scan; objectGuess's where it has one."""
    if scan.objectGuess is None:
        return object_shape_for(np.column_stack([scan.xcoords, scan.ycoords]), scan.N)
    height, width = scan.objectGuess.shape
    return int(height), int(width)


def stacked_probes(scans: Sequence[RawData]) -> NDArray[np.complex64]:
    """Probe modes of every scan, complex64, (S, P, N, N); missing modes are zero."""
    probes = [
        scan.probeGuess[None] if scan.probeGuess.ndim == 2 else scan.probeGuess for scan in scans
    ]
    stacked = np.zeros(
        (len(probes), max(len(probe) for probe in probes), *probes[0].shape[1:]), np.complex64
    )
    for row, probe in zip(stacked, probes, strict=True):
        row[: len(probe)] = probe
    return stacked
