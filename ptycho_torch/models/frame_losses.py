"""What modelled frames cost against measured ones, so that a batch in parts costs its mean.

Owns the losses and their names. All are means over every pixel, bad ones counting 0: the
normaliser is a constant, so equal parts of a batch, one per rank, have its loss as their mean.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from ptycho_torch.data.config import check_choice

FrameLoss = Literal["amplitude_mse", "amplitude_mae", "poisson"]

DARKEST = 1e-6
"""Added to both intensities: log of 0 is avoided, and the minimum stays. In units of X ** 2."""


def frame_loss(name: FrameLoss, modelled: Tensor, measured: Tensor) -> Tensor:
    """The loss of a batch, a scalar; 0 where the model is perfect.

    Parameters
    ----------
    name
        ``"amplitude_mse"``: mean of (A - X) ** 2; ``"amplitude_mae"``: mean of |A - X|;
        ``"poisson"``: the negative log-likelihood of the counts, less that of a perfect model,
        times the square of the scan's scale: mean of I - n + n log(n / I) with I = A ** 2 and
        n = X ** 2, both plus ``DARKEST``. The scale is a constant of the scan, so this has the
        likelihood's minimum.
    modelled, measured
        Amplitudes A and X, real, (B, C, N, N), both 0 at bad pixels.

    Raises
    ------
    OptionError
        There is no such loss.
    """
    check_choice("loss", name, FrameLoss)
    if name == "amplitude_mse":
        return (modelled - measured).square().mean()
    if name == "amplitude_mae":
        return (modelled - measured).abs().mean()
    model, counts = modelled.square() + DARKEST, measured.square() + DARKEST
    return (model - counts + counts * (counts / model).log()).mean()
