"""Diffraction frames: a mapped stack that knows whether it holds amplitudes or counts.

Owns the step from stored values to amplitude, taken where frames are used, so that integer frames
stay integer on disk and in memory. Knows no files of its own and no positions.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ptycho_torch.data.config import check_choice
from ptycho_torch.data.errors import ScanError
from ptycho_torch.data.files.stored_stack import FramesIdentity
from ptycho_torch.data.stack_check import verify_stack
from ptycho_torch.data.storage import FrameStack, Progress

__all__ = ["Frames", "FramesIdentity", "Progress", "StoredAs", "check_frame_values"]

StoredAs = Literal["amplitude", "counts"]


class Frames(FrameStack):
    """Diffraction frames (M, N, N), zero frequency at the centre, stored once and mapped.

    Parameters
    ----------
    measurement
        What the stored values are: ``"amplitude"`` = sqrt(counts), or ``"counts"``, whose square
        root is taken on use.

    See Also
    --------
    FrameStack : the constructors and the access to stored values.
    """

    allowed_kinds = "fiu"

    def __init__(self, *args: Any, measurement: StoredAs = "amplitude", **options: Any) -> None:
        check_choice("measurement", measurement, StoredAs)
        self.measurement: StoredAs = measurement
        super().__init__(*args, **options)

    @classmethod
    def _dtype_wish(cls) -> str:
        return "real numbers: an integer dtype, float16, float32 or float64"

    def with_measurement(self, measurement: StoredAs) -> Frames:
        """The same frames, read as another quantity; a map is shared."""
        check_choice("measurement", measurement, StoredAs)
        frames = object.__new__(type(self))
        frames.__dict__.update(self.__dict__, measurement=measurement)
        return frames

    def take(self, indices: ArrayLike) -> NDArray[Any]:
        """Copy some frames as amplitude.

        Parameters
        ----------
        indices
            Frame numbers, shape (n,).

        Returns
        -------
        (n, N, N) amplitude: the stored dtype for stored amplitudes, float32 for counts.
        """
        return self.amplitude(self.rows(indices))

    def amplitude(self, stored: NDArray[Any]) -> NDArray[Any]:
        """Turn stored values into amplitude; stored amplitudes are returned as they are."""
        if self.measurement == "amplitude":
            return stored
        return np.sqrt(stored.astype(np.float32))

    def verify(self, progress: Progress | None = None) -> None:
        """Read everything: checksums, and that every value is finite and not negative.

        Raises
        ------
        ScanFileError
            The bytes are not those that were written.
        ScanError
            A value cannot be.
        """
        check = partial(check_frame_values, file=self.path, field=self.field)
        verify_stack(self, check, progress)


def check_frame_values(
    block: NDArray[Any], *, start: int | None = 0, file: object = None, field: str = "frames"
) -> None:
    """Refuse values that neither an amplitude nor counts can have.

    Parameters
    ----------
    block
        Stored values (n, N, N).
    start
        Number of the first frame, for the message; None where the frames do not follow each other.

    Raises
    ------
    ScanError
        NaN, infinite or negative, with the frame's number.
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
        raise ScanError(
            place,
            f"{found} in places",
            "finite values >= 0",
            action="Mask bad pixels with 0",
            file=file,
        )
