"""One change of a batch each: other photons, a turn, bad pixels, another scale.

They change ``content``, the batch's tensors by name with X as (B, C, N, N), and write to none of
the tensors. ``keys`` (B,) give each sample its random numbers.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ptycho_torch.batches.counted_random import poisson, thinned, uniform
from ptycho_torch.batches.dihedral import turned_pixels, turned_positions

Content = dict[str, Any]
Span = float | tuple[float, float] | None

_ELEMENT, _PHOTONS, _COUNTS, _DEAD, _STOP, _SCALE = range(6)
_TURNED_PIXELS, _TURNED_POSITIONS = (
    ("probe", "bad_pixels"),
    ("coords_nominal", "global_offsets", "local_offsets"),
)


def count_anew(content: Content, keys: Tensor, photons: Span, *, noise_free: bool) -> None:
    """Draw counts of other photons per frame, and fit scale and probe to them."""
    X, scale = content["X"], content["scale"]
    asked = log_uniform(photons, uniform(keys, _PHOTONS, 1))
    # The mean energy of a scan's X is (N / 2)**2: that of its frames is over scale**2.
    kept = (asked * (scale * 2 / X.shape[-1]) ** 2)[:, None, None, None]
    counts, u = (X / scale[:, None, None, None]) ** 2, uniform(keys, _COUNTS, X[0].numel())
    if noise_free:
        drawn = poisson(counts * kept, u.view(X.shape))
    else:
        kept = kept.clamp(max=1.0)
        drawn = thinned(counts.round(), kept, u.view(X.shape))
    root = kept.flatten().sqrt()
    content["scale"] = scale / root
    content["X"] = drawn.sqrt() * content["scale"][:, None, None, None]
    content["probe"] = content["probe"] * root[:, None, None, None]
    if content.get("frame_photons") is not None:
        content["frame_photons"] = content["frame_photons"] * kept.flatten()[:, None]


def turn(content: Content, keys: Tensor) -> None:
    """Turn what lies in a plane by an element of each sample."""
    elements = (uniform(keys, _ELEMENT, 1)[:, 0] * 8).long()
    content["X"] = turned_pixels(content["X"], elements)
    if content.get("Y") is not None:
        turned = turned_pixels(content["Y"].permute(0, 3, 1, 2), elements)
        content["Y"] = turned.permute(0, 2, 3, 1)
    for name in _TURNED_PIXELS:
        if content.get(name) is not None:
            content[name] = turned_pixels(content[name], elements)
    for name in _TURNED_POSITIONS:
        content[name] = turned_positions(content[name], elements)


def shade(content: Content, keys: Tensor, dead_pixels: float, beamstop_px: Span) -> None:
    """Make pixels bad, and X 0 there."""
    X = content["X"]
    N = X.shape[-1]
    bad = uniform(keys, _DEAD, N * N).view(-1, N, N) < dead_pixels
    if beamstop_px is not None:
        low, high = ends(beamstop_px)
        radius = low + (high - low) * uniform(keys, _STOP, 1)
        from_centre = (torch.arange(N, device=X.device) - N // 2) ** 2
        bad |= from_centre[:, None] + from_centre <= (radius**2)[:, :, None]
    if content.get("bad_pixels") is not None:
        bad |= content["bad_pixels"]
    content["bad_pixels"] = bad
    content["X"] = X.masked_fill(bad[:, None], 0.0)


def rescale(content: Content, keys: Tensor, span: Span) -> None:
    """Multiply X and scale."""
    factor = log_uniform(span, uniform(keys, _SCALE, 1))
    content["scale"] = content["scale"] * factor
    content["X"] = content["X"] * factor[:, None, None, None]


def ends(span: Any) -> tuple[float, float]:
    """Both ends of a span; of a number, twice that."""
    return span if isinstance(span, tuple) else (span, span)


def log_uniform(span: Span, u: Tensor) -> Tensor:
    """Numbers (B,) of the span from uniform ones (B, 1)."""
    low, high = (math.log(end) for end in ends(span))
    return torch.exp(low + (high - low) * u[:, 0])
