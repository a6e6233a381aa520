"""Hostile ``.npz`` files: valid ones with something wrong, by structure or blindly.

A mutation is a function of a random stream and a base; the same seed gives the same files.
"""

from __future__ import annotations

import io
import json
import random
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

BOUNDARIES = [0, 1, 2, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFE, 0xFFFFFFFF]
LENGTHS = [-1, 0, 1, 2, 3, 7, 2**15, 2**31 - 1, 2**31, 2**32, 2**62, 2**63, 2**64, 10**30]
DTYPES = [
    "'<f4'", "'>f4'", "'<f8'", "'<f2'", "'<f16'", "'<i8'", "'|u1'", "'|b1'", "'<c8'", "'<c16'",
    "'|O'", "'|V8'", "'|V0'", "'|S4'", "'|S0'", "'<U3'", "'|S2147483647'", "'|V2147483647'",
    "'<M8[ns]'", "'<m8[s]'", "[('a', '<f4'), ('b', '|O')]", "[('a', '<f4', (2, 2))]", "('<f4', 3)",
    "'<f4,<f4'", "'(2,2)<f4'", "'x'", "''", "None", "3", "'<f4' * 9", "b'<f4'", "[]", "{}",
    "'<c32'", "'float32'", "'object'", "['<f4']", "('<f4', (1000000000, 1000000000))",
]  # fmt: skip
SHAPES = [
    "()", "(1,)", "[3, 4]", "(True, False)", "(2.0, 3)", "('a',)", "None", "(1,) * 40", "((1,),)",
    "(2**31, 2**31, 2**31)", "(-1, -1)", "{1}", "5", "(0, 0, 0)", "(1, 1, 1)", "(10**400,)",
]  # fmt: skip
HEADERS = [
    b"", b"{", b"{}", b"(" * 9000, b"{'descr': '<f4'}", b"[" * 4999 + b"]" * 4999,
    b"__import__('campaign_payload')", b"{'descr': __import__('os').system('true')}",
    b"{'descr': '<f4', 'fortran_order': False, 'shape': (3,), 'more': 1}",
    b"{'descr': '<f4', 'fortran_order': 0, 'shape': (3,)}", b"\x00" * 100, b"\xff\xfe" * 50,
    b"{'shape': (L,), 'descr': '<f4', 'fortran_order': False}", b"-" * 9990 + b"1",
    b"{'descr': '<f4', 'fortran_order': False, 'shape': (" + b"9" * 9000 + b",)}",
    b"{'descr': '<f4', 'fortran_order': False, 'shape': (3,)}\n" * 20,
]  # fmt: skip
NAMES = [
    "../../../nowhere/escaped.npy", "/nowhere/escaped.npy", "diff3d", "xcoords.npy", "a" * 60000,
    "", "\x00.npy", "a\nb\x1b[2J.npy", "..\\x.npy", "Ωmega.npy",
    "probeGuess.npy.npy", "_metadata.npy", "Y.npy", "dir/",
]  # fmt: skip
TEXTS = [
    "{", "[]", "null", "[" * 100_000, '{"a": NaN}', '{"a": ' + "9" * 5000 + "}", '{"a": 1e999}',
    '{"axis_order": "frames_last"}', '{"axis_order": ["x"]}', '{"axis_order": 3}', "\ud800",
    '{"a": "' + "x" * 100_000 + '"}',
]  # fmt: skip
EXTREMES = [np.nan, np.inf, -np.inf, -1.0, 0.0, 1e308, -1e308, 1e-320, 2.0**63]


@dataclass
class Member:
    """One member before it is written: an array, or bytes that pretend to be one."""

    name: str
    content: bytes
    method: int = zipfile.ZIP_STORED


@dataclass
class Base:
    """A valid scan, in parts."""

    content: bytes
    members: list[Member]
    arrays: dict[str, np.ndarray] = field(default_factory=dict)


def read_base(content: bytes) -> Base:
    """Take a valid archive apart."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = [
            Member(entry.filename, archive.read(entry), entry.compress_type)
            for entry in archive.infolist()
        ]
    with np.load(io.BytesIO(content)) as archive:
        # Members that are no arrays come as bytes.
        read = ((name, archive[name]) for name in archive.files)
        arrays = {name: array for name, array in read if isinstance(array, np.ndarray)}
    if not arrays:
        raise ValueError("no arrays")
    return Base(content, members, arrays)


def mutate(base: Base, rng: random.Random) -> tuple[str, bytes]:
    """One hostile file, and the name of what was done to it."""
    mutation = rng.choice(MUTATIONS)
    return mutation.__name__.strip("_"), mutation(base, rng)


def pack(members: list[Member]) -> bytes:
    """Write members as they are; a name may occur twice."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for member in members:
            entry = zipfile.ZipInfo(member.name.encode("utf-8", "replace").decode()[:65000])
            entry.compress_type = member.method
            archive.writestr(entry, member.content)
    return buffer.getvalue()


def npy(array: np.ndarray, *, pickles: bool = False) -> bytes:
    """An array as ``.npy``."""
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, allow_pickle=pickles)
    return buffer.getvalue()


def with_header(text: bytes, data: bytes, version: tuple[int, int] = (1, 0)) -> bytes:
    """An ``.npy`` whose header says what it is told."""
    length = struct.pack("<H", len(text) & 0xFFFF)
    if version != (1, 0):
        length = struct.pack("<I", len(text))
    return b"\x93NUMPY" + bytes(version) + length + text + data


class Payload:
    """Unpickled, it leaves a trace that the harness looks for."""

    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return __import__, ("campaign_payload",)


# -- blind ---------------------------------------------------------------------------------------


def _flip_bits(base: Base, rng: random.Random) -> bytes:
    content = bytearray(base.content)
    for _ in range(rng.choice([1, 1, 2, 8, 64])):
        content[_somewhere(content, rng)] ^= 1 << rng.randrange(8)
    return bytes(content)


def _overwrite(base: Base, rng: random.Random) -> bytes:
    content = bytearray(base.content)
    start = _somewhere(content, rng)
    length = rng.choice([1, 2, 4, 8, 100, 1000])
    content[start : start + length] = rng.choice([b"\x00", b"\xff", rng.randbytes(1)]) * length
    return bytes(content)


def _delete_or_repeat(base: Base, rng: random.Random) -> bytes:
    start = _somewhere(base.content, rng)
    stop = start + rng.choice([1, 2, 22, 46, 500])
    piece = base.content[start:stop]
    kept = base.content[stop:] if rng.random() < 0.5 else piece + base.content[start:]
    return base.content[:start] + kept


def _cut(base: Base, rng: random.Random) -> bytes:
    return base.content[: rng.randrange(len(base.content))]


def _surround(base: Base, rng: random.Random) -> bytes:
    junk = rng.randbytes(rng.choice([1, 22, 1000]))
    return junk + base.content if rng.random() < 0.5 else base.content + junk


def _somewhere(content: bytes | bytearray, rng: random.Random) -> int:
    """A place in a file; half the time where archives keep their records."""
    if rng.random() < 0.5:
        return rng.randrange(len(content))
    marks = [b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06", b"\x93NUMPY"]
    found = content.find(rng.choice(marks), rng.randrange(len(content)))
    found = content.find(b"PK\x01\x02") if found < 0 else found
    return max(0, min(len(content) - 1, found + rng.randrange(64)))


# -- zip records ---------------------------------------------------------------------------------


def _zip_field(base: Base, rng: random.Random) -> bytes:
    """One field of one record, at a boundary value."""
    content = bytearray(base.content)
    mark, size = rng.choice([(b"PK\x01\x02", 46), (b"PK\x03\x04", 30), (b"PK\x05\x06", 22)])
    records = []
    at = content.find(mark)
    while at >= 0:
        records.append(at)
        at = content.find(mark, at + 1)
    at = rng.choice(records) + rng.randrange(4, size - 3, 2)
    value = rng.choice(BOUNDARIES) if rng.random() < 0.8 else rng.getrandbits(32)
    if rng.random() < 0.5:
        content[at : at + 2] = struct.pack("<H", value & 0xFFFF)
    else:
        content[at : at + 4] = struct.pack("<I", value)
    return bytes(content)


def _zip64(base: Base, rng: random.Random) -> bytes:
    """Announce 64-bit sizes, with or without saying them."""
    members = [replace(member) for member in base.members]
    content = bytearray(pack(members))
    entry = content.find(b"PK\x01\x02")
    for _ in range(rng.randrange(len(members))):
        entry = content.find(b"PK\x01\x02", entry + 1)
    at = entry + rng.choice([20, 24, 42])
    content[at : at + 4] = b"\xff\xff\xff\xff"
    if rng.random() < 0.7:
        extra = struct.pack("<2H", 1, 8) + struct.pack("<Q", rng.choice([0, 2**40, 2**63, 100]))
        name_size = struct.unpack_from("<H", content, entry + 28)[0]
        struct.pack_into("<H", content, entry + 30, len(extra))
        content[entry + 46 + name_size : entry + 46 + name_size] = extra
        end = content.rfind(b"PK\x05\x06")
        size = struct.unpack_from("<I", content, end + 12)[0]
        struct.pack_into("<I", content, end + 12, size + len(extra))
    return bytes(content)


def _names(base: Base, rng: random.Random) -> bytes:
    """Members renamed, doubled, dropped, or thousands of them."""
    members = [replace(member) for member in base.members]
    kind = rng.randrange(4)
    if kind == 0:
        rng.choice(members).name = rng.choice(NAMES)
    elif kind == 1:
        members.append(replace(rng.choice(members)))
    elif kind == 2:
        del members[rng.randrange(len(members))]
    else:
        members += [Member(f"m{number}.npy", b"") for number in range(rng.choice([100, 5000]))]
    return pack(members)


def _methods(base: Base, rng: random.Random) -> bytes:
    """Members packed another way, or said to be."""
    members = [replace(member) for member in base.members]
    chosen = rng.choice(members)
    chosen.method = rng.choice([zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
    content = bytearray(pack(members))
    if rng.random() < 0.5:
        name = chosen.name.encode()
        for mark, method_at, name_at in ((b"PK\x03\x04", 8, 30), (b"PK\x01\x02", 10, 46)):
            at = content.find(mark)
            while at >= 0:
                if content[at + name_at : at + name_at + len(name)] == name:
                    flags = rng.choice([0, 1, 8, 0x41, 0x800])
                    struct.pack_into("<H", content, at + method_at - 2, flags)
                    struct.pack_into("<H", content, at + method_at, rng.choice([0, 8, 9, 12, 99]))
                at = content.find(mark, at + 1)
    return bytes(content)


# -- npy headers ---------------------------------------------------------------------------------


def _header(base: Base, rng: random.Random) -> bytes:
    """A header with one odd entry, over the bytes of the true array."""
    name = rng.choice(list(base.arrays))
    array = base.arrays[name]
    descr, shape, order = repr(array.dtype.str), repr(array.shape), "False"
    kind = rng.randrange(5)
    if kind == 0:
        descr = rng.choice(DTYPES)
    elif kind == 1:
        shape = rng.choice(SHAPES)
    elif kind == 2:
        lengths = list(array.shape or (1,))
        lengths[rng.randrange(len(lengths))] = rng.choice(LENGTHS)
        shape = repr(tuple(lengths))
    elif kind == 3:
        order = rng.choice(["True", "1", "'x'", "None", "0"])
    else:
        shape, descr = rng.choice(SHAPES), rng.choice(DTYPES)
    text = f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}".encode()
    padded = text + b" " * (63 - (len(text) + 10) % 64) + b"\n"
    version = rng.choice([(1, 0), (1, 0), (2, 0), (3, 0), (0, 0), (9, 9)])
    return _with(base, name, with_header(padded, array.tobytes(), version), rng)


def _header_text(base: Base, rng: random.Random) -> bytes:
    """A header that is no header, or lies about its length."""
    name = rng.choice(list(base.arrays))
    text = rng.choice(HEADERS)
    content = bytearray(with_header(text, base.arrays[name].tobytes()))
    if rng.random() < 0.3:
        struct.pack_into("<H", content, 8, rng.choice(BOUNDARIES) & 0xFFFF)
    return _with(base, name, bytes(content), rng)


def _pickle(base: Base, rng: random.Random) -> bytes:
    """An object array whose loading would run code."""
    name = rng.choice([*base.arrays, "_metadata", "Y", "objectGuess", "scan_index"])
    array = np.empty(rng.choice([(), (1,), (5,)]), dtype=object)
    array[...] = Payload()
    return _with(base, name, npy(array, pickles=True), rng)


# -- arrays --------------------------------------------------------------------------------------


def _dtype(base: Base, rng: random.Random) -> bytes:
    """A true array of another dtype or order."""
    name = rng.choice(list(base.arrays))
    array = base.arrays[name]
    wanted = rng.choice(["f2", ">f4", ">f8", "i1", "u1", ">i4", "c8", ">c16", "?", "S3", "U2"])
    with np.errstate(all="ignore"):
        try:
            array = np.nan_to_num(array.real).astype(wanted)
        except (ValueError, TypeError):
            return base.content
    if rng.random() < 0.3:
        array = np.asfortranarray(array)
    return _with(base, name, npy(array), rng)


def _shape(base: Base, rng: random.Random) -> bytes:
    """A true array that is cut, longer, flat, deeper or turned."""
    name = rng.choice(list(base.arrays))
    array = base.arrays[name]
    changes: list[Callable[[], np.ndarray]] = [
        lambda: array[:-1], lambda: array[:0], lambda: np.concatenate([array, array]),
        lambda: array.ravel(), lambda: array[None], lambda: array[..., None], lambda: array.T,
        lambda: array[..., :1], lambda: array[:1], lambda: np.moveaxis(array, 0, -1),
    ]  # fmt: skip
    try:
        return _with(base, name, npy(rng.choice(changes)()), rng)
    except (IndexError, ValueError):
        return base.content


def _values(base: Base, rng: random.Random) -> bytes:
    """Values that no measurement gives, one or all of them."""
    name = rng.choice(list(base.arrays))
    array = base.arrays[name].copy()
    if array.dtype.kind not in "fc" or not array.size:
        return base.content
    with np.errstate(all="ignore"):
        if rng.random() < 0.5:
            array.reshape(-1)[rng.randrange(array.size)] = rng.choice(EXTREMES)
        else:
            array[...] = rng.choice(EXTREMES)
    return _with(base, name, npy(array), rng)


def _metadata(base: Base, rng: random.Random) -> bytes:
    """Provenance that is no JSON, or too much of it."""
    text = rng.choice([*TEXTS, json.dumps({"a": [0] * 1000})])
    array = np.array(text.encode("utf-8", "replace") if rng.random() < 0.5 else text[:5000])
    return _with(base, "_metadata", npy(array), rng)


def _bomb(base: Base, rng: random.Random) -> bytes:
    """Members that unpack to far more than the file, with headers that agree with each other."""
    count = rng.choice([1 << 18, 1 << 20, 1 << 22])
    side = int(count**0.5)
    kind = rng.randrange(5)
    names = {0: ["diff3d", "data"], 1: ["xcoords"], 2: ["objectGuess", "probeGuess", "probe"]}
    shapes: dict[str, tuple[int, ...]] = {}
    if kind <= 2:
        name = rng.choice(names[kind])
        shapes[name] = {0: (count // 64, 8, 8), 1: (count,), 2: (side, side)}[kind]
    elif kind == 3:
        # Everything a scan needs, of as many frames of one pixel.
        shapes = {"diff3d": (count, 1, 1), "xcoords": (count,), "ycoords": (count,)}
        shapes["probeGuess"] = (1, 1)
    else:
        shapes = {"diff3d": (1, side, side), "xcoords": (1,), "ycoords": (1,)}
        shapes["probeGuess"] = (side, side)
    kept = [member for member in base.members if member.name.removesuffix(".npy") not in shapes]
    if kind > 2:
        kept = []
    for name, shape in shapes.items():
        dtype = "<c8" if name in ("objectGuess", "probeGuess", "probe") else "<f8"
        dtype = "|u1" if kind == 3 and name == "diff3d" else dtype
        zeros = np.broadcast_to(np.zeros((), dtype), shape)
        kept.append(Member(f"{name}.npy", npy(zeros), zipfile.ZIP_DEFLATED))
    return pack(kept)


def _with(base: Base, name: str, content: bytes, rng: random.Random) -> bytes:
    """The base with another content under a name; sometimes compressed."""
    members = [replace(member) for member in base.members if member.name != f"{name}.npy"]
    method = zipfile.ZIP_DEFLATED if rng.random() < 0.3 else zipfile.ZIP_STORED
    members.insert(rng.randrange(len(members) + 1), Member(f"{name}.npy", content, method))
    return pack(members)


MUTATIONS = (
    _flip_bits, _overwrite, _delete_or_repeat, _cut, _surround, _zip_field, _zip_field, _zip64,
    _names, _methods, _header, _header, _header_text, _pickle, _dtype, _shape, _values, _metadata,
    _bomb,
)  # fmt: skip
