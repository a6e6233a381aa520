"""A page of HTML that stands for itself: text made safe, tables, style sheet, one file.

Owns the words of HTML, the look of every page (page.css) and its writing. A page asks for nothing:
no script, no network. Knows no scan, no reconstruction and no picture.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterable, Mapping
from html import escape
from importlib.resources import files
from pathlib import Path

from ptycho_torch.data.files.atomic_write import atomic_write

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"

_PACKAGES = ("ptycho_torch", "torch", "lightning", "tensordict", "numpy", "scipy", "matplotlib")


class Markup(str):
    """HTML that is ready; every other text is escaped before it goes into a page."""

    __slots__ = ()


def text(value: object) -> Markup:
    """Any value as HTML: Markup as it is, everything else as text, escaped."""
    return value if isinstance(value, Markup) else Markup(escape(str(value), quote=True))


def element(name: str, *inner: object, **attributes: object) -> Markup:
    """An element of HTML; what is inside is escaped, attributes too. ``kind`` is its class."""
    opened = "".join(
        f' {"class" if key == "kind" else key}="{text(value)}"' for key, value in attributes.items()
    )
    return Markup(f"<{name}{opened}>{joined(inner)}</{name}>")


def joined(parts: Iterable[object]) -> Markup:
    """Parts one after the other."""
    return Markup("".join(map(text, parts)))


def section(heading: str, *inner: object) -> Markup:
    """A part of a page under a heading; empty where there is nothing in it."""
    body = joined(inner)
    return element("section", element("h2", heading), body) if body else Markup("")


def rows_table(rows: Mapping[str, object]) -> Markup:
    """A table of names and what is said of each."""
    lines = (
        element("tr", element("th", name, scope="row"), element("td", value))
        for name, value in rows.items()
    )
    table = element("table", element("tbody", *lines))
    return element("div", table, kind="card") if rows else Markup("")


def figures_table(heads: Iterable[str], lines: Iterable[Iterable[object]]) -> Markup:
    """A table with a head, the first column naming each line."""
    head = element("tr", *(element("th", each, scope="col") for each in heads))
    body = [
        element("tr", element("th", first, scope="row"), *(element("td", each) for each in rest))
        for first, *rest in lines
    ]
    table = element("table", element("thead", head), element("tbody", *body), kind="figures")
    return element("div", element("div", table, kind="scroll"), kind="card")


def tiles(values: Mapping[str, tuple[object, object]]) -> Markup:
    """The figures that are looked at first: by name a value, and words below it."""
    cards = (
        element(
            "div",
            element("dt", name),
            element("dd", value, kind="value"),
            element("dd", words, kind="soft"),
            kind="card",
        )
        for name, (value, words) in values.items()
    )
    return element("dl", *cards, kind="tiles")


def grid(*figures: object) -> Markup:
    """Figures beside each other, as many as the window has room for."""
    body = joined(figures)
    return element("div", body, kind="grid") if body else body


def versions() -> dict[str, str]:
    """The version of Python and of those packages in use that a result may depend on."""
    used = {name: getattr(sys.modules.get(name), "__version__", "") for name in _PACKAGES}
    found = {name: str(version) for name, version in used.items() if version}
    return {"Python": platform.python_version(), **found}


def write_page(path: str | os.PathLike[str], title: str, lead: object, *body: object) -> Path:
    """Write a page as one file of UTF-8, whole or not at all; a missing folder is made.

    ``title`` stands at its top, and ``lead`` in a line below.
    """
    style = files("ptycho_torch.results").joinpath("page.css").read_text(encoding="utf-8")
    head = joined(
        [
            Markup('<meta charset="utf-8">'),
            Markup('<meta name="viewport" content="width=device-width, initial-scale=1">'),
            Markup(f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'),
            element("title", title),
            element("style", Markup(style)),
        ]
    )
    header = element("header", element("h1", title), element("p", lead, kind="lead"))
    footer = element("footer", f"ptycho_torch {versions()['ptycho_torch']}")
    inner = element("body", element("main", header, *body), footer)
    html = f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head>{inner}</html>\n'
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(target) as handle:
        handle.write(html.encode("utf-8", "backslashreplace"))
    return target
