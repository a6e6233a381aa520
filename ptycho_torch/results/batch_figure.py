"""The picture of a batch: where its groups lie, frames, patches and probe of one of them.

Owns what it shows of a batch, and how. Needs NumPy and matplotlib, never torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.data.config import check_integer
from ptycho_torch.data.errors import OptionError, OptionTypeError
from ptycho_torch.data.raw_data import RawData
from ptycho_torch.results.plotting import add_colorbar, draw_probe, label_pixels, new_figure
from ptycho_torch.results.scan_figure import SAMPLE_FRAMES, draw_frames, plot_scan

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def plot(what: Any, *, group: int = 0) -> Figure:
    """Draw a scan, or a batch with one of its groups.

    Parameters
    ----------
    what
        A :class:`~ptycho_torch.RawData` (positions, dose, probe and a few frames), or a
        :class:`~ptycho_torch.PtychoBatch`.
    group
        Which group of the batch is highlighted, and shown with frames and patches: up to four of
        each.

    Returns
    -------
    Figure
        Of matplotlib, outside pyplot: a notebook shows it, ``figure.savefig`` writes it.

    Raises
    ------
    MissingDependencyError
        matplotlib is not installed.
    OptionError, OptionTypeError
        It is no scan and no batch, or the batch has no such group.

    Examples
    --------
    >>> from ptycho_torch import plot, simulate_scan
    >>> figure = plot(simulate_scan(n_frames=64, N=32, seed=1))
    """
    check_integer("group", group, minimum=0)
    if isinstance(what, RawData):
        return plot_scan(what)
    if not all(hasattr(what, name) for name in ("X", "scale", "local_offsets", "probe")):
        raise OptionTypeError("what to plot", type(what).__name__, "a RawData or a PtychoBatch")
    batch = what if what.batch_size else what[None]
    if group >= len(batch):
        raise OptionError("group", group, f"at most {len(batch) - 1}, the last of the batch")
    return _plot_batch(batch, group)


def _plot_batch(batch: Any, group: int) -> Figure:
    one = batch[group]
    rows = 2 if one.Y is None else 3
    figure = new_figure(16.0, 4.6 * rows)
    panels: Any = figure.subplots(rows, SAMPLE_FRAMES, squeeze=False)
    here = _numbers(batch.scan_id) == int(one.scan_id)
    _draw_positions(panels[0, 0], _numbers(batch.positions)[here], _numbers(one.positions))
    draw_probe(panels[0, 1], _numbers(one.probe), "probe")
    for panel in panels[0, 2:]:
        panel.set_axis_off()
    amplitude = np.moveaxis(_numbers(one.X).astype(np.float64), -1, 0) / float(one.scale)
    bad = None if one.bad_pixels is None else _numbers(one.bad_pixels)
    draw_frames(panels[1], amplitude[:SAMPLE_FRAMES] ** 2, bad, "frame of the group")
    if one.Y is not None:
        patches = np.moveaxis(_numbers(one.Y), -1, 0)
        _draw_patches(panels[2], patches[: SAMPLE_FRAMES // 2])
    figure.suptitle(
        f"group {group} of a batch of {len(batch)}: {len(amplitude)} frames of "
        f"{amplitude.shape[-1]} x {amplitude.shape[-1]} px, scan {int(one.scan_id)}",
        fontsize=14,
    )
    return figure


def _draw_positions(
    axes: Axes, groups: NDArray[np.float64], highlighted: NDArray[np.float64]
) -> None:
    """Positions (B, C, 2) of the groups of one scan, and those of one group, (C, 2)."""
    x, y = groups.reshape(-1, 2).T
    axes.scatter(x, y, s=6, color="0.7", linewidths=0, label="the batch")
    centre = highlighted.mean(axis=0)
    for member in highlighted:
        axes.plot(*np.stack([centre, member]).T, color="tab:red", linewidth=1)
    x, y = highlighted.T
    axes.scatter(x, y, s=24, color="tab:red", linewidths=0, zorder=3, label="the group")
    axes.invert_yaxis()
    axes.set_aspect("equal")
    axes.set_title("positions")
    axes.legend(loc="best", fontsize="small")
    label_pixels(axes)


def _draw_patches(panels: NDArray[Any], patches: NDArray[Any]) -> None:
    """Amplitude and phase of patches (n, N, N), complex, side by side."""
    shown = [
        draw
        for patch in patches
        for draw in ((np.abs(patch), "gray", "amplitude"), (np.angle(patch), "twilight", "phase"))
    ]
    for panel, (values, colors, name) in zip(panels, shown, strict=False):
        image = panel.imshow(values, cmap=colors, interpolation="nearest")
        panel.set_title(f"patch: {name}")
        add_colorbar(panel, image, "rad" if name == "phase" else "")
        label_pixels(panel)
    for panel in panels[len(shown) :]:
        panel.set_axis_off()


def _numbers(tensor: Any) -> NDArray[Any]:
    """The values of a tensor of any device and precision, as an array."""
    values = tensor.detach().cpu()
    return np.asarray((values.float() if str(values.dtype) == "torch.bfloat16" else values).numpy())
