"""A probe as a figure of a page: its modes with their shares of the light."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from ptycho_torch.results.page import Markup
from ptycho_torch.results.page_figures import picture
from ptycho_torch.results.plotting import (
    add_colorbar,
    draw_scale_bar,
    draw_wave,
    label_pixels,
    shares_of_light,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN_MODES = 8


def probe_panel(
    modes: NDArray[Any], pixel_m: tuple[float, float] | None = None, note: str = ""
) -> Markup:
    """The first modes of (P, N, N); a bar of scale where the pixel (height, width) is known."""
    shares, some = shares_of_light(modes), modes[:SHOWN_MODES]

    def draw(figure: Figure) -> str:
        columns = min(len(some), 2 if len(some) <= 4 else 4)
        panels = figure.subplots(-(-len(some) // columns), columns, squeeze=False).ravel()
        for axes, wave, share in zip(panels, some, shares, strict=False):
            wheel = draw_wave(axes, wave)
            axes.set_title(f"{share:.1%}" if len(some) > 1 else "", fontsize="medium")
        if len(some) > 1:
            for axes in panels:
                axes.set_axis_off()
        if pixel_m is not None:
            draw_scale_bar(panels[0], modes.shape[1:], pixel_m[1])
        if len(some) == 1:
            label_pixels(panels[0])
            add_colorbar(panels[0], wheel, "phase (rad)")
            return "probe; bright where its amplitude is high"
        first = "" if len(some) == len(modes) else f"the first {len(some)} of "
        return f"probe: {first}{len(modes)} modes, and their shares of the light"

    return picture(draw, f"Probe of {len(modes)} mode{'s' * (len(modes) > 1)}", note)
