"""RawData: the reference's face of a scan, and the door through which scans are read.

Owns the arguments of ``generate_grouped_data`` and what they mean. What a scan is, how positions
become groups, what a grouped array holds and what a cache keeps is known by the rooms below.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.data import grouping, normalization
from ptycho_torch.data.caches.names import CachePolicy
from ptycho_torch.data.caches.scan_groups import ScanGroups, group_scan
from ptycho_torch.data.config import (
    GroupingConfig,
    PatchPositions,
    check_choice,
    check_integer,
    path_and_seed,
)
from ptycho_torch.data.errors import OptionError, OptionTypeError, ScanError, naming
from ptycho_torch.data.frames import Frames, FrameStack
from ptycho_torch.data.geometry import Geometry
from ptycho_torch.data.grouped import grouped_arrays
from ptycho_torch.data.grouping import GroupingRequest
from ptycho_torch.data.patches import reference_patches
from ptycho_torch.data.readers import Reader, read_file
from ptycho_torch.data.readers.write_npz import write_scan
from ptycho_torch.data.scan import AnyArray, Scan

if TYPE_CHECKING:
    from typing_extensions import Self


class RawData(Scan):
    """A scan as the TensorFlow reference names it, and its grouped arrays.

    Parameters
    ----------
    xcoords, ycoords
        Probe positions, float, shape (M,), object pixels; x is the column, y the row.
    xcoords_start, ycoords_start
        Nominal positions, the same.
    diff3d
        Diffraction amplitudes, real, shape (M, N, N), zero frequency at the centre: an array, which
        is not copied, or :class:`~ptycho_torch.data.frames.Frames` that stay on disk.
    probeGuess
        complex, shape (N, N), (N, N, 1), or (P, N, N) for incoherent modes.
    scan_index
        Integer, shape (M,); None means zeros.
    objectGuess
        Whole object, shape (H, W), or None.
    Y
        Ready-made patches, complex, shape (M, N, N) or (M, N, N, 1), or None; they win over
        ``objectGuess``.
    norm_Y_I, metadata
        Kept as given; metadata are JSON values by name, None where there are none.
    bad_pixels
        bool, shape (N, N), or per frame (M, N, N), True = bad: such pixels count as 0 everywhere.
    geometry, frame_photons
        A :class:`~ptycho_torch.Geometry`; photons that met the object per frame, shape (M,).

    Raises
    ------
    ScanError, OptionTypeError
        An array is missing, or its shape, dtype or values break the contract.

    Notes
    -----
    The attributes have these names; ``frames`` are the frames where they lie. None can be set and
    no array written to, except that ``sample_indices`` takes a label.
    """

    def __init__(
        self,
        xcoords: AnyArray,
        ycoords: AnyArray,
        xcoords_start: AnyArray,
        ycoords_start: AnyArray,
        diff3d: AnyArray | Frames,
        probeGuess: AnyArray,
        scan_index: AnyArray | None = None,
        objectGuess: AnyArray | None = None,
        Y: AnyArray | FrameStack | None = None,
        norm_Y_I: Any = None,
        metadata: Mapping[str, Any] | None = None,
        bad_pixels: NDArray[np.bool_] | None = None,
        geometry: Geometry | None = None,
        frame_photons: AnyArray | None = None,
    ) -> None:
        super().__init__(
            xcoords=xcoords,
            ycoords=ycoords,
            frames=diff3d,
            probeGuess=_given("probeGuess", probeGuess),
            xcoords_start=_given("xcoords_start", xcoords_start),
            ycoords_start=_given("ycoords_start", ycoords_start),
            scan_index=scan_index,
            objectGuess=objectGuess,
            Y=Y,
            norm_Y_I=norm_Y_I,
            metadata=metadata,
            bad_pixels=bad_pixels,
            geometry=geometry,
            frame_photons=frame_photons,
        )

    @classmethod
    def from_coords_without_pc(
        cls,
        xcoords: AnyArray,
        ycoords: AnyArray,
        diff3d: AnyArray | Frames,
        probeGuess: AnyArray,
        scan_index: AnyArray | None = None,
        objectGuess: AnyArray | None = None,
    ) -> Self:
        """A scan whose positions were not corrected: start positions equal the positions."""
        return cls(xcoords, ycoords, xcoords, ycoords, diff3d, probeGuess, scan_index, objectGuess)

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
    ) -> Self:
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
            Where the frames of a compressed NPZ are unpacked to, once: ``"auto"`` (beside the
            scan), ``"off"`` (in memory), ``"readonly"`` or a directory.

        Raises
        ------
        ScanFileNotFoundError, ScanFileError, ScanKeyError, ScanError
            One line naming file, field, what was found and what was expected.
        """
        scan = read_file(path, "npz", sidecar=sidecar, measurement=measurement)
        raw = cls.sharing(scan, patches=scan.patches if use_file_Y else None)
        return raw if n_subsample is None else raw.subsample(n_subsample, subsample_seed)

    @classmethod
    def from_files(cls, train: str | Path, test: str | Path, **options: Any) -> tuple[Self, Self]:
        """Open two scans, one to train and one to test, each as :meth:`from_file` does."""
        return cls.from_file(train, **options), cls.from_file(test, **options)

    @classmethod
    def from_simulation(
        cls,
        xcoords: AnyArray,
        ycoords: AnyArray,
        probeGuess: AnyArray,
        objectGuess: AnyArray,
        scan_index: AnyArray | None = None,
    ) -> Self:
        """A scan of noise-free frames, |F(probe * patch)|, float32, at positions (M,), object px.

        :func:`~ptycho_torch.simulate_scan` makes object, probe, positions and noise as well.
        """
        modes = np.asarray(probeGuess).reshape(-1, *np.shape(probeGuess)[-2:])
        cut = reference_patches(objectGuess, xcoords, ycoords, modes.shape[-1])
        counts = sum(np.abs(np.fft.fft2(mode * cut, norm="ortho")) ** 2 for mode in modes)
        frames = np.fft.fftshift(np.sqrt(counts), axes=(1, 2)).astype(np.float32)
        rest = (probeGuess, scan_index, objectGuess)
        return cls.from_coords_without_pc(xcoords, ycoords, frames, *rest)

    @property
    def sample_indices(self) -> NDArray[np.int64] | None:
        """Numbers of the frames in the file they were chosen from, (M,); None for a whole scan.

        :meth:`subsample` gives them. Whoever has chosen frames before building the scan may set
        them as a label, which then indexes nothing here.
        """
        return vars(self).get("_label", self.chosen)

    @sample_indices.setter
    def sample_indices(self, value: Any) -> None:
        """Take a label: one integer per frame."""
        if value is None:
            vars(self).pop("_label", None)
            return
        label = np.array(value)
        if label.dtype.kind not in "iu" or label.shape != (self.n_frames,):
            found, expected = f"{label.shape} {label.dtype}", f"({self.n_frames},) integer"
            raise ScanError("sample_indices", found, expected, file=self.path)
        label.flags.writeable = False
        vars(self)["_label"] = label

    def choose(self, keep: NDArray[np.integer], *, part_name: str | None = None) -> Self:
        """As :meth:`Scan.choose`; a label is carried along."""
        part = super().choose(keep, part_name=part_name)
        label = vars(self).get("_label")
        return part if label is None else self.sharing(part, _label=label[keep])

    def group(
        self,
        config: GroupingConfig,
        cache: CachePolicy = "auto",
        *,
        energies: Callable[[], NDArray[np.float64]] | None = None,
    ) -> ScanGroups:
        """Group the scan, through its ``.groups_cache.npz`` where there is a file to keep it by.

        Parameters
        ----------
        config
            What is asked for; ``n_subsample`` must have been applied by :meth:`subsample`.
        cache
            ``"auto"`` (beside the scan), ``"readonly"`` (used, never written), ``"off"`` or a
            directory.
        energies
            Called where the cache has no frame energies; None: :meth:`frame_energies`.

        OptionError: the request cannot be met. ScanError: a frame is not finite, negative, or zero
        like all others.
        """
        return group_scan(
            self.xcoords,
            self.ycoords,
            self.frame_energies if energies is None else energies,
            config,
            frames=self.frames.identity(),
            measurement=self.frames.measurement,
            scan_path=self.cache_name(),
            cache=cache,
        )

    def generate_grouped_data(
        self,
        N: int,
        K: int = 4,
        nsamples: int = 1,
        dataset_path: str | Path | int | None = None,
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
            Scan file whose ``.groups_cache.npz`` is used and kept, also for a scan from arrays;
            None: no cache. An integer here is the seed, which stands fourth in some callers.
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
        dataset_path, seed = path_and_seed(dataset_path, seed)
        if gridsize is None:
            raise OptionTypeError(
                "gridsize", None, "an integer >= 1", action="Pass gridsize=1, 2 or 3"
            )
        check_integer("gridsize", gridsize, minimum=1)
        if N != self.N and self.patches is None and self.objectGuess is not None:
            raise OptionError("N", N, f"{self.N}, the side of the frames in diff3d", file=self.path)
        asked: dict[str, Any] = {
            "gridsize": gridsize,
            "neighbor_count": K,
            "n_groups": nsamples,
            "seed": seed,
            "sequential_sampling": sequential_sampling,
            "enable_oversampling": enable_oversampling,
            "neighbor_pool_size": neighbor_pool_size,
        }
        request = GroupingRequest(n_frames=self.n_frames, **asked)
        with naming(self.path):
            if dataset_path is not None:
                path, config = Path(dataset_path), GroupingConfig(**asked)
                named = self.sharing(self, path=path)
                groups = named.group(config, path.parent, energies=self.frame_energies)
                nn, energies = groups.nn_indices, groups.frame_energies[groups.nn_indices]
            else:
                nn = grouping.sample_then_group(self.xcoords, self.ycoords, request)
                used, inverse = np.unique(nn, return_inverse=True)
                energies = normalization.frame_energies(self.frames, self.file_indices(used))
                energies = energies[inverse].reshape(nn.shape)
            scale = normalization.intensity_scale([energies], N, self.frames.measurement)
        grouped = grouped_arrays(self, nn, scale, patch_positions)
        if self.check_unchanged():  # the sidecar they were gathered from is not what it was
            grouped = grouped_arrays(self, nn, scale, patch_positions)
        if self.sample_indices is not None:
            grouped["sample_indices"] = self.sample_indices
        return grouped

    def to_file(self, path: str | Path) -> Path:
        """Write a canonical NPZ, uncompressed so that its frames can be mapped in place.

        Frames are streamed; ``counts`` become float32 amplitude. The file appears whole or not
        at all. Its path is given back.
        """
        return write_scan(self, Path(path))


def _given(name: str, array: Any) -> AnyArray:
    if array is None:
        action = "Where nothing was corrected use RawData.from_coords_without_pc"
        if name == "probeGuess":
            action = "Make one of the frames with ptycho_torch.initial_probe"
        raise OptionTypeError(name, None, "an array", action=action)
    given: AnyArray = array
    return given


def read_scan(
    path: str | Path,
    *,
    format: str | Reader = "auto",
    use_file_Y: bool | None = False,
    sidecar: str | Path = "auto",
    **reader_options: Any,
) -> RawData:
    """Read a scan in any registered format.

    Parameters
    ----------
    path, format
        The file, and the name of its format, or a :class:`~ptycho_torch.data.readers.Reader`;
        ``"auto"``: judged from the file.
    use_file_Y
        Take ready-made patches from the file, where it has them; None: where it has no object.
    sidecar
        Where frames that cannot be mapped are unpacked to, as for :meth:`RawData.from_file`.
    **reader_options
        ``probe``: ``"file"``, ``"initial"`` (the average pattern), an array, or the path of an
        ``.npy`` or a scan; ``bad_pixels``: a mask (H, W) of stored frames, 0 = good, or its path;
        ``corrections``: :class:`~ptycho_torch.data.corrections.Corrections`; and the reader's own.

    Raises
    ------
    ScanFileNotFoundError, ScanFileError, ScanKeyError, ScanError, OptionError
        One line naming file, field, what was found and what was expected.
    """
    scan = read_file(path, format, sidecar=sidecar, **reader_options)
    wanted = scan.objectGuess is None if use_file_Y is None else use_file_Y
    return RawData.sharing(scan, patches=scan.patches if wanted else None)
