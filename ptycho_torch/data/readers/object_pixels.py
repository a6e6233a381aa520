"""Object pixels: their size in metres, and positions within an array of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ptycho_torch.data.errors import ScanKeyError
from ptycho_torch.data.geometry import Geometry, Pixel
from ptycho_torch.data.readout import Readout
from ptycho_torch.data.scan import AnyArray

OBJECT_PIXEL = "Add --option object_pixel_m=METRES (object_pixel_m=)"
"""What to type where a file does not say how large an object pixel is."""
MARGIN_PX = 2.0
"""Pixels kept free before the first patch, for interpolation and for positions that get refined."""


def complete_geometry(
    geometry: Geometry, readout: Readout, object_pixel_m: Pixel | None, near_field: bool
) -> Geometry:
    """The geometry of the frames as they are read out, its object pixel known.

    A ScanKeyError says what it takes to know it.
    """
    near = near_field or geometry.near_field
    seen = readout.corrected(replace(geometry, near_field=near))
    if object_pixel_m is not None:
        seen = replace(seen, object_pixel_m=object_pixel_m)
    seen = seen.for_frames(readout.size)
    if seen.object_pixel_m is not None:
        return seen
    lengths = ("wavelength_m", "distance_m", "detector_pixel_m")
    missing = [name for name in lengths if getattr(seen, name) is None]
    if near:
        what = "the detector's pixel over the magnification, in the near field"
    else:
        what = f"one, or {' and '.join(missing)} in the file"
    raise ScanKeyError("object_pixel_m", "missing", what, action=OBJECT_PIXEL)


def placed(centres: AnyArray, N: int) -> tuple[AnyArray, list[float]]:
    """Patch centres (M, 2) as two arrays, float64, within an array that begins at 0; and the shift.

    A stage has its origin anywhere, and no frame depends on it. Along an axis where the first patch
    begins at a negative pixel, or over N pixels from the origin, all are moved so that it begins at
    pixel 2.
    """
    first = centres.min(axis=0) - N / 2
    shift = np.where((first < 0) | (first > N), MARGIN_PX - first, 0.0)
    return (centres + shift).T.astype(np.float64), [float(s) for s in shift]
