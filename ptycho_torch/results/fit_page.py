"""The page of a fit: its figures with a flat object's beside, pictures, loss, and how to repeat it.

Owns what the page shows of a fit, and in which order. Needs NumPy and matplotlib, never torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml
from numpy.typing import NDArray

from ptycho_torch.results.flat_object import FitVerdict
from ptycho_torch.results.page import (
    Markup,
    element,
    figures_table,
    grid,
    joined,
    rows_table,
    section,
    tiles,
    versions,
)
from ptycho_torch.results.page_figures import panel
from ptycho_torch.results.plotting import draw_scale_bar
from ptycho_torch.results.probe_panel import probe_panel
from ptycho_torch.results.reconstruction_figure import beside_truth, draw_history, draw_part

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SURROUND = "0.5"
"""What covers the area without light: a grey that reads on light and on dark."""

_NAMES = MappingProxyType(
    {
        "fourier_error": "Fourier error",
        "centred_correlation": "centred correlation",
        "phase_pearson": "correlation of phases",
        "amplitude_pearson": "correlation of amplitudes",
        "half_period_px": "smallest detail, half a period, px",
        "half_period_nm": "smallest detail, half a period, nm",
    }
)


@dataclass(frozen=True)
class FitFacts:
    """What the page of a fit is made of.

    Attributes
    ----------
    obj, probe
        (H, W) and (P, N, N), complex.
    truth
        (H, W), complex, or None.
    positions_px
        (M, 2), order (x, y), object pixels.
    pixel_m
        Height and width of an object pixel, metres, or None.
    figures
        The content of metrics.json.
    history
        Error per epoch by name; empty where nothing was trained.
    verdict
        How good the Fourier error is; None where there is none of training.
    configuration
        Options of model, data and trainer, by their names.
    command
        What was typed; empty where a program made the fit.
    """

    obj: NDArray[Any]
    probe: NDArray[Any]
    truth: NDArray[Any] | None
    positions_px: NDArray[np.floating]
    pixel_m: tuple[float, float] | None
    figures: Mapping[str, Any]
    history: Mapping[str, Sequence[float]]
    verdict: FitVerdict | None
    configuration: Mapping[str, Any]
    command: str = ""


def fit_page(facts: FitFacts) -> Markup:
    """Everything that a page says of a fit below its name.

    Raises
    ------
    MissingDependencyError
        matplotlib is not installed.
    """
    plain = json.loads(json.dumps(facts.configuration, default=str))
    text = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)
    repeat = element("pre", facts.command, kind="command") if facts.command else ""
    shown = element("details", element("summary", "Options"), element("pre", text), kind="card")
    return joined(
        [
            _verdict(facts.verdict),
            tiles(_tiles(facts)),
            section("Pictures", grid(*_pictures(facts))),
            *_tables(facts.figures),
            section("Repeat it", repeat, shown),
            section("Versions", rows_table(versions())),
        ]
    )


def _verdict(verdict: FitVerdict | None) -> Markup:
    if verdict is None:
        return Markup("")
    numbers, _, words = str(verdict).partition("): ")
    line = element("strong", f"{words[:1].upper()}{words[1:]}")
    kind = "card" if verdict.share <= 0.45 else "card warning"
    card = element("li", element("p", line), element("p", f"{numbers})", kind="soft"), kind=kind)
    return element("ul", card, kind="verdicts")


def _tiles(facts: FitFacts) -> dict[str, tuple[object, object]]:
    figures = facts.figures
    found: dict[str, tuple[object, object]] = {}
    first = _parts(figures)
    if first:
        part, flat = first[0][1], first[0][1]["flat_object"]
        found["Fourier error"] = (
            f"{part['fourier_error']:.4f}",
            f"flat object {flat['fourier_error']:.4f}",
        )
        if part["centred_correlation"] is not None:
            value = f"{part['centred_correlation']:.3f}"
            found["Correlation"] = value, f"with {figures['compared_with']}; flat object 0"
    if "epochs" in figures:
        found["Epochs"] = (figures["epochs"], f"in {figures['seconds']:.1f} s")
    frames = f"{figures['frames_per_group']} in a group"
    found["Frames"] = (f"{figures['frames']:,}", frames)
    found["Model"] = (figures["model"], f"{figures['parameters']:,} parameters")
    return found


def _parts(figures: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Every part of the data that has figures, by its name, training first."""
    parts = [("training", figures)] if "fourier_error" in figures else []
    others = ("validation", "test", "predicted")
    return parts + [(name, figures[name]) for name in others if name in figures]


def _tables(figures: Mapping[str, Any]) -> list[Markup]:
    """A table for each part: every figure beside that of a flat object."""
    tables = []
    for name, part in _parts(figures):
        lines = [
            (words, _number(part[key]), _number(part["flat_object"][key]))
            for key, words in _NAMES.items()
            if part.get(key) is not None or part["flat_object"].get(key) is not None
        ]
        heads = ("", "this fit", "a flat object")
        heading = f"Figures of the {name} groups ({part['groups']:,})"
        tables.append(section(heading, figures_table(heads, lines)))
    return tables


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.4g}"


def _pictures(facts: FitFacts) -> list[Markup]:
    """Amplitude and phase of the object, and of the truth; probe; loss."""
    shown, lit = beside_truth(facts.obj, facts.probe, facts.truth, facts.positions_px)

    def drawn(name: str, part: str) -> Markup:
        def draw(axes: Axes) -> None:
            draw_part(axes, name, shown, part, lit, surround=SURROUND)
            if facts.pixel_m is not None:
                draw_scale_bar(axes, facts.obj.shape, facts.pixel_m[1])

        return panel(draw, f"{part} of the {name}, {facts.obj.shape[0]} x {facts.obj.shape[1]} px")

    objects = [drawn(name, part) for name in shown for part in ("amplitude", "phase")]
    found = [*objects, probe_panel(facts.probe, facts.pixel_m)]
    if history := facts.history:
        found.append(panel(lambda axes: draw_history(axes, history), "Fourier error per epoch"))
    return found
