"""How caches are called and where they lie: the one place that spells it.

Owns file names, the user's cache directory, and the order of places that a policy gives. Opens and
makes nothing.
"""

from __future__ import annotations

import glob
import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from ptycho_torch.data.errors import OptionError, ScanFileError

CachePolicy = str | Path
"""``"auto"`` (beside the scan), ``"off"``, ``"readonly"``, or a directory."""
SidecarWord = Literal["auto", "off", "readonly"]
SidecarPolicy = SidecarWord | Path

GROUPS_SUFFIX = ".groups_cache.npz"
SIDECAR_SUFFIX = ".sidecar.npz"

_GROUPS_NAME = re.compile(r"(.*)\.g(\d{1,9})k(\d{1,9})\.groups_cache\.npz", re.DOTALL)


@dataclass(frozen=True)
class GroupsName:
    """What the name of a groups cache says: the scan's stem, gridsize and K (``neighbors``)."""

    stem: str
    gridsize: int
    neighbors: int

    def __str__(self) -> str:
        return f"{self.stem}.g{self.gridsize}k{self.neighbors}{GROUPS_SUFFIX}"

    @classmethod
    def parse(cls, name: str) -> GroupsName | None:
        """Read a file name; None when no groups cache is called so."""
        match = _GROUPS_NAME.fullmatch(name)
        return None if match is None else cls(match[1], int(match[2]), int(match[3]))


def is_cache_name(name: str) -> bool:
    """Whether a file of this name is a cache or a sidecar, and so no scan."""
    return name.endswith((GROUPS_SUFFIX, SIDECAR_SUFFIX))


def cache_path(
    scan_path: str | os.PathLike[str],
    gridsize: int,
    K: int,
    directory: str | os.PathLike[str] | None = None,
) -> Path:
    """Where the groups cache of a scan lies; ``directory`` None: beside the scan.

    Examples
    --------
    >>> str(cache_path("data/scan.v1.npz", 2, 4))
    'data/scan.v1.g2k4.groups_cache.npz'
    """
    scan = Path(scan_path)
    parent = scan.parent if directory is None else Path(directory)
    return parent / str(GroupsName(scan.stem, gridsize, K))


def groups_places(
    scan_path: str | os.PathLike[str], gridsize: int, K: int, policy: str | os.PathLike[str]
) -> list[Path]:
    """Where the groups cache may lie, best place first; OptionError for an empty policy."""
    if not os.fspath(policy):
        raise OptionError("cache", repr(policy), "'auto', 'readonly', 'off' or a directory")
    directory = None if policy in ("auto", "readonly") else policy
    first = cache_path(scan_path, gridsize, K, directory)
    if directory is None and not first.parent.is_dir():
        return [first]
    return _with_user_cache(first)


def sidecar_places(scan: Path, field: str, policy: SidecarPolicy) -> list[Path]:
    """Where the sidecar of a scan's array may lie, best place first."""
    name = f"{scan.stem}.{field}{SIDECAR_SUFFIX}"
    if isinstance(policy, Path):
        # Scans of one name meet in a shared place.
        return _with_user_cache(policy / _digest(scan.parent)[:12] / name)
    return _with_user_cache(scan.parent / name)


def place_mode(number: int, policy: str | os.PathLike[str]) -> int | None:
    """Permissions of the ``number``-th place's directory where it is to be made.

    Only the user reads the user's cache directory; the scan's own directory is never made.
    """
    if number > 0:
        return 0o700
    return None if policy == "auto" else 0o777


def sidecar_of(name: str) -> tuple[str, str] | None:
    """Stem of the scan and name of the array in a sidecar's file name; None for other files."""
    if not name.endswith(SIDECAR_SUFFIX):
        return None
    stem, _, field = name.removesuffix(SIDECAR_SUFFIX).rpartition(".")
    return stem, field


def caches_of(scan_path: Path) -> list[Path]:
    """Every groups cache of a scan, beside it and in the user's cache directory."""
    pattern = f"{glob.escape(scan_path.stem)}.g*k*{GROUPS_SUFFIX}"
    folders = [place.parent for place in _with_user_cache(scan_path)]
    found = [path for folder in folders for path in sorted(folder.glob(pattern))]
    return [path for path in found if GroupsName.parse(path.name)]


def user_cache_directory(preferred: Path) -> Path:
    """Where the caches that belong into ``preferred`` go when it cannot be written.

    ``$XDG_CACHE_HOME/ptycho-torch`` or ``~/.cache/ptycho-torch``, and in it one directory for each
    original directory, so that scans of the same name do not meet. ScanFileError: there is neither.
    """
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not base.is_absolute():
        try:
            base = Path.home() / ".cache"
        except RuntimeError as error:
            raise ScanFileError(
                "user cache directory", "unknown", "$XDG_CACHE_HOME or a home", file=preferred
            ) from error
    name = os.path.basename(os.path.realpath(preferred))
    return base / "ptycho-torch" / f"{name[:64]}-{_digest(preferred)[:16]}"


def check_policy(policy: SidecarPolicy | str, name: str = "sidecar") -> SidecarPolicy:
    """Turn what a user gave into a policy of sidecars; OptionError: no known word, no directory."""
    if isinstance(policy, Path):
        return policy
    for known in get_args(SidecarWord):
        if policy == known:
            word: SidecarWord = known
            return word
    # A configuration file can only spell a directory as text; a bare word is a spelling mistake.
    if isinstance(policy, str) and (os.sep in policy or os.path.isdir(policy)):
        return Path(policy)
    raise OptionError(name, repr(policy), "auto, off, readonly or a directory")


def _with_user_cache(first: Path) -> list[Path]:
    try:
        return [first, user_cache_directory(first.parent) / first.name]
    except ScanFileError:  # without a home directory there is no second place
        return [first]


def _digest(directory: Path) -> str:
    return hashlib.sha256(os.fsencode(os.path.realpath(directory))).hexdigest()
