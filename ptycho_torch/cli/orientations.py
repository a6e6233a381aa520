"""``ptycho-torch inspect SCAN --orientations``: the eight orientations of the positions, ranked."""

from __future__ import annotations

from pathlib import Path

from ptycho_torch.data.errors import shown
from ptycho_torch.data.raw_data import RawData
from ptycho_torch.models.orientation_search import NOT_SEEN, rank_orientations

CLEAR = 0.95
"""The best error is clearly so where it is below this share of the second best."""


def say_orientations(raw: RawData, png: Path | None) -> None:
    """Print what each orientation's short fit ends at, the best first, and what that cannot tell.

    With ``png``, the objects are drawn into ``<png>.orientations.png`` beside it.
    """
    ranked = rank_orientations(raw)
    print("orientations, by the Fourier error of short fits:")
    for each in ranked:
        print(f"  {each.error:.4f}  {each.name}")
    best, second = ranked[:2]
    if best.error > CLEAR * second.error:
        print("  none is clearly the best: errors this close say nothing")
    elif best.name == "as it is":
        print("  positions and frames have the same axes")
    else:
        print(f"  add {best.name}")
    print("not seen by this: " + "; ".join(NOT_SEEN))
    if png is not None:
        from ptycho_torch.results.orientation_figure import plot_orientations
        from ptycho_torch.results.plotting import save_figure

        path = png.with_suffix(".orientations.png")
        titles = [f"{each.name}: {each.error:.4f}" for each in ranked]
        save_figure(plot_orientations([each.obj for each in ranked], titles), path)
        print(f"picture: {shown(path)}")
