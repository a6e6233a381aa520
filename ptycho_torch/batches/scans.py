"""Which scans a dataset is made of: paths and patterns opened, and what the scans share.

Knows no groups and no tensors.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ptycho_torch.data.caches.names import is_cache_name
from ptycho_torch.data.config import GroundTruth, Measurement
from ptycho_torch.data.errors import (
    OptionError,
    OptionTypeError,
    ScanError,
    ScanFileNotFoundError,
    naming,
)
from ptycho_torch.data.raw_data import RawData, read_scan
from ptycho_torch.physics import object_shape_for

Scan = str | os.PathLike[str] | RawData
Scans = Scan | Sequence[Scan]
if TYPE_CHECKING:
    ScanOption = Scans
else:
    # The command line makes its options of annotations, and can say only this.
    ScanOption = str | list[str]


def expand_scans(scans: Scans) -> list[Path | RawData]:
    """List paths and scans in order; a glob pattern becomes the sorted files it matches.

    Raises
    ------
    ScanFileNotFoundError
        A pattern matches nothing; folders, and caches beside scans, do not count.
    OptionError, OptionTypeError
        There is no scan, or something that cannot be one.
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
        elif isinstance(scan, (str, os.PathLike)):
            found.extend(_expand(Path(scan)))
        else:
            raise OptionTypeError("scans", type(scan).__name__, "a path, a pattern or a RawData")
    if not found:
        raise OptionError("scans", "empty", "at least one scan")
    return found


def _expand(path: Path) -> list[Path]:
    # os.path.exists answers no where a name cannot be one: too long, or with a NUL in it.
    if os.path.exists(path) or not glob.has_magic(str(path)) or "\0" in str(path):
        return [path]
    found = map(Path, sorted(glob.glob(str(path))))
    matches = [each for each in found if not (is_cache_name(each.name) or os.path.isdir(each))]
    if not matches:
        with naming(path):
            raise ScanFileNotFoundError("the pattern", "matching no file", "at least one scan")
    return matches


def open_scan(
    scan: Path | RawData,
    measurement: Measurement,
    ground_truth: GroundTruth,
    cache: str | Path,
    probe: str = "file",
) -> RawData:
    """Open a scan's file, reading headers and small arrays; a scan in memory is taken as it is."""
    if isinstance(scan, RawData):
        return scan
    # The reference ignores a file's Y; it is better than no ground truth at all.
    use_file_Y = None if ground_truth == "auto" else ground_truth == "file"
    reading = {"measurement": measurement, "probe": probe}
    return read_scan(scan, sidecar=cache, use_file_Y=use_file_Y, **reading)


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


def scans_text(scans: Scans) -> str:
    """Scans in a few words, for a repr."""
    if isinstance(scans, (str, os.PathLike)):
        return repr(os.fspath(scans))
    return f"{len(scans)} scans" if isinstance(scans, Sequence) else repr(scans)
