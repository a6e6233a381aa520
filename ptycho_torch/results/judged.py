"""The figures of a reconstruction with a flat object's beside, by name and in words.

NumPy only. Owns which figures a report gives, and how it says them. Definitions stand in
``metrics`` and ``ring_correlation``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.data.geometry import Pixel
from ptycho_torch.data.raw_data import RawData
from ptycho_torch.results import metrics
from ptycho_torch.results.ring_correlation import fourier_ring_correlation

Figures = dict[str, float | None]

_OF_OBJECTS = (
    "centred_correlation",
    "phase_pearson",
    "amplitude_pearson",
    "half_period_px",
    "half_period_nm",
)


def figures_beside_flat(
    obj: NDArray[Any],
    truth: NDArray[Any] | None,
    mask: NDArray[np.bool_],
    errors: tuple[float, float],
    pixel_m: Pixel | None = None,
) -> dict[str, Any]:
    """Every figure of an object, and under ``flat_object`` those of an object that is 1 everywhere.

    Parameters
    ----------
    obj, truth, mask
        (H, W); without a truth its figures are None.
    errors
        Fourier error of the object, and of a flat one.
    pixel_m
        Side of an object pixel, metres.
    """
    found, flat = (
        {**_object_figures(each, truth, mask, pixel_m), "fourier_error": error}
        for each, error in zip((obj, np.ones_like(obj)), errors, strict=True)
    )
    return {**found, "flat_object": flat}


def compared_with(raw: RawData) -> str:
    """What the objectGuess of a scan is: the truth, where the scan was simulated here."""
    simulated = (raw.metadata or {}).get("generator") == "ptycho_torch.simulate_scan"
    return "the truth" if simulated else "objectGuess, an earlier reconstruction"


def in_words(figures: Mapping[str, Any], reference: str | None = None) -> str:
    """A line of figures, a flat object's in brackets behind each.

    Parameters
    ----------
    figures
        As ``figures_beside_flat`` gives them.
    reference
        What the object was compared with.
    """
    flat, words = figures["flat_object"], []
    names = {"centred_correlation": "centred", "phase_pearson": "phase"}
    names |= {"amplitude_pearson": "amplitude"}
    if figures["centred_correlation"] is not None:
        words = [f"{word} {figures[name]:.3f} ({flat[name]:.2f})" for name, word in names.items()]
        words[0] = words[0].replace("(", "(flat object ")
        if reference is not None:
            words[0] = f"correlation with {reference}: {words[0]}"
        words.append(_detail(figures))
    error = f"{figures['fourier_error']:.4f} (flat object {flat['fourier_error']:.4f})"
    return ", ".join([*words, f"Fourier error {error}"])


def _detail(figures: Mapping[str, Any]) -> str:
    px, nm = figures["half_period_px"], figures["half_period_nm"]
    if px is None:
        return "no detail resolved (none)"
    size = f"{px:.1f} px" if nm is None else f"{px:.1f} px = {nm:.3g} nm"
    return f"detail down to {size} (none)"


def _object_figures(
    obj: NDArray[Any],
    truth: NDArray[Any] | None,
    mask: NDArray[np.bool_],
    pixel_m: Pixel | None,
) -> Figures:
    if truth is None:
        return dict.fromkeys(_OF_OBJECTS)
    rings = fourier_ring_correlation(obj, truth, mask, pixel_m=pixel_m)
    values = (
        metrics.centred_correlation(obj, truth, mask),
        metrics.phase_pearson(obj, truth, mask),
        metrics.amplitude_pearson(obj, truth, mask),
        rings.half_period_px,
        rings.half_period_nm,
    )
    # JSON has no infinity: None where no detail agrees.
    finite = (None if value is None or not np.isfinite(value) else value for value in values)
    return dict(zip(_OF_OBJECTS, finite, strict=True))
