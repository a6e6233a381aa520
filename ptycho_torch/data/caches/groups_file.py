"""What lies in one ``.groups_cache.npz``: its keys, their checks, reading and writing.

Owns the bytes. Which file is read, and when one is written, is decided by the room above. The
four keys of the 2025-07 reference are always there in the form it accepts; everything else in the
file is ignored by it.

A file is believed only as far as it proves itself: zip CRCs of every member read, a digest over
all of our members, and the arrays' dtype, shape and range. So one altered byte is either noticed
or lies in a zip field that nothing here depends on, such as a date.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import stat
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.data.caches.groups_key import CacheKey, check_arrays
from ptycho_torch.data.errors import PtychoTorchError, ScanError, ScanFileError
from ptycho_torch.data.files.atomic_write import atomic_zip
from ptycho_torch.data.files.npy_header import read_npy_header
from ptycho_torch.data.files.zip_archive import MemberStream, ZipMember, read_directory

FORMAT_VERSION = 1
REFERENCE_KEYS = ("all_groups", "dataset_checksum", "gridsize", "overlap_factor")
OUR_KEYS = (
    "neighbor_table",
    "frame_energies",
    "format_version",
    "positions_digest",
    "frames_identity",
    "groups_origin",
    "content_digest",
)
# Indices are int32.
_MOST_POSITIONS = 2**31 - 1
_LARGE_KEYS = ("all_groups", "neighbor_table", "frame_energies")

State = Literal["absent", "usable", "other", "damaged", "closed"]


@dataclass(frozen=True)
class CacheFile:
    """One cache file, judged against a key.

    Parameters
    ----------
    path
        The file.
    state
        ``"usable"``; ``"absent"``; ``"other"``: of other positions, options or format;
        ``"damaged"``: not to be believed; ``"closed"``: cannot be read.
    reason
        Why it is not usable, for a log line.
    replaceable
        It may be overwritten; for a usable file: it may be extended.
    extras
        Members that are neither the reference's nor ours.
    all_groups, neighbor_table, frame_energies
        The arrays of a usable file; the last two may be missing.
    frames_identity
        What the energies were computed from; None when there are none.
    groups_origin
        ``"computed"`` by this package, ``"found"`` in this file, which another program wrote, or
        ``"copied"`` from such a file.
    """

    path: Path
    state: State
    reason: str = ""
    replaceable: bool = True
    extras: tuple[str, ...] = ()
    all_groups: NDArray[np.int64] | None = None
    neighbor_table: NDArray[np.int32] | None = None
    frame_energies: NDArray[np.float64] | None = None
    frames_identity: Mapping[str, Any] | None = None
    groups_origin: str = "computed"

    @property
    def fault(self) -> str:
        """File and reason in one line."""
        named = self.reason.startswith(str(self.path))
        return self.reason if named else f"{self.path}: {self.reason}"


def read_cache(path: Path, key: CacheKey) -> CacheFile:
    """Read and judge one cache file. Never raises for what the file is or holds."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return CacheFile(path, "closed", "not a regular file", replaceable=False)
        with path.open("rb") as stream:
            return _judge(stream, path, key)
    except FileNotFoundError:
        return CacheFile(path, "absent")
    except OSError as error:
        reason = f"unreadable ({error.strerror or error})"
        return CacheFile(path, "closed", reason, replaceable=False)


def _judge(stream: BinaryIO, path: Path, key: CacheKey) -> CacheFile:
    try:
        members = read_directory(stream, path)
    except PtychoTorchError as error:
        return CacheFile(path, "damaged", str(error))
    extras = tuple(name for name in members if name not in REFERENCE_KEYS + OUR_KEYS)
    # One altered byte can hide one name, so a single key of ours says nothing either way.
    present = sum(name in members for name in OUR_KEYS)
    if present > 1:
        return _judge_own(stream, path, key, members, extras)
    return _judge_foreign(stream, path, key, members, extras, extendable=not present)


def _judge_own(
    stream: BinaryIO,
    path: Path,
    key: CacheKey,
    members: Mapping[str, ZipMember],
    extras: tuple[str, ...],
) -> CacheFile:
    try:
        texts, digests = {}, {}
        for name in (*REFERENCE_KEYS, *OUR_KEYS):
            if name in members and name not in _LARGE_KEYS:
                texts[name], digests[name] = _read_array(stream, members[name], path, key)
        version = int(_scalar(texts, "format_version", path))
        origin = str(_scalar(texts, "groups_origin", path))
        if version > FORMAT_VERSION:
            reason = f"written by a newer version (format {version})"
            return CacheFile(path, "other", reason, replaceable=False, extras=extras)
        lacking = [name for name in REFERENCE_KEYS if name not in members]
        if lacking:
            raise ScanError(lacking[0], "missing", "there", file=path)
        digest = str(_scalar(texts, "positions_digest", path))
        if digest != key.positions_digest or not _matches(texts, key):
            replaceable = origin != "found" and not extras
            reason = "of other positions or grouping options"
            return CacheFile(path, "other", reason, replaceable=replaceable, extras=extras)
        arrays = {}
        for name in _LARGE_KEYS:
            if name in members:
                arrays[name], digests[name] = _read_array(stream, members[name], path, key)
        expected = str(_scalar(texts, "content_digest", path))
        digests.pop("content_digest")
        if version != FORMAT_VERSION or _combined(digests) != expected:
            raise ScanFileError("content_digest", "wrong", "that of the content", file=path)
        check_arrays(path, key, arrays, strict=origin == "computed")
        identity = None
        if "frame_energies" in arrays:
            identity = json.loads(str(_scalar(texts, "frames_identity", path)))
            if not isinstance(identity, dict):
                raise ScanError("frames_identity", "not a mapping", "a mapping", file=path)
    except (PtychoTorchError, ValueError, RecursionError) as error:
        return CacheFile(path, "damaged", str(error), extras=extras)
    return CacheFile(
        path,
        "usable",
        extras=extras,
        all_groups=arrays["all_groups"],
        neighbor_table=arrays.get("neighbor_table"),
        frame_energies=arrays.get("frame_energies"),
        frames_identity=identity,
        groups_origin=origin,
    )


def _judge_foreign(
    stream: BinaryIO,
    path: Path,
    key: CacheKey,
    members: Mapping[str, ZipMember],
    extras: tuple[str, ...],
    *,
    extendable: bool,
) -> CacheFile:
    alone = extendable and not extras
    try:
        texts = {
            name: _read_array(stream, members[name], path, key)[0]
            for name in REFERENCE_KEYS[1:]
            if name in members
        }
    except ScanFileError as error:
        return CacheFile(path, "damaged", str(error), replaceable=alone, extras=extras)
    except ScanError as error:
        return CacheFile(path, "other", str(error), replaceable=False, extras=extras)
    if not _matches(texts, key):
        reason = "written by another program for other positions or grouping options"
        return CacheFile(path, "other", reason, replaceable=False, extras=extras)
    try:
        groups = _read_array(stream, _member(members, "all_groups", path), path, key)[0]
        check_arrays(path, key, {"all_groups": groups}, strict=False)
    except PtychoTorchError as error:
        return CacheFile(path, "damaged", str(error), replaceable=alone, extras=extras)
    return CacheFile(
        path,
        "usable",
        "" if extendable else "a member has a name of ours and is not",
        replaceable=extendable,
        extras=extras,
        all_groups=groups,
        groups_origin="found",
    )


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


def write_cache(
    path: Path, arrays: Mapping[str, NDArray[Any]], source: CacheFile | None = None
) -> None:
    """Write a cache file whole or not at all.

    Parameters
    ----------
    path
        The file.
    arrays
        Members by key, ``content_digest`` apart, which is added.
    source
        A file whose other members are carried over, byte for byte; may lie at ``path`` itself.
        From a damaged one, what cannot be read any more is left out.

    Raises
    ------
    ScanError
        A member of ``source`` is a pickle or a structured array: it is not carried, and nothing
        is written.
    ScanFileError
        ``source`` cannot be read, or the file cannot be written.
    """
    with atomic_zip(path) as archive:
        digests: dict[str, str] = {}
        if source is not None:
            with source.path.open("rb") as stream:
                for name, member in read_directory(stream, source.path).items():
                    if name in arrays or name == "content_digest":
                        continue
                    if source.state == "damaged" and not is_intact(stream, member, source.path):
                        continue
                    carried = _carry(stream, member, source.path, archive)
                    if name in REFERENCE_KEYS + OUR_KEYS:
                        digests[name] = carried
        for name, array in arrays.items():
            digests[name] = _add(archive, name, array)
        _add(archive, "content_digest", np.array(_combined(digests)))


def is_intact(stream: BinaryIO, member: ZipMember, path: Path) -> bool:
    """Read a member to its end; say whether its length and CRC are right."""
    try:
        for _ in MemberStream(stream, member, path).blocks():
            pass
    except ScanFileError:
        return False
    return True


def _carry(stream: BinaryIO, member: ZipMember, path: Path, archive: zipfile.ZipFile) -> str:
    """Copy one member; return the sha256 of its bytes."""
    name = member.raw_name.decode("utf-8" if member.flags & 0x800 else "cp437")
    if name.endswith(".npy"):
        read_npy_header(MemberStream(stream, member, path).read, path, member.key)
    digest = hashlib.sha256()
    with archive.open(_entry(name), "w", force_zip64=member.size > 1 << 30) as target:
        for block in MemberStream(stream, member, path).blocks():
            digest.update(block)
            target.write(block)
    return digest.hexdigest()


def _add(archive: zipfile.ZipFile, name: str, array: NDArray[Any]) -> str:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, version=(1, 0), allow_pickle=False)
    content = buffer.getbuffer()
    with archive.open(_entry(f"{name}.npy"), "w", force_zip64=len(content) > 1 << 30) as target:
        target.write(content)
    return hashlib.sha256(content).hexdigest()


def _entry(name: str) -> zipfile.ZipInfo:
    """A zip entry without a date, so that equal content makes equal files."""
    entry = zipfile.ZipInfo(name)
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.external_attr = 0o644 << 16
    return entry


def own_key(path: Path) -> CacheKey | None:
    """What a file says it was computed from; None when it does not say or cannot be read.

    The number of positions is that of its arrays, or without bound where none tells.
    """
    loose = CacheKey("", "", _MOST_POSITIONS, 1, 1)
    try:
        with path.open("rb") as stream:
            members = read_directory(stream, path)
            found = {}
            for name in (*REFERENCE_KEYS[1:], "positions_digest"):
                if name in members:
                    found[name] = _read_array(stream, members[name], path, loose)[0].item()
            count = _MOST_POSITIONS
            for name in ("neighbor_table", "frame_energies"):
                if name in members:
                    read = MemberStream(stream, members[name], path).read
                    count = (*read_npy_header(read, path, name).shape, 0)[0]
        gridsize, neighbors = int(found["gridsize"]), int(found["overlap_factor"])
        if gridsize < 1 or neighbors < 0:
            return None
        checksum, digest = str(found["dataset_checksum"]), str(found.get("positions_digest", ""))
        return CacheKey(checksum, digest, count, gridsize, neighbors)
    except (OSError, PtychoTorchError, ValueError, TypeError, KeyError, OverflowError):
        return None


def broken_members(path: Path) -> list[str]:
    """Read every member of a file to its end; one line for each fault."""
    faults = []
    try:
        with path.open("rb") as stream:
            for member in read_directory(stream, path).values():
                if not is_intact(stream, member, path):
                    faults.append(
                        str(ScanFileError(member.key, "damaged", "intact bytes", file=path))
                    )
    except PtychoTorchError as error:
        faults.append(str(error))
    except OSError as error:
        faults.append(
            str(ScanFileError("file", error.strerror or error, "a readable file", file=path))
        )
    return faults


def _combined(digests: Mapping[str, str]) -> str:
    lines = [f"{name} {digests[name]}\n" for name in sorted(digests)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _member(members: Mapping[str, ZipMember], name: str, path: Path) -> ZipMember:
    if name not in members:
        raise ScanError(name, "missing", "there", file=path)
    return members[name]


def _read_array(
    stream: BinaryIO, member: ZipMember, path: Path, key: CacheKey
) -> tuple[NDArray[Any], str]:
    """One member as an array of its own, and the sha256 of its bytes."""
    limit = key.member_limit(member.key)
    if member.size > limit:
        raise ScanFileError(member.key, f"{member.size} bytes", f"at most {limit} bytes", file=path)
    source = MemberStream(stream, member, path)
    content = source.read(member.size)
    source.finish()
    header = read_npy_header(io.BytesIO(content).read, path, member.key)
    if header.size + header.data_bytes != len(content):
        raise ScanFileError(
            member.key, f"{len(content)} bytes", f"the bytes of {header}", file=path
        )
    flat = np.frombuffer(content, header.dtype, offset=header.size)
    array = flat.reshape(header.shape, order="F" if header.fortran_order else "C")
    return np.array(array, order="C"), hashlib.sha256(content).hexdigest()


def _scalar(texts: Mapping[str, NDArray[Any]], name: str, path: Path) -> Any:
    array = texts.get(name)
    if array is None or array.shape != () or array.dtype.kind not in "Ui":
        raise ScanError(name, "missing or not one value", "one value", file=path)
    return array.item()
