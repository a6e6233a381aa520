"""Pictures of a scan and of a reconstruction.

Owns layout, colours and labels. Needs NumPy and matplotlib, never torch; matplotlib is imported
when a picture is asked for, and no global state of it is touched. Knows no trainer and no file
but the picture it writes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ptycho_torch.data.errors import MissingDependencyError
from ptycho_torch.data.files.atomic_write import atomic_write
from ptycho_torch.data.raw_data import RawData
from ptycho_torch.results.metrics import align, illuminated_mask, illumination

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SAMPLE_FRAMES = 4
SHOWN_GROUPS = 8
DOTS_PER_INCH = 110


def plot_scan(raw: RawData, nn_indices: NDArray[np.integer] | None = None) -> Figure:
    """Positions, dose on the object, footprints of some groups, probe and sample frames.

    Parameters
    ----------
    raw
        The scan.
    nn_indices
        Groups (B, C), indices into the scan's positions; None: no footprints.

    Returns
    -------
    Figure

    Raises
    ------
    MissingDependencyError
        matplotlib is not installed.
    """
    figure = _figure(16.0, 9.6)
    halves: Any = figure.subfigures(2, 1, height_ratios=[1.35, 1.0])
    upper, lower = halves
    names = ("positions", "dose", "groups")
    axes = dict(zip(names, upper.subplots(1, len(names)), strict=True))
    probe_panel, *frame_panels = lower.subplots(1, 1 + SAMPLE_FRAMES)
    positions = np.stack([raw.xcoords, raw.ycoords], axis=1)
    probe = _modes(raw.probeGuess)
    width, height = _extent(raw, positions)
    _draw_positions(axes["positions"], positions, width, height)
    dose = illumination(probe, positions, (height, width))
    image = axes["dose"].imshow(dose, cmap="magma", interpolation="nearest")
    axes["dose"].set_title("dose: probe intensity at all positions")
    _colorbar(image, "counts / px")
    _pixel_labels(axes["dose"])
    _draw_groups(axes["groups"], positions, probe, nn_indices, width, height)
    _draw_probe(probe_panel, probe, "probe guess")
    _draw_frames(frame_panels, raw)
    where = raw.path.name if raw.path is not None else "scan in memory"
    figure.suptitle(
        f"{where}: {len(positions)} frames of {probe.shape[-1]} x {probe.shape[-1]} px",
        fontsize=14,
    )
    return figure


def plot_reconstruction(
    obj: ArrayLike,
    probe: ArrayLike,
    *,
    truth: ArrayLike | None = None,
    positions_px: ArrayLike | None = None,
    history: Mapping[str, Sequence[float]] | None = None,
    title: str = "",
) -> Figure:
    """A reconstruction, beside the truth where there is one, with its probe and its error curve.

    The reconstruction is multiplied by the complex factor that brings it closest to the truth, or,
    without a truth, by the one that makes its mean 1. Colour limits are common to reconstruction
    and truth and taken from the illuminated area; what was not illuminated is faded.

    Parameters
    ----------
    obj
        Object (H, W), complex.
    probe
        (N, N) or (P, N, N), complex, sqrt(counts).
    truth
        Object (H, W), complex.
    positions_px
        Positions (M, 2), order (x, y), pixels: what is illuminated; None: everything.
    history
        Error per epoch by name, e.g. ``{"train": [...]}``.
    title
        Heading of the picture.

    Returns
    -------
    Figure

    Raises
    ------
    MissingDependencyError
        matplotlib is not installed.
    """
    found, modes = np.asarray(obj), _modes(np.asarray(probe))
    lit = np.ones(found.shape, dtype=bool)
    if positions_px is not None:
        lit = illuminated_mask(modes, positions_px, (found.shape[0], found.shape[1]))
    reference = np.ones_like(found) if truth is None else np.asarray(truth)
    shown = {"reconstruction": align(found, reference, lit)}
    if truth is not None:
        shown["truth"] = np.asarray(truth)
    rows = [
        [f"{name} {part}" for name in shown] + extra
        for part, extra in (("amplitude", ["probe"]), ("phase", ["error"]))
    ]
    figure = _figure(5.2 * len(rows[0]), 9.6)
    panels = np.ravel(figure.subplots(2, len(rows[0])))
    axes: dict[str, Axes] = dict(zip(rows[0] + rows[1], panels, strict=True))
    reference = shown.get("truth", shown["reconstruction"])
    for part, values in (("amplitude", np.abs), ("phase", np.angle)):
        # A truth has no noise to be cut off; a reconstruction has outliers.
        tails = (0, 100) if truth is not None else (0.5, 99.5)
        low, high = (float(limit) for limit in np.percentile(values(reference)[lit], tails))
        cmap = "gray"
        if part == "phase" and high - low > np.pi:
            # Phases that go round need a cyclic map, and that is read right only as a whole.
            low, high, cmap = -np.pi, np.pi, "twilight"
        label = "phase (rad)" if part == "phase" else "amplitude (relative)"
        for name, array in shown.items():
            panel = axes[f"{name} {part}"]
            image = panel.imshow(values(array), cmap=cmap, vmin=low, vmax=high)
            if not lit.all():
                panel.imshow(_fade(lit), interpolation="nearest")
            panel.set_title(f"{name}: {part}")
            _pixel_labels(panel)
            _colorbar(image, label)
    _draw_probe(axes["probe"], modes, "probe")
    _draw_history(axes["error"], history or {})
    if title:
        figure.suptitle(title, fontsize=14)
    return figure


def save_figure(figure: Figure, path: str | os.PathLike[str]) -> Path:
    """Write a picture as PNG, whole or not at all; its folder is made where it is missing."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(target) as handle:
        figure.savefig(handle, format="png", dpi=DOTS_PER_INCH)
    return target


def save_scan_figure(
    raw: RawData,
    path: str | os.PathLike[str],
    nn_indices: NDArray[np.integer] | None = None,
) -> Path:
    """Draw ``plot_scan`` and write it as PNG."""
    return save_figure(plot_scan(raw, nn_indices), path)


def require_matplotlib() -> None:
    """Raise MissingDependencyError where no picture can be drawn: before work, not after it."""
    try:
        import matplotlib.figure  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            "matplotlib is not installed: pictures need it; pip install matplotlib"
        ) from error


def _figure(width_in: float, height_in: float) -> Figure:
    require_matplotlib()
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    # A figure of its own, not pyplot's: it is drawn by Agg and forgotten with its last reference.
    return Figure(
        figsize=(width_in, height_in), layout=ConstrainedLayoutEngine(w_pad=0.2, h_pad=0.1)
    )


def _modes(probe: NDArray[Any]) -> NDArray[Any]:
    return probe[None] if probe.ndim == 2 else probe


def _extent(raw: RawData, positions: NDArray[np.float64]) -> tuple[int, int]:
    """(W, H) of the object, or of what the patches cover."""
    if raw.objectGuess is not None:
        height, width = raw.objectGuess.shape
        return int(width), int(height)
    half = raw.frames.shape[-1] // 2 + 1
    right, bottom = np.maximum(np.ceil(positions.max(axis=0)).astype(int) + half, 1)
    return int(right), int(bottom)


def _draw_positions(axes: Axes, positions: NDArray[np.float64], width: int, height: int) -> None:
    axes.plot(*positions.T, color="0.8", linewidth=0.5, zorder=1)
    size = float(np.clip(12000 / len(positions), 1.5, 20))
    points = axes.scatter(
        positions[:, 0],
        positions[:, 1],
        c=np.arange(len(positions)),
        s=size,
        cmap="viridis",
        linewidths=0,
        zorder=2,
    )
    axes.set_title("positions, in the order of the frames")
    _colorbar(points, "frame")
    _object_limits(axes, width, height)


def _draw_groups(
    axes: Axes,
    positions: NDArray[np.float64],
    probe: NDArray[Any],
    nn_indices: NDArray[np.integer] | None,
    width: int,
    height: int,
) -> None:
    axes.scatter(positions[:, 0], positions[:, 1], s=3, color="0.75", linewidths=0)
    _object_limits(axes, width, height)
    if nn_indices is None or len(nn_indices) == 0:
        axes.set_title("no groups")
        return
    from matplotlib import colormaps
    from matplotlib.patches import Circle

    chosen = np.linspace(0, len(nn_indices) - 1, min(SHOWN_GROUPS, len(nn_indices))).astype(int)
    radius = _probe_radius(probe)
    for number, group in enumerate(nn_indices[chosen]):
        members, color = positions[group], colormaps["tab10"](number % 10)
        centre = members.mean(axis=0)
        for member in members:
            axes.add_patch(Circle(tuple(member), radius, color=color, alpha=0.12, linewidth=0))
            axes.plot(*np.stack([centre, member]).T, color=color, linewidth=1)
        axes.scatter(members[:, 0], members[:, 1], s=14, color=color, linewidths=0, zorder=3)
        axes.scatter(centre[0], centre[1], s=30, color=color, marker="x", zorder=3)
    axes.set_title(
        f"{len(chosen)} of {len(nn_indices)} groups of {nn_indices.shape[1]} frames\n"
        "x: centre; disc: half of the probe's light"
    )


def _probe_radius(probe: NDArray[Any]) -> float:
    """Radius around the frame's centre that holds half of the probe's light, pixels."""
    intensity = (np.abs(probe) ** 2).sum(axis=0)
    N = intensity.shape[-1]
    y, x = np.indices(intensity.shape) - N // 2
    order = np.argsort(np.hypot(y, x), axis=None)
    light = np.cumsum(intensity.ravel()[order])
    half = int(np.searchsorted(light, 0.5 * light[-1]))
    return float(np.hypot(y, x).ravel()[order[min(half, order.size - 1)]])


def _draw_probe(axes: Axes, probe: NDArray[Any], title: str) -> None:
    """First mode: phase as colour, amplitude as brightness; that mode's share of the light."""
    from matplotlib import cm, colors

    power = (np.abs(probe) ** 2).sum(axis=(1, 2))
    wave = probe[0]
    wheel = colors.Normalize(-np.pi, np.pi)
    rgb = cm.ScalarMappable(wheel, "hsv").to_rgba(np.angle(wave))[..., :3]
    brightness = np.abs(wave) / max(float(np.abs(wave).max()), np.finfo(float).tiny)
    axes.imshow(rgb * brightness[..., None], interpolation="nearest")
    share = power[0] / max(float(power.sum()), np.finfo(float).tiny)
    mode = "" if len(probe) == 1 else f"mode 1 of {len(probe)}, {share:.0%} of the light"
    axes.set_title(f"{title}\n{mode or 'dark where its amplitude is low'}")
    _colorbar(cm.ScalarMappable(wheel, "hsv"), "colour: phase (rad)", axes)
    _pixel_labels(axes)


def _draw_frames(panels: Sequence[Axes], raw: RawData) -> None:
    from matplotlib.colors import LogNorm

    sample = raw.frames.sample(len(panels)).astype(np.float64)
    counts = sample if raw.frames.measurement == "counts" else sample**2
    high = float(counts.max()) or 1.0  # all frames may be dark
    # Below one count there is nothing to see in a measured frame; noise-free ones go on for ever.
    low = 1.0 if high > 10 else high / 1e4
    for panel, frame in zip(panels, counts, strict=False):
        image = panel.imshow(
            np.maximum(frame, low), norm=LogNorm(low, high), cmap="inferno", interpolation="nearest"
        )
        panel.set_title(f"sample frame\n{frame.sum():,.0f} counts")
        panel.set_xlabel("detector column (px)")
        panel.set_ylabel("detector row (px)")
    for panel in panels[len(counts) :]:
        panel.set_axis_off()
    _colorbar(image, "counts / px", panels[len(counts) - 1])


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


def _fade(lit: NDArray[np.bool_]) -> NDArray[np.float64]:
    """White over what was not illuminated, (H, W, 4)."""
    return np.dstack([np.ones((*lit.shape, 3)), np.where(lit, 0.0, 0.75)])


def _colorbar(image: Any, label: str, axes: Axes | None = None) -> None:
    panel = image.axes if axes is None else axes
    # As tall as the picture, whatever shape the layout gives the panel.
    panel.figure.colorbar(image, cax=panel.inset_axes((1.03, 0.0, 0.05, 1.0)), label=label)


def _pixel_labels(axes: Axes) -> None:
    axes.set_xlabel("x (px)")
    axes.set_ylabel("y (px)")


def _object_limits(axes: Axes, width: int, height: int) -> None:
    """Rows grow downwards, as in every picture of the object."""
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    axes.set_aspect("equal")
    _pixel_labels(axes)
