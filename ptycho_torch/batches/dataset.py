"""PtychoDataset: grouped scans as a torch Dataset.

Owns which groups there are and hands their indices to the assembly. Grouping itself is RawData's,
on first access; frames stay where they lie. Knows no devices, trainers or workers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from ptycho_torch.batches.assembly import DeviceTables, FrameSelection, assemble, padded_object
from ptycho_torch.batches.batch import PtychoBatch
from ptycho_torch.batches.buffers import BufferPool
from ptycho_torch.batches.frame_bank import FrameBank
from ptycho_torch.batches.group_index import (
    GroupIndex,
    coords_of_groups,
    frame_numbers,
    shown_numbers,
)
from ptycho_torch.batches.scans import (
    Scans,
    expand_scans,
    open_scan,
    resolve_ground_truth,
    stacked_probes,
)
from ptycho_torch.data.config import (
    GroundTruth,
    GroupingConfig,
    Measurement,
    Normalization,
    PatchPositions,
    check_choice,
    check_integer,
)
from ptycho_torch.data.errors import ScanError
from ptycho_torch.data.normalization import intensity_scale, pooled_scale
from ptycho_torch.data.patches import patch_origins, warn_mirrored
from ptycho_torch.data.raw_data import RawData

PLANNED = 16
"""Batches that are looked up together: what Python does for a batch costs as much for several."""


class PtychoDataset(Dataset[PtychoBatch]):
    """Groups of diffraction frames of one or many scans.

    Opening reads headers, positions, probe and object. The first ``len()`` or ``[]`` groups the
    scans, through :meth:`RawData.group`, and keeps ``<stem>.g{gridsize}k{K}.groups_cache.npz``
    beside each scan for the next time.

    Parameters
    ----------
    scans
        A path, a glob pattern, a :class:`RawData`, or a list of these.
    grouping
        How positions become groups.
    N
        Pixels along a frame's side, checked where given.
    ground_truth
        Where Y comes from: ``"object"`` (cut from ``objectGuess``), ``"file"`` (ready-made
        patches, the scan's ``Y``), ``"none"``, or ``"auto"``: as :class:`RawData` does, its Y,
        else its object, else none; of a file's Y only where it has no object.
    patch_positions
        Where object patches are cut: ``"reference"`` equals the TensorFlow container, whose
        patches are mirrored through the group's centre for C > 1; ``"scan"`` cuts them at the
        scan positions, where |F(probe * Y)| agrees with the frames.
    measurement
        What the frames are: ``"amplitude"``, ``"counts"``, or ``"auto"``.
    cache
        ``"auto"`` (beside the scan), ``"off"``, ``"readonly"`` (used, never written) or a
        directory.
    normalization
        ``"scan"``: one X scale a scan; ``"all"``: one for all scans together.

    Raises
    ------
    ScanError, ScanKeyError, ScanFileError, ScanFileNotFoundError
        A scan is at fault; one line says which and where.
    OptionError, OptionTypeError
        An option is.

    Examples
    --------
    >>> from ptycho_torch import GroupingConfig, PtychoDataset, simulate_scan
    >>> scan = simulate_scan(n_frames=64, N=32, seed=1)
    >>> dataset = PtychoDataset(scan, patch_positions="scan")
    >>> len(dataset), dataset[0].X.shape
    (64, torch.Size([32, 32, 4]))
    """

    def __init__(
        self,
        scans: Scans,
        *,
        grouping: GroupingConfig | None = None,
        N: int | None = None,
        ground_truth: GroundTruth = "auto",
        patch_positions: PatchPositions = "reference",
        measurement: Measurement = "auto",
        cache: str | Path = "auto",
        normalization: Normalization = "scan",
    ) -> None:
        self.grouping = GroupingConfig() if grouping is None else grouping
        check_choice("ground_truth", ground_truth, GroundTruth)
        check_choice("patch_positions", patch_positions, PatchPositions)
        check_choice("measurement", measurement, Measurement)
        check_choice("normalization", normalization, Normalization)
        check_integer("N", N, minimum=1, optional=True)
        self.patch_positions: PatchPositions = patch_positions
        self.normalization: Normalization = normalization
        self.cache = cache
        opened = [open_scan(scan, measurement, ground_truth, cache) for scan in expand_scans(scans)]
        if self.grouping.n_subsample is not None:
            count, seed = self.grouping.n_subsample, self.grouping.subsample_seed
            opened = [scan.subsample(count, seed) for scan in opened]
        self.scans: tuple[RawData, ...] = tuple(opened)
        self.bank = FrameBank([scan.frames for scan in self.scans])
        if N is not None and self.bank.N != N:
            raise ScanError("diff3d axis 1", self.bank.N, f"N = {N}", file=self.scans[0].path)
        self.ground_truth = resolve_ground_truth(ground_truth, self.scans)
        self._index: GroupIndex | None = None
        self._tables: DeviceTables | None = None
        self._pool = BufferPool()
        self._numbers: tuple[NDArray[np.integer], ...] | None = None

    @property
    def N(self) -> int:
        """Pixels along a frame's side."""
        return self.bank.N

    @property
    def index(self) -> GroupIndex:
        """The groups; made on first access."""
        if self._index is None:
            self._index = self._group()
        return self._index

    def prepare(self) -> None:
        """Group now, and write the caches, instead of on first access."""
        _ = self.index
        for scan in self.scans:
            _ = scan.frames.stored

    def subset(
        self, groups: NDArray[np.integer], scales: NDArray[np.float32] | None = None
    ) -> PtychoDataset:
        """A dataset of some of the groups, sharing scans, frames and scale with this one.

        Parameters
        ----------
        groups
            Indices into this dataset, shape (G',).
        scales
            Other X scales, one a scan.
        """
        index = self.index
        part = object.__new__(PtychoDataset)
        part.__dict__.update(self.__dict__)
        part._index = GroupIndex(
            index.nn_indices[groups],
            index.scan_id[groups],
            index.scales if scales is None else scales,
        )
        return part

    def regrouped(self, parts: Sequence[NDArray[np.integer]]) -> PtychoDataset:
        """A dataset with the same options of some frames of every scan, grouped anew; not cached.

        Parameters
        ----------
        parts
            Frames of every scan, by index; batches show these numbers as ``nn_indices``.
        """
        part = PtychoDataset(
            [scan.choose(keep) for scan, keep in zip(self.scans, parts, strict=True)],
            grouping=self.grouping.replace(n_subsample=None, subsample_seed=None),
            ground_truth=self.ground_truth,
            patch_positions=self.patch_positions,
            cache="off",
            normalization=self.normalization,
        )
        part._numbers = tuple(parts)
        return part

    def __len__(self) -> int:
        return len(self.index.nn_indices)

    def __getitem__(self, index: int) -> PtychoBatch:
        """One group, without the batch axis."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"group {index} of a dataset of {len(self)} groups")
        return self.__getitems__([index % len(self)])[0]

    def __getitems__(self, indices: Sequence[int] | NDArray[np.integer]) -> PtychoBatch:
        """A batch of groups: what a DataLoader asks for, with the identity as ``collate_fn``."""
        selection = self.select(indices, gather=self.tables.frames is None)
        return assemble(selection, self.tables, self._pool)

    def batches(
        self, groups: Iterable[Sequence[int]], planned: int = PLANNED
    ) -> Iterator[PtychoBatch]:
        """Batch after batch, the same as one by one.

        Parameters
        ----------
        groups
            Groups of each batch.
        planned
            Batches whose indices and coordinates are looked up together; their frames are not.
        """
        check_integer("planned", planned, minimum=1)
        waiting = iter(groups)
        while several := list(islice(waiting, planned)):
            if self.tables.frames is None or len(several) == 1:
                yield from map(self.__getitems__, several)
                continue
            every = np.concatenate([np.asarray(batch, dtype=np.int64) for batch in several])
            selection = self.select(every, gather=False)
            for part in selection.split([len(batch) for batch in several]):
                yield assemble(part, self.tables, self._pool)

    def select(
        self, indices: Sequence[int] | NDArray[np.integer], *, gather: bool = True
    ) -> FrameSelection:
        """What :func:`~ptycho_torch.batches.assembly.assemble` needs for a batch.

        Parameters
        ----------
        indices
            Groups, shape (B,).
        gather
            Copy each frame (and ready-made patch) once into the selection; else ``inverse`` holds
            frame numbers of :attr:`bank`, for tables that hold all frames.
        """
        chosen = np.asarray(indices, dtype=np.int64)
        nn = self.index.nn_indices[chosen]
        scan_id = self.index.scan_id[chosen]
        numbers = frame_numbers(self.scans, self.bank.starts, nn, scan_id)
        coords = coords_of_groups(self.scans, nn, scan_id)
        origins = None
        if self.ground_truth == "object":
            origins = patch_origins(
                coords["coords_offsets"], coords["coords_relative"], self.patch_positions
            )
        frames = patches = None
        inverse = numbers
        if gather or self.ground_truth == "file":
            unique, rows = np.unique(numbers, return_inverse=True)
            frames = self.bank.fetch(unique)
            inverse = rows.reshape(numbers.shape)
            if self.ground_truth == "file":
                patches = self._fetch_patches(unique)
        return FrameSelection(
            frames=frames,
            inverse=torch.from_numpy(np.ascontiguousarray(inverse, dtype=np.int64)),
            coords_nominal=torch.from_numpy(
                coords["coords_start_relative"].astype(np.float32, copy=False)
            ),
            global_offsets=torch.from_numpy(
                coords["coords_offsets"].astype(np.float64, copy=False)
            ),
            local_offsets=torch.from_numpy(
                coords["coords_relative"].astype(np.float64, copy=False)
            ),
            nn_indices=torch.from_numpy(shown_numbers(self._numbers, nn, scan_id)),
            scan_id=torch.from_numpy(scan_id),
            scale=torch.from_numpy(self.index.scales[scan_id]),
            origins=None if origins is None else torch.from_numpy(origins),
            patches=patches,
        )

    def check_unchanged(self) -> None:
        """Refuse files that were replaced or cut short since they were opened.

        Raises
        ------
        ScanFileError
            Naming the file; reading a map of a truncated file would end the process.
        """
        for scan in self.scans:
            scan.frames.check_unchanged()

    def read_ahead(self, indices: Sequence[int] | NDArray[np.integer]) -> None:
        """Bring the frames of a batch from disk into the page cache, copying nothing."""
        chosen = np.asarray(indices, dtype=np.int64)
        index = self.index
        numbers = frame_numbers(
            self.scans, self.bank.starts, index.nn_indices[chosen], index.scan_id[chosen]
        )
        self.bank.read_ahead(np.unique(numbers))

    @property
    def tables(self) -> DeviceTables:
        """What all batches share, in the memory of the CPU; one scan's frames as the map itself."""
        if self._tables is None:
            tables = self.make_tables()
            frames = self.bank.whole() if self.ground_truth != "file" else None
            self._tables = replace(tables, frames=frames)
        return self._tables

    def make_tables(self) -> DeviceTables:
        """Probes and objects as tensors, without the frames."""
        objects: list[Tensor] = []
        margin = 0
        if self.ground_truth == "object":
            for scan in self.scans:
                assert scan.objectGuess is not None
                double = scan.objectGuess.dtype == np.complex128
                obj = scan.objectGuess.astype(np.complex128 if double else np.complex64)
                padded, margin = padded_object(torch.from_numpy(obj), self.N)
                objects.append(padded)
        return DeviceTables(
            probes=torch.from_numpy(stacked_probes(self.scans)),
            objects=tuple(objects),
            margin=margin,
            counts=self.bank.counts,
        )

    def __getstate__(self) -> dict[str, Any]:
        # Maps are reopened by path in another process; tensors over them must not be pickled.
        return {**self.__dict__, "_tables": None}

    def __repr__(self) -> str:
        groups = "not grouped yet" if self._index is None else f"{len(self)} groups"
        return (
            f"PtychoDataset({len(self.scans)} scans, N={self.N}, "
            f"gridsize={self.grouping.gridsize}, {groups})"
        )

    def _group(self) -> GroupIndex:
        grouped = [scan.group(self.grouping, self.cache) for scan in self.scans]
        energies = [entry.frame_energies[entry.nn_indices] for entry in grouped]
        if self.normalization == "all":
            scales = [pooled_scale(energies, self.N)] * len(grouped)
        else:
            scales = [
                intensity_scale(entry.frame_energies, entry.nn_indices, self.N, scan.path)
                for entry, scan in zip(grouped, self.scans, strict=True)
            ]
        if (
            self.ground_truth == "object"
            and self.patch_positions == "reference"
            and self.grouping.channels > 1
        ):
            warn_mirrored()
        return GroupIndex(
            np.concatenate([entry.nn_indices for entry in grouped]),
            np.repeat(np.arange(len(grouped)), [len(entry.nn_indices) for entry in grouped]),
            np.array(scales, dtype=np.float32),
        )

    def _fetch_patches(self, unique: NDArray[np.integer]) -> Tensor:
        out = np.empty((len(unique), self.N, self.N), dtype=np.complex64)
        bounds = np.searchsorted(unique, self.bank.starts)
        for scan, (start, stop) in enumerate(pairwise(bounds)):
            if start != stop:
                patches = self.scans[scan].patches
                assert patches is not None
                ready = patches.stored
                out[start:stop] = ready[unique[start:stop] - self.bank.starts[scan]]
        return torch.from_numpy(out)
