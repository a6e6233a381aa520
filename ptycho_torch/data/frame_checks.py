"""What the values of diffraction frames, and a mask of their bad pixels, can be.

Knows neither files nor where frames lie.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.data.errors import OptionTypeError, ScanError
from ptycho_torch.data.files.npy_header import shape_text


def check_bad_pixels(bad_pixels: Any, frames: tuple[int, int, int]) -> NDArray[np.bool_] | None:
    """A read-only copy of bad pixels, bool, (N, N) or (M, N, N); None where none is bad.

    ScanError, OptionTypeError: another dtype or shape, or every pixel of all frames is bad.
    """
    if bad_pixels is None:
        return None
    wanted = f"bool {shape_text(frames[1:])} or {shape_text(frames)}, True = bad"
    if not isinstance(bad_pixels, np.ndarray):
        raise OptionTypeError("bad_pixels", type(bad_pixels).__name__, f"an array, {wanted}")
    if bad_pixels.dtype != np.bool_ or bad_pixels.shape not in (frames, frames[1:]):
        found = f"{shape_text(bad_pixels.shape)} {bad_pixels.dtype}"
        action = "Numbers become booleans by mask != 0, where 0 is good"
        raise ScanError("bad_pixels", found, wanted, action=action)
    if bad_pixels.all():
        raise ScanError("bad_pixels", "True everywhere", "True where a pixel is bad")
    if not bad_pixels.any():
        return None
    copy: NDArray[np.bool_] = bad_pixels.copy()
    copy.flags.writeable = False
    return copy


def check_frame_values(
    block: NDArray[Any], *, start: int | None = 0, field: str = "frames"
) -> None:
    """Refuse stored values (n, N, N) that neither an amplitude nor counts can have.

    ScanError: NaN, infinite or negative. It names the ``field`` and the frame, counted from
    ``start``; None where the frames do not follow each other.
    """
    if block.dtype.kind == "u" or not block.size:
        return
    # min and max carry a NaN through, so two passes find every fault without a mask in memory.
    low, high = block.min(axis=(1, 2)), block.max(axis=(1, 2))
    bad = ~((low >= 0) & (high < np.inf))
    if bad.any():
        frame = int(bad.argmax())
        found = "negative" if low[frame] < 0 else "NaN or infinite"
        place = field if start is None else f"{field} frame {start + frame}"
        action = "Name them in bad_pixels, or add --bad-pixels estimate"
        raise ScanError(place, f"{found} in places", "finite values >= 0", action=action)
