"""Many scans at once: patterns, directories, and lists in YAML that say what becomes of each.

Owns what such a list may say. Knows no groups.
"""

from __future__ import annotations

import glob
import logging
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, TypeGuard, get_args

from ptycho_torch.data.caches.names import is_cache_name
from ptycho_torch.data.caches.remote import is_remote, local_copies
from ptycho_torch.data.detector import Detector
from ptycho_torch.data.errors import (
    OptionError,
    OptionTypeError,
    ScanFileNotFoundError,
    naming,
)
from ptycho_torch.data.raw_data import RawData, read_scan
from ptycho_torch.data.readers import is_scan
from ptycho_torch.data.readers.layout import read_yaml

logger = logging.getLogger(__name__)

Scan = str | os.PathLike[str] | RawData
Scans = Scan | Sequence[Scan]
Part = Literal["train", "val", "test"]

_LISTS = (".yaml", ".yml")
_FILES = ("layout", "probe", "diffraction", "bad_pixels")
_NOTHING = MappingProxyType[str, Any]({})


@dataclass(frozen=True)
class Use:
    """What a list says a scan is for: its weight, and its part; None: not said."""

    weight: float = 1.0
    part: Part | None = None


@dataclass(frozen=True)
class ListedScan:
    """A scan, its reader options, and its use."""

    scan: Path | RawData
    options: Mapping[str, Any] = field(default_factory=dict)
    use: Use = Use()

    def opened(self, **defaults: Any) -> RawData:
        """The scan, its options before ``defaults``; one in memory is taken as it is."""
        if isinstance(self.scan, RawData):
            return self.scan
        return read_scan(self.scan, **{**defaults, **self.options})


def expand_scans(scans: Scans) -> list[ListedScan]:
    """List scans in order: those of patterns, directories and lists in YAML are spelt out.

    A pattern becomes the sorted files it matches, a directory the sorted scans in it; caches beside
    scans count as none. A list is described in docs/howto/many_scans.md.

    Raises
    ------
    ScanFileNotFoundError
        A pattern or directory has no scan.
    OptionError, OptionTypeError
        There is no scan, something that cannot be one, or a list with other words.
    """
    if isinstance(scans, (str, os.PathLike, RawData)):
        scans = [scans]
    if not isinstance(scans, Iterable):
        raise OptionTypeError(
            "scans", type(scans).__name__, "a path, a pattern, a RawData or a list"
        )
    found: list[ListedScan] = []
    copies: set[Path] = set()
    plain: list[ListedScan] = []
    for scan in scans:
        if isinstance(scan, RawData):
            found.append(ListedScan(scan))
        elif isinstance(scan, (str, os.PathLike)):
            if is_list(scan):
                found.extend(_listed(Path(scan), copies))
            else:
                named = list(map(ListedScan, _files(scan, copies)))
                found.extend(named)
                plain.extend(each for each in named if each.scan == Path(scan))
        else:
            raise OptionTypeError("scans", type(scan).__name__, "a path, a pattern or a RawData")
    _refuse_twice(found, plain)
    if not found:
        raise OptionError("scans", "empty", "at least one scan")
    return found


def _refuse_twice(found: list[ListedScan], plain: list[ListedScan]) -> None:
    """Refuse a file that a pattern, a folder or a list names beside something else.

    Who writes a plain path twice means it.
    """
    by_file: dict[str, list[ListedScan]] = {}
    for each in found:
        # A name that no file can have is refused where it is opened.
        if not isinstance(each.scan, RawData) and "\0" not in os.fspath(each.scan):
            by_file.setdefault(os.path.realpath(each.scan), []).append(each)
    meant = {id(each) for each in plain}
    for file, named in by_file.items():
        if len(named) > 1 and not all(id(each) in meant for each in named):
            raise OptionError("scans", f"{file} twice", "each once", action="Give it a weight")


def is_list(path: Any) -> TypeGuard[str | os.PathLike[str]]:
    """Whether this is the path of a list, by its ending."""
    return isinstance(path, (str, os.PathLike)) and Path(path).suffix.lower() in _LISTS


def parts_named(scans: Any) -> set[Part]:
    """The parts to which lists among the scans give whole scans; other scans are not looked at."""
    one = isinstance(scans, str) or not isinstance(scans, Sequence)
    several = [scans] if one else scans
    listed = [each for scan in several if is_list(scan) for each in expand_scans(scan)]
    return {each.use.part for each in listed if each.use.part is not None}


def _files(
    name: str | os.PathLike[str], copies: set[Path], options: Mapping[str, Any] = _NOTHING
) -> list[Path]:
    if is_remote(name):
        return local_copies(name, copies)
    path = Path(name)
    # os.path.exists answers no where a name cannot be one: too long, or with a NUL in it.
    if os.path.isdir(path):
        return _of_directory(path, options)
    if os.path.exists(path) or not glob.has_magic(str(path)) or "\0" in str(path):
        return [path]
    found = map(Path, sorted(glob.glob(str(path))))
    matches = [each for each in found if not (is_cache_name(each.name) or os.path.isdir(each))]
    if not matches:
        with naming(path):
            raise ScanFileNotFoundError("the pattern", "matching no file", "at least one scan")
    return matches


def scans_in(directory: Path, options: Mapping[str, Any] = _NOTHING) -> tuple[list[Path], int]:
    """The scans in a directory, and how many other files lie there; caches count as neither.

    A scan is a file that a reader with these options knows by name and content.
    """
    files = [each for each in sorted(directory.iterdir()) if each.is_file()]
    files = [each for each in files if not is_cache_name(each.name)]
    found = [each for each in files if is_scan(each, options)]
    return found, len(files) - len(found)


def _of_directory(path: Path, options: Mapping[str, Any]) -> list[Path]:
    found, left = scans_in(path, options)
    if left:
        logger.info("%s: %d scans; %d other files left out", path, len(found), left)
    if not found:
        expected = "at least one scan"
        raise ScanFileNotFoundError("the directory", "without a scan", expected, file=path)
    return found


def _listed(path: Path, copies: set[Path]) -> list[ListedScan]:
    with naming(path):
        content = read_yaml(path)
        entries = content.get("scans") if isinstance(content, Mapping) else content
        only = not isinstance(content, Mapping) or set(content) == {"scans"}
        if not isinstance(entries, list) or not entries or not only:
            raise OptionError("the list", "without scans", "scans: and one entry for each")
        return [
            each
            for number, entry in enumerate(entries)
            for each in _entry(path.parent, f"scans[{number}]", entry, copies)
        ]


def _entry(folder: Path, where: str, entry: Any, copies: set[Path]) -> Iterator[ListedScan]:
    words: Any = {"path": entry} if isinstance(entry, str) else entry
    if not isinstance(words, Mapping) or not isinstance(words.get("path"), str):
        raise OptionTypeError(where, repr(entry), "a path, or a mapping with path:")
    path = words["path"] if is_remote(words["path"]) else folder / words["path"]
    if is_list(path):
        raise OptionError(f"{where}.path", repr(words["path"]), "a scan, not another list")
    weight, part = words.get("weight", 1.0), words.get("split")
    if isinstance(weight, bool) or not isinstance(weight, int | float):
        raise OptionTypeError(f"{where}.weight", repr(weight), "a number above 0")
    if not (math.isfinite(weight) and weight > 0):
        raise OptionError(f"{where}.weight", weight, "a number above 0")
    if part is not None and part not in get_args(Part):
        expected = "one of " + ", ".join(get_args(Part))
        raise OptionError(f"{where}.split", repr(part), expected)
    options = {key: value for key, value in words.items() if key not in ("path", "weight", "split")}
    for name in _FILES:
        if isinstance(options.get(name), str) and (folder / options[name]).exists():
            options[name] = str(folder / options[name])
    if isinstance(options.get("detector"), Mapping):
        options["detector"] = _detector(f"{where}.detector", options["detector"])
    use = Use(float(weight), part)
    return (ListedScan(file, options, use) for file in _files(path, copies, options))


def _detector(where: str, words: Mapping[str, Any]) -> Detector:
    given: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in words.items()
    }
    try:
        return Detector(**given)
    except TypeError as error:
        raise OptionTypeError(where, repr(dict(words)), "options of Detector") from error
