"""The zip directory and npy headers against Python's own zipfile, and against hostile bytes."""

from __future__ import annotations

import io
import random
import struct
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptycho_torch.data.errors import (
    PtychoTorchError,
    ScanError,
    ScanFileError,
    ScanKeyError,
    naming,
)
from ptycho_torch.data.files import zip_archive
from ptycho_torch.data.files.npy_header import read_npy_header
from ptycho_torch.data.files.zip_archive import MAX_MEMBERS, ZipArchive

ARRAYS = {
    "xcoords": np.linspace(0, 9, 40),
    "diff3d": np.random.default_rng(0).random((40, 8, 8), np.float32),
    "scan_index": np.zeros(40, np.int64),
}


def archive(compressed: bool = False) -> bytes:
    stream = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(stream, **ARRAYS)
    return stream.getvalue()


def read_all(content: bytes, key: str) -> bytes:
    return b"".join(ZipArchive(io.BytesIO(content)).open(key).blocks(7))


def npy_header(text: str) -> bytes:
    padded = text.encode() + b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(padded)) + padded


def directory_offset(content: bytes) -> int:
    return int(struct.unpack_from("<L", content, content.rfind(b"PK\x05\x06") + 16)[0])


class Unseekable(io.RawIOBase):
    """A pipe: zipfile then puts the sizes behind the data."""

    def __init__(self) -> None:
        self.content = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:
        self.content += data
        return len(data)


@pytest.mark.parametrize("compressed", [False, True])
def test_directory_agrees_with_zipfile(compressed: bool) -> None:
    content = archive(compressed)
    ours = ZipArchive(io.BytesIO(content)).members
    theirs = zipfile.ZipFile(io.BytesIO(content))
    assert [f"{key}.npy" for key in ours] == theirs.namelist()
    for info in theirs.infolist():
        member = ours[info.filename.removesuffix(".npy")]
        assert (member.file_size, member.compress_size, member.CRC, member.header_offset) == (
            info.file_size,
            info.compress_size,
            info.CRC,
            info.header_offset,
        )
        key = info.filename.removesuffix(".npy")
        assert read_all(content, key) == theirs.read(info)
        array = ZipArchive(io.BytesIO(content)).read(key)
        assert array.dtype == ARRAYS[key].dtype and np.array_equal(array, ARRAYS[key])


def test_directory_is_read_when_sizes_follow_the_data() -> None:
    pipe = Unseekable()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as target:
        target.writestr("a.npy", b"12345" * 100)
    assert read_all(bytes(pipe.content), "a") == b"12345" * 100


def test_directory_is_read_in_its_64_bit_form(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 10)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as target:
        target.writestr("a.npy", b"a" * 100)
        target.writestr("b.npy", b"b" * 200)
    assert b"PK\x06\x06" in stream.getvalue()
    assert read_all(stream.getvalue(), "b") == b"b" * 200


def test_directory_is_read_before_a_comment() -> None:
    stream = io.BytesIO(archive())
    with zipfile.ZipFile(stream, "a") as target:
        target.comment = b"beamtime 11008"
    assert set(ZipArchive(stream).members) == set(ARRAYS)


@pytest.mark.parametrize("compressed", [False, True])
def test_truncated_archive_is_refused_at_every_length(compressed: bool) -> None:
    content = archive(compressed)
    for length in random.Random(1).sample(range(len(content)), 200):
        with pytest.raises(ScanFileError, match=r"^f: .*\.$"), naming("f"):
            ZipArchive(io.BytesIO(content[:length]))


def test_bytes_after_the_archive_are_refused() -> None:
    with pytest.raises(ScanFileError, match="file end is unexpected bytes"):
        ZipArchive(io.BytesIO(archive() + b"more"))


def test_name_given_twice_is_refused() -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as target:
        target.writestr("a.npy", b"1")
        target.writestr("a", b"2")
    with pytest.raises(ScanFileError, match="zip member a is there twice"):
        ZipArchive(stream)


def test_more_members_than_any_scan_has_are_refused() -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as target:
        for number in range(5000):
            target.writestr(str(number), b"")
    with pytest.raises(ScanFileError, match="5000 members"):
        ZipArchive(stream)


def test_members_that_share_bytes_are_refused() -> None:
    content = bytearray(archive())
    start = directory_offset(content)
    second = start + 46 + len("xcoords.npy")
    content[second + 42 : second + 46] = struct.pack("<L", 0)
    with pytest.raises(ScanFileError, match="damaged"):
        ZipArchive(io.BytesIO(bytes(content)))


@pytest.mark.parametrize(
    ("offset", "value", "found"),
    [(8, 1, "encrypted"), (10, 12, "zip method is 12"), (16, 0, "unlike the directory's")],
)
def test_member_is_refused_when_its_directory_entry_says(
    offset: int, value: int, found: str
) -> None:
    content = bytearray(archive())
    content[directory_offset(content) + offset] = value
    stream = io.BytesIO(bytes(content))
    with pytest.raises(ScanFileError, match=found):
        ZipArchive(stream).data_offset("xcoords")


def test_size_that_the_compressed_bytes_cannot_hold_is_refused_before_reading() -> None:
    content = bytearray(archive(compressed=True))
    huge = struct.pack("<L", 0x7FFFFFFF)
    start = directory_offset(content)
    content[start + 24 : start + 28] = huge
    # The local header carries its sizes in the zip64 extra field.
    extra = 30 + len("xcoords.npy") + 4
    content[extra : extra + 8] = struct.pack("<Q", 0x7FFFFFFF)
    stream = io.BytesIO(bytes(content))
    with pytest.raises(ScanFileError, match=r"what \d+ bytes in the archive can hold"):
        ZipArchive(stream).data_offset("xcoords")


@pytest.mark.parametrize("compressed", [False, True])
def test_changed_number_fails_the_checksum(compressed: bool) -> None:
    content = bytearray(archive(compressed))
    start = content.find(b"diff3d.npy")
    content[start + 400] ^= 1
    with pytest.raises(ScanFileError, match="diff3d"):
        read_all(bytes(content), "diff3d")


@pytest.mark.parametrize(
    ("text", "error", "found"),
    [
        ("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", ScanError, "pickle"),
        ("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,), }", ScanError, "struct"),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }", ScanFileError, "-1"),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (2**70,), }", ScanFileError, "damaged"),
        (
            f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({2**62}, 4), }}",
            ScanFileError,
            "axis lengths",
        ),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (True,), }", ScanFileError, "True"),
        ("{'descr': '<f4', 'shape': (1,), }", ScanFileError, "damaged"),
        ("(" * 5000, ScanFileError, "damaged"),
        ("__import__('os').abort()", ScanFileError, "damaged"),
        (" " * 20000, ScanFileError, "bytes long"),
    ],
)
def test_npy_header_is_refused(text: str, error: type[Exception], found: str) -> None:
    with pytest.raises(error, match=f"^f: a .*{found}") as caught, naming("f"):
        read_npy_header(io.BytesIO(npy_header(text)).read, "a")
    assert "\n" not in str(caught.value)


def test_npy_header_agrees_with_numpy() -> None:
    for array in (np.zeros((3, 4, 4), ">u2"), np.asfortranarray(np.zeros((2, 3))), np.array("a")):
        stream = io.BytesIO()
        np.save(stream, array)
        stream.seek(0)
        header = read_npy_header(stream.read, "a")
        assert (header.shape, header.dtype) == (array.shape, array.dtype)
        assert stream.tell() == header.size == len(stream.getvalue()) - array.nbytes


def test_shape_that_the_member_cannot_hold_is_refused() -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as target:
        header = npy_header("{'descr': '<f8', 'fortran_order': False, 'shape': (1000000,), }")
        target.writestr("a.npy", header + bytes(80))
    with pytest.raises(ScanFileError, match="80 bytes; expected 8000000 bytes"):
        ZipArchive(stream).header("a")


@given(st.data())
def test_altered_bytes_give_the_same_arrays_or_our_error(data: st.DataObject) -> None:
    content = bytearray(archive(data.draw(st.booleans())))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        if data.draw(st.booleans()):  # the directory is small and rich: aim at it
            place = len(content) - 1 - place % 250
        content[place] = data.draw(st.integers(0, 255))
    stream = io.BytesIO(bytes(content))
    for key, truth in ARRAYS.items():
        try:
            found = ZipArchive(stream)
            if key in found.members:
                assert np.array_equal(found.read(key), truth)
        except PtychoTorchError as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize("count", [1, MAX_MEMBERS], ids=["one entry", "as many as allowed"])
@pytest.mark.parametrize("wide", [False, True], ids=["32 bit", "64 bit"])
def test_directory_of_hundreds_of_megabytes_costs_next_to_nothing(
    count: int, wide: bool, tmp_path: Path
) -> None:
    size = 300 << 20
    with open(tmp_path / "huge.npz", "wb") as target:
        target.truncate(size)  # a hole
        target.seek(size)
        if wide:
            sizes = (count, count, size, 0)
            target.write(struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, *sizes))
            target.write(struct.pack("<4sLQL", b"PK\x06\x07", 0, size, 1))
        target.write(struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, count, count, size, 0, 0))
    tracemalloc.start()
    with open(tmp_path / "huge.npz", "rb") as stream, pytest.raises(ScanFileError, match="members"):
        ZipArchive(stream)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


def test_more_entries_than_announced_are_refused_before_they_are_parsed() -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as target:
        for number in range(3 * MAX_MEMBERS):
            target.writestr(str(number), b"")
    content = bytearray(stream.getvalue())
    end = content.rfind(b"PK\x05\x06")
    content[end + 8 : end + 12] = struct.pack("<2H", 5, 5)
    tracemalloc.start()
    with pytest.raises(ScanFileError, match=r"12288 entries in .*; expected 5 entries"):
        ZipArchive(io.BytesIO(content))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 << 20


def test_only_a_stored_member_has_a_place_in_the_file() -> None:
    content = archive()
    start = ZipArchive(io.BytesIO(content)).data_offset("diff3d")
    assert start is not None and content[start:].startswith(b"\x93NUMPY")
    assert ZipArchive(io.BytesIO(archive(compressed=True))).data_offset("diff3d") is None


def test_file_of_other_kind_is_refused(tmp_path: Path) -> None:
    for content in (b"", b"PK", b"\x89HDF\r\n\x1a\n" + bytes(100), bytes(10_000)):
        with pytest.raises(ScanFileError, match="no complete zip archive"):
            ZipArchive(io.BytesIO(content))


def test_a_missing_key_is_refused_by_every_way_to_a_member() -> None:
    found = ZipArchive(io.BytesIO(archive()))
    for reach in (found.header, found.read, found.open, found.data_offset):
        with pytest.raises(ScanKeyError, match=r"probe is missing.* It has the keys xcoords"):
            reach("probe")


@pytest.mark.parametrize("dtype", ["<f4", ">f8", "|u1", "<i8", "<c8", "<U64", "|b1", "|S3"])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (3, 41), (2, 0, 7), (1, 2, 3, 4)])
@pytest.mark.parametrize("order", ["C", "F"])
def test_header_as_numpy_writes_it_is_read_without_its_parser(
    dtype: str, shape: tuple[int, ...], order: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = io.BytesIO()
    np.save(stream, np.zeros(shape, dtype, order=order))
    content = stream.getvalue()
    wanted = np.lib.format.read_array_header_1_0(io.BytesIO(content[8:]))
    monkeypatch.setattr("numpy.lib.format.read_array_header_1_0", None)
    header = read_npy_header(io.BytesIO(content).read, "a")
    assert (header.shape, header.fortran_order, header.dtype) == wanted


@pytest.mark.parametrize("shape", ["(5)", "(03,)", "(3,41,)", "(-1,)", "(3, 4,)"])
def test_header_of_another_spelling_is_what_numpy_says(shape: str) -> None:
    content = npy_header(f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}")
    try:
        wanted = np.lib.format.read_array_header_1_0(io.BytesIO(content[8:]))[0]
        assert min(wanted) >= 0
    except (ValueError, AssertionError):
        with pytest.raises(ScanFileError):
            read_npy_header(io.BytesIO(content).read, "a")
    else:
        assert read_npy_header(io.BytesIO(content).read, "a").shape == wanted


def told(content: bytes, key: str) -> bytes | None:
    """A member's bytes, or None where it is refused."""
    try:
        return read_all(content, key)
    except PtychoTorchError:
        return None


@pytest.mark.parametrize("compressed", [False, True])
def test_small_member_is_read_and_refused_as_a_large_one(
    compressed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = archive(compressed)
    start = ZipArchive(io.BytesIO(whole)).data_offset("xcoords") or 40
    packed = ZipArchive(io.BytesIO(whole)).members["xcoords"].compress_size
    altered = [whole]
    for place in range(start, start + packed, 3):
        content = bytearray(whole)
        content[place] ^= 0xFF
        altered.append(bytes(content))
    small = [told(content, "xcoords") for content in altered]
    monkeypatch.setattr(zip_archive, "_WHOLE_BYTES", -1)
    assert small == [told(content, "xcoords") for content in altered]
    assert small[0] is not None and None in small


def test_compressed_member_that_says_it_is_empty_is_not_unpacked() -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as writer:
        writer.writestr("a.npy", bytes(64 << 20))
    content = bytearray(stream.getvalue())
    for place in (22, directory_offset(bytes(content)) + 24):
        content[place : place + 4] = bytes(4)
    tracemalloc.start()
    told(bytes(content), "a")
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()
