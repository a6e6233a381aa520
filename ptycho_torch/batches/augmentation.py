"""Training batches made into others that the forward model could have given too.

Owns what is changed and in which order. A sample's changes depend on seed, epoch and the sample;
not on batch size, ranks, workers or device. Knows tensors only.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ptycho_torch.batches.batch import PtychoBatch
from ptycho_torch.batches.counted_random import sample_keys
from ptycho_torch.batches.sample_changes import (
    Content,
    Span,
    count_anew,
    ends,
    rescale,
    shade,
    turn,
)
from ptycho_torch.batches.sampler import EpochSampler
from ptycho_torch.data.config import check_integer
from ptycho_torch.data.errors import OptionError, OptionTypeError, naming
from ptycho_torch.data.raw_data import RawData


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Changes of training batches, drawn anew for every sample and epoch.

    They are made in this order, and what belongs together changes together: X is still the scale
    times the amplitude, and what the batch's own probe and object patches diffract to. Two groups
    of the same frames get the same changes in an epoch.

    Parameters
    ----------
    photons
        Photons per frame, in the scan's mean: a number, or (low, high), log-uniform. Counts n
        become binomial(n, p), which for Poisson counts of mean m gives Poisson counts of mean p m.
        The probe becomes sqrt(p) times itself and the scale 1 / sqrt(p). Frames hold whole counts,
        and at most as many photons as were measured can be asked for.
    noise_free
        The frames are intensities without noise, not counts: with ``photons``, counts are drawn
        from a Poisson distribution of mean p m, and p may be above 1.
    dihedral
        Turn and flip frames, positions, probe and Y by one of the eight symmetries of the square.
        Positions turn about the object's pixel (0, 0).
    dead_pixels
        Share of the detector's pixels that are dead, the same ones in all frames of a group.
    beamstop_px
        Radius of a disc about zero frequency that is shaded, pixels: a number, or (low, high).
    scale
        Factor of X and scale: a number, or (low, high), log-uniform.
    seed
        Seed of all draws.

    Raises
    ------
    OptionError, OptionTypeError
        A value is out of range or of the wrong type.
    """

    photons: Span = None
    noise_free: bool = False
    dihedral: bool = False
    dead_pixels: float = 0.0
    beamstop_px: Span = None
    scale: Span = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("noise_free", "dihedral"):
            if not isinstance(getattr(self, name), bool):
                raise OptionTypeError(name, repr(getattr(self, name)), "True or False")
        for name in ("photons", "beamstop_px", "scale"):
            object.__setattr__(self, name, _span(name, getattr(self, name)))
        share = self.dead_pixels
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share < 1:
            raise OptionError("dead_pixels", repr(share), "a share in [0, 1)")
        check_integer("seed", self.seed, minimum=0, limit=2**63)

    def __call__(self, batch: PtychoBatch, epoch: int) -> PtychoBatch:
        """The batch changed as in an epoch, on its device; the given one stays as it is."""
        keys = sample_keys(self.seed, epoch, batch.scan_id, *batch.nn_indices.unbind(1))
        content: Content = dict(batch.items())
        # (B, C, N, N), as it lies in memory.
        content["X"] = batch.channels_first()
        self._change(content, keys)
        content["X"] = content["X"].permute(0, 2, 3, 1)
        return PtychoBatch(**content, batch_size=batch.batch_size)

    def check(self, scans: Sequence[RawData], scales: NDArray[np.float32]) -> None:
        """Refuse photons that scans, whose X are ``scales`` times their amplitude, do not have."""
        for scan, scale in zip(scans, scales.tolist(), strict=True):
            if self.photons is not None and not self.noise_free:
                self._check_photons(scan, scale)

    def _check_photons(self, scan: RawData, scale: float) -> None:
        frames = scan.frames
        with naming(scan.path):
            measured, asked = (scan.N / 2 / scale) ** 2, ends(self.photons)[1]
            if asked > measured * (1 + 1e-5):
                found = f"up to {asked:g}"
                raise OptionError("photons", found, f"at most {measured:.0f}, which frames hold")
            counts = frames.sample(8).astype(np.float64)
            counts = counts if frames.measurement == "counts" else counts**2
            if (np.abs(counts - counts.round()) > 1e-3 + 1e-5 * counts).any():
                raise OptionError(
                    "photons",
                    "asked of frames that hold no whole counts",
                    "counts, with their noise",
                    action="Set noise_free=true if frames are intensities without noise",
                )

    def _change(self, content: Content, keys: Tensor) -> None:
        if self.photons is not None:
            count_anew(content, keys, self.photons, noise_free=self.noise_free)
        if self.dihedral:
            turn(content, keys)
        if self.dead_pixels or self.beamstop_px is not None:
            shade(content, keys, self.dead_pixels, self.beamstop_px)
        if self.scale is not None:
            rescale(content, keys, self.scale)


def augmented(
    augmentation: Augmentation, sampler: EpochSampler, batches: Iterator[Any]
) -> Iterator[Any]:
    """Batches changed as in the sampler's epoch; what is not assembled yet passes by."""
    for batch in batches:
        finished = isinstance(batch, PtychoBatch)
        yield augmentation(batch, sampler.begun or 0) if finished else batch


def _span(name: str, value: Any) -> Span:
    if value is None:
        return None
    ends = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    wrong = [e for e in ends if isinstance(e, bool) or not isinstance(e, int | float)]
    if len(ends) != 2 or wrong:
        raise OptionTypeError(name, repr(value), "a number, or a pair (low, high)")
    if not 0 < ends[0] <= ends[1] < math.inf:
        raise OptionError(name, repr(value), "finite and above 0, low <= high")
    return float(ends[0]), float(ends[1])
