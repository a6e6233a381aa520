"""Members of an ``.npz`` archive, checked against the file before anything is allocated.

Owns the zip directory and the reading of one member as a bounded stream. The directory is parsed
here rather than by :mod:`zipfile`, so that a hostile file costs no more memory than its own bytes
and so that a stored member can be mapped at its offset. Format: PKWARE APPNOTE 6.3.10, sections
4.3 and 4.5. Knows nothing of scans.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

AnyArray = NDArray[np.generic]
from ptycho_torch.data.errors import ScanFileError, ScanKeyError
from ptycho_torch.data.files.npy_header import NpyHeader

STORED = 0
DEFLATED = 8
MAX_MEMBERS = 4096
BLOCK_BYTES = 1 << 18

_ENCRYPTED = 0x0001
_SIZES_FOLLOW_DATA = 0x0008
_UTF8_NAME = 0x0800
# Deflate encodes at most 258 bytes in about two bits: 1032 to 1 (zlib technical details).
_MAX_DEFLATE_RATIO = 1032

_END = struct.Struct("<4s4H2LH")
_END64_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_ENTRY = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_UNKNOWN16 = 0xFFFF
_UNKNOWN32 = 0xFFFFFFFF


@dataclass(frozen=True)
class ZipMember:
    """One member as the zip directory describes it.

    Parameters
    ----------
    key
        Name without the ``.npy`` suffix, as ``np.load`` spells it.
    raw_name
        Name as stored, undecoded.
    method
        ``STORED`` or ``DEFLATED``; anything else is refused when the member is read.
    flags
        General purpose bits.
    crc32
        CRC-32 of the uncompressed bytes.
    compressed_size, size
        Bytes in the archive, and uncompressed.
    header_offset
        Where its local header starts.
    end_limit
        Where the next member, or the directory, starts.
    """

    key: str
    raw_name: bytes
    method: int
    flags: int
    crc32: int
    compressed_size: int
    size: int
    header_offset: int
    end_limit: int


def damaged(*parts: object) -> ScanFileError:
    """The error for bytes that contradict each other: a truncated or altered file."""
    file, field, found, expected = (None, *parts)[-4:]
    return ScanFileError(
        field, found, expected, action="The file is damaged: copy or write it again", file=file
    )


def read_directory(stream: BinaryIO, file: object) -> Mapping[str, ZipMember]:
    """List the members of a zip archive.

    Parameters
    ----------
    stream
        The archive, seekable.
    file
        Named in messages.

    Returns
    -------
    Mapping from key to member, in the order of the directory.

    Raises
    ------
    ScanFileError
        Not a zip archive, truncated, or with sizes, offsets or names that contradict each other.
    """
    total = stream.seek(0, os.SEEK_END)
    count, start, end = _directory_extent(stream, file, total)
    stream.seek(start)
    directory = stream.read(end - start)
    members: list[ZipMember] = []
    position = 0
    for _ in range(count):
        member, position = _parse_entry(directory, position, file)
        members.append(member)
    if position != len(directory):
        raise damaged(file, "zip directory", f"{len(directory)} bytes", f"{position} bytes")
    return _without_overlap(members, start, file)


def _directory_extent(stream: BinaryIO, file: object, total: int) -> tuple[int, int, int]:
    """Number of entries, first byte and end of the directory."""
    # The end record is the last thing in the file, unless a comment follows it.
    for tail_bytes in (_END.size, _END.size + _UNKNOWN16):
        tail_start = max(0, total - tail_bytes)
        stream.seek(tail_start)
        tail = stream.read(total - tail_start)
        found = tail.rfind(b"PK\x05\x06")
        if 0 <= found <= len(tail) - _END.size:
            break
    else:
        raise damaged(file, "file", "no complete zip archive", "an .npz archive")
    _, disk, disk_start, here, count, size, start, comment = _END.unpack_from(tail, found)
    if found + _END.size + comment != len(tail):
        raise damaged(file, "file end", "unexpected bytes", "the end of a zip archive")
    end = tail_start + found
    wide = _zip64_extent(stream, file, end)
    if wide is not None:
        end, here, count, size, start = wide
        disk = disk_start = 0
    if disk or disk_start or here != count or start + size != end:
        raise damaged(
            file, "zip directory", f"{size} bytes at {start}", f"one directory that ends at {end}"
        )
    if count > MAX_MEMBERS or count * _ENTRY.size > size:
        raise damaged(file, "zip directory", f"{count} members", f"at most {MAX_MEMBERS}")
    return count, start, end


def _zip64_extent(
    stream: BinaryIO, file: object, end: int
) -> tuple[int, int, int, int, int] | None:
    """The 64-bit end record, where a locator before the plain one announces it."""
    locator_at = end - _END64_LOCATOR.size
    if locator_at < 0:
        return None
    stream.seek(locator_at)
    mark, _, record_at, _ = _END64_LOCATOR.unpack(stream.read(_END64_LOCATOR.size))
    if mark != b"PK\x06\x07":
        return None
    if record_at + _END64.size == locator_at:
        stream.seek(record_at)
        record = _END64.unpack(stream.read(_END64.size))
        if record[0] == b"PK\x06\x06":
            return record_at, record[6], record[7], record[8], record[9]
    raise damaged(file, "zip64 end record", "not where it should be", "one before its locator")


def _parse_entry(directory: bytes, at: int, file: object) -> tuple[ZipMember, int]:
    if at + _ENTRY.size > len(directory):
        raise damaged(file, "zip directory", "cut short", "one entry a member")
    (mark, _, _, flags, method, _, _, crc, packed, size, name_size, extra_size, comment_size) = (
        _ENTRY.unpack_from(directory, at)[:13]
    )
    offset = _ENTRY.unpack_from(directory, at)[16]
    name_at = at + _ENTRY.size
    extra_at = name_at + name_size
    end = extra_at + extra_size + comment_size
    if mark != b"PK\x01\x02" or end > len(directory):
        raise damaged(file, "zip directory", "a broken entry", "one entry a member")
    raw_name = directory[name_at:extra_at]
    try:
        name = raw_name.decode("utf-8" if flags & _UTF8_NAME else "cp437")
    except UnicodeDecodeError as error:
        raise damaged(file, "zip member name", repr(raw_name[:40]), "valid UTF-8") from error
    extra = directory[extra_at : extra_at + extra_size]
    size, packed, offset = _widened(extra, [size, packed, offset], file, name)
    key = name.removesuffix(".npy")
    return ZipMember(key, raw_name, method, flags, crc, packed, size, offset, 0), end


def _widened(extra: bytes, values: list[int], file: object, name: str) -> list[int]:
    """Replace 32-bit values that say "see the zip64 extra field" by its 64-bit ones."""
    if _UNKNOWN32 not in values:
        return values
    at = 0
    while at + 4 <= len(extra):
        tag, length = struct.unpack_from("<2H", extra, at)
        if tag == 1:
            wide = extra[at + 4 : at + 4 + length]
            numbers = iter(struct.unpack(f"<{len(wide) // 8}Q", wide[: len(wide) // 8 * 8]))
            try:
                return [next(numbers) if v == _UNKNOWN32 else v for v in values]
            except (StopIteration, RuntimeError):
                break
        at += 4 + length
    raise damaged(file, f"{name} sizes", "missing their zip64 field", "64-bit sizes")


def _without_overlap(
    members: list[ZipMember], directory_start: int, file: object
) -> Mapping[str, ZipMember]:
    if not members:
        return {}
    by_offset = sorted(range(len(members)), key=lambda i: members[i].header_offset)
    limits = [members[i].header_offset for i in by_offset[1:]] + [directory_start]
    for index, limit in zip(by_offset, limits, strict=True):
        member = members[index]
        least = _LOCAL.size + len(member.raw_name) + member.compressed_size
        if member.header_offset + least > limit:
            raise damaged(
                file,
                f"{member.key} zip entry",
                f"{member.compressed_size} bytes at {member.header_offset}",
                f"bytes that end before {limit}",
            )
        members[index] = replace(member, end_limit=limit)
    table: dict[str, ZipMember] = {}
    for member in members:
        if member.key in table:
            raise damaged(file, f"zip member {member.key}", "there twice", "one of each name")
        table[member.key] = member
    return table


def locate(stream: BinaryIO, member: ZipMember, file: object) -> int:
    """Offset of the first data byte of a member, its local header checked against the directory.

    Raises
    ------
    ScanFileError
        Encrypted, compressed by another method, or the two headers disagree.
    """
    if member.flags & _ENCRYPTED:
        raise ScanFileError(member.key, "encrypted", "a plain zip member", file=file)
    if member.method not in (STORED, DEFLATED):
        raise ScanFileError(
            f"{member.key} zip method",
            member.method,
            "0 (stored) or 8 (deflated)",
            action="Write it with np.savez or np.savez_compressed",
            file=file,
        )
    stream.seek(member.header_offset)
    header = stream.read(_LOCAL.size)
    if len(header) < _LOCAL.size or header[:4] != b"PK\x03\x04":
        raise damaged(file, f"{member.key} zip header", "not there", "a local header")
    _, _, flags, method, _, _, crc, packed, size, name_size, extra_size = _LOCAL.unpack(header)
    name = stream.read(name_size)
    if (flags & ~_SIZES_FOLLOW_DATA, method, name) != (
        member.flags & ~_SIZES_FOLLOW_DATA,
        member.method,
        member.raw_name,
    ):
        raise damaged(file, f"{member.key} zip header", "unlike the directory's", "the same")
    if not flags & _SIZES_FOLLOW_DATA:
        size, packed = _widened(stream.read(extra_size), [size, packed], file, member.key)
        if (crc, packed, size) != (member.crc32, member.compressed_size, member.size):
            raise damaged(file, f"{member.key} sizes", "unlike the directory's", "the same")
    start: int = member.header_offset + _LOCAL.size + name_size + extra_size
    backed = (
        member.compressed_size == member.size
        if member.method == STORED
        else member.size <= _MAX_DEFLATE_RATIO * member.compressed_size + 64
    )
    if start + member.compressed_size > member.end_limit or not backed:
        raise damaged(
            file,
            f"{member.key} size",
            f"{member.size} bytes",
            f"what {member.compressed_size} bytes in the archive can hold",
        )
    return start


class MemberStream:
    """The uncompressed bytes of one member, in order and in bounded memory.

    Reads at most what the directory declares, and checks length and CRC at the end.

    Parameters
    ----------
    stream
        The archive; nobody else may move it while this is read.
    member
        The member to read.
    file
        Named in messages.
    """

    def __init__(self, stream: BinaryIO, member: ZipMember, file: object) -> None:
        self._stream = stream
        self._member = member
        self._file = file
        stream.seek(locate(stream, member, file))
        self._packed_left = member.compressed_size
        self._inflate = zlib.decompressobj(-15) if member.method == DEFLATED else None
        self._pending = b""
        self._left = member.size
        self._crc = 0

    def read(self, size: int) -> bytes:
        """The next ``size`` bytes, fewer only where the member ends."""
        parts = []
        wanted = min(size, self._left)
        while wanted > 0:
            part = self._next(wanted)
            if not part:
                raise damaged(
                    self._file,
                    self._member.key,
                    f"{self._member.size - self._left} bytes long",
                    f"{self._member.size} bytes",
                )
            self._crc = zlib.crc32(part, self._crc)
            self._left -= len(part)
            wanted -= len(part)
            parts.append(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def blocks(self, size: int = BLOCK_BYTES) -> Iterator[bytes]:
        """The rest of the member in blocks of ``size`` bytes, checked at the end."""
        while block := self.read(size):
            yield block
        self.finish()

    def finish(self) -> None:
        """Check that the member ended where it should and that its CRC is right.

        Raises
        ------
        ScanFileError
            It did not: the content is damaged.
        """
        ended = self._left == 0
        if ended and self._inflate is not None:
            ended = (
                not self._next(1)
                and self._inflate.eof
                and not self._inflate.unused_data
                and self._packed_left == 0
            )
        if not ended or self._crc != self._member.crc32:
            raise damaged(
                self._file, f"{self._member.key} checksum", "wrong", "the CRC in the zip directory"
            )

    def _next(self, size: int) -> bytes:
        """Up to ``size`` further bytes; empty only at the end."""
        if self._inflate is None:
            return self._packed(min(size, BLOCK_BYTES))
        try:
            while not self._inflate.eof:
                packed = self._pending or self._packed(BLOCK_BYTES)
                part = self._inflate.decompress(packed, min(size, BLOCK_BYTES))
                self._pending = self._inflate.unconsumed_tail
                if part or not packed:
                    return part
        except zlib.error as error:
            raise damaged(
                self._file, f"{self._member.key} compressed data", "broken", "a deflate stream"
            ) from error
        return b""

    def _packed(self, size: int) -> bytes:
        data = self._stream.read(min(size, self._packed_left))
        self._packed_left -= len(data)
        return data


class ZipArchive:
    """Members of one ``.npz``.

    Parameters
    ----------
    stream
        The open file.
    file
        Named in messages.
    """

    def __init__(self, stream: BinaryIO, path: Path) -> None:
        self._stream = stream
        self._file_bytes = stream.seek(0, os.SEEK_END)
        self.path = self.file = path
        self.members: Mapping[str, ZipMember] = read_directory(stream, path)

    def require(self, key: str) -> None:
        """Refuse an archive without ``key``, saying which keys it has.

        Raises
        ------
        ScanKeyError
            It has none.
        """
        if key not in self.members:
            raise ScanKeyError(
                key, "missing", "a required key", action=f"It has {self._keys()}", file=self.file
            )

    def _keys(self) -> str:
        names = list(self.members)[:12]
        more = ", ..." if len(self.members) > len(names) else ""
        return "the keys " + ", ".join(names) + more if names else "no keys"

    def header(self, key: str) -> NpyHeader:
        """Shape and dtype of a member, without its numbers."""
        from ptycho_torch.data.files.stored_stack import open_array as _open_array

        return _open_array(self._stream, self.members[key], self.file)[0]

    def read(self, key: str) -> AnyArray:
        """A member as an array in native byte order, its checksum checked.

        Memory grows with the bytes that are really there, never by what a header declares.
        """
        from ptycho_torch.data.files.stored_stack import open_array as _open_array
        from ptycho_torch.data.files.stored_stack import require_moderate as _require_moderate

        header, numbers = _open_array(self._stream, self.members[key], self.file)
        _require_moderate(self.members[key], header.data_bytes, self._file_bytes, self.file)
        raw = bytearray()
        for block in numbers.blocks():
            raw += block
        if not header.data_bytes:
            return np.empty(header.shape, header.dtype)
        native = header.dtype.newbyteorder("=")
        flat = np.frombuffer(raw, header.dtype)
        if header.fortran_order:
            return np.asarray(flat.reshape(header.shape[::-1]).T, native, order="C")
        return np.asarray(flat.reshape(header.shape), native)
