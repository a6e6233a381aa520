"""What a data module's split of a scan gives, and what a random split would leak."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.data.split import (
    check_fractions,
    region_of_frames,
    say_counts,
    scattered_frames,
    shared_frames,
    split_groups,
)

SPLIT_SEED = 0
"""The default seed of a data module."""

Parts = tuple[NDArray[np.int64], ...]


@dataclass(frozen=True)
class SplitPreview:
    """Two splits of groups (B, C) of M frames: by region and, for comparison, at random.

    ``shares`` are the shares of validation and test that are not 0, by name. ``region`` and
    ``scattered`` are the groups of training and of each of them, as indices into ``groups``;
    ``dropped`` groups lie across a border of regions.
    """

    n_frames: int
    groups: NDArray[np.integer]
    shares: Mapping[str, float]
    region: Parts
    scattered: Parts
    dropped: int

    @property
    def names(self) -> tuple[str, ...]:
        """The parts, training first."""
        return ("training", *self.shares)

    def frames_used(self, *, at_random: bool) -> NDArray[np.bool_]:
        """Which frames the groups of each part use, (parts, M)."""
        parts = self.scattered if at_random else self.region
        used = np.zeros((len(parts), self.n_frames), dtype=bool)
        for row, part in zip(used, parts, strict=True):
            row[self.groups[part]] = True
        return used

    @property
    def rows(self) -> dict[str, str]:
        """Both in words: ``split`` and ``leak``."""
        asked = ", ".join(f"{share:g} for {name}" for name, share in self.shares.items())
        return {
            "split": f"region, {asked}, seed {SPLIT_SEED}: {self._found()}",
            "leak": self._leak(),
        }

    def _found(self) -> str:
        counts = [len(part) for part in self.region]
        shared = sum(
            len(shared_frames(self.groups[first], self.groups[second]))
            for first, second in combinations(self.region, 2)
        )
        empty = [name for name, count in zip(self.names, counts, strict=True) if not count]
        hint = f"; without {' and '.join(empty)} groups a data module refuses it" if empty else ""
        return f"{say_counts(self.names, counts, self.dropped)}; {shared} frames shared{hint}"

    def _leak(self) -> str:
        training, *others = (np.unique(self.groups[part]) for part in self.scattered)
        apart = np.unique(np.concatenate(others))
        leaked = len(shared_frames(training, apart))
        return (
            f"groups split at random instead: {leaked} of {len(apart)} "
            f"{' and '.join(self.shares)} frames "
            f"({leaked / len(apart):.0%}) would be in training too"
        )


def preview_split(
    xcoords: NDArray[np.floating],
    ycoords: NDArray[np.floating],
    groups: NDArray[np.integer] | None,
    val_fraction: float,
    test_fraction: float,
) -> SplitPreview | None:
    """A region split of the groups and a random one; None where there is nothing to split.

    Parameters
    ----------
    xcoords, ycoords
        Positions, shape (M,), object pixels.
    groups
        Frame indices, shape (B, C); None where the scan has too few frames for a group.
    val_fraction, test_fraction
        Shares of the frames, as a data module takes them.

    Raises
    ------
    OptionError
        The shares are negative or leave nothing for training.
    """
    shares = {"validation": val_fraction, "test": test_fraction}
    check_fractions(tuple(shares.values()))
    shares = {name: share for name, share in shares.items() if share}
    if groups is None or not shares:
        return None
    fractions = tuple(shares.values())
    strips = region_of_frames(xcoords, ycoords, fractions, SPLIT_SEED)
    found = split_groups(groups, strips, len(fractions) + 1)
    drawn = scattered_frames(len(groups), fractions, SPLIT_SEED)
    scattered = tuple(np.flatnonzero(drawn == part) for part in range(len(fractions) + 1))
    return SplitPreview(len(xcoords), groups, shares, found.parts, scattered, found.dropped)
