"""PtychoBatch: what a model gets.

Owns the names, shapes and dtypes of a batch. Knows nothing of files, scans or loaders.
"""

from __future__ import annotations

import torch
from tensordict import TensorClass
from torch import Tensor


class PtychoBatch(TensorClass):
    """A batch of B groups of C diffraction frames of N x N pixels.

    ``batch.to(device, non_blocking=True)``, ``batch.pin_memory()``, slicing and ``torch.cat`` work
    as for any tensordict class.

    Attributes
    ----------
    X
        Scaled amplitudes, float32, (B, N, N, C): a channels-last view of memory laid out as
        (B, C, N, N).
    coords_nominal
        Nominal positions relative to the group's centre, centre - position, float32, (B, 1, 2, C),
        (x, y) on axis 2, object pixels. ``coords`` and ``coords_true`` are the same tensor.
    global_offsets
        Group centres, mean of the measured positions, float64, (B, 1, 2, 1), object pixels.
    local_offsets
        Centre - measured position, float64, (B, 1, 2, C), object pixels.
    nn_indices
        Frame indices within the scan, int64, (B, C). With ``n_subsample`` they count within the
        frames kept; the scan's ``sample_indices`` lead back to the file.
    scan_id
        Which of the dataset's scans, int64, (B,).
    probe
        Probe modes, complex64, (B, P, N, N). With one scan: one copy per batch, broadcast over the
        groups.
    scale
        X = scale * amplitude, float32, (B,).
    Y
        Ground-truth patches, complex64, (B, N, N, C), or None.
    """

    X: Tensor
    coords_nominal: Tensor
    global_offsets: Tensor
    local_offsets: Tensor
    nn_indices: Tensor
    scan_id: Tensor
    probe: Tensor
    scale: Tensor
    Y: Tensor | None = None

    @property
    def coords(self) -> Tensor:
        """``coords_nominal``."""
        return self.coords_nominal

    @property
    def coords_true(self) -> Tensor:
        """``coords_nominal``: the reference gives both names to the same array."""
        return self.coords_nominal

    @property
    def Y_I(self) -> Tensor:
        """abs(Y), float32, (B, N, N, C); ones where there is no ground truth."""
        return torch.ones_like(self.X) if self.Y is None else self.Y.abs()

    @property
    def Y_phi(self) -> Tensor:
        """angle(Y) in radians, float32, (B, N, N, C); zeros where there is no ground truth."""
        return torch.zeros_like(self.X) if self.Y is None else self.Y.angle()

    @property
    def positions(self) -> Tensor:
        """Measured positions (x, y) of every frame, float64, (B, C, 2), object pixels."""
        return (self.global_offsets - self.local_offsets).squeeze(-3).transpose(-1, -2)

    def channels_first(self) -> Tensor:
        """X as (B, C, N, N), contiguous, without a copy."""
        return self.X.movedim(-1, -3)
