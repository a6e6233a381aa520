"""A first look at the object in one frame, which a network refines.

Owns the estimate. The measured amplitude gets the phase of the probe's own far field, as if the
object scattered nothing, travels back and is divided by the probe.
"""

from __future__ import annotations

import torch
from torch import Tensor

REGULARISATION = 0.05
"""Share of the probe's brightest pixel that the division treats as noise."""


def back_projection(amplitude: Tensor, probe: Tensor) -> Tensor:
    """The object behind each frame, as far as one transform shows it; near 0 where it is dark.

    Parameters
    ----------
    amplitude
        Measured amplitudes, real, (B, C, N, N), zero frequency at N // 2.
    probe
        (B, P, N, N), complex, in the unit of the amplitudes; the first mode counts.

    Returns
    -------
    Tensor
        (B, C, N, N), complex; about 1 where the object is 1 and the probe is bright.
    """
    mode = probe[:, :1]
    far = torch.fft.fft2(mode, norm="ortho")
    # NumPy's name for dividing by the modulus; 0 stays 0.
    waves = torch.fft.ifftshift(amplitude, dim=(-2, -1)) * torch.sgn(far)
    exit_waves = torch.fft.ifft2(waves, norm="ortho")
    light = mode.abs().square()
    noise = REGULARISATION * light.amax(dim=(-2, -1), keepdim=True)
    estimate: Tensor = (
        exit_waves * mode.conj() / (light + noise).clamp_min(torch.finfo(light.dtype).tiny)
    )
    return estimate
