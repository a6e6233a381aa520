"""``.groups_cache.npz``: groups, neighbours and frame energies of a scan, kept beside it.

Owns when a cache is read, believed, built and left alone. What lies in the file is known by the
rooms below, how groups are made by the caller.

A cache is keyed by content: positions, gridsize, K and format, and for the energies the frames. A
bad one is never believed and never fatal. A file of another program is read where it fits and
otherwise left alone; ours then lies in the user's cache directory, as it does for directories that
cannot be written or whose file system has no kernel locks.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.data.caches.building import PlaceRefusedError, built_at_first
from ptycho_torch.data.caches.groups_file import (
    CacheFile,
    broken_members,
    own_key,
    read_cache,
    write_cache,
)
from ptycho_torch.data.caches.groups_key import BuiltGroups, CacheKey, Missing, check_arrays
from ptycho_torch.data.caches.names import GroupsName, groups_places
from ptycho_torch.data.errors import ScanError, ScanFileError
from ptycho_torch.data.files.build_lock import LOCK_TIMEOUT_S
from ptycho_torch.data.files.stored_stack import FramesIdentity

logger = logging.getLogger(__name__)

# They tell whether a file may have changed, not what is in it.
_FILE_STATE = ("size", "mtime_ns")

Build = Callable[[Missing], BuiltGroups]


@dataclass(frozen=True)
class CachedGroups:
    """What a cache gives, complete; see :class:`BuiltGroups` for the arrays."""

    all_groups: NDArray[np.int64]
    neighbor_table: NDArray[np.int32]
    frame_energies: NDArray[np.float64]


@dataclass(frozen=True)
class Plan:
    """What a load reads, builds and writes, known before anything is done.

    Parameters
    ----------
    reads, parts
        Files that serve, and what they give.
    origin
        ``"found"`` when the groups come from a file of another program, else ``"computed"``.
    kept
        Nothing is missing that is worth a file.
    writes
        Places that may take a cache, best first.
    damaged, refusals
        What is damaged, and why places are left alone; by path.
    """

    reads: tuple[Path, ...]
    parts: BuiltGroups
    origin: str
    kept: bool
    writes: tuple[Path, ...]
    damaged: Mapping[Path, str]
    refusals: Mapping[Path, str]

    @classmethod
    def of(cls, files: Sequence[CacheFile], identity: Mapping[str, Any] | None) -> Plan:
        """Plan from the files at all places, earlier ones first."""
        usable = [file for file in files if file.state == "usable"]
        parts = BuiltGroups()
        for file in usable:
            same = _same_frames(file.frames_identity, identity)
            arrays = file.arrays if same else replace(file.arrays, frame_energies=None)
            parts = parts.filled_from(arrays)
        missing = parts.missing()
        # Energies of frames that nothing tells apart are not worth a file.
        energies = missing.frame_energies and identity is not None
        return cls(
            tuple(file.path for file in usable),
            parts,
            usable[0].groups_origin if usable else "computed",
            not (missing.all_groups or missing.neighbor_table or energies),
            tuple(file.path for file in files if file.replaceable),
            {file.path: file.fault for file in files if file.state == "damaged"},
            {file.path: f"left alone: {file.fault}" for file in files if not file.replaceable},
        )

    def __str__(self) -> str:
        missing = [name for name, value in vars(self.parts.missing()).items() if value]
        return (
            f"read {_listed(self.reads)}; build {_listed(missing)}; "
            f"write {'nothing' if self.kept else _listed(self.writes[:1])}"
        )


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

    Of several processes that find no cache one builds it; the others wait for it and read. A scan
    of M < K + 1 positions, which the reference refuses to group, has a table of M columns, and
    ``all_groups`` drawn from all of them.

    Parameters
    ----------
    scan_path
        The scan's file; names the cache, and is not opened.
    xcoords, ycoords
        Probe positions, shape (M,), object pixels.
    frames_identity, measurement
        Which frames the energies belong to, and whether they are ``"amplitude"`` or ``"counts"``.
        Energies of frames that nothing tells apart, as arrays in memory, are not kept.
    gridsize, K, policy
        Grouping options, and where the cache goes: ``"auto"``, ``"readonly"``, ``"off"`` or a
        directory.
    build
        Called at most once, with what is missing; gives at least that.
    timeout_s
        Seconds to wait for another process that is building.

    Raises
    ------
    CacheLockTimeoutError, OptionError, ScanError
        The wait was too long, the policy is empty, or ``build`` gave an array that cannot be right.
    """
    key = CacheKey.of(xcoords, ycoords, gridsize, K)
    if policy == "off":
        return _completed(BuiltGroups(), key, build)
    places = groups_places(scan_path, gridsize, K, policy)
    load = _Load(key, _identity(frames_identity, measurement), places, policy, build, timeout_s)
    plan = load.plan()
    logger.debug("groups cache: %s", plan)
    if plan.kept:
        return load.reused(plan)
    if policy != "readonly":
        return load.built(plan)
    for fault in (*plan.damaged.values(), *plan.refusals.values()):
        logger.warning("groups cache not used: %s", fault)
        break
    return _completed(plan.parts, key, build)


@dataclass(frozen=True)
class _Load:
    """The steps of one load, from looking to keeping."""

    key: CacheKey
    identity: Mapping[str, Any] | None
    places: Sequence[Path]
    policy: str | os.PathLike[str]
    build: Build
    timeout_s: float

    def plan(self) -> Plan:
        """Plan from the places in order, as far as they are needed."""
        files: list[CacheFile] = []
        for place in self.places:
            files.append(read_cache(place, self.key))
            plan = Plan.of(files, self.identity)
            if plan.kept:
                break
        return plan

    def reused(self, plan: Plan) -> CachedGroups:
        logger.info("groups cache reused: %s", _listed(plan.reads))
        return _completed(plan.parts, self.key, self.build)

    def built(self, plan: Plan) -> CachedGroups:
        """Build once, and keep it at the first place that takes it."""
        groups: CachedGroups | None = None

        def keep(place: Path, why: str) -> CachedGroups:
            nonlocal groups
            plan = self.plan()  # another process may have built meanwhile
            if plan.kept and groups is None:
                return self.reused(plan)
            if groups is None and place in plan.damaged:
                logger.warning("groups cache rebuilt: %s", plan.damaged[place])
            groups = groups or _completed(plan.parts, self.key, self.build)
            try:
                write_cache(place, _members(groups, self.key, self.identity, plan.origin))
            except ScanFileError as error:
                raise PlaceRefusedError(str(error)) from error
            logger.info("groups cache written: %s", f"{place}; {why}" if why else place)
            return groups

        try:
            return built_at_first(
                self.places, self.policy, self.timeout_s, self._require_replaceable, keep
            )
        except PlaceRefusedError as error:
            logger.warning("groups cache %s not kept: %s", self.places[0], error)
            return groups or _completed(plan.parts, self.key, self.build)

    def _require_replaceable(self, place: Path) -> None:
        file = read_cache(place, self.key)
        if not file.replaceable:
            raise ScanFileError(f"left alone: {file.fault}")


def verify(
    path: str | os.PathLike[str],
    xcoords: NDArray[Any] | None = None,
    ycoords: NDArray[Any] | None = None,
    frames: tuple[FramesIdentity, str, NDArray[np.float64]] | None = None,
) -> list[str]:
    """Check a cache file in full, members that nothing here reads included; one line per fault.

    ``xcoords``, ``ycoords`` are the positions it should belong to, shape (M,); without them it is
    checked against itself. ``frames`` are identity, measurement and energies of the scan's frames.
    """
    file = Path(path)
    faults = broken_members(file)
    key = own_key(file)
    if key is None:
        return faults or [str(ScanFileError("file", "not a groups cache", "one", file=file))]
    named = GroupsName.parse(file.name)
    if named and (named.gridsize, named.neighbors) != (key.gridsize, key.neighbors):
        inside = f"gridsize {key.gridsize}, K {key.neighbors} inside"
        wanted = f"{named.gridsize} and {named.neighbors}, as named"
        faults.append(str(ScanFileError("file name", inside, wanted, file=file)))
    if xcoords is not None and ycoords is not None:
        key = CacheKey.of(xcoords, ycoords, key.gridsize, key.neighbors)
    judged = read_cache(file, key)
    if judged.state != "usable" and judged.fault not in faults:
        faults.append(judged.fault + (_mended(judged) if judged.state == "other" else ""))
    kept = judged.arrays.frame_energies
    same = frames and _same_frames(judged.frames_identity, _identity(*frames[:2]))
    if frames and same and kept is not None and not np.allclose(kept, frames[2], 1e-9, 0):
        action = "Remove it: it is made again"
        found = "frame_energies", "of damaged frames", "the scan's"
        faults.append(str(ScanFileError(*found, action=action, file=file)))
    return faults


def _mended(other: CacheFile) -> str:
    """What to type where a cache is of other options, and harms nobody."""
    remove = "; or remove it: ptycho-torch prepare makes it anew" if other.replaceable else ""
    return f": not used, and no fault of the scan. Type the options that it was made with{remove}"


def _identity(frames: FramesIdentity, measurement: str) -> dict[str, Any] | None:
    """The frames' identity as JSON values; None when other frames could have the same."""
    identity: dict[str, Any] = json.loads(json.dumps(frames.as_dict()))
    if identity.get("crc32") is None and identity.get("mtime_ns") is None:
        return None
    if identity.get("crc32") is not None:
        # Without the path a scan and its cache can be moved together.
        identity.pop("path", None)
    return {**identity, "measurement": measurement}


def _same_frames(saved: Mapping[str, Any] | None, now: Mapping[str, Any] | None) -> bool:
    if saved is None or now is None:
        return False
    ignored = () if now.get("crc32") is None else _FILE_STATE
    contents = [{k: v for k, v in one.items() if k not in ignored} for one in (saved, now)]
    return contents[0] == contents[1]


def _listed(names: Iterable[object]) -> str:
    return ", ".join(map(str, names)) or "nothing"


def _completed(parts: BuiltGroups, key: CacheKey, build: Build) -> CachedGroups:
    """Build what is missing; check what was built."""
    missing = parts.missing()
    built = any(vars(missing).values())
    if built:
        parts = parts.filled_from(build(missing))
    if parts.all_groups is None or parts.neighbor_table is None or parts.frame_energies is None:
        lacking = _listed(name for name, value in vars(parts.missing()).items() if value)
        raise ScanError(lacking, "not built", "an array")
    if built:  # what was read has been checked
        check_arrays(key, parts, strict=missing.all_groups)
    return CachedGroups(parts.all_groups, parts.neighbor_table, parts.frame_energies)


def _members(
    complete: CachedGroups, key: CacheKey, identity: Mapping[str, Any] | None, origin: str
) -> dict[str, NDArray[Any]]:
    """What a cache file holds, by key."""
    members: dict[str, NDArray[Any]] = {
        "all_groups": complete.all_groups,
        "dataset_checksum": np.array(key.dataset_checksum),
        "gridsize": np.array(key.gridsize, dtype=np.int64),
        "overlap_factor": np.array(key.neighbors, dtype=np.int64),
        "neighbor_table": complete.neighbor_table,
        "positions_digest": np.array(key.positions_digest),
        "groups_origin": np.array(origin),
    }
    if identity is not None:
        members["frame_energies"] = complete.frame_energies
        members["frames_identity"] = np.array(json.dumps(identity, sort_keys=True))
    return members
