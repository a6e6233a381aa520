"""The site as it is built: without a warning, readable at any width, in light and dark, offline.

Tutorials are built without running their cells, which ``make docs`` does.
"""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from browser import DESK, PHONE, console_errors, overflowing, requested, value_of
from builders import ROOT

TOOLS = ("sphinx", "myst_nb", "furo", "sphinx_copybutton")
MISSING = [tool for tool in TOOLS if find_spec(tool) is None]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"{', '.join(MISSING)}: pip install -e .[docs]"),
]
# A kernel says that its cells are IPython; without one, their commands are no Python.
NOT_EXECUTED = "suppress_warnings=misc.highlighting_failure"
BESIDE_A_SIDEBAR = 1100
PARTS = ["Start", "Tutorials", "How-to", "Reference", "Explanation"]

# Lines of code that a reader sees only by scrolling.
CUT = """
[...document.querySelectorAll('.highlight pre')]
  .filter(code => code.scrollWidth > code.clientWidth + 1)
  .map(code => code.innerText.slice(0, 60))
"""
TOP_OF_THE_SIDEBAR = (
    "[...document.querySelectorAll('.sidebar-tree .toctree-l1 > a')].map(a => a.text)"
)
FOUND = """
(words => Search._performSearch(...Search._parseQuery(words)).map(result => result[0]))
"""


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the built pages; a warning of Sphinx, as of a lost link, is an error."""
    pytest.importorskip("torch", reason="torch is not installed: the API's names")
    folder = tmp_path_factory.mktemp("site")
    result = subprocess.run(
        [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html",
         "-D", "nb_execution_mode=off", "-D", NOT_EXECUTED,
         "-d", str(folder / "trees"), "docs", str(folder / "html")],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=900,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    return folder / "html"


def pages(site: Path) -> list[Path]:
    found = [p for p in sorted(site.rglob("*.html")) if "_static" not in p.parts]
    assert len(found) > 30
    return found


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [DESK, BESIDE_A_SIDEBAR, PHONE])
def test_no_element_overflows(site, width, dark):
    outside = {page.name: overflowing(page, width, dark) for page in pages(site)}
    assert not {name: elements for name, elements in outside.items() if elements}


def test_no_code_is_cut_off_beside_the_sidebar(site):
    cut = {page.name: value_of(page, CUT, BESIDE_A_SIDEBAR) for page in pages(site)}
    assert not {name: blocks for name, blocks in cut.items() if blocks}


def test_pages_fail_at_nothing_and_ask_nothing_outside(site):
    for page in (site / "index.html", site / "reference" / "api.html", site / "search.html"):
        assert not console_errors(page)
        assert all(url.startswith(site.as_uri()) for url in requested(page))


def test_the_sidebar_has_the_five_parts_in_order(site):
    assert value_of(site / "index.html", TOP_OF_THE_SIDEBAR) == PARTS


@pytest.mark.parametrize(
    ("words", "page"),
    [
        ("mirror", "explanation/conventions"),
        ("GroupingConfig", "reference/api"),
        ("saturation", "howto/masks"),
        ("sbatch", "howto/clusters"),
    ],
)
def test_search_finds_the_page(site, words, page):
    assert page in value_of(site / "search.html", f"{FOUND}({words!r})")
