"""What a scan's arrays must be before a RawData is built from them.

Every function gives the array back, or refuses it in one line that names file, field, what was
found and what was expected. ``sizes`` holds the lengths of the axes known so far.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.data.contract import check_array, check_finite, spec
from ptycho_torch.data.errors import OptionTypeError, ScanError
from ptycho_torch.data.frames import Frames, FrameStack

AnyArray = NDArray[Any]

FARTHEST_PX = 2.0**31
"""No object is that large, and sums of such positions stay finite."""


def checked_frames(diff3d: object, path: Path | None) -> Frames:
    """Diffraction frames from an array (M, N, N), or as they are."""
    if isinstance(diff3d, Frames):
        return diff3d
    sizes: dict[str, int] = {}
    array = check_array(diff3d, spec("scan", "diff3d"), sizes, path)
    if sizes["M"] == 0 or sizes["N"] == 0:
        raise ScanError("diff3d shape", array.shape, "at least one frame and pixel", file=path)
    return Frames.from_array(array)


def checked_coordinates(
    array: object, name: str, sizes: dict[str, int], path: Path | None
) -> NDArray[np.floating]:
    """Positions, shape (M,), finite; integers become float64."""
    if isinstance(array, np.ndarray) and array.dtype.kind in "iu":
        array = array.astype(np.float64)
    checked = check_array(array, spec("scan", name), sizes, path)
    check_finite(checked, name, path)
    farthest = float(np.abs(checked).max())
    if farthest > FARTHEST_PX:
        raise ScanError(
            name,
            f"up to {farthest:g} px from the origin",
            f"at most {FARTHEST_PX:g} px",
            action="Give positions in object pixels",
            file=path,
        )
    return checked


def checked_probe(array: object, sizes: dict[str, int], path: Path | None) -> AnyArray:
    """The probe, complex, (N, N) or (P, N, N); (N, N, 1) loses its last axis."""
    wanted = spec("scan", "probeGuess")
    if isinstance(array, np.ndarray) and array.ndim == 3 and array.dtype.kind == "c":
        side = sizes["N"]
        if array.shape == (side, side, 1):
            array = array[:, :, 0]
        elif array.shape[0] < 1 or array.shape[1:] != (side, side):
            raise ScanError(
                "probeGuess shape",
                array.shape,
                f"({side}, {side}) or (P, {side}, {side}), as the frames",
                file=path,
            )
        else:
            check_finite(array, "probeGuess", path)
            return array
    probe = check_array(array, wanted, sizes, path)
    check_finite(probe, "probeGuess", path)
    return probe


def checked_patches(Y: object, sizes: dict[str, int], path: Path | None) -> FrameStack | None:
    """Ready-made patches, complex, (M, N, N) or (M, N, N, 1), or None."""
    if Y is None:
        return None
    if isinstance(Y, np.ndarray):
        Y = Y[..., 0] if Y.ndim == 4 and Y.shape[-1] == 1 else Y
        return FrameStack.from_array(check_array(Y, spec("scan", "Y"), sizes, path))
    if not isinstance(Y, FrameStack):
        raise OptionTypeError("Y", type(Y).__name__, "an array (M, N, N)", file=path)
    wanted = (sizes["M"], sizes["N"], sizes["N"])
    if Y.shape != wanted or Y.dtype.kind != "c":
        raise ScanError("Y", f"{Y.shape} {Y.dtype}", f"{wanted}, complex", file=path)
    return Y
