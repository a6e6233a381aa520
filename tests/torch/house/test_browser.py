"""The browser of the tests sees the faults of a page, and sees none where there are none."""

from __future__ import annotations

import pytest
from browser import DESK, PHONE, console_errors, overflowing, requested, value_of

PAGE = """<!doctype html><html lang="en"><head><title>page</title>
<meta name="viewport" content="width=device-width, initial-scale=1"></head>
<body style="margin: 0">{body}</body></html>"""
LONG = "a" * 300


def page(folder, body):
    path = folder / "a page & more.html"
    path.write_text(PAGE.format(body=body), encoding="utf-8")
    return path


@pytest.mark.slow
def test_a_page_without_faults_has_none(tmp_path):
    clean = page(
        tmp_path,
        f"<p>short</p><pre style='overflow-x: auto'>{LONG}</pre>"
        "<nav style='position: fixed; left: -200px; width: 200px'>drawer</nav>",
    )
    assert overflowing(clean, PHONE, dark=False) == []
    assert console_errors(clean) == []
    assert requested(clean) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "wide",
    [
        "<div style='width: 500px'>x</div>",
        f"<p>{LONG}</p>",
        "<p style='margin-left: -9px'>x</p>",
        f"<div style='overflow: hidden'><p>{LONG}</p></div>",
    ],
)
def test_what_leaves_the_window_is_named(tmp_path, wide):
    found = overflowing(page(tmp_path, wide), PHONE, dark=False)
    assert any(each.startswith(("div from", "p from")) for each in found)


@pytest.mark.slow
def test_width_and_colour_scheme_are_those_asked_for(tmp_path):
    box = page(tmp_path, "<div style='width: 500px'>x</div>")
    assert overflowing(box, DESK, dark=False) == []
    dark = "matchMedia('(prefers-color-scheme: dark)').matches"
    empty = page(tmp_path, "")
    for width, scheme in ((PHONE, True), (DESK, False)):
        assert value_of(empty, f"[innerWidth, {dark}]", width, scheme) == [width, scheme]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "word"),
    [
        ("<script>console.error('no light')</script>", "no light"),
        ("<script>throw new Error('no beam')</script>", "no beam"),
        ("<img src='absent.png' alt=''>", "absent.png"),
        ("<img src='http://example.invalid/x.png' alt=''>", "example.invalid"),
    ],
)
def test_errors_of_a_page_are_named(tmp_path, fault, word):
    broken = page(tmp_path, fault)
    assert any(word in each for each in console_errors(broken))
    assert [word in each for each in requested(broken)] == [True] * ("img" in fault)
