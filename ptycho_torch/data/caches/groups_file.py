"""What lies in one ``.groups_cache.npz``: its keys, their checks, reading and writing.

Owns the bytes. Which file is read, and when one is written, is decided by the room above. The
four keys of the 2025-07 reference are always there in the form it accepts; everything else in the
file is ignored by it.

A file is believed only as far as it proves itself: zip CRCs of every member read, a digest over
all of our members, and the arrays' dtype, shape and range. So one altered byte is either noticed
or lies in a zip field that nothing here depends on, such as a date. A file is ours, and may be
replaced, when ``format_version`` is its first member and no member is anybody else's.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.data.caches.groups_key import BuiltGroups, CacheKey, check_arrays
from ptycho_torch.data.errors import PtychoTorchError, ScanError, ScanFileError
from ptycho_torch.data.files.atomic_write import atomic_zip
from ptycho_torch.data.files.mapping import opened
from ptycho_torch.data.files.zip_archive import ZipArchive, damaged

FORMAT_VERSION = 2
REFERENCE_KEYS = ("all_groups", "dataset_checksum", "gridsize", "overlap_factor")
OUR_KEYS = (
    "format_version",
    "neighbor_table",
    "frame_energies",
    "positions_digest",
    "frames_identity",
    "groups_origin",
    "content_digest",
)
_LARGE_KEYS = ("all_groups", "neighbor_table", "frame_energies")
_FIRST_NAME = b"format_version.npy"
_NAME_OFFSET = 30  # of the first member, in a zip archive
# Indices are int32.
_MOST_POSITIONS = 2**31 - 1


@dataclass(frozen=True)
class CacheFile:
    """One cache file, judged against a key.

    Parameters
    ----------
    path, reason
        The file, and why it is not usable, for a log line.
    state
        ``"usable"``; ``"absent"``; ``"other"``: of other positions, options or format;
        ``"damaged"``: not to be believed; ``"closed"``: cannot be read.
    replaceable
        There is no file, or it shows that it is ours.
    arrays, frames_identity
        Those of a usable file, and what its energies were computed from, if anything.
    groups_origin
        ``"computed"`` by this package, or ``"found"`` in a file that another program wrote.
    """

    path: Path
    state: Literal["absent", "usable", "other", "damaged", "closed"]
    reason: str = ""
    replaceable: bool = False
    arrays: BuiltGroups = field(default_factory=BuiltGroups)
    frames_identity: Mapping[str, Any] | None = None
    groups_origin: str = "computed"

    @property
    def fault(self) -> str:
        """File and reason in one line."""
        return f"{self.path}: {self.reason}"


def read_cache(path: Path, key: CacheKey) -> CacheFile:
    """Read and judge one cache file. Never raises for what the file is or holds."""
    try:
        with opened(path) as stream:
            return _judged(stream, path, key)
    except FileNotFoundError:
        return CacheFile(path, "absent", replaceable=not path.is_symlink())
    except OSError as error:
        return CacheFile(path, "closed", str(error.args[0] if error.strerror is None else error))


def _judged(stream: BinaryIO, path: Path, key: CacheKey) -> CacheFile:
    start = stream.read(_NAME_OFFSET + len(_FIRST_NAME))
    shown = start[:4] == b"PK\x03\x04" and start[_NAME_OFFSET:] == _FIRST_NAME
    try:
        archive = ZipArchive(stream, path)
    except PtychoTorchError as error:
        # Of an empty file nothing is lost.
        return CacheFile(path, "damaged", str(error), replaceable=shown or not start)
    if not shown and next(iter(archive.members), "") != "format_version":
        return _foreign(archive, path, key)
    # A name that one altered byte made unknown is not one that the member itself has.
    strange = [name for name in archive.members if name not in REFERENCE_KEYS + OUR_KEYS]
    ours = not any(_is_sound(archive, name) for name in strange)
    try:
        return _own(archive, path, key, ours)
    except (PtychoTorchError, ValueError, RecursionError) as error:
        return CacheFile(path, "damaged", str(error), replaceable=ours)


def _own(archive: ZipArchive, path: Path, key: CacheKey, ours: bool) -> CacheFile:
    present = [name for name in (*REFERENCE_KEYS, *OUR_KEYS) if name in archive.members]
    texts = _arrays(archive, (name for name in present if name not in _LARGE_KEYS), key)
    version, origin = int(_scalar(texts, "format_version")), str(_scalar(texts, "groups_origin"))
    if version > FORMAT_VERSION:
        return CacheFile(path, "other", f"written by a newer version (format {version})")
    if not set(REFERENCE_KEYS) <= set(present):
        raise ScanError("members", ", ".join(present), f"{', '.join(REFERENCE_KEYS)} among them")
    digest = str(_scalar(texts, "positions_digest"))
    if digest != key.positions_digest or not _matches(texts, key):
        return CacheFile(path, "other", "of other positions or grouping options", ours)
    large = _arrays(archive, (name for name in present if name in _LARGE_KEYS), key)
    expected = str(_scalar(texts, "content_digest"))
    if version != FORMAT_VERSION or _content_digest({**texts, **large}) != expected:
        raise ScanFileError("content_digest", "wrong", "that of the content")
    arrays = BuiltGroups(**large)
    check_arrays(key, arrays, strict=origin == "computed")
    identity = None
    if arrays.frame_energies is not None:
        identity = json.loads(str(_scalar(texts, "frames_identity")))
        if not isinstance(identity, dict):
            raise ScanError("frames_identity", "not a mapping", "a mapping")
    return CacheFile(path, "usable", "", ours, arrays, identity, origin)


def _foreign(archive: ZipArchive, path: Path, key: CacheKey) -> CacheFile:
    try:
        present = [name for name in REFERENCE_KEYS[1:] if name in archive.members]
        if not _matches(_arrays(archive, present, key), key):
            reason = "written by another program for other positions or grouping options"
            return CacheFile(path, "other", reason)
        archive.require("all_groups")
        arrays = BuiltGroups(**_arrays(archive, ["all_groups"], key))
        check_arrays(key, arrays, strict=False)
    except PtychoTorchError as error:
        return CacheFile(path, "damaged", str(error))
    return CacheFile(path, "usable", arrays=arrays, groups_origin="found")


def _matches(texts: Mapping[str, NDArray[Any]], key: CacheKey) -> bool:
    """The reference's own comparison: one value each, equal, whatever the number's type."""
    expected = (key.dataset_checksum, key.gridsize, key.neighbors)
    for name, value in zip(REFERENCE_KEYS[1:], expected, strict=True):
        array = texts.get(name)
        if array is None or array.size != 1 or array.dtype.kind not in "Uiuf":
            return False
        if (array.dtype.kind == "U") != isinstance(value, str) or array.item() != value:
            return False
    return True


def write_cache(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write members by key, whole or not at all; the caller holds the lock of ``path``.

    ``format_version`` goes first, ``content_digest`` is added.
    """
    members = {"format_version": np.array(FORMAT_VERSION, dtype=np.int64), **arrays}
    members["content_digest"] = np.array(_content_digest(members))
    with atomic_zip(path, locked=True) as archive:
        for name, array in members.items():
            content = io.BytesIO()
            np.lib.format.write_array(content, array, version=(1, 0), allow_pickle=False)
            # Without a date, so that equal content makes equal files.
            entry = zipfile.ZipInfo(f"{name}.npy")
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, content.getbuffer())


def own_key(path: Path) -> CacheKey | None:
    """What a file says it was computed from; None when it does not say or cannot be read.

    The number of positions is that of its arrays, or without bound where none tells.
    """
    loose = CacheKey("", "", _MOST_POSITIONS, 1, 1)
    try:
        with opened(path) as stream:
            archive = ZipArchive(stream, path)
            names = (*REFERENCE_KEYS[1:], "positions_digest")
            found = _arrays(archive, (name for name in names if name in archive.members), loose)
            sizes = [
                archive.header(name).shape[0] for name in _LARGE_KEYS[1:] if name in archive.members
            ]
        checksum, *options = (found[name].item() for name in REFERENCE_KEYS[1:])
        gridsize, neighbors = map(int, options)
        digest = str(found["positions_digest"].item()) if "positions_digest" in found else ""
    except (PtychoTorchError, ValueError, TypeError, LookupError, OverflowError):
        return None
    if gridsize < 1 or neighbors < 0:
        return None
    count = sizes[-1] if sizes else _MOST_POSITIONS
    return CacheKey(str(checksum), digest, count, gridsize, neighbors)


def broken_members(path: Path) -> list[str]:
    """Read every member of a file to its end; one line for each fault."""
    faults: list[PtychoTorchError] = []
    try:
        with opened(path) as stream:
            archive = ZipArchive(stream, path)
            for name in archive.members:
                if not _is_sound(archive, name):
                    fault = damaged(name, "damaged", "intact bytes")
                    fault.file = path
                    faults.append(fault)
    except PtychoTorchError as error:
        faults.append(error)
    return [str(fault) for fault in faults]


def _is_sound(archive: ZipArchive, name: str) -> bool:
    """Read a member to its end; say whether its headers, length and CRC are right."""
    try:
        for _ in archive.open(name).blocks():
            pass
    except ScanFileError:
        return False
    return True


def _content_digest(arrays: Mapping[str, NDArray[Any]]) -> str:
    """sha256, hexadecimal, over names, dtypes, shapes and numbers, the digest itself left out."""
    digest = hashlib.sha256()
    for name in sorted(set(arrays) - {"content_digest"}):
        little = arrays[name].astype(arrays[name].dtype.newbyteorder("<"), copy=False)
        digest.update(f"{name} {little.dtype.str} {little.shape} ".encode())
        digest.update(little.tobytes())
    return digest.hexdigest()


def _arrays(archive: ZipArchive, names: Iterable[str], key: CacheKey) -> dict[str, NDArray[Any]]:
    """Members as arrays of their own, none larger than the key allows."""
    arrays = {}
    for name in names:
        size, limit = archive.members[name].file_size, key.member_limit(name)
        if size > limit:
            raise ScanFileError(name, f"{size} bytes", f"at most {limit} bytes")
        arrays[name] = archive.read(name)
        if name in _LARGE_KEYS and not archive.header(name).dtype.isnative:
            raise ScanError(name, archive.header(name), "native byte order, as the reference needs")
    return arrays


def _scalar(texts: Mapping[str, NDArray[Any]], name: str) -> Any:
    array = texts.get(name)
    if array is None or array.shape != () or array.dtype.kind not in "Ui":
        raise ScanError(name, "missing or not one value", "one value")
    return array.item()
