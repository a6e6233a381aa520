"""The defocus of a probe that nobody measured: short fits from both sides of the focus.

Owns the candidates and their comparison. The average pattern says how strong the probe is at each
frequency and nothing of its phase; a fit started at the wrong sign of defocus does not come back.
"""

from __future__ import annotations

import logging
import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptycho_torch.data.initial_probe import average_pattern, initial_probe
from ptycho_torch.data.raw_data import RawData
from ptycho_torch.fourier_error import error_of_sums, fourier_sums
from ptycho_torch.physics import diffract, illuminate, object_patches, object_shape_for

logger = logging.getLogger(__name__)

STEPS = 32
"""Steps of Adam for each candidate; the last half of them are judged."""
LEARNING_RATE = 0.15
STEP_PIXELS = 1 << 18
"""Pixels of the frames of a step: 16 frames of 128 x 128."""
FEWEST, MOST_FRAMES = 4, 64
EDGE_PHASE = 7.0
"""rad between neighbours at the edge of the pattern: fits from half of it away still succeed."""
FEWEST_A_SIDE, MOST_A_SIDE = 3, 12
EDGE_SHARE = 0.9
"""The edge of the pattern: this share of the counts lies within it."""


def search_probe(
    scan: RawData, *, device: torch.device | str = "cpu", seed: int = 0
) -> NDArray[np.complex64]:
    """Find the defocus of the average pattern by short fits of object and probe.

    Candidates reach on both sides from focus to where the probe fills the field; the best one is
    then compared with what lies half-way to its neighbours. Work is counted in steps, not in
    seconds: with frames of 128 x 128, 17 fits of 32 steps of 16 frames.

    Parameters
    ----------
    scan
        The scan; its own probe is not looked at.
    device
        Where to fit.
    seed
        Seed of the order of frames, the same for every candidate.

    Returns
    -------
    ndarray
        complex64, (1, N, N), sqrt(counts): :func:`~ptycho_torch.initial_probe` at the best defocus.
    """
    step, edge = defocus_step(average_pattern(scan))
    a_side = min(max(math.ceil(math.pi / (2 * edge) / step), FEWEST_A_SIDE), MOST_A_SIDE)
    frames = FramesToFit(scan, torch.device(device), seed)
    errors: dict[float, float] = {}

    def judge(defocus: float) -> None:
        errors[defocus] = frames.error_after_fit(initial_probe(scan, defocus=defocus))
        logger.info("defocus %+.2f N u^2 rad: Fourier error %.4f", defocus, errors[defocus])

    with torch.inference_mode(False), torch.enable_grad():
        for number in range(-a_side, a_side + 1):
            judge(number * step)
        best = min(errors, key=errors.__getitem__)
        for neighbour in (best - step / 2, best + step / 2):
            judge(neighbour)
    best = min(errors, key=errors.__getitem__)
    logger.info("defocus %+.2f N u^2 rad is taken, the best of %d", best, len(errors))
    return initial_probe(scan, defocus=best)


def defocus_step(pattern: NDArray[np.float64]) -> tuple[float, float]:
    """Distance of candidates in N u**2 rad, and the edge of the pattern, cycles per pixel."""
    N = len(pattern)
    u = (np.arange(N) - N // 2) / N
    radius = np.hypot(u[:, None], u).ravel()
    outwards = np.argsort(radius, kind="stable")
    share = np.cumsum(pattern.ravel()[outwards]) / pattern.sum()
    edge = max(float(radius[outwards][np.searchsorted(share, EDGE_SHARE)]), 1 / N)
    # Where the probe fills the field, the last candidate is: no step may be longer.
    return min(EDGE_PHASE / (N * edge**2), math.pi / (2 * edge) / FEWEST_A_SIDE), edge


class FramesToFit:
    """Neighbouring frames in the middle of the scan, on a device, in the order of the steps."""

    def __init__(self, scan: RawData, device: torch.device, seed: int) -> None:
        positions = np.stack([scan.xcoords, scan.ycoords], axis=1).astype(np.float64)
        self.batch = min(max(STEP_PIXELS // scan.N**2, FEWEST), MOST_FRAMES)
        distance = np.hypot(*(positions - np.median(positions, axis=0)).T)
        middle = np.sort(np.argsort(distance, kind="stable")[: STEPS * self.batch])
        near = positions[middle] - positions[middle].min(axis=0) + scan.N // 2
        self.shape = object_shape_for(near, scan.N)
        self.positions = torch.from_numpy(near).to(device)
        amplitude = scan.frames.take(scan.file_indices(middle)).astype(np.float32)
        self.amplitude = torch.from_numpy(amplitude).to(device)
        self.good = None
        bad = scan.bad_pixels
        if bad is not None:
            self.good = torch.from_numpy(~np.asarray(bad[middle] if bad.ndim == 3 else bad))
            self.good = self.good.to(device)
        rng = np.random.default_rng(seed)
        rounds = -(-STEPS * self.batch // len(middle))
        order = np.concatenate([rng.permutation(len(middle)) for _ in range(rounds)])
        self.order = torch.from_numpy(order[: STEPS * self.batch]).to(device)

    def error_after_fit(self, probe: NDArray[np.complex64]) -> float:
        """Fourier error of the second half of a short fit, each batch before its step."""
        return self.fit(probe)[0]

    def fit(self, probe: NDArray[np.complex64]) -> tuple[float, NDArray[np.complex64]]:
        """That error of a fit from a flat object and a probe (P, N, N), and the object (H, W)."""
        start = torch.from_numpy(probe).to(self.amplitude.device)
        unit = start.abs().square().sum(dim=0).mean().sqrt()
        probe_in_units = (start / unit).requires_grad_()
        obj = torch.ones(self.shape, dtype=torch.complex64, device=start.device).requires_grad_()
        optimizer = torch.optim.Adam([obj, probe_in_units], lr=LEARNING_RATE)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=STEPS)
        sums = torch.zeros(2, dtype=torch.float64, device=start.device)
        for number in range(STEPS):
            chosen = self.order[number * self.batch : (number + 1) * self.batch]
            residual, energy = self._sums(obj, probe_in_units * unit, chosen)
            if number >= STEPS // 2:
                sums += torch.stack([residual.detach(), energy])
            optimizer.zero_grad()
            torch.autograd.backward(residual / energy)
            optimizer.step()
            schedule.step()
        return float(error_of_sums(sums[0], sums[1])), obj.detach().cpu().numpy()

    def _sums(self, obj: Tensor, probe: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
        measured = self.amplitude[chosen]
        patches = object_patches(obj, self.positions[chosen], measured.shape[-1])
        modelled = diffract(illuminate(probe, patches))
        if self.good is not None:
            good = self.good[chosen] if self.good.ndim == 3 else self.good
            modelled, measured = modelled * good, measured * good
        return fourier_sums(modelled, measured)
