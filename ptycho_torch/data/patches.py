"""Ground-truth patches cut from the whole object: the NumPy truth.

A patch is bilinear in the object, zero outside of it. The sample coordinate of pixel j is
float32(j) + float32(origin), kept in float32: the rounding of that sum is part of what the
reference computes, and float64 coordinates differ from it by some 1e-6. Only a complex128 object is
sampled in double precision, again as the reference does it.
"""

from __future__ import annotations

import warnings

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

PATCHES_PER_BLOCK = 16
"""Patches cut at a time: windows of a block stay in the processor's cache at N = 64."""


class MirroredPatchesWarning(UserWarning):
    """Y is cut at positions mirrored through the group's centre, as the reference does."""


def warn_mirrored() -> None:
    """Say what the default of ``patch_positions`` means for Y."""
    warnings.warn(
        "patch_positions='reference' cuts the object patches of a group mirrored through the "
        "group's centre, equal to the TensorFlow container; patch_positions='scan' cuts them at "
        "the scan positions, where |F(probe * Y)| agrees with the frames",
        MirroredPatchesWarning,
        stacklevel=3,
    )


def patch_origins(
    coords_offsets: NDArray[np.floating],
    coords_relative: NDArray[np.floating],
    patch_positions: str,
) -> NDArray[np.float32]:
    """Where the patches of every group are cut, object pixels, (x, y), float32, shape (B, C, 2).

    Parameters
    ----------
    coords_offsets, coords_relative
        Group centres (B, 1, 2, 1), and centre - position (B, 1, 2, C); added in float64.
    patch_positions
        ``"reference"``: centre + relative, the mirrored position (for C = 1 there is no mirror);
        ``"scan"``: centre - relative, the position.
    """
    sign = 1.0 if patch_positions == "reference" else -1.0
    # Also float32 coordinates are added in float32 by the reference: no cast before the sum.
    origins = coords_offsets + (coords_relative if sign > 0 else -coords_relative)
    return np.ascontiguousarray(origins[:, 0].transpose(0, 2, 1).astype(np.float32))


def reference_patches(
    obj: NDArray[np.complexfloating] | NDArray[np.floating],
    xcoords: NDArray[np.floating],
    ycoords: NDArray[np.floating],
    N: int,
) -> NDArray[np.complex64]:
    """Cut patches out of an object (H, W), complex64, shape (L, N, N); real ones have zero phase.

    ``xcoords``, ``ycoords`` are the object column and row under pixel (N // 2, N // 2) of each
    patch, shape (L,), object pixels.
    """
    windows = PaddedObject(obj, N)
    patches = np.empty((len(xcoords), N, N), dtype=np.complex64)
    for start in range(0, len(xcoords), PATCHES_PER_BLOCK):
        block = slice(start, start + PATCHES_PER_BLOCK)
        windows.cut(xcoords[block], ycoords[block], out=patches[block])
    return patches


class PaddedObject:
    """An object with a margin of zeros wide enough for every patch, wherever it lies."""

    def __init__(self, obj: NDArray[np.generic], N: int) -> None:
        self.N = N
        self.margin = N + 1
        values = np.asarray(obj)
        dtype = np.complex128 if values.dtype == np.complex128 else np.complex64
        self.precision = np.float64 if dtype == np.complex128 else np.float32
        padded = np.pad(values.astype(dtype), N // 2 + self.margin)
        # Rows of interleaved real and imaginary parts: a step of one column is two numbers, and
        # the inner axis is as long as it can be, which is what vectorised arithmetic wants.
        pairs = padded.view(self.precision)
        self._windows = sliding_window_view(pairs, (N + 1, 2 * (N + 1)))[:, ::2]

    def cut(
        self,
        xcoords: NDArray[np.floating],
        ycoords: NDArray[np.floating],
        out: NDArray[np.complex64],
    ) -> None:
        """Write the patches at (xcoords, ycoords) to ``out``, shape (L, N, N), contiguous."""
        height, width = self._windows.shape[:2]
        columns, x_weights = sample_weights(xcoords, self.N, self.precision)
        rows, y_weights = sample_weights(ycoords, self.N, self.precision)
        windows = self._windows[
            np.clip(rows + self.margin, 0, height - 1),
            np.clip(columns + self.margin, 0, width - 1),
        ]
        lines = windows[:, 1:] - windows[:, :-1]
        lines *= y_weights[:, :, None]
        lines += windows[:, :-1]
        patches = lines[:, :, 2:] - lines[:, :, :-2]
        patches *= np.repeat(x_weights, 2, axis=1)[:, None, :]
        patches += lines[:, :, :-2]
        out.view(np.float32)[:] = patches


def sample_weights(
    positions: NDArray[np.floating],
    N: int,
    precision: type[np.floating] = np.float32,
) -> tuple[NDArray[np.int64], NDArray[np.floating]]:
    """First tap and bilinear weights of every pixel along one axis of a patch.

    Returns
    -------
    first, weights
        int64 (L,), the row or column of the padded object under pixel 0; in ``precision`` (L, N),
        the weight of the second of pixel j's taps, first + j and first + j + 1; rounding may make
        it 1.
    """
    origin = np.asarray(positions, dtype=np.float32).astype(precision)
    first = np.floor(origin)
    pixels = np.arange(N, dtype=precision)
    weights = (pixels + origin[:, None]) - (pixels + first[:, None])
    return first.astype(np.int64), weights
