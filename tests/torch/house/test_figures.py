"""Figures of the house: sizes, annotations, docstrings, circles, and how each is counted."""

from __future__ import annotations

import configparser
import statistics
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from builders import ROOT
from source_figures import (
    arrows,
    circles,
    function_lines,
    functions,
    line_count,
    module_names,
    unannotated,
    undocumented,
)

PACKAGE = ROOT / "ptycho_torch"
SOURCES = sorted(PACKAGE.rglob("*.py"))


def source_name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def write(folder: Path, **texts: str) -> Path:
    """Write a package of modules, and of a wing where a name starts with ``wing_``."""
    package = folder / "house"
    (package / "wing").mkdir(parents=True)
    for name, text in {"__init__": "", "wing_": "", **texts}.items():
        path = f"wing/{name[5:] or '__init__'}.py" if name.startswith("wing_") else f"{name}.py"
        (package / path).write_text(text, encoding="utf-8")
    return package


@pytest.mark.parametrize("path", SOURCES, ids=source_name)
def test_every_argument_is_annotated(path):
    bare = {function.name: unannotated(function) for function in functions(path)}
    assert not {name: arguments for name, arguments in bare.items() if arguments}


@pytest.mark.parametrize("path", SOURCES, ids=source_name)
def test_every_public_name_has_a_docstring(path):
    assert not undocumented(path)


def test_nine_functions_of_ten_have_at_most_31_lines():
    lengths = [function_lines(function) for path in SOURCES for function in functions(path)]
    assert np.percentile(lengths, 90) <= 31


def test_files_are_short_and_half_of_them_are_shorter_still():
    lengths = {source_name(path): line_count(path) for path in SOURCES}
    assert not {name: lines for name, lines in lengths.items() if lines > 400}
    assert statistics.median(lengths.values()) <= 135


def test_data_has_at_most_9800_lines_and_every_reader_at_most_250():
    """Every format brings lines of its own, so readers have no ceiling together."""
    data = PACKAGE / "data"
    lengths = {path: line_count(path) for path in data.rglob("*.py")}
    readers = {path: lines for path, lines in lengths.items() if data / "readers" in path.parents}
    assert sum(lengths.values()) - sum(readers.values()) <= 9_800
    assert not {source_name(path) for path, lines in readers.items() if lines > 250}


def test_the_hot_path_has_at_most_200_lines():
    assert line_count(PACKAGE / "batches" / "assembly.py") <= 200


def test_rooms_of_data_import_each_other_along_at_most_112_arrows():
    """A module of data/ is a room, and so is each of its folders, whose modules share one idea."""
    home = "ptycho_torch.data."
    inside = [pair for pair in arrows(PACKAGE) if all(name.startswith(home) for name in pair)]
    rooms = {tuple(name.split(".")[2] for name in pair) for pair in inside}
    between = {(source, target) for source, target in rooms if source != target}
    assert len(between) <= 112, f"{len(between)} arrows"


@pytest.mark.parametrize("folder", [PACKAGE, ROOT / "benchmarks"], ids=source_name)
def test_no_modules_import_each_other_in_a_circle(folder):
    assert not circles(arrows(folder))


@pytest.mark.skipif(find_spec("ruff") is None, reason="ruff is not installed: the linter")
@pytest.mark.parametrize(("branches", "reported"), [(11, False), (12, True)])
def test_the_linter_reports_a_function_of_complexity_13(branches, reported):
    lines = [f"    if a == {number}:\n        return {number}" for number in range(branches)]
    code = "\n".join(['"""Room."""\n\n\ndef f(a: int) -> int:', '    """Doc."""', *lines])
    command = [sys.executable, "-m", "ruff", "check", "--no-cache", "--stdin-filename"]
    found = subprocess.run(
        [*command, "ptycho_torch/room.py", "-"], cwd=ROOT, input=f"{code}\n    return a\n",
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ("C901" in found.stdout) is reported, found.stderr


def test_the_layers_of_data_are_said_in_twelve_lines():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    layers = config["importlinter:contract:data"]["layers"].split("\n")
    assert 0 < len(list(filter(None, layers))) <= 12


# -- what is counted -----------------------------------------------------------------------------


def test_arguments_of_every_kind_count_as_bare(tmp_path):
    text = "class A:\n    def f(self, a, /, b: int, *c, d=1, e: int = 2, **g): ...\n"
    path = write(tmp_path, room=text) / "room.py"
    assert [unannotated(function) for function in functions(path)] == [["a", "d", "c", "g"]]


def test_names_that_a_caller_reaches_count_as_public(tmp_path):
    path = write(tmp_path, room="""'''Room.'''
if True:
    def public():
        def closure(): ...
class Public:
    '''Class.'''
    @property
    def width(self): ...
    class Inner: ...
    def _private(self): ...
    def __len__(self): ...
class _Private:
    def method(self): ...
""") / "room.py"  # fmt: skip
    assert undocumented(path) == ["public", "Public.width", "Public.Inner"]


def test_lines_of_a_function_are_from_def_to_its_end(tmp_path):
    path = write(tmp_path, room="@wraps\ndef f():\n    '''Two\n    lines.'''\n\n    return 1\n\n")
    (function,) = functions(path / "room.py")
    assert function_lines(function) == 5
    assert line_count(path / "room.py") == 7


def test_every_way_to_write_an_import_is_an_arrow_to_the_module(tmp_path):
    package = write(
        tmp_path,
        a="import house.b\n",
        b="from house import c\n",
        c="from .d import x\n",
        d="def late():\n    from house.wing import e\n",
        wing_e="from .. import name\nfrom ..a import name\n",
        f="if TYPE_CHECKING:\n    from house import a\n",
    )
    rooms = {"house", *(f"house.{name}" for name in ("a", "b", "c", "d", "f", "wing", "wing.e"))}
    assert set(module_names(package)) == rooms
    assert {(a[6:], b[6:]) for a, b in arrows(package)} == {
        *(("a", "b"), ("b", "c"), ("c", "d"), ("d", "wing.e"), ("wing.e", ""), ("wing.e", "a")),
    }


def test_circles_are_found_through_any_number_of_modules_and_kept_apart():
    line = {("a", "b"), ("b", "c"), ("x", "c"), ("c", "d")}
    assert circles(line) == []
    assert circles({*line, ("c", "a")}) == [{"a", "b", "c"}]
    assert circles({*line, ("c", "b"), ("x", "y"), ("y", "x")}) == [{"b", "c"}, {"x", "y"}]
