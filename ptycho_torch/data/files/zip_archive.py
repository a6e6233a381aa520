"""Members of an ``.npz`` archive, checked against the file before anything is allocated.

Owns the zip directory, arrays read by name, members as bounded streams, and where a stored one can
be mapped. :mod:`zipfile` parses and unpacks; what it would believe of a hostile file (a directory
of any size, members that share bytes, sizes that contradict each other) is refused here. Format:
PKWARE APPNOTE 6.3.10, sections 4.3 and 4.5. Knows nothing of scans.
"""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Literal
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
_ENCRYPTED, _SIZES_FOLLOW_DATA, _UTF8_NAME = 0x0001, 0x0008, 0x0800
# Deflate encodes at most 258 bytes in about two bits: 1032 to 1 (zlib technical details).
_MAX_DEFLATE_RATIO = 1032
_END = struct.Struct("<4s4H2LH")
_END64_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_LOCAL = struct.Struct("<4s5H3L2H")
_ENTRY_BYTES = 46
_UNKNOWN32 = 0xFFFFFFFF


def damaged(field: str, found: object, expected: object) -> ScanFileError:
    """The error for bytes that contradict each other: a truncated or altered file."""
    action = "The file is damaged: copy or write it again"
    return ScanFileError(field, found, expected, action=action)


class ZipArchive:
    """An open ``.npz``, its directory parsed and checked.

    Parameters
    ----------
    stream
        The archive, seekable; only one member may be read at a time.
    path
        The file behind the stream; None for an archive in memory.

    Attributes
    ----------
    state
        State of the open file; None for an archive in memory.
    members
        Directory entry of each member, by its name without ``.npy``, as ``np.load`` spells it.

    Raises
    ------
    ScanFileError
        Not a zip archive, truncated, or with sizes, offsets or names that contradict each other.
    """

    def __init__(self, stream: BinaryIO, path: Path | None = None) -> None:
        self.stream = stream
        self.path = path
        self.size = stream.seek(0, os.SEEK_END)
        self.state: FileState | None = None
        if path is not None:
            self.state = FileState.of(os.fstat(stream.fileno()))
        count, start, end = _directory_extent(stream, self.size)
        stream.seek(start)
        entries = _parsed(stream.read(end - start), count)
        self._limits = _limits(entries, start)
        self.members: Mapping[str, ZipInfo] = {_key(entry): entry for entry in entries}

    def require(self, key: str) -> None:
        """Refuse an archive without ``key``, saying which keys it has.

        Raises
        ------
        ScanKeyError
            It has none of that name.
        """
        if key not in self.members:
            names = list(self.members)[:12]
            more = ", ..." if len(self.members) > len(names) else ""
            keys = "the keys " + ", ".join(names) + more if names else "no keys"
            raise ScanKeyError(key, "missing", "a required key", action=f"It has {keys}")

    def header(self, key: str) -> NpyHeader:
        """Shape and dtype of a member, without its numbers.

        Raises
        ------
        ScanFileError, ScanError
            Damaged, no plain array, or the shape does not fit the member's bytes.
        """
        return self.open_array(key)[0]

    def open_array(self, key: str) -> tuple[NpyHeader, MemberStream]:
        """Header of an ``.npy`` member, and the stream that stands at its numbers."""
        numbers = self.open(key)
        header = read_npy_header(numbers.read, key)
        if header.data_bytes != numbers.left:
            raise damaged(f"{key} {header}", f"{numbers.left} bytes", f"{header.data_bytes} bytes")
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
        if not header.data_bytes:
            return np.empty(header.shape, header.dtype)
        order: Literal["C", "F"] = "F" if header.fortran_order else "C"
        array = np.frombuffer(raw, header.dtype).reshape(header.shape, order=order)
        return np.asarray(array, header.dtype.newbyteorder("="), order="C")

    def require_moderate(self, key: str, nbytes: int) -> None:
        """Refuse a compressed member that would take far more memory than its file takes disk.

        Parameters
        ----------
        key
            The member; stored ones are as large as they say.
        nbytes
            Bytes of it that will be in memory at once.

        Raises
        ------
        ScanFileError
            More than twice the archive, and more than :data:`MODERATE_BYTES`.
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

        Raises
        ------
        ScanFileError
            Encrypted, compressed by another method, or its two headers disagree.
        """
        start = self._start(key)
        self.stream.seek(start)
        return MemberStream(self.stream, self.members[key], key)

    def data_offset(self, key: str) -> int | None:
        """Where the bytes of a stored member begin; None for a compressed one.

        Raises
        ------
        ScanFileError
            As from :meth:`open`.
        """
        start = self._start(key)
        return start if self.members[key].compress_type == ZIP_STORED else None

    def _start(self, key: str) -> int:
        """Offset of a member's first byte, its local header checked against the directory."""
        member = self.members[key]
        method, packed, size = member.compress_type, member.compress_size, member.file_size
        if member.flag_bits & _ENCRYPTED:
            raise ScanFileError(key, "encrypted", "a plain zip member")
        if method not in (ZIP_STORED, ZIP_DEFLATED):
            action = "Write it with np.savez or np.savez_compressed"
            wanted = "0 (stored) or 8 (deflated)"
            raise ScanFileError(f"{key} zip method", method, wanted, action=action)
        start = self._checked_local_header(key, member)
        holds = size == packed if method == ZIP_STORED else size <= _MAX_DEFLATE_RATIO * packed + 64
        if start + packed > self._limits[key] or not holds:
            held = f"what {packed} bytes in the archive can hold"
            raise damaged(f"{key} size", f"{size} bytes", held)
        return start

    def _checked_local_header(self, key: str, member: ZipInfo) -> int:
        self.stream.seek(member.header_offset)
        content = self.stream.read(_LOCAL.size)
        if len(content) < _LOCAL.size or content[:4] != b"PK\x03\x04":
            raise damaged(f"{key} zip header", "not there", "a local header")
        _, _, flags, method, _, _, crc, packed, size, name_size, extra_size = _LOCAL.unpack(content)
        name, wide = self.stream.read(name_size), _zip64_values(self.stream.read(extra_size))
        # Of a stream that was written to a pipe, the sizes follow the data.
        sized = not flags & _SIZES_FOLLOW_DATA
        size = next(wide, size) if size == _UNKNOWN32 else size
        packed = next(wide, packed) if packed == _UNKNOWN32 else packed
        if (flags ^ member.flag_bits) & ~_SIZES_FOLLOW_DATA or (method, name) != (
            member.compress_type,
            _raw_name(member),
        ):
            raise damaged(f"{key} zip header", "unlike the directory's", "the same")
        found, expected = (crc, packed, size), (member.CRC, member.compress_size, member.file_size)
        if sized and found != expected:
            raise damaged(f"{key} sizes", "unlike the directory's", "the same")
        start: int = member.header_offset + _LOCAL.size + name_size + extra_size
        return start


class MemberStream:
    """The uncompressed bytes of one member.

    Reads at most what the directory declares, and checks length and CRC where the member ends.

    Parameters
    ----------
    stream
        The archive, at the member's first byte; nobody else may move it while this is read.
    member, key
        The member to read, and its name in messages.
    """

    def __init__(self, stream: BinaryIO, member: ZipInfo, key: str) -> None:
        self._unpacked = ZipExtFile(stream, "r", member)
        self._size = member.file_size
        self._key = key
        self.left = member.file_size

    def read(self, size: int) -> bytes:
        """The next ``size`` bytes, fewer only where the member ends."""
        wanted = min(size, self.left)
        parts = []
        while wanted > 0:
            part = self._next(min(wanted, _BLOCK_BYTES))
            if not part:
                raise damaged(
                    self._key, f"{self._size - self.left} bytes long", f"{self._size} bytes"
                )
            self.left -= len(part)
            wanted -= len(part)
            parts.append(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def blocks(self, size: int = _BLOCK_BYTES) -> Iterator[bytes]:
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
        if self.left or self._next(1):
            raise damaged(f"{self._key} checksum", "wrong", "the CRC in the zip directory")

    def _next(self, size: int) -> bytes:
        try:
            return self._unpacked.read(size)
        except (zlib.error, EOFError) as error:
            raise damaged(f"{self._key} compressed data", "broken", "a deflate stream") from error
        except BadZipFile as error:
            expected = "the CRC in the zip directory"
            raise damaged(f"{self._key} checksum", "wrong", expected) from error


def _directory_extent(stream: BinaryIO, total: int) -> tuple[int, int, int]:
    """Number of entries, first byte and end of the directory."""
    # The end record is the last thing in the file, unless a comment follows it.
    for tail_bytes in (_END.size, _END.size + 0xFFFF):
        tail_start = max(0, total - tail_bytes)
        stream.seek(tail_start)
        tail = stream.read(total - tail_start)
        found = tail.rfind(b"PK\x05\x06")
        if 0 <= found <= len(tail) - _END.size:
            break
    else:
        raise damaged("file", "no complete zip archive", "an .npz archive")
    _, disk, disk_start, here, count, size, start, comment = _END.unpack_from(tail, found)
    if found + _END.size + comment != len(tail):
        raise damaged("file end", "unexpected bytes", "the end of a zip archive")
    end = tail_start + found
    wide = _zip64_extent(stream, end)
    if wide is not None:
        disk, disk_start, (end, here, count, size, start) = 0, 0, wide
    if disk or disk_start or here != count or start + size != end:
        one = f"one directory that ends at {end}"
        raise damaged("zip directory", f"{size} bytes at {start}", one)
    if count > MAX_MEMBERS or size > _MAX_DIRECTORY_BYTES:
        most = f"at most {MAX_MEMBERS} in {_MAX_DIRECTORY_BYTES} bytes"
        raise damaged("zip directory", f"{count} members in {size} bytes", most)
    return count, start, end


def _zip64_extent(stream: BinaryIO, end: int) -> tuple[int, int, int, int, int] | None:
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
    raise damaged("zip64 end record", "not where it should be", "one before its locator")


def _parsed(directory: bytes, count: int) -> list[ZipInfo]:
    """The entries of a directory; zipfile sees only it and an end record."""
    entries = at = 0
    while directory[at : at + 4] == b"PK\x01\x02" and at + _ENTRY_BYTES <= len(directory):
        at += _ENTRY_BYTES + sum(struct.unpack_from("<3H", directory, at + 28))
        entries += 1
    if (entries, at) != (count, len(directory)):
        found = f"{entries} entries in {at} bytes"
        raise damaged("zip directory", found, f"{count} entries in {len(directory)} bytes")
    end = _END.pack(b"PK\x05\x06", 0, 0, count, count, len(directory), 0, 0)
    try:
        with ZipFile(io.BytesIO(directory + end)) as archive:
            return archive.infolist()
    except (BadZipFile, NotImplementedError, ValueError, struct.error) as error:
        raise damaged("zip directory", "broken", "one entry per member") from error


def _limits(entries: list[ZipInfo], directory_start: int) -> dict[str, int]:
    """Where the next member, or the directory, starts; members share no bytes and no names."""
    limits: dict[str, int] = {}
    limit = directory_start
    for entry in sorted(entries, key=lambda entry: entry.header_offset, reverse=True):
        key, packed = _key(entry), entry.compress_size
        if entry.header_offset + _LOCAL.size + len(_raw_name(entry)) + packed > limit:
            found = f"{packed} bytes at {entry.header_offset}"
            raise damaged(f"{key} zip entry", found, f"bytes that end before {limit}")
        if key in limits:
            raise damaged(f"zip member {key}", "there twice", "one of each name")
        limits[key], limit = limit, entry.header_offset
    return limits


def _zip64_values(extra: bytes) -> Iterator[int]:
    """The 64-bit numbers in the zip64 field, where there is one."""
    at = 0
    while at + 4 <= len(extra):
        tag, length = struct.unpack_from("<2H", extra, at)
        if tag == 1:
            wide = extra[at + 4 : at + 4 + length]
            return iter(struct.unpack(f"<{len(wide) // 8}Q", wide[: len(wide) // 8 * 8]))
        at += 4 + length
    return iter(())


def _key(entry: ZipInfo) -> str:
    return entry.filename.removesuffix(".npy")


def _raw_name(entry: ZipInfo) -> bytes:
    return entry.orig_filename.encode("utf-8" if entry.flag_bits & _UTF8_NAME else "cp437")
