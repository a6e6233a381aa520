"""The arrays of groups: what ``generate_grouped_data`` returns for known groups and scale.

Owns the formulas of the contract's grouped table. Knows neither draws nor caches.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.data import patches
from ptycho_torch.data.config import PatchPositions
from ptycho_torch.data.contract import check_complex64
from ptycho_torch.data.errors import naming
from ptycho_torch.data.scan import AnyArray, Scan


def grouped_arrays(
    scan: Scan,
    nn_indices: NDArray[np.integer],
    scale: np.float32,
    patch_positions: PatchPositions = "reference",
) -> dict[str, Any]:
    """Frames, coordinates and patches of groups: the contract's grouped table.

    ``nn_indices`` are frame indices within the scan, shape (B, C); X = ``scale`` * amplitude;
    :func:`~ptycho_torch.data.patches.patch_origins` says where ``patch_positions`` cuts patches.
    """
    groups, channels = nn_indices.shape
    amplitudes = scan.frames.take(scan.file_indices(nn_indices.ravel()))
    # Views with the frames on the last axis: a copy would double the largest array.
    stacked = amplitudes.reshape(groups, channels, scan.N, scan.N)
    coords = grouped_coords(scan, nn_indices)
    return {
        "diffraction": stacked.transpose(0, 2, 3, 1),
        "Y": _patches(scan, nn_indices, coords, patch_positions),
        **coords,
        "nn_indices": nn_indices,
        "objectGuess": scan.objectGuess,
        "X_full": (stacked.astype(np.float32, copy=False) * scale).transpose(0, 2, 3, 1),
    }


class Positions(Protocol):
    """What has positions: a scan, or several joined."""

    xcoords: AnyArray
    ycoords: AnyArray
    xcoords_start: AnyArray
    ycoords_start: AnyArray


def grouped_coords(scan: Positions, nn_indices: NDArray[np.integer]) -> dict[str, AnyArray]:
    """Positions of groups (B, C), measured and nominal, in object pixels and the dtype of
    ``xcoords``.

    Returns
    -------
    coords
        ``coords_nn`` (B, 1, 2, C), (x, y) on axis 2; ``coords_offsets`` (B, 1, 2, 1), their mean
        over C; ``coords_relative`` (B, 1, 2, C) = -(nn - offsets); the same three of the nominal
        positions as ``coords_start_*``.
    """
    measured = _centred(scan.xcoords, scan.ycoords, nn_indices)
    nominal = measured
    if scan.xcoords_start is not scan.xcoords or scan.ycoords_start is not scan.ycoords:
        nominal = _centred(scan.xcoords_start, scan.ycoords_start, nn_indices)
    coords = {f"coords_{name}": array for name, array in measured.items()}
    return coords | {f"coords_start_{name}": array for name, array in nominal.items()}


def _centred(x: AnyArray, y: AnyArray, nn_indices: NDArray[np.integer]) -> dict[str, AnyArray]:
    groups, channels = nn_indices.shape
    nn = np.empty((groups, 1, 2, channels), dtype=np.result_type(x, y))
    nn[:, 0, 0] = x[nn_indices]
    nn[:, 0, 1] = y[nn_indices]
    # What ndarray.mean does, to the bit, without its checks: this runs once per batch.
    offsets = np.add.reduce(nn, axis=3, keepdims=True)
    offsets /= channels
    return {"nn": nn, "offsets": offsets, "relative": -(nn - offsets)}


def _patches(
    scan: Scan,
    nn_indices: NDArray[np.integer],
    coords: dict[str, AnyArray],
    patch_positions: PatchPositions,
) -> AnyArray | None:
    groups, channels = nn_indices.shape
    cut: AnyArray
    if scan.patches is not None:
        cut = scan.patches.stored[scan.file_indices(nn_indices.ravel())]
        with naming(scan.path):
            check_complex64(cut, "Y")
    elif scan.objectGuess is None:
        return None
    else:
        if patch_positions == "reference" and channels > 1:
            patches.warn_mirrored()
        origins = patches.patch_origins(
            coords["coords_offsets"], coords["coords_relative"], patch_positions
        ).reshape(-1, 2)
        cut = patches.reference_patches(scan.objectGuess, origins[:, 0], origins[:, 1], scan.N)
    return cut.reshape(groups, channels, scan.N, scan.N).transpose(0, 2, 3, 1)
