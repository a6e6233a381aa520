"""Pictures for a page: inline SVG that takes the page's ink, so it reads on light and on dark.

Owns how a matplotlib figure becomes part of a page, and how large that may get. Knows no scan.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from io import BytesIO, StringIO
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from ptycho_torch.results.page import Markup, element, text
from ptycho_torch.results.plotting import new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#0b1d2f"
"""Stands for the page's ink until the page says which colour that is."""
STYLE: MappingProxyType[str, Any] = MappingProxyType(
    {
        "svg.fonttype": "none",
        "font.size": 11.5,
        "axes.facecolor": "none",
        "figure.facecolor": "none",
        "savefig.facecolor": "none",
        "legend.frameon": False,
        **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor"), INK),
        **dict.fromkeys(("xtick.color", "ytick.color"), INK),
    }
)
PANEL_IN = (5.0, 4.3)
IMAGE_DOTS_PER_INCH = 120
MOST_POINTS = 600
"""So many markers are drawn as such; more become an image, whose size does not grow with them."""

_IMAGE = re.compile(r"data:image/png;base64,([A-Za-z0-9+/=\s]+)")
_NOTHING = MappingProxyType(dict.fromkeys(("Date", "Creator", "Format", "Type")))


def panel(draw: Callable[[Axes], object], alt: str, note: str = "") -> Markup:
    """A figure of one panel; its title becomes the caption, with ``note`` behind it.

    Errors are those of :func:`picture`.
    """

    def draw_alone(figure: Figure) -> str:
        axes = figure.subplots()
        draw(axes)
        title = axes.get_title()
        axes.set_title("")
        return title

    return picture(draw_alone, alt, note)


def picture(
    draw: Callable[[Figure], str],
    alt: str,
    note: str = "",
    size_in: tuple[float, float] = PANEL_IN,
) -> Markup:
    """What ``draw`` makes of an empty figure, as SVG with alternative text and a caption.

    Parameters
    ----------
    draw
        Draws into a matplotlib Figure and gives its caption, a title and perhaps further lines.
    alt
        What the picture shows, for those who do not see it.
    note
        Said after the caption.
    size_in
        Width and height, inches.

    Raises
    ------
    MissingDependencyError
        matplotlib is not installed.
    """
    from matplotlib import rc_context

    style: dict[Any, Any] = {**STYLE, "svg.hashsalt": alt}
    with rc_context(style):
        figure = new_figure(*size_in)
        layout: Any = figure.get_layout_engine()
        layout.set(w_pad=0.05, h_pad=0.05)
        title, *more = draw(figure).split("\n")
        _as_images(figure)
        out = StringIO()
        figure.savefig(
            out,
            format="svg",
            dpi=IMAGE_DOTS_PER_INCH,
            metadata=dict(_NOTHING),
            bbox_inches="tight",
            pad_inches=0.05,
        )
    name = element("strong", f"{title[:1].upper()}{title[1:]}")
    words = "; ".join(filter(None, (*more, note)))
    caption = element("figcaption", name, f": {words}" if words else "")
    return element("figure", _inline(out.getvalue(), alt, size_in[0] * 72), caption)


def _as_images(figure: Figure) -> None:
    """Turn what has a great many points into an image, whose size has a bound."""
    for axes in figure.axes:
        for dots in axes.collections:
            dots.set_rasterized(len(dots.get_offsets()) > MOST_POINTS)  # type: ignore[arg-type]
        # Many small pieces, as the discs and spokes of large groups, count like many points.
        many = len(axes.lines) + len(axes.patches) > MOST_POINTS
        for line in axes.lines:
            line.set_rasterized(many or np.size(line.get_xdata()) > MOST_POINTS)
        for patch in axes.patches:
            patch.set_rasterized(many)


def _inline(svg: str, alt: str, width: float) -> Markup:
    """An SVG file as an element of a page: named, as wide as its place, in the page's ink.

    What is narrower than ``width`` stands in the middle, so that letters of all pictures are alike.
    """
    opening, rest = svg[svg.index("<svg") :].split(">", 1)
    box = re.search(r'viewBox="0 0 (\S+) (\S+)"', opening)
    assert box is not None, opening
    drawn, height = map(float, box.groups())
    view = f"{min(0.0, drawn - width) / 2:g} 0 {max(drawn, width):g} {height:g}"
    # The names of groups repeat from picture to picture; nothing refers to them.
    rest = re.sub(r'<g id="[^"]*"', "<g", rest).replace(INK, "currentColor")
    rest = _IMAGE.sub(lambda found: _smaller(found[1]), rest)
    spaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return Markup(f'<svg role="img" aria-label="{text(alt)}" viewBox="{view}" {spaces}>{rest}')


def _smaller(encoded: str) -> str:
    """A PNG with a palette where its colours are those of a colour map: a third of the size."""
    from PIL import Image

    image = Image.open(BytesIO(base64.b64decode(encoded))).convert("RGBA")
    pixels = np.asarray(image).view(np.uint32)[..., 0]
    colors, places = np.unique(pixels, return_inverse=True)
    if len(colors) <= 256:
        image = Image.fromarray(places.reshape(pixels.shape).astype(np.uint8), "P")
        image.putpalette(colors.tobytes(), "RGBA")
    out = BytesIO()
    image.save(out, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}"
