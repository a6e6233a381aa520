"""Random numbers that depend on a key and a count, not on what was drawn before.

SplitMix64 (Steele, Lea and Flood 2014, https://doi.org/10.1145/2714064.2660195) written with
tensors: the same bits on every device and for every batch size. Also owns counts drawn from them.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Of unsigned 64-bit constants, the signed ones of the same bits: torch multiplies modulo 2**64.
_GAMMA, _FIRST, _SECOND = (
    constant - 2**64 for constant in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
)
_FEW = 8.0
"""Below this mean counts are drawn by summing probabilities, above it from a quantile's series."""
_MOST_OF_FEW = 40


def sample_keys(seed: int, epoch: int, *samples: Tensor) -> Tensor:
    """A key per sample, int64, (B,), from seed, epoch and the sample's numbers, each int64 (B,)."""
    key = torch.full_like(samples[0], seed)
    for number in (torch.full_like(key, epoch), *samples):
        key = _mixed(key + _GAMMA) + number
    return _mixed(key + _GAMMA)


def uniform(keys: Tensor, stream: int, count: int) -> Tensor:
    """Float32 numbers between 0 and 1, neither included, (B, count); streams are independent."""
    of_stream = _mixed(keys + stream)
    bits = _mixed(of_stream[:, None] + _GAMMA * torch.arange(1, count + 1, device=keys.device))
    bits >>= 41
    bits &= 0x7FFFFF
    # 23 bits and a half: float32 would round the last of 24 and a half to 1.
    return bits.float().add_(0.5).mul_(2.0**-23)


def thinned(counts: Tensor, kept: Tensor, u: Tensor) -> Tensor:
    """Draw how many of so many counts are kept, each with probability ``kept``: binomial.

    Thinned Poisson counts are Poisson counts of the smaller mean. ``u`` are uniform numbers of the
    shape of ``counts``; ``kept`` in [0, 1] broadcasts.
    """
    fewer = torch.minimum(kept, 1 - kept)
    drawn = torch.minimum(_quantile(counts * fewer, fewer, u), counts)
    return torch.where(kept > 0.5, counts - drawn, drawn)


def poisson(mean: Tensor, u: Tensor) -> Tensor:
    """Poisson counts of these means from uniform numbers of their shape."""
    return _quantile(mean, torch.zeros((), device=mean.device), u)


def _quantile(mean: Tensor, share: Tensor, u: Tensor) -> Tensor:
    """Quantiles of the binomial of this mean and probability (at most 1/2; 0: Poisson)."""
    share = share.expand(mean.shape)
    few = mean < _FEW
    if mean.device.type != "cpu":  # to pick elements would wait for the device
        return torch.where(few, _summed(mean.clamp(max=_FEW), share, u), _series(mean, share, u))
    drawn, flat = torch.zeros(mean.numel()), [each.reshape(-1) for each in (mean, share, u)]
    for some, method in ((few & (mean > 0), _summed), (~few, _series)):
        where = some.reshape(-1).nonzero().squeeze(1)
        drawn[where] = method(*(each[where] for each in flat))
    return drawn.view(mean.shape)


def _summed(mean: Tensor, share: Tensor, u: Tensor) -> Tensor:
    exponent = torch.where(share > 0, torch.log1p(-share) / share.clamp(min=1e-30), -1.0)
    term = torch.exp(mean * exponent)
    total, drawn = term.clone(), torch.zeros_like(mean)
    left, on_cpu = torch.arange(len(mean), device=mean.device), mean.device.type == "cpu"
    for number in range(_MOST_OF_FEW):
        above = u > total
        if on_cpu:
            kept = above.nonzero().squeeze(1)
            if not len(kept):
                break
            mean, share, u, term, total, left = (
                each[kept] for each in (mean, share, u, term, total, left)
            )
            drawn[left] += 1
        else:
            drawn += above
        term = term * (mean - number * share).clamp(min=0) / ((number + 1) * (1 - share))
        total += term
    return drawn


def _series(mean: Tensor, share: Tensor, u: Tensor) -> Tensor:
    """Cornish and Fisher's series for the curve through the sums of probabilities, rounded.

    That curve has the cumulants of the counts less those of a number spread evenly over 1.
    """
    z = torch.special.ndtri(u)
    variance = mean * (1 - share)
    width = torch.sqrt(variance - 1 / 12)
    skew = variance * (1 - 2 * share) / width**3
    excess = (variance * (1 - 6 * share * (1 - share)) + 1 / 120) / width**4
    square = z * z
    z = (
        z
        + skew * (square - 1) / 6
        + z * (excess * (square - 3) / 24 - skew * skew * (2 * square - 5) / 36)
    )
    return torch.floor(mean + width * z + 0.5).clamp(min=0)


def _mixed(bits: Tensor) -> Tensor:
    for shift, factor in ((30, _FIRST), (27, _SECOND), (31, 1)):
        # A shift of signed numbers brings in the sign, which is masked.
        shifted = bits >> shift
        shifted &= 2 ** (64 - shift) - 1
        shifted ^= bits
        shifted *= factor
        bits = shifted
    return bits
