"""Members of an ``.npz`` archive, checked against the file before anything is allocated.

Owns the zip directory, arrays read by name, members as bounded streams, and where a stored one can
be mapped. :mod:`zipfile` parses and unpacks; what it would believe of a hostile file (a directory
of any size, members that share bytes, sizes that contradict each other) is refused here. Format:
PKWARE APPNOTE 6.3.10, sections 4.3 and 4.5. Knows nothing of scans.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipExtFile, ZipFile, ZipInfo

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.data.errors import ScanFileError, ScanKeyError
from ptycho_torch.data.files.mapping import FileState
from ptycho_torch.data.files.npy_header import NpyHeader, read_npy_header

MAX_MEMBERS = 4096
MODERATE_BYTES = 256 << 20
"""What may be unpacked into memory at once from a file of any size, however small."""

_MAX_DIRECTORY_BYTES = MAX_MEMBERS * 1024
_BLOCK_BYTES = 1 << 18
_WHOLE_BYTES = 1 << 20  # of a member that is read by one call: most of opening is calls
_ENCRYPTED, _SIZES_FOLLOW_DATA, _UTF8_NAME = 0x0001, 0x0008, 0x0800
# Deflate encodes at most 258 bytes in about two bits: 1032 to 1 (zlib technical details).
_MAX_DEFLATE_RATIO = 1032
_LOCAL = struct.Struct("<4s2x2H4x3L2H")
_ENTRY_BYTES = 46
_END = struct.Struct("<4s4H2LH")
_END64_BYTES, _LOCATOR_BYTES, _LONGEST_COMMENT = 56, 20, 0xFFFF
_UNKNOWN32 = 0xFFFFFFFF


def damaged(field: str, found: object, expected: object) -> ScanFileError:
    """The error for bytes that contradict each other: a truncated or altered file."""
    action = "The file is damaged: copy or write it again"
    return ScanFileError(field, found, expected, action=action)


class ZipArchive:
    """An open ``.npz``, its directory parsed and checked; one member may be read at a time.

    ``path`` and ``state`` are None for an archive in memory. ``members`` holds the directory entry
    of each member by its name without ``.npy``, as ``np.load`` spells it. ScanFileError where
    the stream is no zip archive, truncated, or has sizes, offsets or names that contradict each
    other.
    """

    def __init__(self, stream: BinaryIO, path: Path | None = None) -> None:
        self.stream = stream
        self.path = path
        self.size = stream.seek(0, os.SEEK_END)
        self.state = None if path is None else FileState.of(os.fstat(stream.fileno()))
        count, start, end = _directory_extent(stream, self.size)
        stream.seek(start)
        entries = _parsed(stream.read(end - start), count)
        self.members = {entry.filename.removesuffix(".npy"): entry for entry in entries}
        self._limits = _limits(entries, start)
        self._headers: dict[str, NpyHeader] = {}

    def require(self, key: str) -> None:
        """Refuse an archive without ``key`` with a ScanKeyError that says which keys it has."""
        if key not in self.members:
            names = list(self.members)[:12]
            more = ", ..." if len(self.members) > len(names) else ""
            keys = "the keys " + ", ".join(names) + more if names else "no keys"
            raise ScanKeyError(key, "missing", "a required key", action=f"It has {keys}")

    def header(self, key: str) -> NpyHeader:
        """Shape and dtype of an ``.npy`` member, without its numbers; errors as below."""
        return self._headers[key] if key in self._headers else self.open_array(key)[0]

    def open_array(self, key: str) -> tuple[NpyHeader, MemberStream]:
        """Header of an ``.npy`` member, and the stream that stands at its numbers.

        ScanFileError where it is damaged or its shape does not fit its bytes, ScanError where it
        is no plain array.
        """
        numbers = self.open(key)
        header = read_npy_header(numbers.read, key)
        if header.data_bytes != numbers.left:
            raise damaged(f"{key} {header}", f"{numbers.left} bytes", f"{header.data_bytes} bytes")
        self._headers[key] = header
        return header, numbers

    def read(self, key: str) -> NDArray[Any]:
        """A member as an array of its own, native byte order and C order, its checksum checked.

        Memory grows with the bytes that are really there, never by what a header declares.
        """
        header, numbers = self.open_array(key)
        self.require_moderate(key, header.data_bytes)
        raw = bytearray()
        for block in numbers.blocks():
            raw += block
        array = np.ndarray(
            header.shape, header.dtype, raw, order="F" if header.fortran_order else "C"
        )
        return np.asarray(array, header.dtype.newbyteorder("="), order="C")

    def require_moderate(self, key: str, nbytes: int) -> None:
        """Refuse to hold ``nbytes`` of a compressed member in memory where its file is small.

        ScanFileError for more than twice the archive and more than :data:`MODERATE_BYTES`; a
        stored member is as large as it says.
        """
        member, most = self.members[key], max(MODERATE_BYTES, 2 * self.size)
        if member.compress_type != ZIP_STORED and nbytes > most:
            raise ScanFileError(
                f"{key} size",
                f"{nbytes} bytes, unpacked from {member.compress_size}",
                f"at most {most} bytes",
                action="If that is meant, write it with np.savez",
            )

    def open(self, key: str) -> MemberStream:
        """The uncompressed bytes of a member, in order and in bounded memory.

        ScanFileError where it is encrypted, compressed by another method than deflate, or its two
        headers disagree.
        """
        self.stream.seek(self._start(key))
        return MemberStream(self.stream, self.members[key], key)

    def data_offset(self, key: str) -> int | None:
        """Where a stored member's bytes begin, None for a compressed one; errors as in open."""
        start = self._start(key)
        return start if self.members[key].compress_type == ZIP_STORED else None

    def _start(self, key: str) -> int:
        """Offset of a member's first byte, its local header checked against the directory."""
        self.require(key)
        member = self.members[key]
        method, packed, size = member.compress_type, member.compress_size, member.file_size
        if member.flag_bits & _ENCRYPTED:
            raise ScanFileError(key, "encrypted", "a plain zip member")
        if method not in (ZIP_STORED, ZIP_DEFLATED):
            action = "Write it with np.savez or np.savez_compressed"
            wanted = "0 (stored) or 8 (deflated)"
            raise ScanFileError(f"{key} zip method", method, wanted, action=action)
        self.stream.seek(member.header_offset)
        _require_same_header(self.stream, member, key)
        start = self.stream.tell()
        holds = size == packed if method == ZIP_STORED else size <= _MAX_DEFLATE_RATIO * packed + 64
        if start + packed > self._limits[key] or not holds:
            held = f"what {packed} bytes in the archive can hold"
            raise damaged(f"{key} size", f"{size} bytes", held)
        return start


class MemberStream:
    """The uncompressed bytes of one member, from an archive that stands at the first of them.

    It never gives more bytes than the directory declares. Where the member ends, a wrong length or
    CRC is a ScanFileError. ``left`` counts the bytes still to come.
    """

    def __init__(self, stream: BinaryIO, member: ZipInfo, key: str) -> None:
        small = max(member.compress_size, member.file_size) <= _WHOLE_BYTES
        self._unpacked = (_WholeMember if small else partial(ZipExtFile, mode="r"))(
            stream, zipinfo=member
        )
        self._size = self.left = member.file_size
        self._key = key

    def read(self, size: int) -> bytes:
        """The next ``size`` bytes, fewer only where the member ends."""
        try:
            content = self._unpacked.read(size)
        except (zlib.error, EOFError) as error:
            raise damaged(f"{self._key} compressed data", "broken", "a deflate stream") from error
        except BadZipFile as error:
            raise self._wrong_checksum() from error
        if len(content) < min(size, self.left):
            found = self._size - self.left + len(content)
            raise damaged(self._key, f"{found} bytes long", f"{self._size} bytes")
        self.left -= len(content)
        return content

    def blocks(self, size: int = _BLOCK_BYTES) -> Iterator[bytes]:
        """The rest of the member in blocks of ``size`` bytes, checked at the end."""
        while block := self.read(size):
            yield block

    def finish(self) -> None:
        """Check that the member ends here and that its CRC is right."""
        if self.read(1):
            raise self._wrong_checksum()

    def _wrong_checksum(self) -> ScanFileError:
        return damaged(f"{self._key} checksum", "wrong", "the CRC in the zip directory")


class _WholeMember:
    """A small member, read and unpacked at once; it gives and raises what a ZipExtFile does."""

    def __init__(self, stream: BinaryIO, zipinfo: ZipInfo) -> None:
        self._packed = stream.read(zipinfo.compress_size)
        self._member = zipinfo
        self._content: BytesIO | None = None
        self._right = True

    def read(self, size: int) -> bytes:
        if self._content is None:
            self._content = BytesIO(self._unpacked())
        content = self._content.read(size)
        if not self._right and self._content.tell() == self._content.getbuffer().nbytes:
            raise BadZipFile
        return content

    def _unpacked(self) -> bytes:
        member = self._member
        if len(self._packed) < member.compress_size:
            raise EOFError
        content = self._packed
        if member.compress_type == ZIP_DEFLATED:
            content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(content, member.file_size or 1)
        content = content[: member.file_size]
        self._right = zlib.crc32(content) == member.CRC
        return content


def _require_same_header(stream: BinaryIO, member: ZipInfo, key: str) -> None:
    """Read a member's local header, and refuse it where it is unlike the directory's entry."""
    content = stream.read(_LOCAL.size)
    if len(content) < _LOCAL.size or not content.startswith(b"PK\x03\x04"):
        raise damaged(f"{key} zip header", "not there", "a local header")
    _, flags, method, crc, packed, size, name_size, extra_size = _LOCAL.unpack(content)
    name, extra = stream.read(name_size), stream.read(extra_size)
    encoding = "utf-8" if member.flag_bits & _UTF8_NAME else "cp437"
    same_flags = not (flags ^ member.flag_bits) & ~_SIZES_FOLLOW_DATA
    same_name = name == member.orig_filename.encode(encoding)
    if not (same_flags and same_name and method == member.compress_type):
        raise damaged(f"{key} zip header", "unlike the directory's", "the same")
    # Of a stream that was written to a pipe, the sizes follow the data.
    if flags & _SIZES_FOLLOW_DATA:
        return
    sizes = (size, member.file_size), (packed, member.compress_size)
    # Sizes beyond 32 bits stand in the zip64 field of the extra bytes, in this order.
    wide = b"".join(real.to_bytes(8, "little") for short, real in sizes if short == _UNKNOWN32)
    same_sizes = all(short in (real, _UNKNOWN32) for short, real in sizes)
    if crc != member.CRC or not same_sizes or wide not in extra:
        raise damaged(f"{key} sizes", "unlike the directory's", "the same")


def _directory_extent(stream: BinaryIO, total: int) -> tuple[int, int, int]:
    """Number of entries, first byte and end of the directory, from the records that follow it."""
    tail_start = max(0, total - _END64_BYTES - _LOCATOR_BYTES - _END.size - _LONGEST_COMMENT)
    stream.seek(tail_start)
    tail = stream.read(total - tail_start)
    at = tail.rfind(b"PK\x05\x06")
    if not 0 <= at <= len(tail) - _END.size:
        raise damaged("file", "no complete zip archive", "an .npz archive")
    _, disk, disk_start, here, count, size, start, comment = _END.unpack_from(tail, at)
    if at + _END.size + comment != len(tail):
        raise damaged("file end", "unexpected bytes", "the end of a zip archive")
    locator = at - _LOCATOR_BYTES
    if locator >= 0 and tail.startswith(b"PK\x06\x07", locator):
        at = locator - _END64_BYTES
        place = int.from_bytes(tail[locator + 8 : locator + 16], "little")
        if at < 0 or place != tail_start + at or not tail.startswith(b"PK\x06\x06", at):
            raise damaged("zip64 end record", "not where it should be", "one before its locator")
        disk, disk_start, here, count, size, start = struct.unpack_from("<2L4Q", tail, at + 16)
    end = tail_start + at
    if disk or disk_start or here != count or start + size != end:
        one = f"one directory that ends at {end}"
        raise damaged("zip directory", f"{size} bytes at {start}", one)
    if count > MAX_MEMBERS or size > _MAX_DIRECTORY_BYTES:
        most = f"at most {MAX_MEMBERS} in {_MAX_DIRECTORY_BYTES} bytes"
        raise damaged("zip directory", f"{count} members in {size} bytes", most)
    return count, start, end


def _parsed(directory: bytes, count: int) -> list[ZipInfo]:
    """The entries of a directory; zipfile sees only it and an end record."""
    entries = at = 0
    while directory.startswith(b"PK\x01\x02", at) and at + _ENTRY_BYTES <= len(directory):
        at += _ENTRY_BYTES + sum(struct.unpack_from("<3H", directory, at + 28))
        entries += 1
    if (entries, at) != (count, len(directory)):
        found = f"{entries} entries in {at} bytes"
        raise damaged("zip directory", found, f"{count} entries in {len(directory)} bytes")
    end = _END.pack(b"PK\x05\x06", 0, 0, count, count, len(directory), 0, 0)
    try:
        with ZipFile(BytesIO(directory + end)) as archive:
            return archive.infolist()
    except (BadZipFile, NotImplementedError, ValueError, struct.error) as error:
        raise damaged("zip directory", "broken", "one entry per member") from error


def _limits(entries: list[ZipInfo], directory_start: int) -> dict[str, int]:
    """Where the next member, or the directory, starts; members share no bytes and no names."""
    limits: dict[str, int] = {}
    limit = directory_start
    for entry in sorted(entries, key=lambda entry: entry.header_offset, reverse=True):
        key, packed = entry.filename.removesuffix(".npy"), entry.compress_size
        if entry.header_offset + _LOCAL.size + packed > limit:
            found = f"{packed} bytes at {entry.header_offset}"
            raise damaged(f"{key} zip entry", found, f"bytes that end before {limit}")
        if key in limits:
            raise damaged(f"zip member {key}", "there twice", "one of each name")
        limits[key], limit = limit, entry.header_offset
    return limits
