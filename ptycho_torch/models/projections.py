"""What classical phase retrieval makes of one group in a few rounds, for a network to refine.

Owns the rounds. Each gives the modelled frames their measured amplitudes, carries the difference
back to the object, and lays the patches of the group on one canvas, so that every frame is seen
beside its neighbours. Has no weights, and no gradient flows through it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ptycho_torch.models.back_projection import REGULARISATION
from ptycho_torch.physics import cut, group_canvas, illuminate


@torch.no_grad()
def projections(
    amplitude: Tensor,
    probe: Tensor,
    offsets: Tensor,
    rounds: int,
    bad_pixels: Tensor | None = None,
) -> Tensor:
    """Patches after ``rounds`` of alternating projections that start from a flat object.

    The update is the one of A. Maiden, J. Rodenburg, Ultramicroscopy 109, 1256 (2009),
    doi:10.1016/j.ultramic.2009.05.012, for all frames of the group at once, with a constant added
    to the light where the probe is dark.

    Parameters
    ----------
    amplitude
        Measured amplitudes, real, (B, C, N, N), zero frequency at N // 2.
    probe
        (B, P, N, N), complex, in the unit of the amplitudes; all modes count.
    offsets
        (B, C, 2), order (x, y), object pixels: where the frames lie, as ``group_canvas`` takes
        them.
    rounds
        1 or more.
    bad_pixels
        (B, N, N) bool: where a frame has no value, the model's own stands in.

    Returns
    -------
    Tensor
        (B, C, N, N), complex; 0 or 1 where no light falls.
    """
    N = amplitude.shape[-1]
    measured = torch.fft.ifftshift(amplitude, dim=(-2, -1)).unsqueeze(2)
    good = None
    if bad_pixels is not None:
        good = ~torch.fft.ifftshift(bad_pixels, dim=(-2, -1))[:, None, None]
    light = probe.abs().square().sum(dim=1, keepdim=True)
    noise = REGULARISATION * light.amax(dim=(-2, -1), keepdim=True)
    # Without light there is nothing to divide by, and nothing to divide.
    step = probe.conj() / (light + noise).clamp_min(torch.finfo(light.dtype).tiny)
    patches = torch.ones_like(amplitude, dtype=probe.dtype)
    size: tuple[int, int] | None = None
    for number in range(rounds):
        if number and amplitude.shape[1] > 1:
            canvas = group_canvas(patches, offsets, weights=light, size=size)
            # Asked for once: the size follows from numbers that a GPU has to be waited for.
            size = (canvas.shape[-2], canvas.shape[-1])
            patches = cut(canvas, offsets, N)
        waves = torch.fft.fft2(illuminate(probe, patches), norm="ortho")
        modelled = torch.linalg.vector_norm(waves, dim=2, keepdim=True)
        wanted = measured if good is None else torch.where(good, measured, modelled)
        # Where the model is dark, its phase is unknown: no change.
        phases = waves / modelled.clamp_min(torch.finfo(light.dtype).tiny)
        errors = torch.fft.ifft2(phases * (wanted - modelled), norm="ortho")
        patches = patches + (step.unsqueeze(1) * errors).sum(dim=2)
    return patches
