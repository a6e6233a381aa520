"""What lives on a device: the tables of every dataset, and its frames where they fit.

Owns what was copied where, once, whether frames stay there, and the batches that are made of it.
Knows datasets and devices, no trainers.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Hashable
from dataclasses import replace
from typing import Any, Literal

import torch
from tensordict import TensorDict
from torch import Tensor

from ptycho_torch.batches.assembly import assemble, probe_of_groups
from ptycho_torch.batches.batch import PtychoBatch
from ptycho_torch.batches.dataset import PtychoDataset
from ptycho_torch.batches.frame_bank import FrameBank
from ptycho_torch.batches.packing import Pack
from ptycho_torch.batches.selection import FrameSelection
from ptycho_torch.batches.tables import DeviceTables

logger = logging.getLogger(__name__)

Residency = Literal["auto", "device", "host"]

DEVICE_SHARE = 0.5
"""``residency="auto"`` keeps frames on the device when they fit in this share of free memory."""


class DeviceCopies:
    """What devices hold; datasets of the same frames share one copy of them."""

    def __init__(self) -> None:
        self._tables: dict[tuple[FrameBank, torch.device], DeviceTables] = {}
        # With the bank, which keeps alive what tells frames in memory apart; None: they do not fit.
        self._frames: dict[tuple[Hashable, torch.device], tuple[FrameBank, Tensor | None]] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        # A copy of a loader or a data module starts with nothing, as another process does.
        return DeviceCopies, ()

    def holds(self, dataset: PtychoDataset, device: torch.device, residency: Residency) -> bool:
        """Decide whether the frames live on the device, and copy them there if they do.

        Parameters
        ----------
        dataset
            Whose frames.
        device
            Where to; frames live on GPUs only.
        residency
            ``"device"``: they do where memory lasts; ``"host"``: never; ``"auto"``: where they fit
            in :data:`DEVICE_SHARE` of free memory. Memory changes: the first answer stays, until
            :meth:`release`.
        """
        if residency == "host" or device.type != "cuda":
            return False
        bank, key = dataset.bank, (dataset.bank.identity, device)
        if key not in self._frames:
            self._frames[key] = bank, None
            if residency == "device" or _fits(bank.nbytes, device):
                try:
                    self._frames[key] = bank, bank.copy_to(device)
                except torch.OutOfMemoryError:
                    warnings.warn(
                        f"frames of {bank.nbytes / 2**30:.2f} GiB do not fit on {device}: they are "
                        "sent batch by batch; residency='host' chooses that from the start",
                        stacklevel=2,
                    )
        return self._frames[key][1] is not None

    def finished(
        self,
        batch: FrameSelection | Pack | PtychoBatch,
        dataset: PtychoDataset,
        device: torch.device,
    ) -> PtychoBatch:
        """Assemble a batch on its device, or give a packed one the probes that it lacks."""
        if isinstance(batch, PtychoBatch):
            return batch
        key = (dataset.bank, device)
        if key not in self._tables:
            self._tables[key] = dataset.frameless_tables.to(device)
        tables = self._tables[key]
        if isinstance(batch, Pack):
            content = batch.tensors()
            content["probe"] = probe_of_groups(tables.probes, content["scan_id"])
            return PtychoBatch.from_tensordict(TensorDict(content, content["scan_id"].shape))
        if batch.frames is None and self.holds(dataset, device, "device"):
            tables = replace(tables, frames=self._frames[dataset.bank.identity, device][1])
        return assemble(batch, tables)

    def release(self) -> None:
        """Give all memory back."""
        self._tables.clear()
        self._frames.clear()


def _fits(nbytes: int, device: torch.device) -> bool:
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
