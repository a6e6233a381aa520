"""Sphinx settings: Markdown pages as they are, and the API from the docstrings."""

from __future__ import annotations

from ptycho_torch import __version__

project = "ptycho_torch"
release = version = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
myst_heading_anchors = 3
autodoc_typehints = "none"
autodoc_member_order = "bysource"
napoleon_google_docstring = False
html_theme = "alabaster"


def setup(app):  # type: ignore[no-untyped-def]
    """Let docstrings write magnitudes, as in |F(probe * patch)|."""
    app.connect("autodoc-process-docstring", _magnitudes)


def _magnitudes(app, what, name, obj, options, lines):  # type: ignore[no-untyped-def]
    # Bars mark substitutions in reStructuredText, of which there are none. Literals keep theirs.
    for number, line in enumerate(lines):
        parts = line.split("``")
        parts[::2] = [part.replace("|", r"\|") for part in parts[::2]]
        lines[number] = "``".join(parts)
