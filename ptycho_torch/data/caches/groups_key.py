"""What a groups cache is computed from, and what its arrays must look like.

Owns the digests of positions and the checks of dtype, shape and range. Knows no files.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.data.errors import ScanError

_SMALL_MEMBER_BYTES = 1 << 16
_HEADER_BYTES = 1 << 14
# The 2025-07 reference draws min(50, (K + 1) // C + 1) groups around each position.
_MAX_DRAWS = 50


@dataclass(frozen=True)
class Missing:
    """Which arrays have to be built."""

    all_groups: bool
    neighbor_table: bool
    frame_energies: bool


@dataclass(frozen=True)
class BuiltGroups:
    """The arrays of a cache, each None where it is not there.

    ``all_groups`` int64 (G, C): every group the 2025-07 reference lists; at gridsize 1, for which
    it keeps no cache, the M frames. ``neighbor_table`` int32 (M, min(K + 1, M)): nearest positions,
    nearest first. ``frame_energies`` float64 (M,): sum over the pixels of amplitude ** 2.
    """

    all_groups: NDArray[np.int64] | None = None
    neighbor_table: NDArray[np.int32] | None = None
    frame_energies: NDArray[np.float64] | None = None

    def missing(self) -> Missing:
        """What is still to be built."""
        return Missing(
            self.all_groups is None, self.neighbor_table is None, self.frame_energies is None
        )

    def filled_from(self, other: BuiltGroups) -> BuiltGroups:
        """With the gaps taken from another."""
        return BuiltGroups(
            other.all_groups if self.all_groups is None else self.all_groups,
            other.neighbor_table if self.neighbor_table is None else self.neighbor_table,
            other.frame_energies if self.frame_energies is None else self.frame_energies,
        )


@dataclass(frozen=True)
class CacheKey:
    """What a cache is computed from, frames apart.

    ``dataset_checksum`` is the reference's checksum of the positions, ``positions_digest`` ours,
    which also tells their dtype; ``n_positions`` is M, ``neighbors`` K.
    """

    dataset_checksum: str
    positions_digest: str
    n_positions: int
    gridsize: int
    neighbors: int

    @classmethod
    def of(
        cls, xcoords: NDArray[Any], ycoords: NDArray[Any], gridsize: int, neighbors: int
    ) -> CacheKey:
        """The key of positions (each of shape (M,)) grouped with these options."""
        return cls(
            dataset_checksum(xcoords, ycoords),
            positions_digest(xcoords, ycoords),
            len(xcoords),
            gridsize,
            neighbors,
        )

    @property
    def table_shape(self) -> tuple[int, int]:
        """Shape of the neighbour table: (M, min(K + 1, M))."""
        return self.n_positions, min(self.neighbors + 1, self.n_positions)

    def member_limit(self, name: str) -> int:
        """Most bytes that a member of this name may declare."""
        draws = min(_MAX_DRAWS, (self.neighbors + 1) // self.gridsize**2 + 1)
        array_bytes = {
            "all_groups": self.n_positions * draws * self.gridsize**2 * 8,
            "neighbor_table": math.prod(self.table_shape) * 4,
            "frame_energies": self.n_positions * 8,
        }
        return array_bytes[name] + _HEADER_BYTES if name in array_bytes else _SMALL_MEMBER_BYTES


def dataset_checksum(xcoords: NDArray[Any], ycoords: NDArray[Any]) -> str:
    """The 2025-07 reference's: md5 of the float64 bytes of all x, all y and their two lengths."""
    sizes = [len(xcoords), len(ycoords)]
    numbers = np.concatenate([xcoords, ycoords, sizes]).astype("<f8")
    return hashlib.md5(numbers.tobytes(), usedforsecurity=False).hexdigest()


def positions_digest(xcoords: NDArray[Any], ycoords: NDArray[Any]) -> str:
    """sha256, hexadecimal, of the positions' dtype, shape and bytes; byte order does not count."""
    digest = hashlib.sha256()
    for positions in (xcoords, ycoords):
        little = positions.astype(positions.dtype.newbyteorder("<"), copy=False)
        digest.update(f"{little.dtype.str} {little.shape} ".encode())
        digest.update(little.tobytes())
    return digest.hexdigest()


def check_arrays(key: CacheKey, arrays: BuiltGroups, *, strict: bool) -> None:
    """Refuse arrays whose dtype, shape, range or repeats cannot be; ``all_groups`` must be there.

    ``strict`` also requires its rows in order and without repeats, as the reference writes them but
    does not check.
    """
    groups, table, energies = arrays.all_groups, arrays.neighbor_table, arrays.frame_energies
    if groups is None:
        raise ScanError("all_groups", "missing", "there")
    _require_type("all_groups", groups, np.int64, (*groups.shape[:1], key.gridsize**2))
    _require_indices("all_groups", groups, key.n_positions)
    if strict:
        steps = groups[1:] - groups[:-1]
        first = (steps != 0).argmax(axis=1)  # column that tells a row from the one before
        rising = np.take_along_axis(steps, first[:, None], axis=1) > 0
        if not rising.all() or not (groups[:, 1:] > groups[:, :-1]).all():
            raise ScanError("all_groups", "unsorted or repeated", "sorted, unique rows")
    if table is not None:
        _require_type("neighbor_table", table, np.int32, key.table_shape)
        _require_indices("neighbor_table", table, key.n_positions)
    if energies is not None:
        _require_type("frame_energies", energies, np.float64, (key.n_positions,))
        if not (np.isfinite(energies) & (energies >= 0)).all():
            raise ScanError("frame_energies", "negative or not finite", "finite values >= 0")


def _require_type(name: str, array: NDArray[Any], dtype: type, shape: tuple[int, ...]) -> None:
    if array.dtype != np.dtype(dtype) or array.shape != shape or not array.size:
        raise ScanError(
            name,
            f"{array.shape} {array.dtype.str}",
            f"{shape} {np.dtype(dtype).str}, not empty",
        )


def _require_indices(name: str, indices: NDArray[Any], count: int) -> None:
    low, high = int(indices.min()), int(indices.max())
    if low < 0 or high >= count:
        raise ScanError(name, f"in [{low}, {high}]", f"frame indices in [0, {count})")
    rows = np.sort(indices, axis=1)
    if (rows[:, 1:] == rows[:, :-1]).any():
        raise ScanError(name, "repeating a frame in a row", "each frame once")
