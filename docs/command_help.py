"""The directive ``commands``: what ``ptycho-torch COMMAND --help`` prints, asked at every build."""

from __future__ import annotations

import os
import re
import subprocess
import sys

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

PROGRAM = "from ptycho_torch.cli import main; raise SystemExit(main())"
# Columns of a line of help: what a page shows without scrolling.
WIDTH = "80"


def asked(*words: str) -> str:
    """What the command prints when it is asked for help."""
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, *words],
        env={**os.environ, "COLUMNS": WIDTH, "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    return result.stdout.rstrip()


def commands(text: str) -> list[str]:
    """The commands that the program's own help names."""
    return re.findall(r"^ {4}([a-z][a-z-]*)(?: {2,}\S|$)", text, re.MULTILINE)


class Commands(SphinxDirective):
    """A section for every command, with its help as it is printed."""

    def run(self) -> list[nodes.Node]:
        """Return the sections."""
        text = asked("--help")
        sections = [_section(name, f"ptycho-torch {name}") for name in commands(text)]
        return [_shown(text), *sections]


def _section(name: str, title: str) -> nodes.section:
    section = nodes.section(ids=[nodes.make_id(name)])
    section += nodes.title(text=title)
    # Of these, every option would be all of Lightning's.
    short = name in ("fit", "validate", "test", "predict")
    section += _shown(asked(name, "--help" if short else "--help-all"))
    return section


def _shown(text: str) -> nodes.literal_block:
    return nodes.literal_block(text, text, language="text")


def setup(app: Sphinx) -> dict[str, bool]:
    """Give pages the directive."""
    app.add_directive("commands", Commands)
    return {"parallel_read_safe": True}
