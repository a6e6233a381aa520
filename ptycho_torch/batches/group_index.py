"""The groups of a dataset of one or many scans, and what is looked up for some of them.

Owns the numbering of frames: within a scan, within its file, and through all files. Knows scans and
indices; neither frames nor tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.batches.joined_scans import JoinedScans
from ptycho_torch.data.caches.names import CachePolicy, groups_places
from ptycho_torch.data.caches.scan_groups import ScanGroups
from ptycho_torch.data.config import GroupingConfig, Normalization
from ptycho_torch.data.errors import naming
from ptycho_torch.data.grouped import grouped_coords
from ptycho_torch.data.normalization import intensity_scale
from ptycho_torch.data.prepare import each_in_a_thread
from ptycho_torch.data.raw_data import RawData

IntArray = NDArray[np.integer]


@dataclass(frozen=True)
class GroupIndex:
    """Groups of C frames each, and the scans they are of.

    Attributes
    ----------
    joined
        The frames of S scans.
    nn_indices
        Frame indices within each group's scan, shape (G, C).
    scan_id
        Which scan, int64, shape (G,).
    scales
        X = scale * amplitude, float32, one per scan, shape (S,).
    """

    joined: JoinedScans
    nn_indices: IntArray
    scan_id: NDArray[np.int64]
    scales: NDArray[np.float32]

    @classmethod
    def of_scans(
        cls,
        scans: tuple[RawData, ...],
        grouping: GroupingConfig,
        *,
        cache: CachePolicy,
        normalization: Normalization,
        labels: tuple[IntArray, ...] | None = None,
    ) -> GroupIndex:
        """Group every scan, through its cache, and compute the X scales.

        Parameters
        ----------
        scans
            S scans of one N.
        grouping, cache, normalization
            As in :class:`~ptycho_torch.PtychoDataset`.
        labels
            For each scan, the number that batches show for each of its frames; None: its index.

        Raises
        ------
        OptionError, ScanError
            A scan cannot be grouped like this, or holds no signal.
        """
        grouped = list(_each(lambda scan: scan.group(grouping, cache), scans, grouping, cache))
        return cls(
            JoinedScans(scans, labels),
            np.concatenate([entry.nn_indices for entry in grouped]),
            np.repeat(np.arange(len(grouped)), [len(entry.nn_indices) for entry in grouped]),
            _scales(scans, grouped, normalization),
        )

    def __len__(self) -> int:
        return len(self.nn_indices)

    @property
    def scans(self) -> tuple[RawData, ...]:
        """The S scans."""
        return self.joined.scans

    @property
    def scans_used(self) -> tuple[RawData, ...]:
        """The scans that have groups here."""
        return tuple(self.scans[scan] for scan in np.unique(self.scan_id))

    def take(self, groups: IntArray) -> GroupIndex:
        """Some of the groups, by index, shape (B,)."""
        # dataclasses.replace would take longer than the rest of this.
        return GroupIndex(self.joined, self.nn_indices[groups], self.scan_id[groups], self.scales)

    def frame_numbers(self, starts: IntArray) -> IntArray:
        """Where the groups' frames lie, counted through the files of all scans.

        Parameters
        ----------
        starts
            The number of the first frame of each scan's file.

        Returns
        -------
        numbers
            Shape (G, C).
        """
        files = self.nn_indices if self.joined.files is None else self.joined.files[self._rows()]
        if len(self.scans) == 1:
            return files
        numbers: IntArray = files + starts[self.scan_id][:, None]
        return numbers

    def frame_labels(self) -> NDArray[np.int64]:
        """The numbers that batches show for the groups' frames, int64, (G, C)."""
        if self.joined.labels is None:
            return self.nn_indices.astype(np.int64, copy=False)
        labels: NDArray[np.int64] = self.joined.labels[self._rows()]
        return labels

    def frame_photons(self) -> NDArray[np.float64] | None:
        """Photons of the groups' frames, (G, C), where every scan has them; else None."""
        photons = self.joined.photons
        return None if photons is None else photons[self._rows()]

    def coords(self) -> dict[str, NDArray[Any]]:
        """The six ``coords_*`` arrays of the groups, (G, 1, 2, C or 1), object pixels."""
        if self.joined.alike:
            return grouped_coords(self.joined, self._rows())
        # Each scan's positions are averaged in their own dtype.
        coords: dict[str, NDArray[Any]] = {}
        for scan in np.unique(self.scan_id):
            rows = np.flatnonzero(self.scan_id == scan)
            for name, part in grouped_coords(self.scans[scan], self.nn_indices[rows]).items():
                whole = coords.setdefault(name, np.empty((len(self), *part.shape[1:])))
                whole[rows] = part
        return coords

    def _rows(self) -> IntArray:
        """The groups' frames, counted through the frames in use of all scans, (G, C)."""
        if len(self.scans) == 1:
            return self.nn_indices
        rows: IntArray = self.nn_indices + self.joined.starts[self.scan_id][:, None]
        return rows


def _each(
    group: Callable[[RawData], ScanGroups],
    scans: Sequence[RawData],
    grouping: GroupingConfig,
    cache: CachePolicy,
) -> Iterator[ScanGroups]:
    """Group every scan, in threads where there is something to compute.

    Threads that only read caches wait for each other. Caches are made in order: where the last
    scan has one, all have.
    """
    path = scans[-1].path
    if cache == "off" or path is None:
        return each_in_a_thread(group, scans)
    places = groups_places(path, grouping.gridsize, grouping.neighbor_count, cache)
    if any(place.exists() for place in places):
        return map(group, scans)
    return each_in_a_thread(group, scans)


def _scales(
    scans: Sequence[RawData], grouped: Sequence[ScanGroups], normalization: Normalization
) -> NDArray[np.float32]:
    """The X scale of every scan, float32, (S,)."""
    energies = [entry.frame_energies[entry.nn_indices] for entry in grouped]
    if normalization == "all":
        return np.repeat(
            intensity_scale(energies, scans[0].N, scans[0].frames.measurement), len(scans)
        )
    scales = []
    for scan, of_scan in zip(scans, energies, strict=True):
        with naming(scan.path):
            scales.append(intensity_scale([of_scan], scan.N, scan.frames.measurement))
    return np.array(scales, dtype=np.float32)
