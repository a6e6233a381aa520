"""The forward model of a batch of simulated groups, on the device of its scans.

Owns how drawn scans become X, Y and positions. Which groups these are is ``simulated_scans``'.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptycho_torch.batches.assembly import probe_of_groups
from ptycho_torch.batches.counted_random import poisson, sample_keys, uniform
from ptycho_torch.batches.patch_windows import ObjectStack, cut_patches
from ptycho_torch.data.grouped import grouped_coords
from ptycho_torch.data.patches import patch_origins
from ptycho_torch.physics import diffract, illuminate

_COUNTS = 0


@dataclass(frozen=True)
class SimulatedScan:
    """A drawn scan, on the CPU.

    Attributes
    ----------
    object
        complex64, (H, W); every patch lies inside.
    probe
        complex64, (P, N, N).
    xcoords, ycoords
        float64, (M,), object pixels.
    groups
        Frames of every group, int64, (G, C).
    scale
        X = scale * amplitude.
    """

    object: Tensor
    probe: Tensor
    xcoords: NDArray[np.float64]
    ycoords: NDArray[np.float64]
    groups: NDArray[np.int64]
    scale: np.float32


@dataclass(frozen=True)
class Noise:
    """Photon noise of groups: that of a frame depends on these, its scan and its number only.

    Attributes
    ----------
    seed, stream
        Two numbers >= 0.
    scan_numbers
        The scan of every group, through all epochs, int64, (B,).
    """

    seed: int
    stream: int
    scan_numbers: NDArray[np.int64]


@dataclass
class _Positions:
    """Positions of several scans, one after the other; nominal ones are the measured ones."""

    xcoords: NDArray[np.float64]
    ycoords: NDArray[np.float64]
    xcoords_start: NDArray[np.float64]
    ycoords_start: NDArray[np.float64]


def simulate_groups(
    scans: Sequence[SimulatedScan],
    place: NDArray[np.integer],
    nn_indices: NDArray[np.int64],
    noise: Noise | None,
    device: torch.device | str,
) -> dict[str, Tensor]:
    """The tensors of a batch by name, without ``scan_id``.

    Parameters
    ----------
    scans
        Scans of one M, N, P and one shape of object.
    place
        Which of them every group is of, (B,).
    nn_indices
        The groups' frames, (B, C).
    noise
        None: none.
    device
        Where the batch is made; objects and probes are copied there, each once.
    """
    N = scans[0].probe.shape[-1]
    x = np.concatenate([scan.xcoords for scan in scans])
    y = np.concatenate([scan.ycoords for scan in scans])
    rows = nn_indices + (place * len(scans[0].xcoords))[:, None]
    coords = grouped_coords(_Positions(x, y, x, y), rows)
    offsets, relative = coords["coords_offsets"], coords["coords_relative"]
    origins = torch.from_numpy(patch_origins(offsets, relative, "scan")).to(device)
    which, frames = torch.from_numpy(place).to(device), torch.from_numpy(nn_indices).to(device)
    objects = _stacked([scan.object for scan in scans]).to(device)
    Y = cut_patches((objects,), which, origins, N)
    probe = probe_of_groups(torch.stack([scan.probe for scan in scans]).to(device), which)
    amplitude = diffract(illuminate(probe, Y.permute(0, 3, 1, 2)))
    if noise is not None:
        amplitude = _counted(amplitude, noise, frames)
    scale = torch.from_numpy(np.array([scan.scale for scan in scans])[place]).to(device)
    return {
        "X": amplitude.mul_(scale.view(-1, 1, 1, 1)).permute(0, 2, 3, 1),
        "Y": Y,
        "probe": probe,
        "coords_nominal": torch.from_numpy(relative.astype(np.float32)).to(device),
        "global_offsets": torch.from_numpy(offsets).to(device),
        "local_offsets": torch.from_numpy(relative).to(device),
        "nn_indices": frames,
        "scale": scale,
    }


def _counted(amplitude: Tensor, noise: Noise, frames: Tensor) -> Tensor:
    """Square roots of counts of these means, (B, C, N, N)."""
    numbers = torch.from_numpy(noise.scan_numbers).to(frames.device)
    whose = numbers[:, None].expand(frames.shape).flatten()
    keys = sample_keys(noise.seed, noise.stream, whose, frames.flatten())
    u = uniform(keys, _COUNTS, amplitude[0, 0].numel()).view(amplitude.shape)
    return poisson(amplitude**2, u).sqrt_()


def _stacked(objects: list[Tensor]) -> ObjectStack:
    """Objects of one shape below each other, without margins: no patch reaches out of them."""
    pixels, rows = torch.cat(objects), len(objects[0])
    tops = torch.arange(0, len(pixels), rows)
    own = torch.ones_like(tops, dtype=torch.bool)
    return ObjectStack(pixels, tops, torch.full_like(tops, rows), own, margin=0)
