"""Whether frames hold amplitudes or counts. Nothing is guessed in silence."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.data.config import Measurement, check_choice
from ptycho_torch.data.errors import ScanError, naming
from ptycho_torch.data.frames import Frames, StoredAs, check_frame_values

SAMPLE_BYTES = 1 << 20
SEARCH_BYTES = 64 << 20
# Whole amplitudes up to here may come from a simulation; above, they are counts (formats of the
# field: exports that skip the square root).
LARGEST_WHOLE_AMPLITUDE = 50


def settle_measurement(frames: Frames, measurement: str) -> Frames:
    """Fix what the stored values are, and refuse values that neither meaning allows.

    ``"auto"``: float frames are amplitude; integer frames, and float frames of whole numbers with a
    maximum above 50, are refused. A sample of about 1 MiB is judged, so that opening stays cheap;
    computing energies sees all values. ScanError, or OptionError for an unknown word.
    """
    check_choice("measurement", measurement, Measurement)
    sample = frames.sample(max(1, SAMPLE_BYTES // max(1, frames.nbytes // len(frames))))
    with naming(frames.path):
        check_frame_values(sample, start=None, field=frames.field)
    if measurement == "auto":
        _refuse_counts(frames, sample)
    stored_as: StoredAs = "counts" if measurement == "counts" else "amplitude"
    return frames.with_measurement(stored_as)


def _refuse_counts(frames: Frames, sample: NDArray[Any]) -> None:
    if frames.dtype.kind in "iu":
        found = f"{frames.dtype}, ambiguous"
    elif _whole_and_large(frames, sample):
        found = f"whole numbers above {LARGEST_WHOLE_AMPLITUDE}, ambiguous"
    else:
        return
    raise ScanError(
        frames.field,
        found,
        "amplitude or counts",
        action="Choose by --measurement counts or --measurement amplitude "
        "(measurement='counts' or measurement='amplitude')",
    )


def _whole_and_large(frames: Frames, sample: NDArray[Any]) -> bool:
    if not _whole(sample):
        return False
    if sample.max() > LARGEST_WHOLE_AMPLITUDE:
        return True
    # All values so far are small integers, perhaps because the first frames are dark. Read on, up
    # to a limit; where frames are stored last, the sample has read the whole file anyway.
    bound = SEARCH_BYTES if frames.frame_by_frame else frames.nbytes
    seen = 0
    for _, block in frames.blocks():
        if not _whole(block):
            return False
        if block.max() > LARGEST_WHOLE_AMPLITUDE:
            return True
        seen += block.nbytes
        if seen > bound:
            break
    return False


def _whole(block: NDArray[Any]) -> bool:
    first = block[0]  # tells it of most
    return bool((first == np.floor(first)).all() and (block == np.floor(block)).all())
