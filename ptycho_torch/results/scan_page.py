"""The page of a scan: what looks wrong and what to type, then pictures and figures of all of it.

Owns what the page shows of a scan, and in which order. Needs NumPy and matplotlib, never torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.data.geometry import pair
from ptycho_torch.data.initial_probe import is_average_pattern
from ptycho_torch.data.plausibility import Verdict
from ptycho_torch.data.raw_data import RawData
from ptycho_torch.results.coverage import linear_overlap, nearest_steps, probe_width_px
from ptycho_torch.results.page import (
    Markup,
    grid,
    joined,
    rows_table,
    section,
    tiles,
)
from ptycho_torch.results.page_figures import panel, picture
from ptycho_torch.results.plotting import draw_scale_bar, label_pixels, modes_of
from ptycho_torch.results.probe_panel import probe_panel
from ptycho_torch.results.scan_figure import (
    BAD_PIXEL_COLOR,
    counts_in,
    draw_dose,
    draw_frames,
    draw_groups,
    draw_positions,
    object_shape,
    show_object_area,
)
from ptycho_torch.results.split_preview import SplitPreview
from ptycho_torch.results.verdict_cards import verdict_cards

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SAMPLE_FRAMES = 64
SHOWN_FRAMES = 3
MOST_POINTS_OF_A_CURVE = 400
BLUE, ORANGE, GREEN, RED, GREY = "#3b82c4", "#dd8a1c", "#2a9d6f", "#d64550", "#8a94a0"


def scan_page(
    raw: RawData,
    groups: NDArray[np.integer] | None,
    energies: NDArray[np.float64],
    *,
    rows: Mapping[str, str],
    verdicts: Sequence[Verdict],
    split: SplitPreview | None = None,
) -> Markup:
    """Everything that a page says of a scan below its name.

    Parameters
    ----------
    raw
        The scan.
    groups
        Frame indices (B, C); None where there are too few frames for one.
    energies
        Counts of every frame, (M,), as :meth:`~ptycho_torch.data.frames.Frames.verify` gives them.
    rows
        The scan in words, by name.
    verdicts
        What does not look right.
    split
        What a data module's split gives; None where there is none.

    Raises
    ------
    MissingDependencyError
        matplotlib is not installed.
    """
    seen = _Seen(raw, groups, energies)
    splits = [] if split is None else [_split_panel(seen, split, random) for random in (0, 1)]
    return joined(
        [
            verdict_cards(verdicts),
            tiles(seen.tiles()),
            section("Positions, light and groups", grid(*_where(seen, rows), *splits)),
            section("Frames and probe", grid(*_frames(seen, rows))),
            section("Geometry", rows_table(seen.geometry_rows())),
            section("In words", rows_table(rows)),
        ]
    )


class _Seen:
    """A scan with what several parts of its page need."""

    def __init__(
        self, raw: RawData, groups: NDArray[np.integer] | None, energies: NDArray[np.float64]
    ) -> None:
        self.raw, self.groups, self.energies = raw, groups, energies
        self.positions = np.stack([raw.xcoords, raw.ycoords], axis=1).astype(np.float64)
        self.modes = modes_of(raw.probeGuess)
        self.shape = object_shape(raw, self.positions)
        self.steps = nearest_steps(raw.xcoords, raw.ycoords)
        self.step = float(np.median(self.steps))
        # In focus, an average pattern is a place for a probe, not as wide as the light.
        guessed = is_average_pattern(raw)
        self.width = None if guessed else probe_width_px(raw.probeGuess)
        self.overlap = linear_overlap(self.width or 0.0, self.step)
        self.counts = counts_in(raw, raw.frames.sample(SAMPLE_FRAMES))
        self.pixel_m = pair(None if raw.geometry is None else raw.geometry.object_pixel_m)

    def tiles(self) -> dict[str, tuple[object, object]]:
        """The figures that are looked at first."""
        frames, groups, pixel = self.raw.frames, self.groups, self.pixel_m
        overlap = "unknown" if self.overlap is None else f"{self.overlap:.0%}"
        width = "the probe's width is unknown"
        if self.width is not None:
            width = f"step {self.step:.3g} px, probe {self.width:.3g} px wide"
        grouped = "a group needs more frames"
        if groups is not None and len(groups):
            grouped = f"of {groups.shape[1]} frames"
        return {
            "Frames": (f"{len(frames):,}", f"{self.raw.N} x {self.raw.N} px, {frames.measurement}"),
            "Overlap": (overlap, width),
            "Light": (_short(float(self.energies.mean())), "counts per frame"),
            "Object pixel": (
                "unknown" if pixel is None else f"{pixel[0] * 1e9:.4g} nm",
                "no geometry in the file" if pixel is None else self._view(pixel),
            ),
            "Probe": (
                len(self.modes),
                "mode" if len(self.modes) == 1 else "modes",
            ),
            "Groups": (0 if groups is None else f"{len(groups):,}", grouped),
        }

    def _view(self, pixel: tuple[float, float]) -> str:
        width, height = np.ptp(self.positions, axis=0) * (pixel[1], pixel[0])
        return f"scan of {_length(width)} x {_length(height)}"

    def geometry_rows(self) -> dict[str, object]:
        """What is known of the measurement, and lengths in nanometres where a pixel is known."""
        geometry = self.raw.geometry
        if geometry is None:
            return {}
        energy, detector, pixel = geometry.energy_ev, pair(geometry.detector_pixel_m), self.pixel_m
        rows: dict[str, object] = {}
        if energy is not None and geometry.wavelength_m is not None:
            rows["photon energy"] = f"{energy / 1e3:.6g} keV"
            rows["wavelength"] = f"{geometry.wavelength_m * 1e9:.6g} nm"
        if geometry.distance_m is not None:
            rows["to the detector"] = f"{geometry.distance_m:.6g} m"
        if detector is not None:
            rows["detector pixel"] = _square(detector, 1e6, "um")
        if pixel is not None:
            rows["object pixel"] = _square(pixel, 1e9, "nm")
            rows["frame on the object"] = _square(
                (self.raw.N * pixel[0], self.raw.N * pixel[1]), 1e9, "nm"
            )
            rows["scan"] = self._view(pixel).removeprefix("scan of ") + ", x and y"
            if np.isfinite(self.step):
                rows["step, median"] = f"{self.step * pixel[1] * 1e9:.4g} nm"
            if self.width is not None:
                rows["probe"] = f"{self.width * pixel[1] * 1e9:.4g} nm wide"
        rows["regime"] = "near field" if geometry.near_field else "far field"
        return rows


def _where(seen: _Seen, rows: Mapping[str, str]) -> list[Markup]:
    """Positions, dose, steps, groups."""
    positions, shape = seen.positions, seen.shape
    unknown = rows["probe"] if seen.width is None else ""

    def draw_path(axes: Axes) -> None:
        show_object_area(axes, shape)
        draw_positions(axes, positions)

    def draw_light(axes: Axes) -> None:
        draw_dose(axes, seen.modes, positions, shape)
        if seen.pixel_m is not None:
            draw_scale_bar(axes, shape, seen.pixel_m[1])

    def draw_some(axes: Axes) -> None:
        show_object_area(axes, shape)
        draw_groups(axes, positions, seen.modes, seen.groups)

    found = [
        panel(draw_path, f"Positions of {len(positions)} frames", rows["positions"]),
        panel(draw_light, f"Dose on an object of {shape[0]} x {shape[1]} pixels", unknown),
        panel(lambda axes: _draw_steps(axes, seen), f"Steps, median {seen.step:.2f} pixels"),
    ]
    if seen.groups is not None and len(seen.groups):
        found.append(panel(draw_some, "Some groups of neighbouring frames"))
    return found


def _draw_steps(axes: Axes, seen: _Seen) -> None:
    known = seen.steps[np.isfinite(seen.steps)]
    axes.set_title("steps to the nearest neighbour")
    if not len(known):
        axes.text(0.5, 0.5, "one frame", ha="center", transform=axes.transAxes)
        return
    axes.hist(known, bins=40, color=BLUE)
    axes.set_xlabel("step (px)")
    axes.set_ylabel("frames")
    if seen.width is not None and seen.overlap is not None:
        axes.axvline(seen.width, color=ORANGE, label="width of the probe")
        axes.legend()
        axes.set_title(f"{axes.get_title()}: {seen.overlap:.0%} linear overlap")


def _frames(seen: _Seen, rows: Mapping[str, str]) -> list[Markup]:
    """Sample frames and their mean, counts over time, the probe, bad pixels."""
    raw, counts = seen.raw, seen.counts
    chosen = np.linspace(0, len(counts) - 1, min(SHOWN_FRAMES, len(counts))).astype(int)
    drawn = np.concatenate([counts.mean(axis=0)[None], counts[chosen]])

    def draw_samples(figure: Figure) -> str:
        panels = list(figure.subplots(2, 2).ravel())
        draw_frames(panels, drawn, raw.bad_pixels)
        for number, axes in enumerate(panels):
            axes.set(xlabel="", ylabel="")
            title = axes.get_title().rpartition("\n")[2]
            axes.set_title(title if number else f"mean, {title}", fontsize="medium")
        return "mean and sample frames, on a scale of logarithms"

    found = [
        picture(draw_samples, f"{len(chosen)} diffraction patterns and their mean", rows["frames"]),
        panel(lambda axes: _draw_energies(axes, seen.energies), "Counts of every frame in order"),
        probe_panel(seen.modes, seen.pixel_m, rows["probe"]),
    ]
    bad = raw.bad_pixels
    if bad is not None:
        share = bad if bad.ndim == 2 else bad.mean(axis=0)
        alt = f"{np.count_nonzero(share)} bad pixels of the detector"
        found.append(panel(lambda axes: _draw_bad(axes, share), alt, rows["bad pixels"]))
    return found


def _draw_energies(axes: Axes, energies: NDArray[np.float64]) -> None:
    """Counts per frame; of many frames the mean and the range of each stretch."""
    from matplotlib.ticker import MaxNLocator

    parts = np.array_split(energies, min(len(energies), MOST_POINTS_OF_A_CURVE))
    firsts = np.cumsum([0, *map(len, parts)])[:-1]
    axes.plot(firsts, [part.mean() for part in parts], color=BLUE, linewidth=1)
    if len(parts) < len(energies):
        low, high = ([end(part) for part in parts] for end in (np.min, np.max))
        axes.fill_between(firsts, low, high, color=BLUE, alpha=0.25, linewidth=0)
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.set_xlabel("frame")
    axes.set_ylabel("counts")
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.grid(True, color=GREY, alpha=0.25)
    middle = float(np.median(energies))
    dim = np.count_nonzero(energies < middle / 2)
    axes.set_title(
        f"counts of every frame: {energies.min():,.0f} to {energies.max():,.0f}, "
        f"median {middle:,.0f}" + (f"\n{dim} frames have less than half of that" if dim else "")
    )


def _draw_bad(axes: Axes, share: NDArray[Any]) -> None:
    from matplotlib.colors import LinearSegmentedColormap

    shade = LinearSegmentedColormap.from_list("bad", ["#20262e", BAD_PIXEL_COLOR])
    axes.imshow(share.astype(float), cmap=shade, vmin=0, vmax=1, interpolation="nearest")
    rows, columns = np.nonzero(share)
    if len(rows) <= 50:  # a pixel or two of a large detector are hard to find
        axes.scatter(columns, rows, s=60, facecolors="none", edgecolors=BAD_PIXEL_COLOR)
    label_pixels(axes, "detector column", "detector row")
    axes.set_title("bad pixels")


def _split_panel(seen: _Seen, split: SplitPreview, random: int) -> Markup:
    used = split.frames_used(at_random=bool(random))
    counts = np.sum(used, axis=0)
    colors = dict(zip(split.names, (BLUE, ORANGE, GREEN), strict=False))

    def draw(axes: Axes) -> None:
        show_object_area(axes, seen.shape)
        kinds = {name: row & (counts == 1) for name, row in zip(split.names, used, strict=True)}
        kinds |= {"in several parts": counts > 1, "in no part": counts == 0}
        every = {**colors, "in several parts": RED, "in no part": GREY}
        size = float(np.clip(12000 / len(seen.positions), 1.5, 20))
        for name, chosen in kinds.items():
            if chosen.any():
                x, y = seen.positions[chosen].T
                axes.scatter(x, y, s=size, color=every[name], label=name)
        axes.legend(
            loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0.2, markerscale=1.5
        )
        axes.set_title("split at random" if random else "split by region, as a data module does")

    shared = int((counts > 1).sum())
    note = split.rows["leak" if random else "split"].partition(": ")[2]
    return panel(draw, f"Split of the frames, {shared} of them in several parts", note)


def _short(number: float) -> str:
    """A number in few characters: 461k, 3.2M."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.3g}"


def _length(metres: float) -> str:
    return f"{metres * 1e6:.4g} um" if metres >= 1e-6 else f"{metres * 1e9:.4g} nm"


def _square(sides: tuple[float, float], factor: float, unit: str) -> str:
    height, width = (f"{side * factor:.6g}" for side in sides)
    return f"{height} {unit}" if height == width else f"{height} x {width} {unit} (height, width)"
