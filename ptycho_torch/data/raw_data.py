"""RawData: one scan and its grouped arrays.

Owns the reference's ``generate_grouped_data``. Where the frames lie, how positions become groups
and what a cache file holds is known by the rooms below.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.data import grouping, normalization, patches
from ptycho_torch.data.caches.names import CachePolicy
from ptycho_torch.data.caches.scan_groups import ScanGroups, group_scan
from ptycho_torch.data.config import (
    GroupingConfig,
    PatchPositions,
    check_choice,
    check_integer,
    check_seed,
)
from ptycho_torch.data.errors import OptionError, OptionTypeError
from ptycho_torch.data.frames import Frames
from ptycho_torch.data.group_coords import centred_coords
from ptycho_torch.data.grouping import GroupingRequest
from ptycho_torch.data.readers import ScanFields, read_fields
from ptycho_torch.data.readers.write_npz import write_scan
from ptycho_torch.data.scan_arrays import ScanArrays

logger = logging.getLogger(__name__)

AnyArray = NDArray[Any]


class RawData(ScanArrays):
    """A scan: positions, diffraction frames, probe, and what is known of the object.

    Built from the arrays of a scan, as :class:`~ptycho_torch.data.scan_arrays.ScanArrays` lists
    them: ``RawData(xcoords, ycoords, xcoords_start, ycoords_start, diff3d, probeGuess, scan_index,
    objectGuess=None, Y=None, norm_Y_I=None, metadata=None)``.
    """

    @classmethod
    def from_coords_without_pc(
        cls,
        xcoords: AnyArray,
        ycoords: AnyArray,
        diff3d: AnyArray | Frames,
        probeGuess: AnyArray,
        scan_index: AnyArray | None,
        objectGuess: AnyArray | None = None,
    ) -> RawData:
        """A scan whose positions were not corrected: start positions equal the positions."""
        return cls(xcoords, ycoords, xcoords, ycoords, diff3d, probeGuess, scan_index, objectGuess)

    @classmethod
    def from_fields(cls, fields: ScanFields, *, use_file_Y: bool = False) -> RawData:
        """A scan from what a reader found in a file."""
        return cls(
            fields.xcoords,
            fields.ycoords,
            _same_or(fields.xcoords, fields.xcoords_start),
            _same_or(fields.ycoords, fields.ycoords_start),
            fields.frames,
            fields.probeGuess,
            fields.scan_index,
            fields.objectGuess,
            Y=fields.Y if use_file_Y else None,
            metadata=fields.metadata,
            path=fields.path,
        )

    @classmethod
    def from_file(
        cls,
        path: str | Path,
        *,
        measurement: str = "auto",
        use_file_Y: bool = False,
        n_subsample: int | None = None,
        subsample_seed: int | None = None,
        sidecar: str | Path = "auto",
    ) -> RawData:
        """Open a canonical NPZ; the frames stay in the file until they are used.

        Parameters
        ----------
        path
            Canonical NPZ.
        measurement
            ``"amplitude"``, ``"counts"`` (the square root is taken where frames are used) or
            ``"auto"``: float frames are amplitude; frames that look like counts are refused.
        use_file_Y
            Take ready-made patches from the file's ``Y``; the reference ignores them.
        n_subsample, subsample_seed
            Keep this many frames, chosen by this seed; see :meth:`subsample`.
        sidecar
            Where the frames of a compressed NPZ are decompressed to, once: ``"auto"`` (beside the
            scan), ``"off"`` (in memory), ``"readonly"`` or a directory.

        Raises
        ------
        ScanFileNotFoundError, ScanFileError, ScanKeyError, ScanError
            One line naming file, field, what was found and what was expected.
        """
        fields = read_fields(Path(path), format="npz", measurement=measurement, sidecar=sidecar)
        raw = cls.from_fields(fields, use_file_Y=use_file_Y)
        return raw if n_subsample is None else raw.subsample(n_subsample, subsample_seed)

    def group(self, config: GroupingConfig, cache: CachePolicy = "auto") -> ScanGroups:
        """Group the scan, through its ``.groups_cache.npz`` where there is a file to keep it by.

        Parameters
        ----------
        config
            What is asked for; ``n_subsample`` must have been applied by :meth:`subsample`.
        cache
            ``"auto"``: beside the scan; ``"readonly"``: used but not written; ``"off"``; or a
            directory.

        Raises
        ------
        OptionError
            The request cannot be met by this scan.
        ScanError
            A frame holds NaN, infinity or negative values, or all frames are zero.
        """
        return group_scan(
            self.xcoords,
            self.ycoords,
            self.frame_energies,
            config,
            frames=self.frames.identity(),
            measurement=self.frames.measurement,
            scan_path=self._cache_name(),
            cache=cache,
        )

    def generate_grouped_data(
        self,
        N: int,
        K: int = 4,
        nsamples: int = 1,
        dataset_path: str | Path | None = None,
        seed: int | None = None,
        sequential_sampling: bool = False,
        gridsize: int | None = None,
        enable_oversampling: bool = False,
        neighbor_pool_size: int | None = None,
        patch_positions: PatchPositions = "reference",
    ) -> dict[str, Any]:
        """Grouped arrays, equal to those of the TensorFlow reference.

        Parameters
        ----------
        N
            Pixels along a frame's side.
        K
            Nearest neighbours a group is drawn from; K >= C = gridsize ** 2.
        nsamples
            Groups asked for; at gridsize 1 capped at M.
        dataset_path
            Scan file whose ``.groups_cache.npz`` is used and kept; None: no cache.
        seed
            Seed of the draws; None takes fresh entropy. NumPy's global stream is never touched.
        sequential_sampling
            The first ``nsamples`` frames are the seed positions, and the draws use seed 0.
        gridsize
            A group has gridsize ** 2 frames. Required: there is no global to take it from.
        enable_oversampling, neighbor_pool_size
            Allow nsamples > M at gridsize > 1, combining this many neighbours (default K).
        patch_positions
            Where object patches are cut: ``"reference"`` (mirrored through the group's centre, as
            the reference does) or ``"scan"`` (at the positions).

        Returns
        -------
        grouped
            The keys of the contract's grouped table: ``nn_indices`` (B, C), ``diffraction`` and
            ``X_full`` (B, N, N, C), ``coords_*`` (B, 1, 2, C or 1), ``Y`` (B, N, N, C) or None,
            ``objectGuess``; and ``sample_indices`` after subsampling.

        Raises
        ------
        OptionError, OptionTypeError
            The request cannot be met; the message carries the numbers.
        ScanError
            Frames are not finite, negative, or zero throughout.

        Examples
        --------
        >>> from ptycho_torch import simulate_scan
        >>> scan = simulate_scan(n_frames=64, N=32, seed=1)
        >>> scan.generate_grouped_data(32, K=6, nsamples=10, seed=0, gridsize=2)["X_full"].shape
        (10, 32, 32, 4)
        """
        check_integer("N", N, minimum=1)
        check_integer("K", K, minimum=0)
        check_integer("nsamples", nsamples, minimum=1)
        check_integer("neighbor_pool_size", neighbor_pool_size, minimum=0, optional=True)
        check_choice("patch_positions", patch_positions, PatchPositions)
        check_seed("seed", seed)
        if gridsize is None:
            raise OptionTypeError(
                "gridsize", None, "an integer >= 1", action="Pass gridsize=1, 2 or 3"
            )
        check_integer("gridsize", gridsize, minimum=1)
        if N != self.N and self._patches is None and self.objectGuess is not None:
            raise OptionError("N", N, f"{self.N}, the side of the frames in diff3d", file=self.path)
        request = GroupingRequest(
            n_frames=self.n_frames,
            n_groups=nsamples,
            gridsize=gridsize,
            neighbor_count=K,
            seed=seed,
            sequential_sampling=sequential_sampling,
            enable_oversampling=enable_oversampling,
            neighbor_pool_size=neighbor_pool_size,
        )
        if dataset_path is not None:
            config = GroupingConfig(
                gridsize=gridsize,
                neighbor_count=K,
                n_groups=nsamples,
                seed=seed,
                sequential_sampling=sequential_sampling,
                enable_oversampling=enable_oversampling,
                neighbor_pool_size=neighbor_pool_size,
            )
            groups = self.group(config, Path(dataset_path).parent)
            nn, energies = groups.nn_indices, groups.frame_energies[groups.nn_indices]
        else:
            nn = grouping.sample_then_group(self.xcoords, self.ycoords, request)
            used, inverse = np.unique(nn, return_inverse=True)
            energies = normalization.frame_energies(self.frames, self.file_indices(used))
            energies = energies[inverse].reshape(nn.shape)
        return self.grouped_arrays(
            nn, normalization.pooled_scale([energies], N, self.path), patch_positions
        )

    def grouped_coords(self, nn_indices: NDArray[np.integer]) -> dict[str, AnyArray]:
        """The six ``coords_*`` arrays of groups; nn_indices (B, C), results (B, 1, 2, C or 1)."""
        measured = centred_coords("coords", self.xcoords, self.ycoords, nn_indices)
        if self.xcoords_start is self.xcoords and self.ycoords_start is self.ycoords:
            start = {name.replace("coords", "coords_start"): v for name, v in measured.items()}
        else:
            start = centred_coords(
                "coords_start", self.xcoords_start, self.ycoords_start, nn_indices
            )
        return {**measured, **start}

    def grouped_arrays(
        self,
        nn_indices: NDArray[np.integer],
        scale: np.float32,
        patch_positions: PatchPositions = "reference",
    ) -> dict[str, Any]:
        """The dictionary of :meth:`generate_grouped_data` for known groups and scale."""
        groups, channels = nn_indices.shape
        amplitudes = self.frames.take(self.file_indices(nn_indices.ravel()))
        frame = amplitudes.shape[1:]
        stacked = amplitudes.reshape(groups, channels, *frame)
        # A copy would double the largest array; the axes of the view are the contract's.
        diffraction = stacked.transpose(0, 2, 3, 1)
        X_full = (stacked.astype(np.float32, copy=False) * scale).transpose(0, 2, 3, 1)
        coords = self.grouped_coords(nn_indices)
        result: dict[str, Any] = {
            "diffraction": diffraction,
            "Y": self._grouped_patches(nn_indices, coords, patch_positions),
            **coords,
            "nn_indices": nn_indices,
            "objectGuess": self.objectGuess,
            "X_full": X_full,
        }
        if self.sample_indices is not None:
            result["sample_indices"] = self.sample_indices
        return result

    def to_file(self, path: str | Path) -> Path:
        """Write a canonical NPZ, uncompressed so that its frames can be mapped in place.

        Frames are streamed; ``counts`` become float32 amplitude. The file appears whole or not
        at all.

        Returns
        -------
        path
            Where it was written.
        """
        return write_scan(
            Path(path),
            arrays={
                "xcoords": self.xcoords,
                "ycoords": self.ycoords,
                "xcoords_start": self.xcoords_start,
                "ycoords_start": self.ycoords_start,
                "probeGuess": self.probeGuess,
                "scan_index": self.scan_index,
                "objectGuess": self.objectGuess,
                "Y": self.Y,
            },
            frames=self.frames,
            indices=self.file_indices(np.arange(self.n_frames)),
            metadata=self.metadata,
        )

    def _cache_name(self) -> Path | None:
        """The scan's path, or for a seeded subsample one that names it; None: nothing is kept."""
        if self.path is None or self.sample_indices is None:
            return self.path
        if self._subsample_name is None:
            logger.info("%s: groups of a chosen part of the scan are not cached", self.path)
            return None
        return self.path.with_name(f"{self.path.stem}.{self._subsample_name}{self.path.suffix}")

    def _grouped_patches(
        self,
        nn_indices: NDArray[np.integer],
        coords: dict[str, AnyArray],
        patch_positions: PatchPositions,
    ) -> AnyArray | None:
        groups, channels = nn_indices.shape
        if (ready := self.ready_patches) is not None:
            taken: AnyArray = ready[self.file_indices(nn_indices.ravel())]
            return taken.reshape(groups, channels, self.N, self.N).transpose(0, 2, 3, 1)
        if self.objectGuess is None:
            return None
        if patch_positions == "reference" and channels > 1:
            patches.warn_mirrored()
        origins = patches.patch_origins(
            coords["coords_offsets"], coords["coords_relative"], patch_positions
        ).reshape(-1, 2)
        cut = patches.object_patches(self.objectGuess, origins[:, 0], origins[:, 1], self.N)
        return cut.reshape(groups, channels, self.N, self.N).transpose(0, 2, 3, 1)


def _same_or(measured: AnyArray, start: AnyArray) -> AnyArray:
    """Start positions; those that were not corrected are the measured ones, held once."""
    same = start.dtype == measured.dtype and np.array_equal(start, measured)
    return measured if same else start


def read_scan(
    path: str | Path, *, format: str = "auto", use_file_Y: bool = False, **reader_options: Any
) -> RawData:
    """Read a scan in any registered format.

    Parameters
    ----------
    path
        The file.
    format
        Name of a registered format, or ``"auto"``: judged from the file.
    use_file_Y
        Take ready-made patches from the file, where it has them.
    **reader_options
        Options of that format's reader; an unknown one is refused by name.

    Raises
    ------
    ScanFileNotFoundError, ScanFileError, ScanKeyError, ScanError, OptionError
        One line naming file, field, what was found and what was expected.
    """
    fields = read_fields(Path(path), format=format, **reader_options)
    return RawData.from_fields(fields, use_file_Y=use_file_Y)
