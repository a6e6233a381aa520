"""Other ways to the same batches, written as their users write them.

Each hands out dictionaries with the arrays of a batch. The benchmark checks that their values equal
those of PtychoDataset before it measures.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from tensordict import MemoryMappedTensor, TensorDict
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from ptycho_torch import PtychoDataset

Batch = dict[str, Tensor]
FIELDS = ("X", "coords_nominal", "global_offsets", "local_offsets", "nn_indices")


@dataclass(frozen=True)
class Work:
    """What every peer gets: the scan as a file, its groups, and the order of the epoch.

    Parameters
    ----------
    scan
        Canonical NPZ.
    nn_indices
        (G, C).
    coords
        ``coords_nominal``, ``global_offsets`` and ``local_offsets`` of every group.
    scale
        X = scale * amplitude.
    probe
        (P, N, N).
    batches
        Groups of every batch, in order.
    """

    scan: Path
    nn_indices: np.ndarray
    coords: dict[str, np.ndarray]
    scale: np.float32
    probe: Tensor
    batches: list[list[int]]

    @classmethod
    def of(cls, dataset: PtychoDataset, scan: Path, batches: list[list[int]]) -> Work:
        index = dataset.index
        every = dataset.select(np.arange(len(dataset)), gather=False)
        coords = {
            name: getattr(every, name).numpy()
            for name in ("coords_nominal", "global_offsets", "local_offsets")
        }
        probe = dataset.tables.probes[0]
        return cls(scan, index.nn_indices.astype(np.int64), coords, index.scales[0], probe, batches)

    def rest(self, groups: Any) -> dict[str, np.ndarray]:
        """Everything but X of some groups."""
        parts = {name: values[groups] for name, values in self.coords.items()}
        return {**parts, "nn_indices": self.nn_indices[groups]}

    def loader(self, dataset: Any, collate: Any) -> DataLoader[Any]:
        """The epoch through torch's DataLoader, in this process."""
        return DataLoader(dataset, batch_sampler=self.batches, collate_fn=collate)  # type: ignore[arg-type]

    def with_probe(self, batch: Batch) -> Batch:
        """Add the probe as a view, for peers that make whole batches."""
        batch["probe"] = self.probe.expand(len(batch["X"]), *self.probe.shape)
        return batch


class PerSample(Dataset[Batch]):
    """One group at a time from mapped frames; the default collate function stacks them."""

    def __init__(self, work: Work, frames: np.ndarray) -> None:
        self.work, self.frames = work, frames

    def __len__(self) -> int:
        return len(self.work.nn_indices)

    def __getitem__(self, group: int) -> Batch:
        nn = self.work.nn_indices[group]
        X = self.frames[nn].transpose(1, 2, 0) * self.work.scale
        rest = {name: torch.from_numpy(part) for name, part in self.work.rest(group).items()}
        return {"X": torch.from_numpy(X), "probe": self.work.probe, **rest}

    def epoch(self) -> Iterator[Batch]:
        return iter(self.work.loader(self, default_collate))


class Expanded(Dataset[Any]):
    """Every frame of every group stored again, scaled, in a memory-mapped tensordict."""

    def __init__(self, work: Work, frames: np.ndarray, folder: Path) -> None:
        self.work = work
        groups, channels = work.nn_indices.shape
        X = MemoryMappedTensor.empty(
            (groups, channels, *frames.shape[1:]), dtype=torch.float32, filename=folder / "X.memmap"
        )
        for start in range(0, groups, 256):
            rows = slice(start, start + 256)
            X[rows] = torch.from_numpy(frames[work.nn_indices[rows]] * work.scale)
        rest = {name: torch.from_numpy(part) for name, part in work.rest(slice(None)).items()}
        small = TensorDict(rest, batch_size=[groups]).memmap(folder)
        self.stored = TensorDict({"X": X, **dict(small.items())}, batch_size=[groups])

    def __len__(self) -> int:
        return len(self.stored)

    def __getitems__(self, groups: Sequence[int]) -> TensorDict:
        return self.stored[torch.as_tensor(groups)]

    def epoch(self) -> Iterator[Batch]:
        def collate(chosen: TensorDict) -> Batch:
            batch = {name: chosen[name] for name in FIELDS}
            batch["X"] = batch["X"].permute(0, 2, 3, 1)
            return self.work.with_probe(batch)

        return iter(self.work.loader(self, collate))


class ChunkedHdf5(Dataset[Batch]):
    """Frames in HDF5, one chunk per frame; each frame of a batch is read once."""

    def __init__(self, work: Work, frames: np.ndarray, path: Path) -> None:
        self.work = work
        self.path = path
        with h5py.File(path, "w") as file:
            file.create_dataset("frames", data=frames, chunks=(1, *frames.shape[1:]))
        self.file = h5py.File(path, "r")

    def __len__(self) -> int:
        return len(self.work.nn_indices)

    def __getitems__(self, groups: Sequence[int]) -> Batch:
        rest = self.work.rest(groups)
        unique, inverse = np.unique(rest["nn_indices"], return_inverse=True)
        stored = self.file["frames"]
        frames = np.empty((len(unique), *stored.shape[1:]), stored.dtype)
        # One by one: h5py takes thirty times as long to select a list of rows.
        for row, number in enumerate(unique.tolist()):
            frames[row] = stored[number]
        X = frames[inverse.reshape(rest["nn_indices"].shape)] * self.work.scale
        tensors = {name: torch.from_numpy(part) for name, part in rest.items()}
        return {"X": torch.from_numpy(X).permute(0, 2, 3, 1), **tensors}

    def epoch(self) -> Iterator[Batch]:
        return iter(self.work.loader(self, self.work.with_probe))


class LoadedWhole:
    """The whole NPZ read, all groups gathered and scaled, then sliced: the container's way."""

    def __init__(self, work: Work) -> None:
        self.work = work

    def epoch(self) -> Iterator[Batch]:
        work = self.work
        with np.load(work.scan) as arrays:
            diffraction = arrays["diff3d"][work.nn_indices].transpose(0, 2, 3, 1)
        X_full = work.scale * diffraction.astype(np.float32)
        for groups in work.batches:
            tensors = {name: torch.from_numpy(part) for name, part in work.rest(groups).items()}
            yield work.with_probe({"X": torch.from_numpy(X_full[groups]), **tensors})
