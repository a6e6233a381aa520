"""Far-field ptychography as plain differentiable functions on tensors.

Owns the forward model: the probe lights a patch of the object, the exit wave travels to the
detector, and a frame holds its amplitude. Knows no batch, no model, no file: positions are in
object pixels, in the order (x, y), and pixel (N // 2, N // 2) of a patch sits on object row y,
column x.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.nn import functional

from ptycho_torch.data.errors import OptionError
from ptycho_torch.subpixel_windows import CutPatches, windows_at


def object_shape_for(positions_px: ArrayLike, N: int) -> tuple[int, int]:
    """Size of the smallest object that starts at (0, 0) and holds every patch of a scan.

    Parameters
    ----------
    positions_px
        (..., 2), order (x, y), object pixels.
    N
        Frame size in pixels.

    Returns
    -------
    (H, W) in pixels. They include the row and column after the patch, which the bilinear formula
    reads at sub-pixel positions.

    Raises
    ------
    OptionError
        There is no position, or one of them is not finite.
    """
    positions = np.asarray(positions_px, dtype=np.float64).reshape(-1, 2)
    if len(positions) == 0 or not np.isfinite(positions).all():
        found = "empty" if len(positions) == 0 else "not finite everywhere"
        raise OptionError("positions", found, "finite positions in pixels")
    last = np.floor(positions.max(axis=0)).astype(int) - N // 2 + N
    width, height = (max(N, int(corner) + 1) for corner in last)
    return height, width


def object_patches(obj: Tensor, positions_px: Tensor, N: int) -> Tensor:
    """Cut one bilinear patch of the object for every position; outside the object is 0.

    Parameters
    ----------
    obj
        Object (H, W), complex.
    positions_px
        (..., 2), order (x, y), object pixels, floating point.
    N
        Frame size in pixels.

    Returns
    -------
    Tensor
        (..., N, N), dtype of ``obj``. Differentiable with respect to object and positions.

    Examples
    --------
    >>> obj = torch.arange(16.0).reshape(4, 4).to(torch.complex64)
    >>> object_patches(obj, torch.tensor([[1.5, 2.0]]), 2)[0].real
    tensor([[4.5000, 5.5000],
            [8.5000, 9.5000]])
    """
    index, fx, fy = windows_at(obj.shape, positions_px, N, obj.real.dtype)
    # One ring of zeros stands for everything outside: windows_at clamps indices onto it.
    ringed = functional.pad(obj, (1, 1, 1, 1)).reshape(-1)
    patches: Tensor = CutPatches.apply(ringed, fx, fy, index)  # type: ignore[no-untyped-call]
    return patches.reshape(*positions_px.shape[:-1], N, N)


def illuminate(probe: Tensor, patches: Tensor) -> Tensor:
    """Exit waves: every mode of the probe times every patch.

    Parameters
    ----------
    probe
        (..., P, N, N), complex: P incoherent modes. Leading axes broadcast against the batch.
    patches
        (..., C, N, N), complex.

    Returns
    -------
    Tensor
        (..., C, P, N, N).
    """
    return probe.unsqueeze(-4) * patches.unsqueeze(-3)


def diffract(exit_waves: Tensor) -> Tensor:
    """Amplitude on the far-field detector, modes added as intensities, zero frequency at N // 2.

    Parameters
    ----------
    exit_waves
        (..., P, N, N), complex.

    Returns
    -------
    Tensor
        (..., N, N), real: sqrt(sum over modes of |F(exit wave)|^2), F unitary, so that the sum of
        its squares is the photon count that the probe's units carry.
    """
    waves = torch.fft.fft2(exit_waves, norm="ortho")
    # Both branches have gradient 0, not NaN, where the amplitude is 0.
    if waves.shape[-3] == 1:
        amplitude = waves.squeeze(-3).abs()
    else:
        amplitude = torch.linalg.vector_norm(waves, dim=-3)
    centred: Tensor = torch.fft.fftshift(amplitude, dim=(-2, -1))
    return centred
