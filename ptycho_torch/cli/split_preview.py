"""What a data module's split of a scan gives, and what a random split would leak."""

from __future__ import annotations

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


def split_rows(
    xcoords: NDArray[np.floating],
    ycoords: NDArray[np.floating],
    groups: NDArray[np.integer] | None,
    val_fraction: float,
    test_fraction: float,
) -> dict[str, str]:
    """Lines about a region split of the groups and about a random one.

    Parameters
    ----------
    xcoords, ycoords
        Positions, shape (M,), object pixels.
    groups
        Frame indices, shape (B, C); None where the scan has too few frames for a group.
    val_fraction, test_fraction
        Shares of the frames, as a data module takes them.

    Returns
    -------
    rows
        ``split``, and ``leak`` where there is a split.

    Raises
    ------
    OptionError
        The shares are negative or leave nothing for training.
    """
    shares = {"validation": val_fraction, "test": test_fraction}
    check_fractions(tuple(shares.values()))
    shares = {name: share for name, share in shares.items() if share}
    if groups is None or not shares:
        return {"split": "none"}
    fractions = tuple(shares.values())
    strips = region_of_frames(xcoords, ycoords, fractions, SPLIT_SEED)
    names = ("training", *shares)
    return {
        "split": f"region, {_asked(shares)}, seed {SPLIT_SEED}: {_found(groups, strips, names)}",
        "leak": _leak(groups, fractions, " and ".join(shares)),
    }


def _asked(shares: dict[str, float]) -> str:
    return ", ".join(f"{share:g} for {name}" for name, share in shares.items())


def _found(groups: NDArray[np.integer], strips: NDArray[np.int64], names: tuple[str, ...]) -> str:
    found = split_groups(groups, strips, len(names))
    counts = [len(part) for part in found.parts]
    shared = sum(
        len(shared_frames(groups[first], groups[second]))
        for first, second in combinations(found.parts, 2)
    )
    empty = [name for name, count in zip(names, counts, strict=True) if not count]
    hint = f"; without {' and '.join(empty)} groups a data module refuses it" if empty else ""
    return f"{say_counts(names, counts, found.dropped)}; {shared} frames shared{hint}"


def _leak(groups: NDArray[np.integer], fractions: tuple[float, ...], names: str) -> str:
    drawn = scattered_frames(len(groups), fractions, SPLIT_SEED)
    apart = np.unique(groups[drawn > 0])
    leaked = len(shared_frames(groups[drawn == 0], apart))
    return (
        f"groups split at random instead: {leaked} of {len(apart)} {names} frames "
        f"({leaked / len(apart):.0%}) would be in training too"
    )
