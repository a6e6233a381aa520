"""``.groups_cache.npz``: groups, neighbours and frame energies of a scan, kept beside it.

Owns when a cache is read, believed, built, extended and left alone. What lies in the file is known
by the rooms below, how groups are made by the caller.

A cache is keyed by content: positions, gridsize, K and format, and for the energies the frames. A
bad one is never believed and never fatal. A file of another program is used where it fits,
extended without losing a byte of what it holds, and otherwise left alone; ours then lies in the
user's cache directory, as it does for directories that cannot be written.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.data.caches.groups_file import (
    FORMAT_VERSION,
    CacheFile,
    broken_members,
    own_key,
    read_cache,
    write_cache,
)
from ptycho_torch.data.caches.groups_key import (
    CacheKey,
    check_arrays,
    dataset_checksum,
)
from ptycho_torch.data.errors import OptionError, ScanError, ScanFileError
from ptycho_torch.data.files.atomic_write import require_write_permission, user_cache_directory
from ptycho_torch.data.files.build_lock import LOCK_TIMEOUT_S, build_lock

__all__ = [
    "BuiltGroups",
    "CachedGroups",
    "Missing",
    "cache_path",
    "dataset_checksum",
    "load_or_build",
    "verify",
]

logger = logging.getLogger(__name__)

_NAME = re.compile(r".*\.g(\d{1,9})k(\d{1,9})\.groups_cache\.npz", re.DOTALL)
# They tell whether a file may have changed, not what is in it.
_FILE_STATE = ("path", "size", "mtime_ns")


class FramesIdentity(Protocol):
    """What tells one stack of frames from another."""

    def as_dict(self) -> dict[str, object]:
        """JSON values: dtype, shape, ``crc32`` or None, and ``path``, ``size``, ``mtime_ns``."""


@dataclass(frozen=True)
class CachedGroups:
    """What a cache gives, complete.

    Parameters
    ----------
    all_groups
        int64, shape (G, C): every group the 2025-07 reference lists. At gridsize 1, for which the
        reference keeps no cache, the M frames.
    neighbor_table
        int32, shape (M, min(K + 1, M)): nearest positions, nearest first.
    frame_energies
        float64, shape (M,): sum over the pixels of amplitude ** 2.
    """

    all_groups: NDArray[np.int64]
    neighbor_table: NDArray[np.int32]
    frame_energies: NDArray[np.float64]


@dataclass(frozen=True)
class Missing:
    """Which arrays have to be built."""

    all_groups: bool
    neighbor_table: bool
    frame_energies: bool


@dataclass(frozen=True)
class BuiltGroups:
    """The arrays of :class:`CachedGroups`, each None where it was not asked for."""

    all_groups: NDArray[np.int64] | None = None
    neighbor_table: NDArray[np.int32] | None = None
    frame_energies: NDArray[np.float64] | None = None

    def missing(self) -> Missing:
        """What is still to be built."""
        return Missing(
            self.all_groups is None, self.neighbor_table is None, self.frame_energies is None
        )

    def filled_from(self, other: BuiltGroups | CacheFile) -> BuiltGroups:
        """With the gaps taken from another."""
        return BuiltGroups(
            other.all_groups if self.all_groups is None else self.all_groups,
            other.neighbor_table if self.neighbor_table is None else self.neighbor_table,
            other.frame_energies if self.frame_energies is None else self.frame_energies,
        )


Build = Callable[[Missing], BuiltGroups]


def cache_path(
    scan_path: str | os.PathLike[str],
    gridsize: int,
    K: int,
    directory: str | os.PathLike[str] | None = None,
) -> Path:
    """Where the cache of a scan lies: ``<directory>/<stem>.g{gridsize}k{K}.groups_cache.npz``.

    Examples
    --------
    >>> str(cache_path("data/scan.v1.npz", 2, 4))
    'data/scan.v1.g2k4.groups_cache.npz'
    """
    scan = Path(scan_path)
    parent = scan.parent if directory is None else Path(directory)
    return parent / f"{scan.stem}.g{gridsize}k{K}.groups_cache.npz"


def load_or_build(
    scan_path: str | os.PathLike[str],
    *,
    xcoords: NDArray[Any],
    ycoords: NDArray[Any],
    frames_identity: FramesIdentity,
    measurement: str,
    gridsize: int,
    K: int,
    policy: str | os.PathLike[str],
    build: Build,
    timeout_s: float = LOCK_TIMEOUT_S,
) -> CachedGroups:
    """Read the cache of a scan, or build what it lacks and keep that.

    Of several processes that find no cache one builds it; the others wait for it and read.

    Parameters
    ----------
    scan_path
        The scan's file; names the cache, and is not opened.
    xcoords, ycoords
        Probe positions, shape (M,), object pixels.
    frames_identity, measurement
        Which frames the energies belong to, and whether they are ``"amplitude"`` or ``"counts"``:
        the same numbers have another energy. Energies of frames that cannot be told apart, as
        arrays in memory, are neither read nor kept.
    gridsize, K
        Grouping options.
    policy
        ``"auto"``: beside the scan; ``"readonly"``: the same, nothing is written; ``"off"``;
        anything else is a directory, made when needed.
    build
        Called at most once, with what is missing; gives at least that.
    timeout_s
        Seconds to wait for another process that is building.

    Raises
    ------
    CacheLockTimeoutError
        Another process, named in the message, was building for longer.
    OptionError
        The policy is empty.
    ScanError
        ``build`` gave an array that cannot be right.

    Notes
    -----
    A scan of M < K + 1 positions, which the reference refuses to group, has a table of M columns;
    ``all_groups`` is then drawn from all M positions.
    """
    key = CacheKey.of(xcoords, ycoords, gridsize, K)
    if policy == "off":
        return _completed(BuiltGroups(), key, build)
    identity = _identity(frames_identity, measurement)
    places = _places(scan_path, gridsize, K, policy)
    files = [read_cache(place, key) for place in places]
    parts = _merged(files, identity)
    if policy == "readonly" or _is_kept(parts, identity):
        if _is_kept(parts, identity):
            logger.info("groups cache reused: %s", _first_usable(files).path)
        elif files[0].state not in ("absent", "usable"):
            logger.warning("groups cache not used: %s", files[0].fault)
        return _completed(parts, key, build)
    refusals: list[str] = []
    complete: CachedGroups | None = None
    for index, place in enumerate(places):
        if not files[index].replaceable:
            refusals.append(_refusal(files[index]))
            continue
        with ExitStack() as held:
            try:
                _require_directory(place.parent, make=index > 0 or policy != "auto")
                held.enter_context(build_lock(place, timeout_s))
            except ScanFileError as error:
                refusals.append(str(error))
                continue
            files = [read_cache(each, key) for each in places]
            if complete is None:
                parts = _merged(files, identity)
                if _is_kept(parts, identity):
                    logger.info("groups cache reused: %s", _first_usable(files).path)
                    return _completed(parts, key, build)
            if not files[index].replaceable:
                refusals.append(_refusal(files[index]))
                continue
            if complete is None:
                if files[index].state == "damaged":
                    logger.warning("groups cache rebuilt: %s", files[index].fault)
                complete = _completed(parts, key, build)
            try:
                _keep(complete, key, identity, files[index], copied=parts.all_groups is not None)
            except (ScanError, ScanFileError) as error:
                refusals.append(str(error))
                continue
            verb = "extended" if files[index].state == "usable" else "written"
            logger.info("groups cache %s: %s", verb, "; ".join([str(place), *refusals]))
            return complete
    logger.warning("groups cache %s not kept: %s", places[0], "; ".join(refusals))
    return complete or _completed(parts, key, build)


def verify(
    path: str | os.PathLike[str],
    xcoords: NDArray[Any] | None = None,
    ycoords: NDArray[Any] | None = None,
) -> list[str]:
    """Check a cache file in full, members that nothing here reads included.

    Parameters
    ----------
    path
        The file.
    xcoords, ycoords
        Positions it should belong to, shape (M,); without them it is checked against itself.

    Returns
    -------
    faults
        One line each; empty when the file is what it should be.
    """
    file = Path(path)
    faults = broken_members(file)
    key = own_key(file)
    if key is None:
        return faults or [str(ScanFileError("file", "not a groups cache", "one", file=file))]
    named = _NAME.fullmatch(file.name)
    if named and (int(named[1]), int(named[2])) != (key.gridsize, key.neighbors):
        inside = f"gridsize {key.gridsize}, K {key.neighbors} inside"
        faults.append(
            str(
                ScanFileError(
                    "file name", inside, f"{named[1]} and {named[2]}, as named", file=file
                )
            )
        )
    if xcoords is not None and ycoords is not None:
        key = CacheKey.of(xcoords, ycoords, key.gridsize, key.neighbors)
    judged = read_cache(file, key)
    if judged.state != "usable" and judged.fault not in faults:
        faults.append(judged.fault)
    return faults


def _places(
    scan_path: str | os.PathLike[str], gridsize: int, K: int, policy: str | os.PathLike[str]
) -> list[Path]:
    """Where the cache may lie, in the order in which it is looked for."""
    if not os.fspath(policy):
        expected = "'auto', 'readonly', 'off' or a directory"
        raise OptionError("cache", repr(policy), expected)
    directory = None if policy in ("auto", "readonly") else policy
    first = cache_path(scan_path, gridsize, K, directory)
    if directory is None and not first.parent.is_dir():
        return [first]
    try:
        return [first, user_cache_directory(first.parent) / first.name]
    except ScanFileError:
        return [first]


def _require_directory(directory: Path, *, make: bool) -> None:
    try:
        if make:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        elif not directory.is_dir():
            raise ScanFileError("directory", "missing", "there", file=directory)
        require_write_permission(directory)
    except FileExistsError as error:
        raise ScanFileError("path", "a file", "a directory", file=directory) from error
    except OSError as error:
        if isinstance(error, ScanFileError):
            raise
        reason = f"not usable ({error.strerror or error})"
        raise ScanFileError("directory", reason, "permission", file=directory) from error


def _identity(frames: FramesIdentity, measurement: str) -> dict[str, Any] | None:
    """The frames' identity as JSON values; None when other frames could have the same."""
    identity: dict[str, Any] = json.loads(json.dumps(frames.as_dict()))
    if identity.get("crc32") is None and identity.get("mtime_ns") is None:
        return None
    # Without the path a scan and its cache can be moved together.
    identity.pop("path", None)
    return {**identity, "measurement": measurement}


def _same_frames(saved: Mapping[str, Any] | None, now: Mapping[str, Any] | None) -> bool:
    if saved is None or now is None:
        return False
    ignored = () if now.get("crc32") is None else _FILE_STATE
    contents = [{k: v for k, v in one.items() if k not in ignored} for one in (saved, now)]
    return contents[0] == contents[1]


def _merged(files: Sequence[CacheFile], identity: Mapping[str, Any] | None) -> BuiltGroups:
    """What the usable files give together, earlier files first."""
    parts = BuiltGroups()
    for file in files:
        if not _same_frames(file.frames_identity, identity):
            file = replace(file, frame_energies=None)
        parts = parts.filled_from(file)
    return parts


def _is_kept(parts: BuiltGroups, identity: Mapping[str, Any] | None) -> bool:
    """Everything that can be kept has been read from files."""
    missing = parts.missing()
    energies_missing = missing.frame_energies and identity is not None
    return not (missing.all_groups or missing.neighbor_table or energies_missing)


def _first_usable(files: Sequence[CacheFile]) -> CacheFile:
    return next(file for file in files if file.state == "usable")


def _refusal(file: CacheFile) -> str:
    if file.state == "damaged":
        logger.warning("groups cache left alone: %s", file.fault)
    return f"left alone: {file.fault}"


def _completed(parts: BuiltGroups, key: CacheKey, build: Build) -> CachedGroups:
    """Build what is missing; check what was built."""
    missing = parts.missing()
    if any(vars(missing).values()):
        parts = parts.filled_from(build(missing))
    if parts.all_groups is None or parts.neighbor_table is None or parts.frame_energies is None:
        lacking = ", ".join(name for name, value in vars(parts.missing()).items() if value)
        raise ScanError(lacking, "not built", "an array")
    complete = CachedGroups(parts.all_groups, parts.neighbor_table, parts.frame_energies)
    check_arrays(None, key, vars(complete), strict=missing.all_groups)
    return complete


def _keep(
    complete: CachedGroups,
    key: CacheKey,
    identity: Mapping[str, Any] | None,
    file: CacheFile,
    *,
    copied: bool,
) -> None:
    """Write a cache to the place of ``file``, or extend it when it is usable."""
    arrays: dict[str, NDArray[Any]] = {}
    origin = file.groups_origin
    if file.state != "usable":
        origin = "copied" if copied else "computed"
        arrays["all_groups"] = complete.all_groups
        arrays["dataset_checksum"] = np.array(key.dataset_checksum)
        arrays["gridsize"] = np.array(key.gridsize, dtype=np.int64)
        arrays["overlap_factor"] = np.array(key.neighbors, dtype=np.int64)
    arrays["neighbor_table"] = complete.neighbor_table
    arrays["format_version"] = np.array(FORMAT_VERSION, dtype=np.int64)
    arrays["positions_digest"] = np.array(key.positions_digest)
    arrays["groups_origin"] = np.array(origin)
    if identity is not None:
        arrays["frame_energies"] = complete.frame_energies
        arrays["frames_identity"] = np.array(json.dumps(identity, sort_keys=True))
    source = file if file.state == "usable" or file.extras else None
    write_cache(file.path, arrays, source)
