"""What the checks of :mod:`ptycho_torch.data.plausibility` look at: a few frames, each part once.

Owns which frames are looked at and what their values mean. Judges nothing.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.data.corrections import Corrections, counts_of, full
from ptycho_torch.data.scan import Scan
from ptycho_torch.data.shadows import Shadows, within_reach

FEWEST_FRAMES = 9
"""So few positions may span nothing, and their frames say nothing of their order."""


class Evidence:
    """What the checks look at; each part is made when it is first asked for.

    ``given`` are the corrections that the scan was read with.
    """

    def __init__(self, scan: Scan, given: Corrections) -> None:
        self.scan, self.N, self.given = scan, scan.N, given
        self.x = scan.xcoords.astype(np.float64)
        self.y = scan.ycoords.astype(np.float64)
        self.span = float(max(np.ptp(self.x), np.ptp(self.y)))

    @cached_property
    def stored(self) -> NDArray[Any]:
        """Values of a sample of frames as they are stored, (64 or fewer, N, N), bad pixels 0."""
        return self.scan.frames.sample(64)

    @cached_property
    def full(self) -> NDArray[np.bool_]:
        """Pixels (N, N) that hold the largest integer in every frame of the sample."""
        return full(counts_of(self.scan.frames, self.stored)) & ~self.bad

    @cached_property
    def reached(self) -> NDArray[np.bool_]:
        """Pixels (N, N) that hold the largest integer of their dtype in some frames, not in all."""
        if self.stored.dtype.kind not in "iu":
            return np.zeros((self.N, self.N), bool)
        largest = np.iinfo(self.stored.dtype).max
        found: NDArray[np.bool_] = (self.stored == largest).any(axis=0) & ~self.full
        return found

    @cached_property
    def counts(self) -> NDArray[np.float64]:
        """Counts (n, N, N) of the sample; pixels that are full or reach the largest integer 0."""
        return np.where(self.full | self.reached, 0, counts_of(self.scan.frames, self.stored))

    @cached_property
    def in_metres(self) -> bool:
        """Whether the reader of the format made pixels of metres, by the geometry."""
        metadata = self.scan.metadata or {}
        return bool(metadata.get("format", "tike") != "tike")

    @cached_property
    def bins(self) -> int:
        """Pixels along each axis that were summed into one while this scan was read."""
        source: Any = self.scan.frames.source
        bins = 1
        while (readout := getattr(source, "readout", None)) is not None:
            bins *= getattr(readout, "bin", 1)
            source = source.source
        return bins

    @cached_property
    def mean(self) -> NDArray[np.float64]:
        """Mean counts (N, N) of the sample."""
        return np.asarray(self.counts.mean(axis=0))

    @cached_property
    def light(self) -> NDArray[np.float64]:
        """Intensity (N, N) of the probe, all modes."""
        intensity = np.abs(self.scan.probeGuess.astype(np.complex128)) ** 2
        return np.asarray(intensity.reshape(-1, self.N, self.N).sum(axis=0))

    @cached_property
    def bad(self) -> NDArray[np.bool_]:
        """Pixels (N, N) known to be bad in any frame."""
        bad = self.scan.bad_pixels
        if bad is None:
            return np.zeros((self.N, self.N), bool)
        return bad if bad.ndim == 2 else np.asarray(bad.any(axis=0))

    @cached_property
    def shadows(self) -> Shadows | None:
        """How the patterns of the first frames move; None where they are too few or unknown."""
        if len(self.x) < FEWEST_FRAMES or not self.span > 0:
            return None
        if not within_reach(self.scan):
            return None
        return Shadows.of_first_frames(self.scan)
