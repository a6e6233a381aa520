"""What every reader hands on: the arrays of one scan, frames still in their file."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.data.frames import Frames, FrameStack

AnyArray = NDArray[np.generic]


@dataclass(frozen=True, eq=False)
class ScanFields:
    """The content of a scan file under the canonical names.

    Parameters
    ----------
    path
        The file.
    xcoords, ycoords
        Probe positions, object pixels: column and row of the patch centre; (M,) floating.
    xcoords_start, ycoords_start
        Nominal positions, the same.
    frames
        Diffraction frames (M, N, N).
    probeGuess
        (N, N) or (P, N, N), complex.
    scan_index
        (M,) integer.
    objectGuess
        (H, W), or None.
    Y
        Ready-made patches (M, N, N), not read until used, or None.
    metadata
        Provenance as the file gives it.
    """

    path: Path
    xcoords: AnyArray
    ycoords: AnyArray
    xcoords_start: AnyArray
    ycoords_start: AnyArray
    frames: Frames
    probeGuess: AnyArray
    scan_index: AnyArray
    objectGuess: AnyArray | None = None
    Y: FrameStack | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
