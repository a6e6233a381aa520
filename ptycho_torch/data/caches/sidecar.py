"""Sidecars: frames that cannot be mapped where they lie, converted once into an ``.npy`` beside.

Owns name, place, record and trust of a sidecar. A sidecar is a plain ``.npy`` followed by a record
that says what it was made from and the checksum of its numbers, so that one rename publishes both
and ``np.load`` reads it all the same. Knows no meaning of the frames.

Trust: record and sizes are checked at every opening. The numbers are checked against their checksum
when the sidecar is built, on demand, and whenever the file's modification time is not the one the
builder gave it, as after any write or copy; otherwise opening costs milliseconds.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import struct
import time
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, get_args

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from ptycho_torch.data.errors import OptionError, PtychoTorchError, ScanFileError
from ptycho_torch.data.files.atomic_write import user_cache_directory
from ptycho_torch.data.files.mapping import FileState, map_array, opened, state_of
from ptycho_torch.data.files.stored_stack import StackSource, StoredChecksum

logger = logging.getLogger(__name__)

SidecarWord = Literal["auto", "off", "readonly"]
SidecarPolicy = SidecarWord | Path

FORMAT_VERSION = 1
_MARK = b"PTYSIDE1"
_TAIL = struct.Struct("<LL8s")
_MAX_RECORD_BYTES = 4096
_BLOCK_BYTES = 4 << 20


def check_policy(policy: SidecarPolicy | str) -> SidecarPolicy:
    """Turn what a user gave into a policy; refuse anything else.

    Raises
    ------
    OptionError
        Neither a known word nor a directory.
    """
    if isinstance(policy, Path):
        return policy
    for known in get_args(SidecarWord):
        if policy == known:
            word: SidecarWord = known
            return word
    # A configuration file can only spell a directory as text; a bare word is a spelling mistake.
    if isinstance(policy, str) and (os.sep in policy or os.path.isdir(policy)):
        return Path(policy)
    raise OptionError("sidecar", repr(policy), "auto, off, readonly or a directory")


@dataclass(frozen=True)
class Sidecar:
    """A sidecar whose record was believed.

    Parameters
    ----------
    path, state
        The file, and its state when it was checked.
    data_offset
        First byte of the numbers.
    dtype, shape
        Of the frames.
    crc32
        Of header and numbers, as the record has it.
    """

    path: Path
    state: FileState
    data_offset: int
    dtype: np.dtype[Any]
    shape: tuple[int, int, int]
    crc32: int

    def map(self) -> NDArray[Any]:
        """Map the frames, (M, N, N)."""
        return map_array(
            self.path, self.state, offset=self.data_offset, dtype=self.dtype, shape=self.shape
        )

    def checksum(self) -> StoredChecksum:
        """What the record says of the numbers, the header seen."""
        with opened(self.path, self.state) as stream:
            header = stream.read(self.data_offset)
        seen = zlib.crc32(header)
        return StoredChecksum(self.path, "sidecar", self.crc32, seen, "Remove it: it is made again")

    def unchanged(self) -> bool:
        """Whether the file is still the one that was checked."""
        try:
            return not self.state.changes(state_of(self.path))
        except PtychoTorchError:
            return False


def sidecar_name(source: StackSource) -> str:
    """File name of the sidecar of a stack, e.g. ``scan.diff3d.sidecar.npy``."""
    return f"{source.path.stem}.{source.field}.sidecar.npy"


def sidecar_directories(source: StackSource, policy: SidecarPolicy) -> list[Path]:
    """Where the sidecar of a stack may lie, best place first."""
    if isinstance(policy, Path):
        return [policy / directory_digest(source.path.parent)]
    places = [source.path.parent]
    # Without a home directory there is no second place.
    with suppress(PtychoTorchError):
        places.append(user_cache_directory(source.path.parent))
    return places


def directory_digest(directory: Path) -> str:
    """Twelve hex digits for a directory: scans of one name meet in a shared place otherwise."""
    return hashlib.sha256(os.fsencode(os.path.realpath(directory))).hexdigest()[:12]


def find_sidecar(source: StackSource, policy: SidecarPolicy) -> Sidecar | None:
    """The sidecar of a stack if there is one and it can be believed.

    A damaged or outdated one is left alone and reported by one warning.
    """
    for directory in sidecar_directories(source, policy):
        found = read_sidecar(directory / sidecar_name(source), source)
        if found is not None:
            return found
    return None


def read_sidecar(path: Path, source: StackSource, *, report: bool = True) -> Sidecar | None:
    """Check one file: None when it is missing or not believed; the latter is one warning."""
    try:
        with open(path, "rb") as stream:
            return _checked(path, stream, source)
    except FileNotFoundError:
        return None
    except (_NotBelieved, OSError) as error:
        if report:
            logger.warning("%s: not used: %s", path, error)
        return None


def require_whole(path: Path, source: StackSource | None = None) -> None:
    """Check a sidecar in full, its numbers included, whatever its times are.

    Parameters
    ----------
    path
        The file.
    source
        What it should have been made from; None: it is checked against its own record.

    Raises
    ------
    ScanFileNotFoundError, ScanFileError
        Missing, damaged, or made from something else.
    """
    with opened(path) as stream:
        try:
            record, record_offset = _read_record(stream, os.fstat(stream.fileno()).st_size)
            if source is not None and record.get("source") != describe_source(source):
                raise _NotBelieved("made from another scan, or from an earlier state of this one")
            if _checksum(stream, record_offset) != record.get("crc32"):
                raise _NotBelieved("its checksum is wrong: the file was changed or damaged")
        except (_NotBelieved, ValueError, RecursionError) as error:
            raise ScanFileError(
                "sidecar", error, "one that is whole and of its scan", action="Remove it", file=path
            ) from error


class _NotBelieved(Exception):
    """Why a sidecar cannot be used."""


def _checked(path: Path, stream: BinaryIO, source: StackSource) -> Sidecar:
    state = FileState.of(os.fstat(stream.fileno()))
    record, record_offset = _read_record(stream, state.size)
    if record.get("source") != describe_source(source):
        raise _NotBelieved("made from another scan, or from an earlier state of this one")
    data_offset = record_offset - source.data_bytes
    crc32 = record.get("crc32")
    if data_offset != record.get("header_bytes") or not isinstance(crc32, int):
        raise _NotBelieved("its record contradicts itself")
    if state.mtime_ns != record.get("mtime_ns"):
        if _checksum(stream, record_offset) != crc32:
            raise _NotBelieved("its checksum is wrong: the file was changed or damaged")
        # Copied or touched, but whole: say so in the file, or every opening would read it all.
        with suppress(OSError, TypeError, ValueError, OverflowError):
            os.utime(path, ns=(state.mtime_ns, record["mtime_ns"]))
            state = FileState.of(os.fstat(stream.fileno()))
    return Sidecar(path, state, data_offset, source.dtype, source.shape, crc32)


def _read_record(stream: BinaryIO, size: int) -> tuple[dict[str, Any], int]:
    stream.seek(max(0, size - _TAIL.size))
    tail = stream.read(_TAIL.size)
    if len(tail) < _TAIL.size:
        raise _NotBelieved("it is too short")
    length, crc, mark = _TAIL.unpack(tail)
    start = size - _TAIL.size - length
    if mark != _MARK or length > _MAX_RECORD_BYTES or start < 0:
        raise _NotBelieved("it has no record: not made by ptycho_torch, or cut short")
    stream.seek(start)
    text = stream.read(length)
    if zlib.crc32(text) != crc:
        raise _NotBelieved("its record is damaged")
    record = json.loads(text)
    if not isinstance(record, dict) or record.get("format") != FORMAT_VERSION:
        raise _NotBelieved("its record is of another version")
    return record, start


def describe_source(source: StackSource) -> dict[str, Any]:
    """What a sidecar must have been made from to stand for ``source``."""
    member = source.member
    content: dict[str, Any] = {
        "field": source.field,
        "dtype": source.dtype.str,
        "shape": list(source.shape),
        "axes": list(source.axes),
    }
    if member is None:
        return {**content, "size": source.state.size, "mtime_ns": source.state.mtime_ns}
    # The checksum is the content itself; times would only make copies look foreign.
    return {**content, "crc32": member.crc32, "member_bytes": member.size}


def encode_record(source: StackSource, header_bytes: int, crc32: int, mtime_ns: int) -> bytes:
    """The bytes after the numbers."""
    record = {
        "format": FORMAT_VERSION,
        "source": describe_source(source),
        "header_bytes": header_bytes,
        "crc32": crc32,
        "mtime_ns": mtime_ns,
    }
    text = json.dumps(record, sort_keys=True).encode()
    return text + _TAIL.pack(len(text), zlib.crc32(text), _MARK)


def encode_header(source: StackSource) -> bytes:
    """The ``.npy`` header before the numbers, padded so that they are aligned."""
    header = io.BytesIO()
    fields = {"descr": source.dtype.str, "fortran_order": False, "shape": source.shape}
    npy_format.write_array_header_1_0(header, fields)
    return header.getvalue()


def past_mtime_ns() -> int:
    """A time before any later write can carry, whole in seconds for coarse file systems."""
    return (int(time.time()) // 2 - 2) * 2 * 10**9


def _checksum(stream: BinaryIO, end: int) -> int:
    stream.seek(0)
    crc = 0
    for block in _blocks(stream, end):
        crc = zlib.crc32(block, crc)
    return crc


def _blocks(stream: BinaryIO, end: int) -> Iterator[bytes]:
    left = end
    while left > 0:
        block = stream.read(min(left, _BLOCK_BYTES))
        if not block:
            return
        left -= len(block)
        yield block
