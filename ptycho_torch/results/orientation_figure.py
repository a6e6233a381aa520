"""The picture of the eight orientations: the object that a short fit makes of each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.results.plotting import label_pixels, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_orientations(objects: Sequence[NDArray[Any]], titles: Sequence[str]) -> Figure:
    """Phases of objects (H, W), complex, in two rows, each about its mean and with its own limits.

    Parameters
    ----------
    objects
        Complex, (H, W) each.
    titles
        One for each.

    Raises
    ------
    MissingDependencyError
        matplotlib is not installed.
    """
    columns = -(-len(objects) // 2)
    figure = new_figure(4 * columns, 8.6)
    panels = figure.subplots(2, columns, squeeze=False).ravel()
    for panel, obj, title in zip(panels, objects, titles, strict=False):
        phase = np.angle(obj * np.conj(obj.sum() or 1))
        low, high = np.percentile(phase, (1, 99))
        panel.imshow(phase, cmap="gray", vmin=float(low), vmax=float(high))
        panel.set_title(title)
        label_pixels(panel)
    for panel in panels[len(objects) :]:
        panel.set_axis_off()
    figure.suptitle("phase of the object after a short fit, the lowest Fourier error first")
    return figure
