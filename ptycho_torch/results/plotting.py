"""What pictures share: figures without global state, colour bars, axis labels, a probe, a PNG.

Needs NumPy and matplotlib, never torch; imports matplotlib when a picture is asked for. Knows no
scan and no reconstruction.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ptycho_torch.data.errors import MissingDependencyError
from ptycho_torch.data.files.atomic_write import atomic_write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.figure import Figure

DOTS_PER_INCH = 110


def require_matplotlib() -> None:
    """Refuse, before any work, a picture that nothing can draw.

    Raises
    ------
    MissingDependencyError
        matplotlib is not installed.
    """
    try:
        import matplotlib.figure  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            "matplotlib is not installed: pictures need it; "
            "pip install matplotlib, or the extra: ptycho-torch[plot]"
        ) from error


def new_figure(width_in: float, height_in: float) -> Figure:
    """An empty figure of that many inches, outside pyplot: Agg draws it, nobody else keeps it."""
    require_matplotlib()
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    return Figure(
        figsize=(width_in, height_in), layout=ConstrainedLayoutEngine(w_pad=0.2, h_pad=0.1)
    )


def save_figure(figure: Figure, path: str | os.PathLike[str]) -> Path:
    """Write a picture as PNG, whole or not at all; a missing folder is made."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(target) as handle:
        figure.savefig(handle, format="png", dpi=DOTS_PER_INCH)
    return target


def modes_of(probe: ArrayLike) -> NDArray[Any]:
    """A probe (N, N) or (P, N, N) as (P, N, N)."""
    modes = np.asarray(probe)
    return modes[None] if modes.ndim == 2 else modes


def draw_probe(axes: Axes, modes: NDArray[Any], title: str) -> None:
    """First mode of (P, N, N): phase as colour, amplitude as brightness; its share of the light."""
    share = shares_of_light(modes)[0]
    mode = "" if len(modes) == 1 else f"mode 1 of {len(modes)}, {share:.0%} of the light"
    add_colorbar(axes, draw_wave(axes, modes[0]), "colour: phase (rad)")
    axes.set_title(f"{title}\n{mode or 'dark where its amplitude is low'}")
    label_pixels(axes)


def shares_of_light(modes: NDArray[Any]) -> NDArray[np.float64]:
    """What every mode of (P, N, N) has of the light, (P,); 0 of a dark probe."""
    power = (np.abs(modes.astype(np.complex128)) ** 2).sum(axis=(1, 2))
    return np.asarray(power / max(float(power.sum()), np.finfo(float).tiny))


def draw_wave(axes: Axes, wave: NDArray[Any]) -> ScalarMappable:
    """A wave (N, N), complex: phase as colour, amplitude as brightness; gives the colours."""
    from matplotlib import cm, colors

    wheel = cm.ScalarMappable(colors.Normalize(-np.pi, np.pi), "hsv")
    brightness = np.abs(wave) / max(float(np.abs(wave).max()), np.finfo(float).tiny)
    rgb = wheel.to_rgba(np.angle(wave))[..., :3] * brightness[..., None]
    axes.imshow(rgb, interpolation="nearest")
    return wheel


def add_colorbar(axes: Axes, image: ScalarMappable, label: str) -> None:
    """A colour bar as tall as the picture, whatever shape the layout gives the panel."""
    axes.figure.colorbar(image, cax=axes.inset_axes((1.03, 0.0, 0.05, 1.0)), label=label)


def label_pixels(axes: Axes, along: str = "x", down: str = "y") -> None:
    """Name both axes, in pixels."""
    axes.set_xlabel(f"{along} (px)")
    axes.set_ylabel(f"{down} (px)")


def draw_scale_bar(axes: Axes, shape: tuple[int, ...], pixel_m: float) -> None:
    """A bar of a round length, about a fifth of a picture of that shape (H, W), with its length."""
    from matplotlib.patheffects import withStroke

    height, width = shape
    length = scale_bar_m(width * pixel_m)
    unit, factor = ("nm", 1e9) if length < 1e-6 else ("um", 1e6)
    left, row = 0.05 * width, 0.94 * height
    outline = [withStroke(linewidth=4, foreground="black")]
    axes.plot(
        [left, left + length / pixel_m], [row, row], color="white", lw=2.5, path_effects=outline
    )
    text = f"{length * factor:g} {unit}"
    axes.text(left, row - 0.02 * height, text, color="white", path_effects=outline, va="bottom")


def scale_bar_m(width_m: float) -> float:
    """The largest of 1, 2, 5, 10, ... of a unit that is at most a quarter of a width, metres."""
    power = 10.0 ** np.floor(np.log10(width_m / 4))
    return float(max(step for step in (1, 2, 5) if step * power <= width_m / 4) * power)
