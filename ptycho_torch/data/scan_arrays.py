"""The arrays of one scan, valid once built.

Owns what a scan is made of and the choice of some of its frames. Where the frames lie is known by
the rooms below; groups are made by the room above.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.data import grouping, normalization
from ptycho_torch.data.config import check_integer, check_seed
from ptycho_torch.data.contract import check_array, check_finite, spec
from ptycho_torch.data.errors import ScanError
from ptycho_torch.data.frames import Frames, FrameStack, Progress
from ptycho_torch.data.scan_checks import (
    checked_coordinates,
    checked_frames,
    checked_patches,
    checked_probe,
)

if TYPE_CHECKING:
    from typing_extensions import Self

AnyArray = NDArray[Any]


class ScanArrays:
    """Positions, diffraction frames, probe and object of one scan.

    Parameters
    ----------
    xcoords, ycoords
        Probe positions, float, shape (M,), in object pixels; x is the column, y the row.
    xcoords_start, ycoords_start
        Nominal positions, shape (M,), object pixels.
    diff3d
        Diffraction amplitudes, shape (M, N, N), zero frequency at the centre; an array, or
        :class:`~ptycho_torch.data.frames.Frames` that stay on disk.
    probeGuess
        complex, shape (N, N), or (P, N, N) for incoherent modes.
    scan_index
        Integer, shape (M,); None means zeros.
    objectGuess
        Whole object, shape (H, W), optional.
    Y
        Ready-made patches, complex, shape (M, N, N) or (M, N, N, 1), optional; wins over
        ``objectGuess``.
    norm_Y_I
        Kept as given.
    metadata
        Provenance, a dict of JSON values.

    Raises
    ------
    ScanError, OptionTypeError
        An array is missing, or its shape, dtype or values break the contract.
    """

    def __init__(
        self,
        xcoords: AnyArray,
        ycoords: AnyArray,
        xcoords_start: AnyArray,
        ycoords_start: AnyArray,
        diff3d: AnyArray | Frames,
        probeGuess: AnyArray,
        scan_index: AnyArray | None,
        objectGuess: AnyArray | None = None,
        Y: AnyArray | FrameStack | None = None,
        norm_Y_I: Any = None,
        metadata: dict[str, Any] | None = None,
        *,
        path: Path | None = None,
    ) -> None:
        sizes: dict[str, int] = {"1": 1, "xy": 2}
        self.path = path
        self.frames = checked_frames(diff3d, path)
        sizes["M"], sizes["N"] = self.frames.shape[0], self.frames.shape[1]
        self.xcoords = checked_coordinates(xcoords, "xcoords", sizes, path)
        self.ycoords = checked_coordinates(ycoords, "ycoords", sizes, path)
        self.xcoords_start = checked_coordinates(xcoords_start, "xcoords_start", sizes, path)
        self.ycoords_start = checked_coordinates(ycoords_start, "ycoords_start", sizes, path)
        self.probeGuess = checked_probe(probeGuess, sizes, path)
        if scan_index is None:
            scan_index = np.zeros(sizes["M"], dtype=np.int64)
        self.scan_index = check_array(scan_index, spec("scan", "scan_index"), sizes, path)
        self.objectGuess = None
        if objectGuess is not None:
            self.objectGuess = check_array(objectGuess, spec("scan", "objectGuess"), sizes, path)
            check_finite(self.objectGuess, "objectGuess", path)
        self._patches = checked_patches(Y, sizes, path)
        self.norm_Y_I = norm_Y_I
        self.metadata = dict(metadata or {})
        self.sample_indices: NDArray[np.int64] | None = None
        self._subsample_name: str | None = None

    @property
    def n_frames(self) -> int:
        """M, the number of frames in use."""
        return len(self.xcoords)

    @property
    def N(self) -> int:
        """Pixels along a frame's side."""
        return self.frames.shape[1]

    @property
    def diff3d(self) -> AnyArray:
        """Amplitudes, shape (M, N, N): the map itself where it holds them as they are."""
        if self.sample_indices is None and self.frames.measurement == "amplitude":
            return self.frames.stored
        return self.frames.take(self.file_indices(np.arange(self.n_frames)))

    @property
    def Y(self) -> AnyArray | None:
        """Ready-made patches, complex, shape (M, N, N), or None."""
        patches = self.ready_patches
        if patches is None or self.sample_indices is None:
            return patches
        return patches[self.sample_indices]

    @property
    def ready_patches(self) -> AnyArray | None:
        """``Y`` of every frame in the file's own numbering, or None; read when asked for."""
        return None if self._patches is None else self._patches.stored

    @property
    def has_ready_patches(self) -> bool:
        """Whether there is a ``Y``; reads nothing."""
        return self._patches is not None

    def __len__(self) -> int:
        return self.n_frames

    def __repr__(self) -> str:
        where = "memory" if self.path is None else str(self.path)
        return f"{type(self).__name__}({where}: {self.n_frames} frames of {self.N} x {self.N})"

    def file_indices(self, indices: NDArray[np.integer]) -> NDArray[np.integer]:
        """Indices within the scan as indices within the file: they differ after subsampling."""
        return indices if self.sample_indices is None else self.sample_indices[indices]

    def subsample(self, n_subsample: int, seed: int | None = None) -> Self:
        """A scan of ``n_subsample`` of these frames, chosen before any grouping.

        ``sample_indices`` of the result holds the chosen frames, sorted, in the file's numbering.
        """
        check_integer("n_subsample", n_subsample, minimum=1)
        check_seed("subsample_seed", seed)
        chosen = self.choose(grouping.subsample(self.n_frames, n_subsample, seed))
        if seed is not None and self.sample_indices is None:
            chosen._subsample_name = f"n{n_subsample}s{seed}"
        return chosen

    def choose(self, keep: NDArray[np.integer]) -> Self:
        """A scan of some of these frames, by index; the frames themselves are shared."""
        chosen = object.__new__(type(self))
        chosen.__dict__.update(self.__dict__)
        chosen.sample_indices = self.file_indices(keep).astype(np.int64)
        chosen._subsample_name = None
        for name in ("xcoords", "ycoords", "scan_index"):
            setattr(chosen, name, getattr(self, name)[keep])
        for axis in "xy":
            start, measured = getattr(self, f"{axis}coords_start"), getattr(self, f"{axis}coords")
            # Start positions that were the measured ones by default still are.
            kept = getattr(chosen, f"{axis}coords") if start is measured else start[keep]
            setattr(chosen, f"{axis}coords_start", kept)
        return chosen

    def frame_energies(
        self, *, check: bool = False, progress: Progress | None = None
    ) -> NDArray[np.float64]:
        """Sum of amplitude ** 2 of every frame, float64, shape (M,); reads every frame once.

        With ``check`` the frames of a whole scan are held against its checksum in the same pass.
        """
        energies = normalization.frame_energies(
            self.frames, self.sample_indices, check=check, progress=progress
        )
        if not energies.any():
            raise ScanError("diff3d", "zero in every frame", "some signal", file=self.path)
        return energies
