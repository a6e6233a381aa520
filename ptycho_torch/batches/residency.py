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

from ptycho_torch.batches.assembly import DeviceTables
from ptycho_torch.batches.dataset import PtychoDataset

logger = logging.getLogger(__name__)

Residency = Literal["auto", "device", "host"]

DEVICE_SHARE = 0.5
"""``residency="auto"`` keeps frames on the device when they fit in this share of free memory."""


class DeviceCopies:
    """Copies of tables and frames on devices; datasets that share frames share the copies."""

    def __init__(self) -> None:
        self._resident: set[tuple[int, torch.device]] = set()
        self._tables: dict[tuple[int, torch.device], DeviceTables] = {}

    def holds(self, dataset: PtychoDataset, device: torch.device, residency: Residency) -> bool:
        """Whether the frames live on the device; if so, they are there when this returns.

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
        bank = dataset.bank
        if (id(bank), device) in self._resident:
            return True
        if residency == "host" or (residency == "auto" and device.type != "cuda"):
            return False
        if residency == "auto":
            free, _ = torch.cuda.mem_get_info(device)
            fits = bank.nbytes <= DEVICE_SHARE * free
            logger.info(
                "frames need %.2f GiB of %.2f GiB free on %s: they %s",
                bank.nbytes / 2**30,
                free / 2**30,
                device,
                "live on the device" if fits else "are sent batch by batch",
            )
            if not fits:
                return False
        try:
            self.tables(dataset, device, resident=True)
        except torch.OutOfMemoryError:
            warnings.warn(
                f"frames of {bank.nbytes / 2**30:.2f} GiB do not fit on {device}: they are sent "
                "batch by batch; residency='host' chooses that from the start",
                stacklevel=2,
            )
            return False
        self._resident.add((id(bank), device))
        return True

    def tables(
        self, dataset: PtychoDataset, device: torch.device, *, resident: bool
    ) -> DeviceTables:
        """Probes and objects on the device, and with ``resident`` all frames."""
        # The parts of one scan share its bank, so they share the tables.
        key = (id(dataset.bank), device)
        if key not in self._tables:
            self._tables[key] = dataset.make_tables().to(device)
        tables = self._tables[key]
        if resident and tables.frames is None:
            tables = replace(tables, frames=dataset.bank.copy_to(device))
            self._tables[key] = tables
        return tables
