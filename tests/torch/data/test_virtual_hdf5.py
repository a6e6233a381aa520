"""Virtual datasets of HDF5: read from sources in the folder, and nothing else is opened."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ptycho_torch import read_scan
from ptycho_torch.data.errors import PtychoTorchError
from ptycho_torch.data.files.hdf5 import opened_hdf5
from ptycho_torch.data.files.hdf5_stack import Hdf5Stack
from ptycho_torch.data.raw_data import RawData

h5py = pytest.importorskip("h5py")

FRAMES = np.random.default_rng(4).poisson(20, (12, 8, 8)).astype(np.uint16)


def write_sources(folder: Path, count: int = 3) -> list[str]:
    folder.mkdir(exist_ok=True, parents=True)
    names = [f"part_{number}.h5" for number in range(count)]
    for name, frames in zip(names, np.split(FRAMES, count), strict=True):
        with h5py.File(folder / name, "w") as file:
            file.create_dataset("entry/frames", data=frames, chunks=(1, 8, 8), compression="gzip")
    return names


def write_virtual(path: Path, names: list[str], *, inside: str = "entry/frames") -> Path:
    """A CXI file whose frames lie in other files."""
    layout = h5py.VirtualLayout(FRAMES.shape, FRAMES.dtype)
    each = len(FRAMES) // len(names)
    for number, name in enumerate(names):
        source = h5py.VirtualSource(name, inside, shape=(each, 8, 8))
        layout[number * each : (number + 1) * each] = source
    with h5py.File(path, "w") as file:
        file.create_virtual_dataset("entry_1/data_1/data", layout)
        rows, columns = np.divmod(np.arange(12), 4)
        steps = np.stack([columns, rows, 0 * rows], axis=1) * 2e-8
        file["entry_1/sample_1/geometry_1/translation"] = steps
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    folder = tmp_path / "scan"
    return write_virtual(folder / "scan.cxi", write_sources(folder))


def read(path: Path) -> RawData:
    return read_scan(path, object_pixel_m=1e-8, probe="initial", sidecar="off")


def refusal(path: Path) -> str:
    with pytest.raises(PtychoTorchError) as caught:
        read(path)
    line = str(caught.value)
    assert "\n" not in line and line.startswith(str(path.parent))
    return line


def test_frames_in_sources_beside_are_read(path: Path) -> None:
    assert np.array_equal(read(path).frames.stored, FRAMES)


def test_sources_in_a_folder_below_and_in_the_file_itself_are_read(tmp_path: Path) -> None:
    names = write_sources(tmp_path / "below")
    path = write_virtual(tmp_path / "scan.cxi", [f"below/{name}" for name in names])
    assert np.array_equal(read(path).frames.stored, FRAMES)
    with h5py.File(path, "a") as file:
        file["own"] = FRAMES
        layout = h5py.VirtualLayout((6, 8, 8), "u2")
        layout[:] = h5py.VirtualSource(file["own"])[::2]
        file.create_virtual_dataset("half", layout)
    with opened_hdf5(path) as file:
        assert np.array_equal(file.read_array("half"), FRAMES[::2])
        assert file.dataset("half").written_bytes == FRAMES[::2].nbytes


def test_all_of_a_dataset_may_be_all_of_its_source(tmp_path: Path) -> None:
    """As programs in C write it, which select nothing: without any hyperslab."""
    with h5py.File(tmp_path / "frames.h5", "w") as file:
        file["entry/frames"] = FRAMES
    path = write_virtual(tmp_path / "scan.cxi", ["frames.h5"])
    whole = h5py.h5s.create_simple(FRAMES.shape)
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_virtual(whole, b"frames.h5", b"entry/frames", whole)
    with h5py.File(path, "a") as file:
        del file["entry_1/data_1/data"]
        place = file["entry_1/data_1"].id
        h5py.h5d.create(place, b"data", h5py.h5t.NATIVE_UINT16, whole, properties)
    assert np.array_equal(read(path).frames.stored, FRAMES)


def test_frames_that_no_source_gives_count_as_never_written(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with h5py.File(path, "a") as file:
        layout = h5py.VirtualLayout((12, 8, 8), "u2")
        layout[:4] = h5py.VirtualSource("part_0.h5", "entry/frames", shape=(4, 8, 8))
        file.create_virtual_dataset("third", layout)
    with opened_hdf5(path) as file:
        Hdf5Stack.of(file, "third")
    assert f"{FRAMES.nbytes * 2 // 3} bytes never written" in caplog.text


def above(path: Path) -> None:
    write_sources(path.parent.parent)
    write_virtual(path, [f"../part_{n}.h5" for n in range(3)])


def absolute(path: Path) -> None:
    write_virtual(path, [str(path.parent / f"part_{n}.h5") for n in range(3)])


def through_a_link(path: Path) -> None:
    outside = path.parent.parent / "outside"
    write_sources(outside)
    (path.parent / "part_1.h5").unlink()
    (path.parent / "part_1.h5").symlink_to(outside / "part_1.h5")


def missing(path: Path) -> None:
    (path.parent / "part_1.h5").unlink()


def emptied(path: Path) -> None:
    with h5py.File(path.parent / "part_1.h5", "w") as file:
        file["other"] = 1


def shorter(path: Path) -> None:
    with h5py.File(path.parent / "part_1.h5", "w") as file:
        file["entry/frames"] = FRAMES[:2]
    layout = h5py.VirtualLayout((12, 8, 8), "u2")
    layout[:4] = h5py.VirtualSource("part_1.h5", "entry/frames", shape=(6, 8, 8))[1:5]
    with h5py.File(path, "a") as file:
        del file["entry_1/data_1/data"]
        file.create_virtual_dataset("entry_1/data_1/data", layout)


def shorter_than_all_of_it(path: Path) -> None:
    with h5py.File(path.parent / "part_1.h5", "w") as file:
        file["entry/frames"] = FRAMES[:2]


def elsewhere_by_link(path: Path) -> None:
    write_sources(path.parent.parent / "outside")
    with h5py.File(path.parent / "part_1.h5", "w") as file:
        file["entry/frames"] = h5py.ExternalLink("../outside/part_1.h5", "entry/frames")


def floats(path: Path) -> None:
    with h5py.File(path.parent / "part_1.h5", "w") as file:
        file["entry/frames"] = FRAMES[:4].astype("f4")


def pattern(path: Path) -> None:
    endless = h5py.h5s.UNLIMITED
    space = h5py.h5s.create_simple((12, 8, 8), (endless, 8, 8))
    space.select_hyperslab((0, 0, 0), (endless, 1, 1), (4, 8, 8), (4, 8, 8))
    source = h5py.h5s.create_simple((4, 8, 8))
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_virtual(space, b"part_%b.h5", b"entry/frames", source)
    with h5py.File(path, "a") as file:
        del file["entry_1/data_1/data"]
        place = file["entry_1/data_1"].id
        h5py.h5d.create(place, b"data", h5py.h5t.NATIVE_UINT16, space, properties)


def endless(path: Path, name: str = "part_0.h5") -> None:
    with h5py.File(path.parent / name, "w") as file:
        file.create_dataset("entry/frames", data=FRAMES, maxshape=(None, 8, 8))
    layout = h5py.VirtualLayout((12, 8, 8), "u2", maxshape=(None, 8, 8))
    shape, most = (12, 8, 8), (None, 8, 8)
    source = h5py.VirtualSource(name, "entry/frames", shape=shape, maxshape=most)
    layout[0 : h5py.h5s.UNLIMITED] = source[0 : h5py.h5s.UNLIMITED]
    with h5py.File(path, "a") as file:
        del file["entry_1/data_1/data"]
        file.create_virtual_dataset("entry_1/data_1/data", layout)


def endless_above(path: Path) -> None:
    endless(path, "../part_0.h5")


def nested(path: Path) -> None:
    layout = h5py.VirtualLayout((4, 8, 8), "u2")
    layout[:] = h5py.VirtualSource("part_0.h5", "entry/frames", shape=(4, 8, 8))
    with h5py.File(path.parent / "part_1.h5", "w") as file:
        file.create_virtual_dataset("entry/frames", layout)


REFUSED: dict[Callable[[Path], None], str] = {
    above: "made from ../part_0.h5; expected a file in this folder",
    absolute: "part_0.h5; expected a file in this folder",
    through_a_link: "made from part_1.h5; expected a file in this folder",
    missing: "part_1.h5: file is missing",
    emptied: "part_1.h5: entry/frames is missing",
    shorter: "made from part_1.h5 /entry/frames up to (4, 7, 7); expected within its (2, 8, 8)",
    shorter_than_all_of_it: "part_1.h5: /entry/frames is (2, 8, 8); expected 256 numbers, which",
    elsewhere_by_link: "a link into ../outside/part_1.h5; expected no link",
    floats: "dtype is uint16; expected float32, as of part_1.h5",
    pattern: "made from part_%b.h5 entry/frames, a pattern",
    endless: "a virtual dataset without end; expected one of fixed size",
    endless_above: "made from ../part_0.h5; expected a file in this folder",
    nested: "part_1.h5: entry/frames is no numbers of this file",
}


@pytest.mark.parametrize("change", REFUSED, ids=lambda change: change.__name__)
def test_other_sources_are_refused_in_one_line(path: Path, change: Callable[[Path], None]) -> None:
    change(path)
    assert REFUSED[change] in refusal(path)


OPENED = """
import sys
from ptycho_torch import read_scan
try:
    read_scan(sys.argv[1], object_pixel_m=1e-8, probe="initial", sidecar="off")
except Exception as error:
    print(error)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "change", [above, absolute, through_a_link, elsewhere_by_link, endless_above]
)
def test_nothing_outside_is_opened(path: Path, change: Callable[[Path], None]) -> None:
    if shutil.which("strace") is None:
        pytest.skip("no strace: what the HDF5 library opens is not seen")
    change(path)
    log = path.parent.parent / "calls"
    command = ["strace", "-f", "-e", "trace=open,openat", "-o", log, sys.executable, "-c", OPENED]
    done = subprocess.run([*command, path], capture_output=True, text=True, check=False)
    assert "expected" in done.stdout, done.stderr
    calls = [line for line in log.read_text().splitlines() if ".h5" in line or ".cxi" in line]
    assert any("scan.cxi" in line for line in calls)
    outside = [line for line in calls if "part_" in line and "/scan/part_" not in line]
    assert not outside


def test_sources_are_not_looked_for_where_the_environment_says(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HDF5_VDS_PREFIX", str(path.parent.parent))
    assert "Type: unset HDF5_VDS_PREFIX" in refusal(path)


@pytest.mark.parametrize("gone", [True, False])
def test_source_that_changes_after_opening_is_noticed(path: Path, gone: bool) -> None:
    raw = read(path)
    source = path.parent / "part_2.h5"
    if gone:
        source.unlink()  # the library would read zeros
    else:
        os.utime(source, (1e9, 1e9))
    with pytest.raises(PtychoTorchError, match=r"part_2\.h5: file is (missing|modified)"):
        raw.frames.verify()
    with pytest.raises(PtychoTorchError, match=r"part_2\.h5: file is (missing|modified)"):
        raw.frames.source.sample(np.arange(12))


@pytest.mark.parametrize("fault", ["twice", "unwritten"])
def test_frames_that_no_source_gives_are_counted(
    tmp_path: Path, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    names = write_sources(tmp_path)
    path = write_virtual(tmp_path / "scan.cxi", names)
    if fault == "unwritten":
        with h5py.File(tmp_path / names[2], "w") as file:
            part = file.create_dataset("entry/frames", (4, 8, 8), "u2", chunks=(1, 8, 8))
            part[:2] = FRAMES[8:10]
    else:
        with h5py.File(path, "a") as file:
            del file["entry_1/data_1/data"]
            layout = h5py.VirtualLayout(FRAMES.shape, FRAMES.dtype)
            for start, name in zip((0, 0, 2), names, strict=True):
                layout[start : start + 4] = h5py.VirtualSource(name, "entry/frames", (4, 8, 8))
            file.create_virtual_dataset("entry_1/data_1/data", layout)
    with opened_hdf5(path) as file:
        Hdf5Stack.of(file, "/entry_1/data_1/data")
    missing = (2 if fault == "unwritten" else 6) * 8 * 8 * 2
    assert f"{missing} bytes never written" in caplog.text
