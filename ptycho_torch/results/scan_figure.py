"""The picture of a scan: positions, dose, groups, probe and sample frames.

Owns what it shows of a scan, and how. Knows no file but the picture it writes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.data.raw_data import RawData
from ptycho_torch.results.metrics import illumination
from ptycho_torch.results.plotting import (
    add_colorbar,
    draw_probe,
    label_pixels,
    modes_of,
    new_figure,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SAMPLE_FRAMES = 4
SHOWN_GROUPS = 8
BAD_PIXEL_COLOR = "tab:cyan"
MOST_DOSE_PX = 1500
"""Longest side of a dose that is drawn pixel by pixel."""


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
    figure = new_figure(16.0, 9.6)
    halves: Any = figure.subfigures(2, 1, height_ratios=[1.35, 1.0])
    position_panel, dose_panel, group_panel = halves[0].subplots(1, 3)
    probe_panel, *frame_panels = halves[1].subplots(1, 1 + SAMPLE_FRAMES)
    positions = np.stack([raw.xcoords, raw.ycoords], axis=1)
    probe = modes_of(raw.probeGuess)
    shape = object_shape(raw, positions)
    for panel in (position_panel, group_panel):
        show_object_area(panel, shape)
    draw_positions(position_panel, positions)
    draw_dose(dose_panel, probe, positions, shape)
    draw_groups(group_panel, positions, probe, nn_indices)
    draw_probe(probe_panel, probe, "probe guess")
    draw_frames(frame_panels, counts_in(raw, raw.frames.sample(SAMPLE_FRAMES)), raw.bad_pixels)
    where = raw.path.name if raw.path is not None else "scan in memory"
    side = probe.shape[-1]
    figure.suptitle(
        f"{where}: {len(positions)} frames of {side} x {side} px", fontsize=14, parse_math=False
    )
    return figure


def object_shape(raw: RawData, positions: NDArray[np.float64]) -> tuple[int, int]:
    """(H, W) of the object, or of what the patches cover."""
    if raw.objectGuess is not None:
        height, width = raw.objectGuess.shape
        return int(height), int(width)
    half = raw.N // 2 + 1
    right, bottom = np.maximum(np.ceil(positions.max(axis=0)).astype(int) + half, 1)
    return int(bottom), int(right)


def show_object_area(axes: Axes, shape: tuple[int, int]) -> None:
    """Rows grow downwards, as in every picture of the object."""
    axes.set_xlim(0, shape[1])
    axes.set_ylim(shape[0], 0)
    axes.set_aspect("equal")
    label_pixels(axes)


def draw_positions(axes: Axes, positions: NDArray[np.float64]) -> None:
    """Positions (M, 2) in the colours of their order, and the path between them."""
    axes.plot(*positions.T, color="0.8", linewidth=0.5, zorder=1)
    points = axes.scatter(
        positions[:, 0],
        positions[:, 1],
        c=np.arange(len(positions)),
        s=float(np.clip(12000 / len(positions), 1.5, 20)),
        cmap="viridis",
        linewidths=0,
        zorder=2,
    )
    axes.set_title("positions, in the order of the frames")
    add_colorbar(axes, points, "frame")


def draw_dose(
    axes: Axes, probe: NDArray[Any], positions: NDArray[np.float64], shape: tuple[int, int]
) -> None:
    """Dose on an object of that shape (H, W); of a large one in bins, which bounds the memory."""
    side = -(-max(shape) // MOST_DOSE_PX)
    binned = _binned_amplitude(probe, side)
    height, width = (-(-length // side) for length in shape)
    dose = illumination(binned, positions / side, (height, width))
    image = axes.imshow(
        dose,
        cmap="magma",
        interpolation="nearest",
        extent=(-0.5, width * side - 0.5, height * side - 0.5, -0.5),
    )
    axes.set_title("dose: probe intensity at all positions")
    add_colorbar(axes, image, "counts / px")
    label_pixels(axes)


def _binned_amplitude(probe: NDArray[Any], side: int) -> NDArray[Any]:
    """Of a probe (P, N, N) one (n, n) whose intensity is the mean over bins of so many pixels.

    Its centre n // 2 is the bin that begins with the pixel N // 2.
    """
    if side == 1:
        return probe
    intensity = (np.abs(probe) ** 2).sum(axis=0)
    N = len(intensity)
    n = -(-N // side) + 1
    before = n // 2 * side - N // 2
    padded = np.pad(intensity, (before, n * side - N - before))
    return np.asarray(np.sqrt(padded.reshape(n, side, n, side).mean(axis=(1, 3))))


def draw_groups(
    axes: Axes,
    positions: NDArray[np.float64],
    probe: NDArray[Any],
    nn_indices: NDArray[np.integer] | None,
) -> None:
    """Positions (M, 2), and some groups (B, C) all over the scan with their probes' light."""
    axes.scatter(positions[:, 0], positions[:, 1], s=3, color="0.75", linewidths=0)
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
    y, x = np.indices(intensity.shape) - intensity.shape[-1] // 2
    distance = np.hypot(y, x).ravel()
    order = np.argsort(distance)
    light = np.cumsum(intensity.ravel()[order])
    half = int(np.searchsorted(light, 0.5 * light[-1]))
    return float(distance[order[min(half, order.size - 1)]])


def counts_in(raw: RawData, stored: NDArray[Any]) -> NDArray[np.float64]:
    """Counts (n, N, N) of stored values of some frames."""
    values = stored.astype(np.float64)
    return values if raw.frames.measurement == "counts" else values**2


def draw_frames(
    panels: Sequence[Axes],
    counts: NDArray[np.float64],
    bad: NDArray[np.bool_] | None,
    name: str = "sample frame",
) -> None:
    """Frames (n, N, N) of counts on one scale of logarithms; pixels that are bad in a colour."""
    from matplotlib.colors import LogNorm

    high = float(counts.max()) or 1.0  # all frames may be dark
    # A measured frame shows nothing below one count; a noise-free one goes on for ever.
    low = 1.0 if high > 10 else high / 1e4
    masked: Any = False if bad is None else bad
    for panel, frame in zip(panels, counts, strict=False):
        frame = np.ma.masked_array(frame, masked.any(axis=0) if np.ndim(masked) == 3 else masked)
        panel.set_facecolor(BAD_PIXEL_COLOR)
        image = panel.imshow(
            np.ma.maximum(frame, low),
            norm=LogNorm(low, high),
            cmap="inferno",
            interpolation="nearest",
        )
        panel.set_title(f"{name}\n{frame.sum():,.0f} counts")
        label_pixels(panel, "detector column", "detector row")
    for panel in panels[len(counts) :]:
        panel.set_axis_off()
    add_colorbar(panels[min(len(panels), len(counts)) - 1], image, "counts / px")
