"""What all batches of a dataset share: probes, objects and, where they fit, all frames.

Owns how scans become these tensors. Knows no groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ptycho_torch.batches.bad_pixels import masks_of_scans
from ptycho_torch.batches.frame_bank import FrameBank, tensor_over
from ptycho_torch.batches.patch_windows import ObjectStack, stack_objects
from ptycho_torch.data.raw_data import RawData


@dataclass(frozen=True)
class DeviceTables:
    """What all batches of a dataset share, on one device.

    Attributes
    ----------
    probes
        Probe modes of every scan, complex64, (S, P, N, N); where scans differ in P, the missing
        modes are zero.
    objects
        The objects of all scans, one stack for each precision; empty where no patches are cut.
    counts
        Stored frames are counts: the amplitude is their square root.
    bad_pixels
        Bad pixels of every scan, bool, (S, N, N); None where none has any, or one has them per
        frame.
    frames
        All frames of all scans, (M, N, N), where they live on the device; else None. On the CPU, a
        bank of several scans' frames.
    """

    probes: Tensor
    objects: tuple[ObjectStack, ...] = ()
    counts: bool = False
    frames: Tensor | FrameBank | None = None
    bad_pixels: Tensor | None = None

    @classmethod
    def of_scans(cls, scans: Sequence[RawData], *, objects: bool) -> DeviceTables:
        """Build the tables of scans on the CPU, without their frames.

        Parameters
        ----------
        scans
            S scans of one N and one measurement.
        objects
            Keep their objects too, to cut patches from; every scan must have one.
        """
        whole = {number: _object_of(scan) for number, scan in enumerate(scans) if objects}
        precisions = dict.fromkeys(obj.dtype for obj in whole.values())
        stacks = (
            {number: obj for number, obj in whole.items() if obj.dtype == precision}
            for precision in precisions
        )
        return cls(
            probes=_stacked_probes(scans),
            objects=tuple(stack_objects(stack, scans[0].N, len(scans)) for stack in stacks),
            counts=scans[0].frames.measurement == "counts",
            bad_pixels=masks_of_scans(scans),
        )

    def to(self, device: torch.device | str) -> DeviceTables:
        """Copy probes, objects and masks to ``device``; the frames stay where they are."""
        return replace(
            self,
            probes=self.probes.to(device),
            objects=tuple(stack.to(device) for stack in self.objects),
            bad_pixels=None if self.bad_pixels is None else self.bad_pixels.to(device),
        )


def _object_of(scan: RawData) -> Tensor:
    assert scan.objectGuess is not None
    double = scan.objectGuess.dtype == np.complex128
    wide = np.complex128 if double else np.complex64
    return tensor_over(scan.objectGuess.astype(wide, copy=False))


def _stacked_probes(scans: Sequence[RawData]) -> Tensor:
    modes = [scan.probeGuess.reshape(-1, scan.N, scan.N) for scan in scans]
    stacked = np.zeros((len(modes), max(map(len, modes)), *modes[0].shape[1:]), np.complex64)
    for row, probe in zip(stacked, modes, strict=True):
        row[: len(probe)] = probe
    return torch.from_numpy(stacked)
