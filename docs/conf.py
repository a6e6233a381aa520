"""Sphinx settings: Markdown pages as they are, tutorials executed, the API from the docstrings."""

from __future__ import annotations

import sys
from pathlib import Path

from ptycho_torch import __version__

sys.path.insert(0, str(Path(__file__).parent))

project = "ptycho_torch"
html_title = f"ptycho_torch {__version__}"
release = version = __version__
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "command_help",
]
exclude_patterns = ["_build", "jupyter_execute"]

# A tutorial is Markdown with a notebook's header; its cells run anew at every build.
nb_execution_mode = "force"
nb_execution_raise_on_error = True
# Seconds per cell; on an idle core each takes less than a minute.
nb_execution_timeout = 600
nb_merge_streams = True

myst_heading_anchors = 3
myst_enable_extensions = ["deflist"]
autodoc_typehints = "none"
autodoc_member_order = "bysource"
napoleon_google_docstring = False

html_theme = "furo"
html_static_path = ["static"]
html_css_files = ["pages.css"]
html_show_sourcelink = False
html_show_copyright = False
# Prompts and results are no part of a command.
copybutton_exclude = ".linenos, .gp, .go"


def setup(app):  # type: ignore[no-untyped-def]
    """Let docstrings write magnitudes, as in |F(probe * patch)|."""
    app.connect("autodoc-process-docstring", _magnitudes)


def _magnitudes(app, what, name, obj, options, lines):  # type: ignore[no-untyped-def]
    # Bars mark substitutions in reStructuredText, of which there are none. Literals keep theirs.
    for number, line in enumerate(lines):
        parts = line.split("``")
        parts[::2] = [part.replace("|", r"\|") for part in parts[::2]]
        lines[number] = "``".join(parts)
