"""The picture of a reconstruction: object beside the truth, probe and error curve.

Owns what it shows, and its colour limits. Knows no trainer and no file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ptycho_torch.results.metrics import align, illuminated_mask
from ptycho_torch.results.plotting import (
    add_colorbar,
    draw_probe,
    draw_scale_bar,
    label_pixels,
    modes_of,
    new_figure,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def plot_reconstruction(
    obj: ArrayLike,
    probe: ArrayLike,
    *,
    truth: ArrayLike | None = None,
    positions_px: ArrayLike | None = None,
    history: Mapping[str, Sequence[float]] | None = None,
    title: str = "",
    pixel_m: tuple[float, float] | None = None,
) -> Figure:
    """A reconstruction, beside the truth where there is one, with its probe and its error curve.

    The reconstruction is multiplied by the complex factor that brings it closest to the truth, or,
    without a truth, by the one that makes its mean 1. Reconstruction and truth share their colour
    limits, which come from the illuminated area; the rest is faded.

    Parameters
    ----------
    obj
        Object (H, W), complex.
    probe
        (N, N) or (P, N, N), complex, sqrt(counts).
    truth
        Object (H, W), complex.
    positions_px
        Positions (M, 2), order (x, y), pixels, which the probe illuminates; None: everything is.
    history
        Error per epoch by name, e.g. ``{"train": [...]}``; None: no panel for it.
    title
        Heading of the picture.
    pixel_m
        Height and width of an object pixel, metres, for a bar of scale; None: pixels only.

    Returns
    -------
    Figure

    Raises
    ------
    MissingDependencyError
        matplotlib is not installed.
    """
    found, modes = np.asarray(obj), modes_of(probe)
    lit = np.ones(found.shape, dtype=bool)
    if positions_px is not None:
        lit = illuminated_mask(modes, positions_px, (found.shape[0], found.shape[1]))
    wanted = np.ones_like(found) if truth is None else np.asarray(truth)
    shown = {"reconstruction": align(found, wanted, lit)}
    if truth is not None:
        shown["truth"] = wanted
    columns = len(shown) + 1
    figure = new_figure(5.2 * columns, 9.6)
    (*amplitudes, probe_panel), (*phases, error_panel) = figure.subplots(2, columns)
    _draw_parts(amplitudes, shown, "amplitude", lit)
    _draw_parts(phases, shown, "phase", lit)
    draw_probe(probe_panel, modes, "probe")
    if pixel_m is not None:
        for panel in (*amplitudes, *phases):
            draw_scale_bar(panel, found.shape, pixel_m[1])
        draw_scale_bar(probe_panel, modes.shape[1:], pixel_m[1])
    if history is None:
        error_panel.remove()
    else:
        _draw_history(error_panel, history)
    if title:
        figure.suptitle(title, fontsize=14)
    return figure


def _draw_parts(
    panels: Sequence[Axes], shown: Mapping[str, NDArray[Any]], part: str, lit: NDArray[np.bool_]
) -> None:
    """Amplitude or phase of every object, with common limits."""
    part_of, unit = (np.angle, "rad") if part == "phase" else (np.abs, "relative")
    values = {name: part_of(array) for name, array in shown.items()}
    # A truth has no noise to cut off; a reconstruction has outliers.
    tails = (0, 100) if "truth" in shown else (0.5, 99.5)
    low, high = np.percentile(values.get("truth", values["reconstruction"])[lit], tails)
    cmap = "gray"
    if part == "phase" and high - low > np.pi:
        # Phases that go round need a cyclic map, which the eye reads only as a whole.
        low, high, cmap = -np.pi, np.pi, "twilight"
    for panel, (name, array) in zip(panels, values.items(), strict=True):
        image = panel.imshow(array, cmap=cmap, vmin=float(low), vmax=float(high))
        if not lit.all():
            # White over the rest.
            fade = np.dstack([np.ones((*lit.shape, 3)), np.where(lit, 0.0, 0.75)])
            panel.imshow(fade, interpolation="nearest")
        panel.set_title(f"{name}: {part}")
        label_pixels(panel)
        add_colorbar(panel, image, f"{part} ({unit})")


def _draw_history(axes: Axes, history: Mapping[str, Sequence[float]]) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_title("Fourier error")
    axes.set_xlabel("epoch")
    axes.set_ylabel("relative error")
    axes.grid(True, which="both", color="0.9")
    drawn = {name: list(values) for name, values in history.items() if len(values)}
    for name, values in drawn.items():
        axes.plot(np.arange(1, len(values) + 1), values, marker="o", markersize=3, label=name)
    if not drawn:
        axes.text(0.5, 0.5, "no epochs recorded", ha="center", transform=axes.transAxes)
        return
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("{x:g}")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False)
