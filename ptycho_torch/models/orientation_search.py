"""Which way the axes of a scan's positions run: short fits of the eight orientations.

Owns the candidates and what their comparison cannot see. A fit explains the frames best where the
positions run as the sample did.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray

from ptycho_torch.data.corrections import Corrections
from ptycho_torch.data.raw_data import RawData
from ptycho_torch.models.probe_search import FramesToFit

NOT_SEEN = (
    "both axes reversed at once, where the probe's curvature is unknown (an exact twin)",
    "frames transposed, apart from swapped axes: --transpose-frames mends the same scan and gives "
    "the mirrored object",
    "a constant offset of all positions",
    "a pixel size that is wrong by less than 10 %",
)
"""What no such comparison tells."""


@dataclass(frozen=True, eq=False)
class Orientation:
    """One of the eight: what to type, the Fourier error of its short fit, and its object (H, W)."""

    name: str
    error: float
    obj: NDArray[np.complex64]


def rank_orientations(
    scan: RawData, *, device: torch.device | str = "cpu", seed: int = 0
) -> list[Orientation]:
    """Fit the scan with its positions in each of the eight orientations, the best first.

    The fits start from a flat object and the scan's probe and see the same frames, in the middle of
    the scan, in the same order; work is counted in steps.

    Parameters
    ----------
    scan
        The scan, with a probe.
    device
        Where to fit.
    seed
        Seed of the order of frames.

    Returns
    -------
    list of Orientation
        Eight; the first has the lowest error.
    """
    modes = np.array(scan.probeGuess, dtype=np.complex64).reshape(-1, scan.N, scan.N)
    found = []
    with torch.inference_mode(False), torch.enable_grad():
        for swap, flip_x, flip_y in product((False, True), repeat=3):
            turned = Corrections(swap_xy=swap, flip_x=flip_x, flip_y=flip_y).of_measurement(scan)
            error, obj = FramesToFit(turned, torch.device(device), seed).fit(modes)
            words = {"--swap-xy": swap, "--flip-x": flip_x, "--flip-y": flip_y}
            name = " ".join(word for word, used in words.items() if used)
            found.append(Orientation(name or "as it is", error, obj))
    return sorted(found, key=lambda each: each.error)
