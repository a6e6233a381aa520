"""PtychoDataset: grouped scans as a torch Dataset.

Owns which groups there are, and hands them to selection and assembly. RawData makes the groups on
first access; frames stay where they lie. Knows no devices, trainers or workers.
"""

from __future__ import annotations

import operator
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, random_split

from ptycho_torch.batches.assembly import assemble
from ptycho_torch.batches.batch import PtychoBatch
from ptycho_torch.batches.blocks import Blocks
from ptycho_torch.batches.buffers import BufferPool
from ptycho_torch.batches.frame_bank import FrameBank
from ptycho_torch.batches.group_index import GroupIndex
from ptycho_torch.batches.hyperparameters import refuse_misplaced
from ptycho_torch.batches.representations import DATASET
from ptycho_torch.batches.scans import open_scan, resolve_ground_truth
from ptycho_torch.batches.selection import FrameSelection, select
from ptycho_torch.batches.tables import DeviceTables
from ptycho_torch.data.caches.names import check_policy
from ptycho_torch.data.config import (
    GroundTruth,
    GroupingConfig,
    Measurement,
    Normalization,
    PatchPositions,
    check_choice,
    check_integer,
)
from ptycho_torch.data.errors import ScanError, naming
from ptycho_torch.data.patches import warn_mirrored
from ptycho_torch.data.prepare import each_in_a_thread
from ptycho_torch.data.raw_data import RawData
from ptycho_torch.data.scan_list import Scans, expand_scans

PLANNED = 16
"""Batches looked up together: Python spends as long on several as on one."""
Groups = SupportsIndex | slice | Sequence[int] | NDArray[np.integer] | Tensor

_SHARED_FRAMES = (
    "random_split divides groups, and groups of several parts share frames: validation would see "
    "training frames; PtychoDataModule(split='region') and split='frames' share none"
)


class PtychoDataset(Dataset[PtychoBatch]):
    """Groups of diffraction frames of one or many scans.

    Opening reads headers, positions, probe and object. The first ``len()`` or ``[]`` groups the
    scans and keeps ``<stem>.g{gridsize}k{K}.groups_cache.npz`` beside each scan for the next time.

    Parameters
    ----------
    scans
        A path, pattern, directory, list in YAML, or :class:`RawData`, or several of these.
    grouping
        How positions become groups.
    N
        Pixels along a frame's side, checked where given.
    ground_truth
        Where Y comes from: ``"object"`` (cut from ``objectGuess``), ``"file"`` (ready-made
        patches, the scan's ``Y``), ``"none"``, or ``"auto"``: Y, else the object, else none, as
        :class:`RawData` does; of a file, Y counts only where it has no object.
    patch_positions
        Where object patches are cut: ``"reference"`` equals the TensorFlow container, whose
        patches are mirrored through the group's centre for C > 1; ``"scan"`` cuts them at the
        scan positions, where |F(probe * Y)| agrees with the frames.
    measurement, probe
        What frames are, and the probe: ``"file"``, ``"initial"`` (average pattern) or a path.
    cache
        ``"auto"`` (beside the scan), ``"off"``, ``"readonly"`` (used, never written) or a
        directory.
    normalization
        ``"scan"``: one X scale per scan; ``"all"``: one for all scans together.

    Raises
    ------
    ScanError, ScanKeyError, ScanFileError, ScanFileNotFoundError
        A scan is at fault; one line says which and where.
    OptionError, OptionTypeError
        An option cannot work.

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
        probe: str = "file",
        cache: str | Path = "auto",
        normalization: Normalization = "scan",
        **misplaced: Any,
    ) -> None:
        refuse_misplaced(misplaced)
        self.grouping = GroupingConfig() if grouping is None else grouping
        check_choice("ground_truth", ground_truth, GroundTruth)
        check_choice("patch_positions", patch_positions, PatchPositions)
        check_choice("measurement", measurement, Measurement)
        check_choice("normalization", normalization, Normalization)
        check_policy(cache, "cache")
        check_integer("N", N, minimum=1, optional=True)
        self.patch_positions: PatchPositions = patch_positions
        self.normalization: Normalization = normalization
        self.cache = cache
        listed = expand_scans(scans)
        self.uses = tuple(each.use for each in listed)
        opened = [open_scan(each, measurement, ground_truth, cache, probe) for each in listed]
        if self.grouping.n_subsample is not None:
            count, seed = self.grouping.n_subsample, self.grouping.subsample_seed
            opened = [scan.subsample(count, seed) for scan in opened]
        self.scans: tuple[RawData, ...] = tuple(opened)
        self.bank = FrameBank([scan.frames for scan in self.scans])
        if N is not None and self.bank.N != N:
            with naming(self.scans[0].path):
                raise ScanError("diff3d axis 1", self.bank.N, f"N = {N}")
        self.ground_truth = resolve_ground_truth(ground_truth, self.scans)
        self._labels: tuple[NDArray[np.integer], ...] | None = None
        self._index: GroupIndex | None = None
        self._tables: DeviceTables | None = None
        self._pool, self._split_at_random = BufferPool(), False

    @property
    def N(self) -> int:
        """Pixels along a frame's side."""
        return self.bank.N

    @property
    def index(self) -> GroupIndex:
        """The groups; made on first access."""
        if self._index is None:
            self._index = GroupIndex.of_scans(
                self.scans,
                self.grouping,
                cache=self.cache,
                normalization=self.normalization,
                labels=self._labels,
            )
            if self._patch_positions == "reference" and self.grouping.channels > 1:
                warn_mirrored()
        return self._index

    @property
    def measured(self) -> tuple[RawData, ...]:
        """The scans that a model looks at before it starts: none where they are drawn."""
        return self.scans

    @property
    def is_grouped(self) -> bool:
        """The groups are known already."""
        return self._index is not None

    def prepare(self) -> None:
        """Group now and write the caches, instead of on first access."""
        _ = self.index
        for _ in each_in_a_thread(lambda scan: scan.frames.prepare(), self.scans):
            pass

    def subset(self, groups: NDArray[np.integer]) -> PtychoDataset:
        """A dataset of some of the groups, which shares scans, frames and scales with this one.

        Parameters
        ----------
        groups
            Indices into this dataset, shape (G',).
        """
        return self._but(_index=self.index.take(groups))

    def scaled(self, scales: NDArray[np.float32]) -> PtychoDataset:
        """A dataset of the same groups with other X scales.

        Parameters
        ----------
        scales
            One per scan, float32, shape (S,).
        """
        return self._but(_index=replace(self.index, scales=scales))

    def regrouped(self, parts: Sequence[NDArray[np.integer]]) -> PtychoDataset:
        """A dataset of some frames of every scan, grouped anew, with no cache.

        ``parts`` are frames of every scan, by index, which batches show as ``nn_indices``.
        """
        scans = tuple(scan.choose(keep) for scan, keep in zip(self.scans, parts, strict=True))
        return self._but(scans=scans, cache="off", _labels=tuple(parts), _index=None)

    def _but(self, **changes: object) -> PtychoDataset:
        """A copy with some attributes changed; frames, tables and pool are shared."""
        part = object.__new__(type(self))
        part.__dict__.update(self.__dict__, **changes)
        return part

    def __len__(self) -> int:
        if sys._getframe(1).f_code is random_split.__code__ and not self._split_at_random:
            self._split_at_random = True
            if self.grouping.channels > 1:
                warnings.warn(_SHARED_FRAMES, stacklevel=3)
        return len(self.index)

    def __getitem__(self, index: Groups) -> PtychoBatch:
        """One group, without the batch axis; of a slice, list, array or tensor a batch of groups.

        Parameters
        ----------
        index
            An integer, or what NumPy takes for an axis of groups: a slice, integers or booleans.

        Raises
        ------
        IndexError
            There is no such group.
        """
        if isinstance(index, SupportsIndex) and not getattr(index, "ndim", 0):
            number = operator.index(index)
            if not -len(self) <= number < len(self):
                raise IndexError(f"group {number} of a dataset of {len(self)} groups")
            return self.__getitems__([number % len(self)])[0]
        chosen = index if isinstance(index, slice) else np.asarray(index)
        if isinstance(chosen, np.ndarray) and not chosen.size:
            chosen = chosen.astype(np.int64)
        groups = np.arange(len(self))[chosen]
        if groups.ndim != 1:
            raise IndexError(f"groups of shape {groups.shape}; expected one axis of groups")
        return self.__getitems__(groups)

    def __getitems__(self, indices: Sequence[int] | NDArray[np.integer]) -> PtychoBatch:
        """A batch of groups: what a DataLoader asks for, with the identity as ``collate_fn``.

        Raises
        ------
        ScanFileError
            A file was replaced or written to since it was opened.
        """
        self.check_unchanged(indices)
        batch = self._assembled(indices)
        # What was gathered from a sidecar being written to is gathered again.
        return self._assembled(indices) if self.check_unchanged(indices) else batch

    def _assembled(self, indices: Sequence[int] | NDArray[np.integer]) -> PtychoBatch:
        selection = self.select(indices, gather=self.tables.frames is None)
        return assemble(selection, self.tables, self._pool)

    def batches(
        self, groups: Iterable[Sequence[int]], planned: int = PLANNED
    ) -> Iterator[PtychoBatch]:
        """Yield batch after batch, each equal to ``dataset.__getitems__`` of its groups.

        Whether files changed is not asked again: see :meth:`check_unchanged`.

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
            tables = self.tables
            if tables.frames is None or len(several) == 1:
                yield from map(self._assembled, several)
                continue
            every = np.concatenate([np.asarray(batch, dtype=np.int64) for batch in several])
            selection = self.select(every, gather=False)
            for part in selection.split([len(batch) for batch in several]):
                yield assemble(part, tables, self._pool)

    def select(
        self,
        indices: Sequence[int] | NDArray[np.integer],
        *,
        gather: bool = True,
        pin: bool = False,
    ) -> FrameSelection:
        """What :func:`~ptycho_torch.batches.assembly.assemble` needs for a batch.

        Parameters
        ----------
        indices
            Groups, shape (B,).
        gather
            Copy each frame (and ready-made patch) once into the selection; else ``inverse`` holds
            frame numbers of :attr:`bank`, for tables that hold all frames.
        pin
            Copy them straight into page-locked memory.
        """
        return select(
            self._take(indices),
            self.bank,
            gather=gather,
            patch_positions=self._patch_positions,
            ready_patches=self.ground_truth == "file",
            pin=pin,
        )

    def blocks(self) -> Blocks:
        """The groups as their frames lie on disk, in blocks that are read as they come."""
        numbers = self.index.frame_numbers(self.bank.starts)
        return Blocks.of_groups(numbers, self.N**2 * self.bank.dtype.itemsize, self.read_soon)

    def read_ahead(self, indices: Sequence[int] | NDArray[np.integer]) -> None:
        """Bring the frames of a batch from disk into the page cache, copying nothing."""
        numbers = self._take(indices).frame_numbers(self.bank.starts)
        self.bank.read_ahead(np.unique(numbers))

    def read_soon(self, indices: NDArray[np.integer]) -> None:
        """Have the kernel read the frames of many groups from disk while this process goes on."""
        numbers = self._take(indices).frame_numbers(self.bank.starts)
        self.bank.read_soon(np.unique(numbers))

    def check_unchanged(self, groups: Sequence[int] | NDArray[np.integer] | None = None) -> bool:
        """Refuse files that were replaced, written to or cut short since they were opened.

        A sidecar that changed is dropped, and made again when its frames are next asked for.

        Parameters
        ----------
        groups
            Only the files that these groups are of; None: all.

        Returns
        -------
        dropped
            A sidecar was, so that batches made since the last check may be of the changed one.

        Raises
        ------
        ScanFileError
            Naming the file; reading a map of a truncated file would end the process.
        """
        scans = self.scans
        if groups is not None and len(scans) > 1:
            scans = self._take(groups).scans_used
        dropped = [scan.check_unchanged() for scan in scans]
        return any(dropped)

    @property
    def tables(self) -> DeviceTables:
        """What all batches share, on the CPU; the frames are the maps themselves."""
        frames: Tensor | FrameBank | None = None
        if self.ground_truth != "file":
            whole = self.bank.whole()
            frames = self.bank if whole is None else whole
        if self._tables is None or self._tables.frames is not frames:
            self._tables = replace(self.frameless_tables, frames=frames)
        return self._tables

    @cached_property
    def frameless_tables(self) -> DeviceTables:
        """Probes and objects on the CPU, without the frames."""
        return DeviceTables.of_scans(self.scans, objects=self.ground_truth == "object")

    def __getstate__(self) -> dict[str, Any]:
        """Leave tables behind: another process maps the frames again, by path."""
        kept = {**self.__dict__, "_tables": None}
        kept.pop("frameless_tables", None)
        return kept

    def __repr__(self) -> str:
        return DATASET.text(self)

    def _repr_html_(self) -> str:
        return DATASET.html(self)

    @property
    def _patch_positions(self) -> PatchPositions | None:
        return self.patch_positions if self.ground_truth == "object" else None

    def _take(self, indices: Sequence[int] | NDArray[np.integer]) -> GroupIndex:
        return self.index.take(np.asarray(indices, dtype=np.int64))
