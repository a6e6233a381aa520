"""HDF5 files that are not what they should be: one line each, and no way out of their folder."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest

from ptycho_torch.data.errors import (
    MissingDependencyError,
    PtychoTorchError,
    ScanFileError,
    ScanFileNotFoundError,
    ScanKeyError,
)
from ptycho_torch.data.files.hdf5 import is_hdf5, opened_hdf5
from ptycho_torch.data.files.mapping import state_of

h5py = pytest.importorskip(
    "h5py", reason="h5py is not installed: pip install ptycho-torch[formats]"
)

NUMBERS = np.arange(24, dtype=np.uint16).reshape(2, 3, 4)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "scan.h5"


@pytest.fixture
def file(path: Path):
    """A file to write in."""
    with h5py.File(path, "w") as file:
        file["group/numbers"] = NUMBERS
        yield file


def refused(path: Path | str, name: str = "it", links: bool = False) -> str:
    with pytest.raises(ScanFileError) as caught, opened_hdf5(Path(path), links=links) as found:
        found.read_array(name)
    line = str(caught.value)
    assert "\n" not in line and "; expected " in line
    return line


def test_arrays_texts_and_attributes_are_read(file, path):
    file["swapped"] = NUMBERS.astype(">i4")
    file["flags"] = np.array([True, False])
    file["wave"] = np.array([1 + 2j])
    file["text"] = "mm"
    file["group"].attrs.update(
        {"unit": "nm", "pair": [1.0, 2.0], "one": 3, "bytes": np.bytes_("s")}
    )
    file.close()
    with opened_hdf5(path) as found:
        swapped = found.read_array("swapped")
        assert swapped.dtype == np.int32 and swapped.dtype.isnative
        np.testing.assert_array_equal(swapped, NUMBERS)
        assert found.read_array("flags").tolist() == [True, False]
        assert found.read_array("/wave") == [1 + 2j]
        assert found.read_text("text") == "mm"
        values = [found.read_attr("group", name) for name in ("unit", "one", "bytes", "none")]
        assert values == ["nm", 3, "s", None]
        assert found.read_attr("group", "pair").tolist() == [1.0, 2.0]
        assert found.read_attr("/", "absent", 5) == 5
        assert found.names() == ["flags", "group", "swapped", "text", "wave"]
        assert found.names("group") == ["numbers"] and found.names("text") == []
        described = found.dataset("group/numbers")
        assert (described.shape, described.dtype, described.nbytes) == ((2, 3, 4), np.uint16, 48)
        assert "group/numbers" in found and "group/none" not in found
        with pytest.raises(ScanKeyError, match="group/none is missing"):
            found.dataset("group/none")


def test_soft_links_are_followed_and_loops_end(file, path):
    file["here"] = h5py.SoftLink("/group/numbers")
    file["group/near"] = h5py.SoftLink("numbers")
    file["there"] = h5py.SoftLink("/nowhere")
    file["a"], file["b"] = h5py.SoftLink("/b"), h5py.SoftLink("/a")
    file.close()
    with opened_hdf5(path) as found:
        for name in ("here", "group/near"):
            np.testing.assert_array_equal(found.read_array(name), NUMBERS)
        assert "there" not in found
    assert "links in a row" in refused(path, "a")


def test_external_links_lead_only_into_the_folder(file, path, tmp_path):
    inner, outer = tmp_path / "below", tmp_path.parent / f"{tmp_path.name}-outside.h5"
    inner.mkdir()
    for target in (inner / "other.h5", outer):
        with h5py.File(target, "w") as other:
            other["numbers"] = NUMBERS
    (tmp_path / "symlink.h5").symlink_to(outer)
    targets = {
        "inside": "below/other.h5",
        "absolute": str(inner / "other.h5"),
        "up": f"../{outer.name}",
        "round": f"below/../../{outer.name}",
        "symlink": "symlink.h5",
        "absent": "none.h5",
    }
    for name, target in targets.items():
        file[name] = h5py.ExternalLink(target, "/numbers")
    file["soft"] = h5py.SoftLink("/up")
    file.close()
    try:
        with opened_hdf5(path, links=True) as found:
            np.testing.assert_array_equal(found.read_array("inside"), NUMBERS)
            assert found.dataset("inside").path == inner / "other.h5"
            assert "absent" not in found
        for name in ("absolute", "up", "round", "symlink", "soft"):
            assert "a link into" in refused(path, name, links=True)
        assert "no link into another file" in refused(path, "inside")
    finally:
        outer.unlink()


def never_written(file):
    file.create_dataset("it", (5, 4, 4), "f4", chunks=(1, 4, 4))


def too_large_chunks(file):
    file.create_dataset("it", (1 << 20, 1 << 10), "f8", chunks=(1 << 20, 1 << 5))


def too_large(file):
    file.create_dataset("it", (1 << 20, 1 << 20), "f8", chunks=(1, 16))[0, 0] = 1


def absurd(file):
    file.create_dataset("it", (1 << 40, 1 << 40), "f8", chunks=(1, 1))


def in_another_file(file):
    file.create_dataset("it", (4,), "u1", external=[("/etc/passwd", 0, 4)])


def virtual(file):
    layout = h5py.VirtualLayout((2, 3, 4), "u2")
    layout[:] = h5py.VirtualSource("/etc/passwd", "numbers", (2, 3, 4))
    file.create_virtual_dataset("it", layout)


def references(file):
    file.create_dataset("it", (1,), h5py.ref_dtype)[0] = file["group"].ref


def ragged(file):
    file.create_dataset("it", (1,), h5py.vlen_dtype(np.int32))[0] = [1, 2]


def texts(file):
    file["it"] = ["a", "b"]


def compound(file):
    file["it"] = np.zeros(2, [("a", "f4"), ("b", "i4")])


def nothing(file):
    file["it"] = h5py.Empty("f4")


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (never_written, "never written"),
        (too_large_chunks, "chunks"),
        (too_large, "bytes; expected at most"),
        (absurd, "shape"),
        (in_another_file, "stored in another file"),
        (virtual, "made from /etc/passwd; expected a file in this folder"),
        (references, "plain numbers"),
        (ragged, "plain numbers"),
        (texts, "plain numbers"),
        (compound, "plain numbers"),
        (nothing, "empty"),
        (lambda file: file.create_group("it"), "a group"),
    ],
)
def test_datasets_that_cannot_be_trusted_are_refused(file, path, write, words):
    write(file)
    file.close()
    line = refused(path)
    assert words in line and line.startswith(str(path)) and "it" in line


def test_absent_filter_names_what_to_install(file, path):
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_chunk((2,))
    properties.set_filter(32999, h5py.h5z.FLAG_OPTIONAL)
    space = h5py.h5s.create_simple((2,))
    h5py.h5d.create(file.id, b"it", h5py.h5t.NATIVE_INT32, space, properties)
    file.close()
    with opened_hdf5(path) as found, pytest.raises(MissingDependencyError) as caught:
        found.dataset("it")
    assert "filter 32999" in str(caught.value) and "ptycho-torch[formats]" in str(caught.value)


def test_without_h5py_the_extra_is_named(file, path, monkeypatch):
    file.close()
    monkeypatch.setitem(sys.modules, "h5py", None)
    with (
        pytest.raises(MissingDependencyError, match=r"pip install 'ptycho-torch\[formats\]'"),
        opened_hdf5(path),
    ):
        pass


def test_other_files_are_refused(tmp_path):
    (tmp_path / "text").write_text("no HDF5")
    with pytest.raises(ScanFileError, match="no HDF5 file"), opened_hdf5(tmp_path / "text"):
        pass
    with pytest.raises(ScanFileNotFoundError), opened_hdf5(tmp_path / "none"):
        pass
    with pytest.raises(ScanFileError, match="a directory"), opened_hdf5(tmp_path):
        pass


def test_file_with_a_user_block_is_recognised(tmp_path):
    with h5py.File(tmp_path / "scan.h5", "w", userblock_size=1024) as file:
        file["numbers"] = NUMBERS
    with (tmp_path / "scan.h5").open("rb") as stream:
        assert is_hdf5(stream)
    with opened_hdf5(tmp_path / "scan.h5") as found:
        np.testing.assert_array_equal(found.read_array("numbers"), NUMBERS)


def test_file_that_changes_is_refused(file, path):
    file.close()
    state = state_of(path)
    with pytest.raises(ScanFileError, match="modified"), opened_hdf5(path) as found:
        found.read_array("group/numbers")
        os.utime(path, ns=(0, 0))
    with pytest.raises(ScanFileError, match="modified"), opened_hdf5(path, state):
        pass


@pytest.mark.parametrize("kept", [0, 7, 100, 1000])
def test_truncated_file_is_one_line(file, path, kept):
    file.close()
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(PtychoTorchError) as caught, opened_hdf5(path) as found:
        found.read_array("group/numbers")
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
