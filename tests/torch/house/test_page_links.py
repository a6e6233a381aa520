"""Links and anchors of every page lead somewhere; nothing outside is asked."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

import pytest
from builders import ROOT
from pages import PAGES, anchors, links, page_name

pytestmark = pytest.mark.parametrize("page", PAGES, ids=page_name)


def broken(page: Path) -> list[str]:
    """What is wrong with each link of a page that leads nowhere, with its line."""
    return [f"line {line}: {fault}" for line, link in links(page) if (fault := lost(page, link))]


def lost(page: Path, link: str) -> str:
    """Why a link leads nowhere, or nothing."""
    if re.match(r"(https?|mailto|doi|data):", link):
        return ""
    path, _, anchor = link.partition("#")
    target = (page.parent / unquote(path)).resolve() if path else page
    if not target.exists():
        return f"there is no {path}"
    if ROOT not in [target, *target.parents]:
        return f"{path} lies outside the project"
    if anchor and target.suffix == ".md" and anchor not in anchors(target):
        return f"{path or 'the page'} has no heading #{anchor}"
    return ""


def test_every_link_and_anchor_leads_somewhere(page):
    assert not broken(page)


def test_pages_of_the_site_link_to_folders_by_a_page(page):
    """A site has no page for a folder."""
    if ROOT / "docs" in page.parents:
        paths = [link.partition("#")[0] for _, link in links(page)]
        assert not [path for path in paths if path and (page.parent / path).is_dir()]
