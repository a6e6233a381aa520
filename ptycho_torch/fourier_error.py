"""The Fourier error: how far modelled frames lie from measured ones, sqrt(sum (A - d)^2 / sum d^2).

Owns its definition, the same for NumPy arrays and torch tensors, and needs neither package. Knows
no model and no batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

Array = TypeVar("Array", "NDArray[np.float64]", "Tensor")


def fourier_sums(amplitude: Array, measured: Array) -> tuple[Array, Array]:
    """The two sums of the error, over every pixel of every frame.

    Parameters
    ----------
    amplitude, measured
        Real, same shape, same unit: amplitudes A of the model and d of the detector.

    Returns
    -------
    residual, energy
        sum (A - d)^2 and sum d^2, scalars. The sums of several batches add up.
    """
    return ((amplitude - measured) ** 2).sum(), (measured**2).sum()


def error_of_sums(residual: Array, energy: Array) -> Array:
    """The Fourier error of what ``fourier_sums`` returned; 0 is perfect, 1 as bad as no model."""
    error: Array = (residual / energy) ** 0.5
    return error
