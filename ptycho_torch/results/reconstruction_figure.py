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
    modes = modes_of(probe)
    shown, lit = beside_truth(obj, modes, truth, positions_px)
    columns = len(shown) + 1
    figure = new_figure(5.2 * columns, 9.6)
    (*amplitudes, probe_panel), (*phases, error_panel) = figure.subplots(2, columns)
    for part, panels in (("amplitude", amplitudes), ("phase", phases)):
        for panel, name in zip(panels, shown, strict=True):
            draw_part(panel, name, shown, part, lit)
    draw_probe(probe_panel, modes, "probe")
    if pixel_m is not None:
        for panel in (*amplitudes, *phases):
            draw_scale_bar(panel, lit.shape, pixel_m[1])
        draw_scale_bar(probe_panel, modes.shape[1:], pixel_m[1])
    if history is None:
        error_panel.remove()
    else:
        draw_history(error_panel, history)
    if title:
        figure.suptitle(title, fontsize=14, parse_math=False)
    return figure


def beside_truth(
    obj: ArrayLike,
    modes: NDArray[Any],
    truth: ArrayLike | None,
    positions_px: ArrayLike | None,
) -> tuple[dict[str, NDArray[Any]], NDArray[np.bool_]]:
    """By name the reconstruction and the truth where there is one, alike in scale; what is lit."""
    found = np.asarray(obj)
    lit = np.ones(found.shape, dtype=bool)
    if positions_px is not None:
        lit = illuminated_mask(modes, positions_px, (found.shape[0], found.shape[1]))
    wanted = np.ones_like(found) if truth is None else np.asarray(truth)
    shown = {"reconstruction": align(found, wanted, lit)}
    if truth is not None:
        shown["truth"] = wanted
    return shown, lit


def draw_part(
    axes: Axes,
    name: str,
    shown: Mapping[str, NDArray[Any]],
    part: str,
    lit: NDArray[np.bool_],
    surround: str = "white",
) -> None:
    """Amplitude or phase of one of the objects, with the limits that all have in common.

    What is not ``lit`` is faded into the colour ``surround``.
    """
    from matplotlib.colors import to_rgb

    part_of, unit = (np.angle, "rad") if part == "phase" else (np.abs, "relative")
    # A truth has no noise to cut off; a reconstruction has outliers.
    tails = (0, 100) if "truth" in shown else (0.5, 99.5)
    judged = part_of(shown.get("truth", shown["reconstruction"])[lit])
    low, high = np.percentile(judged, tails)
    cmap = "gray"
    if part == "phase" and high - low > np.pi:
        # Phases that go round need a cyclic map, which the eye reads only as a whole.
        low, high, cmap = -np.pi, np.pi, "twilight"
    image = axes.imshow(part_of(shown[name]), cmap=cmap, vmin=float(low), vmax=float(high))
    if not lit.all():
        fade = np.dstack([np.full((*lit.shape, 3), to_rgb(surround)), np.where(lit, 0.0, 0.75)])
        axes.imshow(fade, interpolation="nearest")
    axes.set_title(f"{name}: {part}")
    label_pixels(axes)
    add_colorbar(axes, image, f"{part} ({unit})")


def draw_history(axes: Axes, history: Mapping[str, Sequence[float]]) -> None:
    """The error of every epoch by name, on a scale of logarithms."""
    from matplotlib.ticker import MaxNLocator

    axes.set_title("Fourier error")
    axes.set_xlabel("epoch")
    axes.set_ylabel("relative error")
    axes.grid(True, which="both", color="0.5", alpha=0.2)
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
