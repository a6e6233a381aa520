"""What lives on a device: the tables of every dataset, and its frames where they fit.

Owns what was copied where, once, and whether frames stay there. Knows datasets and devices, no
batches and no trainers.
"""

from __future__ import annotations

import logging
import warnings
from dataclasses import replace
from typing import Literal

import torch

from ptycho_torch.batches.dataset import PtychoDataset
from ptycho_torch.batches.frame_bank import FrameBank
from ptycho_torch.batches.tables import DeviceTables

logger = logging.getLogger(__name__)

Residency = Literal["auto", "device", "host"]

DEVICE_SHARE = 0.5
"""``residency="auto"`` keeps frames on the device when they fit in this share of free memory."""


class DeviceCopies:
    """Copies of tables and frames on devices; datasets that share frames share the copies."""

    def __init__(self) -> None:
        self._tables: dict[tuple[FrameBank, torch.device], DeviceTables] = {}

    def holds(self, dataset: PtychoDataset, device: torch.device, residency: Residency) -> bool:
        """Decide whether the frames live on the device, and copy them there if they do.

        Parameters
        ----------
        dataset
            Whose frames.
        device
            Where to.
        residency
            ``"device"``: they do where memory lasts; ``"host"``: never; ``"auto"``: on a GPU, where
            they fit in :data:`DEVICE_SHARE` of its free memory.
        """
        held = self._tables.get((dataset.bank, device))
        if held is not None and held.frames is not None:
            return True
        if residency == "host" or (residency == "auto" and not _fits(dataset.bank.nbytes, device)):
            return False
        try:
            self.tables(dataset, device, resident=True)
        except torch.OutOfMemoryError:
            warnings.warn(
                f"frames of {dataset.bank.nbytes / 2**30:.2f} GiB do not fit on {device}: they are "
                "sent batch by batch; residency='host' chooses that from the start",
                stacklevel=2,
            )
            return False
        return True

    def tables(
        self, dataset: PtychoDataset, device: torch.device, *, resident: bool
    ) -> DeviceTables:
        """Probes and objects on the device, and with ``resident`` all frames."""
        # The parts of a scan share its frames, so they share the tables.
        key = (dataset.bank, device)
        if key not in self._tables:
            self._tables[key] = dataset.frameless_tables.to(device)
        if resident and self._tables[key].frames is None:
            frames = dataset.bank.copy_to(device)
            self._tables[key] = replace(self._tables[key], frames=frames)
        return self._tables[key]


def _fits(nbytes: int, device: torch.device) -> bool:
    if device.type != "cuda":
        return False
    free, _ = torch.cuda.mem_get_info(device)
    fits = nbytes <= DEVICE_SHARE * free
    logger.info(
        "frames need %.2f GiB of %.2f GiB free on %s: they %s",
        nbytes / 2**30,
        free / 2**30,
        device,
        "live on the device" if fits else "are sent batch by batch",
    )
    return fits
