"""Which way a batch takes from the dataset to the loop, by options and device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch

from ptycho_torch.batches.dataset import PtychoDataset
from ptycho_torch.batches.routes import (
    Route,
    finished_by_workers,
    gathered_here,
    selected_by_workers,
    selected_here,
    simulated_here,
)
from ptycho_torch.batches.simulated_scans import SimulatedScans

AssembleOn = Literal["auto", "device", "worker"]


def route_of(
    dataset: PtychoDataset,
    stage: str,
    device: torch.device,
    assemble_on: AssembleOn,
    resident: Callable[[], bool],
    *,
    workers: bool,
) -> Route:
    """The way that the options ask for; ``resident()`` says whether frames live on the device."""
    if isinstance(dataset, SimulatedScans):
        if assemble_on == "worker":
            return finished_by_workers(dataset, probes=True)
        return simulated_here(dataset, device)
    if assemble_on == "worker":
        return finished_by_workers(dataset, probes=device.type != "cuda")
    if assemble_on == "auto" and device.type == "cpu":
        return gathered_here(dataset, workers=workers)
    gather = not resident()
    if assemble_on == "device" and workers:
        return selected_by_workers(dataset, stage, gather=gather)
    return selected_here(dataset, stage, gather=gather, workers=workers, device=device)
