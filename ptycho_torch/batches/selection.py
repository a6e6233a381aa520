"""A batch before its assembly: which frames, in which groups, where.

Owns how groups become tensors of indices, positions and frames, on the CPU. Knows no devices.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptycho_torch.batches.bad_pixels import masks_of_groups
from ptycho_torch.batches.frame_bank import FrameBank
from ptycho_torch.batches.group_index import GroupIndex
from ptycho_torch.batches.packing import Pack
from ptycho_torch.data.config import PatchPositions
from ptycho_torch.data.contract import check_complex64
from ptycho_torch.data.errors import naming
from ptycho_torch.data.patches import patch_origins

LARGE = ("frames", "patches", "bad_pixels")
"""What travels by itself."""


@dataclass(frozen=True)
class FrameSelection:
    """A batch of B groups before its assembly: indices, and each frame it needs once.

    A worker process hands this over when batches are assembled on the device.

    Attributes
    ----------
    frames
        Stored frames, each once, (U, N, N); None where all frames are in the tables.
    inverse
        Where the frames of every group lie in ``frames`` (or among all frames), int64, (B, C).
    coords_nominal, global_offsets, local_offsets, nn_indices, scan_id, scale
        As in :class:`~ptycho_torch.batches.batch.PtychoBatch`.
    origins
        Where object patches are cut, (x, y), float32, (B, C, 2), object pixels; None: nowhere.
    patches, patch_rows
        Ready-made ground-truth patches, each once, complex64, (U, N, N), and where those of every
        group lie in them, int64, (B, C); or None.
    bad_pixels
        Bad pixels of every group, bool, (B, N, N), where a scan has them per frame; else None.
    frame_photons
        Photons of every frame, float32, (B, C), or None.
    stage
        The data module's stage that the groups belong to.
    pack
        What holds the tensors, once they have travelled; else None.
    """

    frames: Tensor | None
    inverse: Tensor
    coords_nominal: Tensor
    global_offsets: Tensor
    local_offsets: Tensor
    nn_indices: Tensor
    scan_id: Tensor
    scale: Tensor
    origins: Tensor | None = None
    patches: Tensor | None = None
    patch_rows: Tensor | None = None
    bad_pixels: Tensor | None = None
    frame_photons: Tensor | None = None
    stage: str = ""
    pack: Pack | None = None

    def __len__(self) -> int:
        return len(self.inverse)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> FrameSelection:
        """Copy every tensor to ``device``, what is small in one piece."""
        return self._of(self._packed().to(device, non_blocking))

    def pin_memory(self) -> FrameSelection:
        """Copy every tensor to page-locked memory, so that copies to a GPU overlap its work."""
        return self._of(self._packed().pin_memory())

    def split(self, sizes: list[int]) -> list[FrameSelection]:
        """Cut into consecutive selections of so many groups each.

        Raises
        ------
        ValueError
            The selection holds frames; only those whose frames are in the tables can be cut.
        """
        if self.frames is not None or self.patches is not None:
            raise ValueError("the selection holds frames of its own; expected them in the tables")
        parts = {name: torch.split(tensor, sizes) for name, tensor in self._tensors().items()}
        # dataclasses.replace would take as long as a third of the rest of a batch's Python.
        return [
            FrameSelection(frames=None, stage=self.stage, **dict(zip(parts, values, strict=True)))
            for values in zip(*parts.values(), strict=True)
        ]

    def values(self) -> Iterable[Tensor]:
        """Every tensor."""
        return self._tensors().values()

    def _packed(self) -> Pack:
        return self.pack or Pack.of(self._tensors(), large=LARGE)

    def _of(self, pack: Pack) -> FrameSelection:
        content: dict[str, Any] = dict(pack.tensors())
        return replace(self, pack=pack, **content)

    def _tensors(self) -> dict[str, Tensor]:
        named = ((field.name, getattr(self, field.name)) for field in fields(self))
        return {name: value for name, value in named if isinstance(value, Tensor)}


def select(
    groups: GroupIndex,
    bank: FrameBank,
    *,
    gather: bool,
    patch_positions: PatchPositions | None,
    ready_patches: bool,
    pin: bool = False,
) -> FrameSelection:
    """Look up what the assembly of a batch needs.

    Parameters
    ----------
    groups
        The B groups of the batch.
    bank
        The frames of their scans.
    gather
        Copy each frame once into the selection; else ``inverse`` holds the frames' numbers in the
        bank, for tables that hold all frames.
    patch_positions
        Where object patches are cut; None: nowhere.
    ready_patches
        Copy each ready-made patch once too; each scan must have them.
    pin
        Copy both straight into page-locked memory, which torch uses again.
    """
    numbers = groups.frame_numbers(bank.starts)
    coords = groups.coords()
    origins = frames = patches = patch_rows = None
    if patch_positions is not None:
        centres, relative = coords["coords_offsets"], coords["coords_relative"]
        origins = torch.from_numpy(patch_origins(centres, relative, patch_positions))
    photons = groups.frame_photons()
    inverse = numbers
    if gather or ready_patches:
        unique, rows = np.unique(numbers, return_inverse=True)
        rows = rows.reshape(numbers.shape)
        if gather:
            inverse, frames = rows, bank.fetch(unique, pin=pin)
        if ready_patches:
            patches, patch_rows = _ready_patches(groups, bank, unique, pin), torch.from_numpy(rows)
    return FrameSelection(
        frames=frames,
        inverse=torch.from_numpy(np.ascontiguousarray(inverse, dtype=np.int64)),
        coords_nominal=_tensor(coords["coords_start_relative"], np.float32),
        global_offsets=_tensor(coords["coords_offsets"], np.float64),
        local_offsets=_tensor(coords["coords_relative"], np.float64),
        nn_indices=torch.from_numpy(groups.frame_labels()),
        scan_id=torch.from_numpy(groups.scan_id),
        scale=torch.from_numpy(groups.scales[groups.scan_id]),
        origins=origins,
        patches=patches,
        patch_rows=patch_rows,
        bad_pixels=masks_of_groups(groups),
        frame_photons=None if photons is None else _tensor(photons, np.float32),
    )


def _tensor(array: NDArray[np.floating], dtype: type[np.floating]) -> Tensor:
    return torch.from_numpy(array.astype(dtype, copy=False))


def _ready_patches(
    groups: GroupIndex, bank: FrameBank, numbers: NDArray[np.integer], pin: bool
) -> Tensor:
    """Ready-made patches by frame number, complex64, (U, N, N)."""
    out = torch.empty((len(numbers), bank.N, bank.N), dtype=torch.complex64, pin_memory=pin)
    for scan, part, rows in bank.of_scans(numbers):
        ready = groups.scans[scan].patches
        assert ready is not None
        values = ready.stored[rows]
        with naming(ready.path):
            check_complex64(values, "Y")
        out.numpy()[part] = values
    return out
