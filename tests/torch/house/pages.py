"""Pages as a reader meets them: blocks to type, links to follow, headings to land on.

Comments of a page, unseen when it is read, say what becomes of the block below: ``<!-- not run:
REASON -->``, or ``<!-- file: NAME -->``, which puts it into a file. ``<!-- needs: NAMES -->`` says
which files lie in the folder where a reader would type.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest
from builders import ROOT

markdown_it = pytest.importorskip("markdown_it", reason="markdown-it-py is not installed: pages")

TOP = sorted(ROOT.glob("*.md"))
PAGES = [
    *TOP,
    *(p for p in sorted((ROOT / "docs").rglob("*.md")) if "_build" not in p.parts),
]
SHELLS = ("bash", "sh", "shell", "console")
COMMANDS = "ptycho-torch python python3 pip git make conda sbatch torchrun export cd source pytest"
COMMAND = re.compile(f"({'|'.join(COMMANDS.split())}) ")


@dataclass(frozen=True)
class Block:
    """A block of a page: ``kind`` is python, shell, or what a fence says it is."""

    page: Path
    line: int
    kind: str
    text: str
    not_run: str
    file: str

    @property
    def typed(self) -> bool:
        """Whether a reader types it."""
        return self.kind in ("python", "shell")


def page_name(page: Path) -> str:
    """Name of a page from the top of the project."""
    return page.relative_to(ROOT).as_posix()


def tokens(page: Path) -> list[markdown_it.token.Token]:
    """What the page is made of, its notebook's header left out."""
    text = page.read_text(encoding="utf-8")
    header = re.match(r"---\n.*?\n---\n", text, re.DOTALL)
    # Blank lines keep the numbers of those below.
    if header:
        text = "\n" * header[0].count("\n") + text[header.end() :]
    parsed: list[markdown_it.token.Token] = (
        markdown_it.MarkdownIt("commonmark").enable("table").parse(text)
    )
    return parsed


def blocks(page: Path) -> list[Block]:
    """Every block of code of a page, in order."""
    return list(_blocks(page))


def _blocks(page: Path) -> Iterator[Block]:
    said = {"not run": "", "file": ""}
    for token in tokens(page):
        if token.type == "html_block":
            said.update(comments(token.content))
        elif token.type in ("fence", "code_block"):
            first = token.map[0] + 1 if token.map else 0
            kind = _kind(token.info.strip(), token.content)
            yield Block(page, first, kind, token.content, said["not run"], said["file"])
            said = {"not run": "", "file": ""}


def comments(text: str) -> dict[str, str]:
    """What the comments of a piece of a page say, by their first word."""
    found = re.findall(r"<!-- (not run|file|needs): (.*?) -->", text, re.DOTALL)
    return {word: " ".join(said.split()) for word, said in found}


def needs(page: Path) -> list[str]:
    """Files that lie where a reader of the page types."""
    return comments(page.read_text(encoding="utf-8")).get("needs", "").split()


def _kind(info: str, text: str) -> str:
    word = info.partition(" ")[0]
    if word in SHELLS or (not info and COMMAND.match(text)):
        return "shell"
    return "python" if word in ("python", "py", "python3") else word


def links(page: Path) -> list[tuple[int, str]]:
    """Line and target of every link and picture of a page."""
    found = []
    for token in tokens(page):
        line = token.map[0] + 1 if token.map else 0
        for child in token.children or []:
            target = child.attrGet("href") or child.attrGet("src")
            if target:
                found.append((line, str(target)))
    return found


def anchors(page: Path) -> set[str]:
    """Names of a page's headings, as GitHub and MyST make them, and those given by hand."""
    text = page.read_text(encoding="utf-8")
    found = set(re.findall(r"^\(([\w-]+)\)=$", text, re.MULTILINE))
    everything = tokens(page)
    for token, content in pairwise(everything):
        if token.type == "heading_open":
            plain = "".join(child.content for child in content.children or [])
            slug = re.sub(r"[^\w\- ]", "", plain.strip().lower()).replace(" ", "-")
            found.add(slug if slug not in found else f"{slug}-1")
    return found
