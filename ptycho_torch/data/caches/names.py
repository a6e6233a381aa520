"""How caches are called and where they lie: the one place that spells it.

Owns file names, the user's cache directory, and the order of places that a policy gives. Opens and
makes nothing.
"""

from __future__ import annotations

import glob
import hashlib
import os
import re
from dataclasses import dataclass, replace
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
_PART = re.compile(r"(.*)\.n\d+s\d+", re.DOTALL)
# File systems take 255; the temporary name and the lock's are six longer than the file's.
_MOST_BYTES = 249
KEPT_OF_STEM = 40
"""Characters of a stem that its caches' names begin with, however much is cut from them."""


@dataclass(frozen=True)
class GroupsName:
    """What the name of a groups cache says: the scan's stem, gridsize and K (``neighbors``).

    Of a stem that is too long, the name has the beginning and a digest; it is read back as that.
    """

    stem: str
    gridsize: int
    neighbors: int

    def __str__(self) -> str:
        return _fitting(self.stem, f".g{self.gridsize}k{self.neighbors}{GROUPS_SUFFIX}")

    @classmethod
    def parse(cls, name: str) -> GroupsName | None:
        """Read a file name; None when no groups cache is called so."""
        match = _GROUPS_NAME.fullmatch(name)
        return None if match is None else cls(match[1], int(match[2]), int(match[3]))

    def of_whole(self, stem: str) -> bool:
        """Whether the cache of a whole scan with this stem is called so."""
        return str(self) == str(replace(self, stem=stem))

    def of_part(self, stem: str) -> bool:
        """Whether the cache of a seeded subsample of such a scan is called so."""
        match = _PART.fullmatch(self.stem)
        return match is not None and match[1] == stem


def is_cache_name(name: str) -> bool:
    """Whether a file of this name is a cache, or unfinished, or a lock, and so no scan."""
    unfinished = name.startswith(".") and name.endswith((".part", ".lock"))
    return unfinished or name.endswith((GROUPS_SUFFIX, SIDECAR_SUFFIX))


def cache_path(scan_path: str | os.PathLike[str], gridsize: int, K: int) -> Path:
    """Where the groups cache of a scan lies beside it.

    Examples
    --------
    >>> str(cache_path("data/scan.v1.npz", 2, 4))
    'data/scan.v1.g2k4.groups_cache.npz'
    """
    scan = Path(scan_path)
    return scan.parent / str(GroupsName(scan.stem, gridsize, K))


def groups_places(
    scan_path: str | os.PathLike[str], gridsize: int, K: int, policy: str | os.PathLike[str]
) -> list[Path]:
    """Where the groups cache may lie, best place first; OptionError for an empty policy."""
    name = cache_path(scan_path, gridsize, K).name
    return [folder / name for folder in _groups_folders(Path(scan_path), policy)]


def sidecar_places(scan: Path, field: str, policy: SidecarPolicy) -> list[Path]:
    """Where the sidecar of a scan's array may lie, best place first."""
    name = sidecar_name(scan, field)
    first = _shared_folder(policy, scan) if isinstance(policy, Path) else scan.parent
    return [folder / name for folder in (first, *_user_caches(scan.parent))]


def sidecar_name(scan: Path, field: str) -> str:
    """How the sidecar of a scan's array is called."""
    return _fitting(scan.stem, f".{field}{SIDECAR_SUFFIX}")


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


def caches_of(scan: Path, policy: CachePolicy = "auto") -> list[tuple[Path, GroupsName]]:
    """Every groups cache of a scan and of its seeded subsamples, with what its name says."""
    pattern = f"{glob.escape(scan.stem[:KEPT_OF_STEM])}*{GROUPS_SUFFIX}"
    folders = [] if policy == "off" else _groups_folders(scan, policy)
    found = [path for folder in folders for path in sorted(folder.glob(pattern))]
    named = [(path, GroupsName.parse(path.name)) for path in found]
    return [(p, n) for p, n in named if n and (n.of_whole(scan.stem) or n.of_part(scan.stem))]


def user_cache_directory(preferred: Path) -> Path:
    """Where the caches that belong into ``preferred`` go when it cannot be written.

    ``$XDG_CACHE_HOME/ptycho-torch`` or ``~/.cache/ptycho-torch``, and in it one directory for each
    original directory, so that scans of the same name do not meet. ScanFileError: there is neither.
    """
    real = os.path.realpath(preferred)
    return (
        user_cache_base(preferred)
        / f"{_cut(os.path.basename(real)[:64], 238)}-{_digest(real)[:16]}"
    )


def user_cache_base(asker: Path) -> Path:
    """The folder of all caches of the user; ScanFileError, naming ``asker``: there is none."""
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not base.is_absolute():
        try:
            base = Path.home() / ".cache"
        except RuntimeError as error:
            raise ScanFileError(
                "user cache directory", "unknown", "$XDG_CACHE_HOME or a home", file=asker
            ) from error
    return base / "ptycho-torch"


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


def _groups_folders(scan: Path, policy: str | os.PathLike[str]) -> list[Path]:
    if isinstance(policy, str):
        policy = check_policy(policy, "cache")
    beside = scan.parent
    if policy in ("auto", "readonly"):
        return [beside, *(_user_caches(beside) if beside.is_dir() else [])]
    if os.path.realpath(policy) == os.path.realpath(beside):
        return [beside, *_user_caches(beside)]
    # Earlier versions and the reference write into the directory itself, where scans may meet.
    return [_shared_folder(Path(policy), scan), *_user_caches(beside), Path(policy)]


def _shared_folder(directory: Path, scan: Path) -> Path:
    """Where in a directory the caches of a scan lie: scans of one name meet there."""
    return directory / _digest(os.path.realpath(scan.parent))[:12]


def _user_caches(folder: Path) -> list[Path]:
    try:
        return [user_cache_directory(folder)]
    except ScanFileError:  # without a home directory there is no second place
        return []


def _fitting(stem: str, ending: str) -> str:
    """Stem and ending as the name of a file; a digest replaces what of the stem is too much."""
    whole, room = os.fsencode(stem), _MOST_BYTES - len(os.fsencode(ending))
    if len(whole) > room:
        stem = f"{_cut(stem, room - 17)}~{hashlib.sha256(whole).hexdigest()[:16]}"
    return stem + ending


def _cut(text: str, most_bytes: int) -> str:
    return os.fsencode(text)[:most_bytes].decode(errors="ignore")


def _digest(real: str) -> str:
    return hashlib.sha256(os.fsencode(real)).hexdigest()
