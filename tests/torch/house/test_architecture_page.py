"""The page on the architecture, its picture and the imports say the same."""

from __future__ import annotations

import re
import runpy
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PACKAGE = ROOT / "ptycho_torch"
PAGE = ROOT / "docs" / "explanation" / "architecture.md"
DRAWN = runpy.run_path(str(ROOT / "docs" / "architecture.py"))


def test_picture_is_the_one_that_the_imports_give():
    assert DRAWN["PICTURE"].read_text(encoding="utf-8") == DRAWN["picture"](), "run make docs"


@pytest.mark.parametrize("folder", ["ptycho_torch", "benchmarks"])
def test_modules_import_each_other_in_no_circle(folder):
    modules = DRAWN["module_imports"](ROOT / folder)
    assert len(modules) > 10
    # The front door names everything, and imports it only when asked.
    modules.pop("ptycho_torch", None)
    imports = {name: found - {"ptycho_torch"} for name, found in modules.items()}
    assert set(TopologicalSorter(imports).static_order()) == set(modules)


def test_imports_are_found_at_the_top_of_a_module_and_inside_its_functions(tmp_path):
    package = tmp_path / "house"
    (package / "wing").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "wing" / "__init__.py").write_text("")
    (package / "wing" / "room.py").write_text("import os\nimport house.hall\n")
    (package / "hall.py").write_text("def late():\n    from house.wing import room\n")
    assert DRAWN["module_imports"](package) == {
        "house": set(),
        "house.hall": {"house.wing.room"},
        "house.wing": set(),
        "house.wing.room": {"house.hall"},
    }


def test_arrows_that_longer_ways_imply_are_left_out():
    graph = {"a": {"b", "c"}, "b": {"c"}, "c": set()}
    assert DRAWN["without_implied"](graph) == {"a": {"b"}, "b": {"c"}, "c": set()}


def test_boxes_that_import_each_other_share_one_box():
    graph = {"top": {"x/a"}, "x/a": {"x/b"}, "x/b": {"x/a", "x/c"}, "x/c": set()}
    assert DRAWN["circles_joined"](graph) == {"top": {"x/a b"}, "x/a b": {"x/c"}, "x/c": set()}


def test_every_box_lies_above_those_that_it_imports():
    graph = DRAWN["without_implied"](DRAWN["circles_joined"](DRAWN["box_imports"]()))
    rows = DRAWN["rows_of"](graph)
    assert all(rows[name] < rows[other] for name in graph for other in graph[name])


def test_page_names_every_wing_and_only_rooms_that_exist():
    text = PAGE.read_text(encoding="utf-8")
    named = set(re.findall(r"`([a-z_]+(?:/[a-z_]+)*/?)`", text))
    rooms = {path.relative_to(PACKAGE).with_suffix("").as_posix() for path in PACKAGE.rglob("*.py")}
    wings = {f"{path.parent.relative_to(PACKAGE).as_posix()}/" for path in PACKAGE.rglob("*.py")}
    assert wings - {"./"} <= named
    assert {name for name in named if "/" in name} <= rooms | wings
