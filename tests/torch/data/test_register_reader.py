"""A format that a program registers: found wherever scans are named, once, and in this process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ptycho_torch import read_scan, register_reader
from ptycho_torch.cli import main
from ptycho_torch.data.errors import OptionError, OptionTypeError, ScanFileError
from ptycho_torch.data.readers import Reader, ScanFile, format_names, registry
from ptycho_torch.data.scan import Scan
from ptycho_torch.data.scan_list import expand_scans


def recognises(file: ScanFile) -> bool:
    file.stream.seek(0)
    return b"MINE" in file.stream.read()


def read(file: ScanFile, *, offset: float = 0.0) -> Scan:
    x = np.arange(12.0) * 3 + 4 + offset
    y = np.repeat([4.0, 8.0], 6)
    frames = np.random.default_rng(0).random((12, 8, 8), np.float32)
    probe = np.ones((8, 8), complex)
    return Scan(xcoords=x, ycoords=y, frames=frames, probeGuess=probe, path=file.path)


MINE = Reader("mine", (".mine", ".h5"), recognises, read)


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> Reader:
    monkeypatch.setattr(registry, "_REGISTERED", [])
    register_reader(MINE)
    return MINE


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "scan.mine").write_bytes(b"MINE")
    return tmp_path / "scan.mine"


def test_registered_format_is_read_by_name_and_by_content(registered: Reader, path: Path) -> None:
    assert "mine" in format_names()
    assert read_scan(path).xcoords[0] == 4.0
    assert read_scan(path, format="mine", offset=2.0).xcoords[0] == 6.0


def test_format_that_was_not_registered_is_unknown(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "_REGISTERED", [])
    with pytest.raises(OptionError, match=r"format is 'mine'; expected one of auto, npz"):
        read_scan(path, format="mine")


def test_directories_patterns_and_lists_find_a_registered_format(
    registered: Reader, path: Path
) -> None:
    (path.parent / "notes.txt").write_text("no scan")
    (path.parent / "scans.yaml").write_text("scans: [{path: scan.mine, offset: 1.0}]")
    for scans in (path.parent, str(path.parent / "*.mine")):
        assert [each.scan for each in expand_scans(scans)] == [path]
    (listed,) = expand_scans(path.parent / "scans.yaml")
    assert listed.opened().xcoords[0] == 5.0


def test_commands_of_this_process_read_a_registered_format(
    registered: Reader, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = path.with_name("out.npz")
    assert main(["convert", "--format", "mine", str(path), str(out)]) == 0, capsys.readouterr().err
    assert main(["inspect", str(path), "--option", "offset=3"]) == 0
    assert "12" in capsys.readouterr().out
    assert np.array_equal(read_scan(out).frames.stored, read_scan(path).frames.stored)


def raising(file: ScanFile) -> bool:
    file.stream.read(3)
    raise RuntimeError("no header\nin two lines")


def read_from_the_start(file: ScanFile) -> Scan:
    assert file.stream.read() == b"MINE"
    return read(file)


def test_reader_that_raises_is_passed_over_by_name_and_the_next_begins_at_the_first_byte(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(registry, "_REGISTERED", [])
    register_reader(Reader("broken", (".mine",), raising, read))
    register_reader(
        Reader("first", (".mine",), lambda file: file.stream.read(2) == b"MI", read_from_the_start)
    )
    said = f"{path}: reader broken is passed over: recognises raised RuntimeError: no header"
    assert read_scan(path).N == 8
    assert said in caplog.messages[0] and "\n" not in caplog.messages[0]
    caplog.clear()
    assert [each.scan for each in expand_scans(path.parent)] == [path]
    assert said in caplog.messages[0]


def read_no_more(file: ScanFile, *, offset: float = 0.0) -> Scan:
    raise KeyError(f"no header\n{offset}")


def test_what_a_reader_of_another_package_raises_is_one_line_that_names_it(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(registry, "_REGISTERED", [])
    register_reader(Reader("broken", (".mine",), recognises, read_no_more))
    said = f"{path}: file is not read by reader broken (KeyError: "
    with pytest.raises(ScanFileError) as caught:
        read_scan(path)
    assert str(caught.value).startswith(said) and isinstance(caught.value.__cause__, KeyError)
    assert main(["inspect", str(path)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "not read by reader broken (KeyError: " in line


def test_registered_format_of_hdf5_goes_before_the_reader_of_any_hdf5(
    registered: Reader, tmp_path: Path
) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file["MINE"] = 1.0
    assert read_scan(tmp_path / "scan.h5").N == 8


@pytest.mark.parametrize("name", ["npz", "hdf5", "mine"])
def test_name_that_is_taken_is_refused_in_one_line(registered: Reader, name: str) -> None:
    with pytest.raises(OptionError) as caught:
        register_reader(Reader(name, (".mine",), recognises, read))
    line = str(caught.value)
    assert line.startswith(f"name of a Reader is {name!r}, taken; expected a new one. ")
    assert "read_scan(path, format=reader)" in line and "\n" not in line
    assert format_names().count(name) == 1


@pytest.mark.parametrize("other", ["mine", read, None])
def test_what_is_no_reader_is_refused(registered: Reader, other: Any) -> None:
    with pytest.raises(OptionTypeError, match=r"expected a ptycho_torch\.data\.readers\.Reader"):
        register_reader(other)


@pytest.mark.parametrize("suffixes", [".mine", (), ("mine",), (".MINE",), [".mine"], (7,)])
def test_suffixes_that_no_name_would_match_are_refused(suffixes: Any) -> None:
    with pytest.raises(OptionError, match=r"suffixes of Reader other is .*; expected a tuple of"):
        Reader("other", suffixes, recognises, read)


@pytest.mark.parametrize("name", ["auto", "", None])
def test_name_that_format_cannot_be_is_refused(name: Any) -> None:
    with pytest.raises(OptionError, match=r"name of a Reader is .*; expected a word other than"):
        Reader(name, (".mine",), recognises, read)


SCRIPT = """
from multiprocessing import get_context
from ptycho_torch import register_reader
from ptycho_torch.data.readers import Reader, format_names

def recognises(file): return True
def read(file): raise AssertionError("names are asked for, not scans")
def names(q): q.put(format_names())

register_reader(Reader("at_the_top", (".a",), recognises, read))
if __name__ == "__main__":
    register_reader(Reader("under_main", (".b",), recognises, read))
    context = get_context("spawn")
    q = context.Queue()
    process = context.Process(target=names, args=(q,))
    process.start()
    print(*q.get())
    process.join()
"""


@pytest.mark.slow
def test_spawned_process_knows_what_the_top_of_a_script_registers(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "at_the_top" in done.stdout.split()
    assert "under_main" not in done.stdout.split()
