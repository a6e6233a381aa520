"""Full checks of scans, groups caches and sidecars: every byte read, every promise tested.

Owns which files are checked together. What each must be is known by the rooms below. Opening a
scan trusts sizes, times and headers, because it has to be fast; this is the slow, certain way.
"""

from __future__ import annotations

import glob
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.data.caches import groups_cache
from ptycho_torch.data.caches.groups_file import broken_members
from ptycho_torch.data.caches.names import (
    GROUPS_SUFFIX,
    KEPT_OF_STEM,
    SIDECAR_SUFFIX,
    GroupsName,
    caches_of,
    sidecar_name,
    sidecar_of,
)
from ptycho_torch.data.caches.sidecar import require_whole
from ptycho_torch.data.errors import OptionError, PtychoTorchError, ScanError, ScanFileError, naming
from ptycho_torch.data.files.mapping import state_of
from ptycho_torch.data.frames import FrameStack, Progress
from ptycho_torch.data.readers import read_file, scan_suffixes
from ptycho_torch.data.scan import Scan


def verify_path(path: str | Path, *, progress: Progress | None = None, **options: Any) -> list[str]:
    """Check one file in full; one line per fault, none when everything is what it should be.

    ``path`` is a scan, checked with its caches and sidecars; a groups cache; or a sidecar. The
    last two are compared with their scan where it lies beside them. ``progress`` gets (bytes
    done, in all); ``options`` are those of :func:`~ptycho_torch.read_scan`, for what the scan's
    file leaves open.
    """
    file = Path(path)
    try:
        state_of(file)
        if file.name.endswith(GROUPS_SUFFIX):
            return _cache_faults(file, _scan_of_cache(file, options))
        if file.name.endswith(SIDECAR_SUFFIX):
            _check_sidecar(file, options)
            return []
        return _scan_faults(file, options, progress)
    except PtychoTorchError as error:
        return [str(error)]


def _scan_faults(file: Path, options: dict[str, Any], progress: Progress | None) -> list[str]:
    # Members that no reader looks at count as well: they are somebody's data.
    faults = broken_members(file) if file.suffix.lower() == ".npz" else []
    if faults:
        return faults
    scan = _read(file, options)
    energies: list[NDArray[np.float64]] = []
    checks: tuple[Callable[[], None], ...] = (
        lambda: energies.append(scan.frames.verify(progress)),
        partial(_check_patches, scan.patches),
    )
    for check in checks:
        try:
            with naming(file):
                check()
        except PtychoTorchError as error:
            faults.append(str(error))
    for cache, name in caches_of(file):
        faults += _cache_faults(cache, scan if name.of_whole(file.stem) else None, *energies)
    return faults


def _check_patches(patches: FrameStack | None) -> None:
    if patches is not None:
        patches.verify_values(_check_finite)


def _check_finite(block: NDArray[Any], *, start: int) -> None:
    finite = np.isfinite(block).all(axis=(1, 2))
    if not finite.all():
        frame = start + int(finite.argmin())
        raise ScanError(f"Y frame {frame}", "NaN or infinite", "finite values")


def _cache_faults(file: Path, scan: Scan | None, *energies: NDArray[np.float64]) -> list[str]:
    if scan is None:
        return groups_cache.verify(file)
    known = (scan.frames.identity(), scan.frames.measurement, energies[0]) if energies else None
    return groups_cache.verify(file, scan.xcoords, scan.ycoords, known)


def _check_sidecar(file: Path, options: dict[str, Any]) -> None:
    stem, field = sidecar_of(file.name) or ("", "")
    beside = _beside(file, stem, lambda scan: sidecar_name(scan, field) == file.name)
    if beside is None:
        require_whole(file)
        return
    in_archive = beside.suffix.lower() == ".npz"
    try:
        scan = _read(beside, options)
    except OptionError:
        if in_archive:
            raise
        require_whole(file)  # such a scan is read with a layout, which nobody gave
        return
    for stack in (scan.frames, scan.patches):
        if stack is not None and stack.label == field:
            stack.verify_sidecar(file)
            return
    if not in_archive:
        require_whole(file)  # made under other options of the reader, which its name does not tell
        return
    found = f"of a member {field!r}, which {beside.name} does not have"
    raise ScanFileError("sidecar", found, "one of its arrays", file=file)


def _scan_of_cache(file: Path, options: dict[str, Any]) -> Scan | None:
    named = GroupsName.parse(file.name)
    if named is None:
        return None
    beside = _beside(file, named.stem, lambda scan: named.of_whole(scan.stem))
    return None if beside is None else _read(beside, options)


def _read(file: Path, options: dict[str, Any]) -> Scan:
    # The canonical format has a probe in every scan, the others where somebody knows it.
    probe = "file" if file.suffix.lower() == ".npz" else "auto"
    return read_file(file, **{"probe": probe, **options})


def _beside(file: Path, stem: str, is_its_scan: Callable[[Path], bool]) -> Path | None:
    suffixes = scan_suffixes()
    for scan in sorted(file.parent.glob(f"{glob.escape(stem[:KEPT_OF_STEM])}*")):
        if scan.name.lower().endswith(suffixes) and is_its_scan(scan) and scan.is_file():
            return scan
    return None
