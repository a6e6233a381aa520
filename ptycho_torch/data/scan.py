"""Scan: positions, diffraction frames, probe and object of one measurement.

Owns the one validator of a scan. A scan is valid once it is built and stays so: its attributes
cannot be set and its arrays cannot be written to. Where the frames lie is known by the rooms below;
groups are made by the rooms above.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.data import grouping, normalization, representation
from ptycho_torch.data.config import check_integer, check_seed
from ptycho_torch.data.contract import ArraySpec, check_array, check_complex64, check_finite, spec
from ptycho_torch.data.errors import (
    FrozenScanError,
    OptionError,
    OptionTypeError,
    ScanError,
    naming,
)
from ptycho_torch.data.frames import Frames, FrameStack, Progress
from ptycho_torch.data.geometry import Geometry

if TYPE_CHECKING:
    from typing_extensions import Self

logger = logging.getLogger(__name__)

AnyArray = NDArray[Any]

FARTHEST_PX = 2.0**31
"""No object is that large, and sums of such positions stay finite."""


class Scan:
    """One scan, checked against the scan table of :mod:`ptycho_torch.data.contract`.

    Parameters
    ----------
    xcoords, ycoords, xcoords_start, ycoords_start
        Positions, shape (M,), object pixels. Integers become float64; start positions that are None
        are the measured ones. Small arrays are copied, so that nobody can alter them later.
    frames
        Amplitudes, shape (M, N, N): an array, which is not copied, or
        :class:`~ptycho_torch.data.frames.Frames` that stay on disk.
    probeGuess
        complex, (N, N), or (P, N, N) for incoherent modes; (N, N, 1) loses its last axis. None only
        from a reader whose file has no probe: reading puts one there, or refuses.
    bad_pixels
        bool, (N, N) or per frame (M, N, N), True = bad: such pixels count as 0, in energies too.
        None: those of ``frames``.
    geometry
        Completed by the object pixel where the far-field relation gives it.
    frame_photons
        Photons, or a monitor's counts, that met the object in each frame, (M,), above 0.
    scan_index, objectGuess, Y, norm_Y_I, metadata, path
        Optional. A missing scan_index is zeros; Y may be (M, N, N, 1), or a stack on disk; metadata
        are None where there are none; errors name the path.

    Raises
    ------
    ScanError, OptionTypeError
        An array is missing, or its shape, dtype or values break the contract.
    """

    path: Path | None
    frames: Frames
    xcoords: NDArray[np.floating]
    ycoords: NDArray[np.floating]
    xcoords_start: NDArray[np.floating]
    ycoords_start: NDArray[np.floating]
    probeGuess: AnyArray
    scan_index: NDArray[np.integer]
    objectGuess: AnyArray | None
    patches: FrameStack | None
    norm_Y_I: Any
    metadata: dict[str, Any] | None
    geometry: Geometry | None
    frame_photons: NDArray[np.float64] | None
    chosen: NDArray[np.int64] | None
    _part_name: str | None

    def __init__(
        self,
        *,
        xcoords: AnyArray,
        ycoords: AnyArray,
        frames: AnyArray | Frames,
        probeGuess: AnyArray | None,
        xcoords_start: AnyArray | None = None,
        ycoords_start: AnyArray | None = None,
        scan_index: AnyArray | None = None,
        objectGuess: AnyArray | None = None,
        Y: AnyArray | FrameStack | None = None,
        norm_Y_I: Any = None,
        metadata: Mapping[str, Any] | None = None,
        path: Path | None = None,
        bad_pixels: NDArray[np.bool_] | None = None,
        geometry: Geometry | None = None,
        frame_photons: AnyArray | None = None,
    ) -> None:
        with naming(path):
            stack = _frames(frames)
            if bad_pixels is not None:
                stack = stack.with_bad_pixels(bad_pixels)
            M, N = stack.shape[:2]
            x, y = _positions("xcoords", xcoords, M), _positions("ycoords", ycoords, M)
            numbers = np.zeros(M, np.int64) if scan_index is None else scan_index
            vars(self).update(
                path=path,
                frames=stack,
                xcoords=x,
                ycoords=y,
                xcoords_start=_start_positions("xcoords_start", xcoords_start, x),
                ycoords_start=_start_positions("ycoords_start", ycoords_start, y),
                probeGuess=None if probeGuess is None else _probe(probeGuess, N),
                scan_index=_small(spec("scan", "scan_index"), numbers, {"M": M}),
                objectGuess=_object(objectGuess),
                patches=_patches(Y, stack.shape),
                norm_Y_I=norm_Y_I,
                metadata=dict(metadata) if metadata else None,
                geometry=_geometry(geometry, N),
                frame_photons=_frame_photons(frame_photons, M),
                chosen=None,
                _part_name=None,
            )

    @classmethod
    def sharing(cls, scan: Scan, **changes: Any) -> Self:
        """A scan with the fields of another, some of them replaced; nothing is checked again."""
        copy = object.__new__(cls)
        vars(copy).update(vars(scan), **changes)
        return copy

    @property
    def has_probe(self) -> bool:
        """Whether there is a probe; only a reader's scan may be without one."""
        return vars(self)["probeGuess"] is not None

    def replacing_probe(self, probe: AnyArray, metadata: Mapping[str, Any]) -> Self:
        """The same scan with another probe, checked as in a new one, and other metadata."""
        with naming(self.path):
            checked = _probe(probe, self.N)
        return self.sharing(self, probeGuess=checked, metadata=dict(metadata) or None)

    def __setattr__(self, name: str, value: Any) -> None:
        kind, attribute = type(self).__name__, getattr(type(self), name, None)
        if isinstance(attribute, property) and attribute.fset:
            return object.__setattr__(self, name, value)
        raise FrozenScanError(
            f"{kind}.{name}",
            "an attribute of a scan that is built",
            "no change of it",
            action=f"Build another {kind}",
        )

    def __delattr__(self, name: str) -> None:
        Scan.__setattr__(self, name, None)

    def __setstate__(self, state: dict[str, Any]) -> None:
        # A pickle carries numbers, not whether they may be written to. Start positions that are the
        # measured ones stay the same array.
        frozen = {id(v): _read_only(v) for v in state.values() if isinstance(v, np.ndarray)}
        vars(self).update({name: frozen.get(id(v), v) for name, v in state.items()})

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
        """Amplitudes, shape (M, N, N), read-only: the map itself where it holds them."""
        as_stored = self.frames.measurement == "amplitude" and self.frames.bad_pixels is None
        if self.chosen is None and as_stored:
            return self.frames.stored
        return _read_only(self.frames.take(self.file_indices(np.arange(self.n_frames))))

    @property
    def bad_pixels(self) -> NDArray[np.bool_] | None:
        """Bad pixels, True = bad, (N, N), or (M, N, N) where they vary by frame; None: none."""
        bad = self.frames.bad_pixels
        if bad is None or bad.ndim == 2 or self.chosen is None:
            return bad
        return _read_only(bad[self.chosen])

    @property
    def Y(self) -> AnyArray | None:
        """Ready-made patches, complex, shape (M, N, N), read-only, or None."""
        if self.patches is None:
            return None
        stored = self.patches.stored
        return stored if self.chosen is None else _read_only(stored[self.chosen])

    def __len__(self) -> int:
        return self.n_frames

    def __repr__(self) -> str:
        return representation.SCAN.text(self)

    def _repr_html_(self) -> str:
        return representation.SCAN.html(self)

    def file_indices(self, indices: NDArray[np.integer]) -> NDArray[np.integer]:
        """Indices within the scan as indices within the file: they differ after subsampling."""
        return indices if self.chosen is None else self.chosen[indices]

    def check_unchanged(self) -> bool:
        """Raise ScanFileError where the file was replaced or written to since it was opened.

        True where a sidecar, of frames or patches, vanished or changed: it is made again on next
        use, and what was read since the last check may be of the changed one.
        """
        stacks = [self.frames] if self.patches is None else [self.frames, self.patches]
        dropped = [stack.check_unchanged() for stack in stacks]
        return any(dropped)

    def subsample(self, n_subsample: int, seed: int | None = None) -> Self:
        """A scan of ``n_subsample`` of these frames, chosen before any grouping.

        ``chosen`` of the result holds these frames, sorted, in the numbering of the file.
        """
        check_integer("n_subsample", n_subsample, minimum=1)
        check_seed("subsample_seed", seed)
        keep = grouping.subsample(self.n_frames, n_subsample, seed)
        named = seed is not None and self.chosen is None
        return self.choose(keep, part_name=f"n{n_subsample}s{seed}" if named else None)

    def choose(self, keep: NDArray[np.integer], *, part_name: str | None = None) -> Self:
        """A scan of some of these frames, by index; the frames themselves are shared.

        Groups of the part are kept in a cache only where ``part_name`` tells it from other parts.
        """
        # Masks and negative indices become frame numbers.
        keep = np.arange(self.n_frames)[keep]
        if not len(keep):
            raise OptionError("frames to keep", "none", "at least one", file=self.path)
        x, y = _read_only(self.xcoords[keep]), _read_only(self.ycoords[keep])
        # Start positions that are the measured ones stay the same array.
        same_x, same_y = self.xcoords_start is self.xcoords, self.ycoords_start is self.ycoords
        return self.sharing(
            self,
            xcoords=x,
            ycoords=y,
            xcoords_start=x if same_x else _read_only(self.xcoords_start[keep]),
            ycoords_start=y if same_y else _read_only(self.ycoords_start[keep]),
            scan_index=_read_only(self.scan_index[keep]),
            frame_photons=None
            if self.frame_photons is None
            else _read_only(self.frame_photons[keep]),
            chosen=_read_only(self.file_indices(keep).astype(np.int64)),
            _part_name=part_name,
        )

    def cache_name(self) -> Path | None:
        """The scan's path, or for a seeded subsample one that names it; None: nothing is kept."""
        path = self.path
        if path is None or self.chosen is None:
            return path
        if self._part_name is None:
            logger.info("%s: groups of a chosen part of the scan are not cached", path)
            return None
        return path.with_name(f"{path.stem}.{self._part_name}{path.suffix}")

    def frame_energies(
        self, *, check: bool = False, progress: Progress | None = None
    ) -> NDArray[np.float64]:
        """Sum of amplitude ** 2 per frame, float64, shape (M,); reads every frame once.

        With ``check`` the same pass compares the frames of a whole scan with their checksum.
        """
        energies = normalization.frame_energies(
            self.frames, self.chosen, check=check, progress=progress
        )
        if not energies.any():
            raise ScanError("diff3d", "zero in every frame", "some signal", file=self.path)
        return energies


def _read_only(array: AnyArray) -> AnyArray:
    """A view that cannot be made writable: the array under it is read-only too."""
    array.flags.writeable = False
    return array.view()


def _small(wanted: ArraySpec, array: Any, sizes: dict[str, int]) -> AnyArray:
    """A read-only copy of an array that keeps its entry of the contract and is finite."""
    checked = check_array(array, wanted, sizes)
    if checked.dtype.kind in "fc":
        check_finite(checked, wanted.name)
    if checked.dtype.kind == "c":
        check_complex64(checked, wanted.name)
        if checked.any() and not checked.astype(np.complex64, copy=False).any():
            raise ScanError(wanted.name, "zero once it is complex64", "some signal there")
    return _read_only(np.array(checked))


def _frames(frames: Any) -> Frames:
    if isinstance(frames, Frames):
        return frames
    return Frames.from_array(check_array(frames, spec("scan", "diff3d"), {}))


def _positions(name: str, array: Any, frames: int) -> AnyArray:
    if isinstance(array, np.ndarray) and array.dtype.kind in "iu":
        array = array.astype(np.float64)
    positions = _small(spec("scan", name), array, {"M": frames})
    check_reach(name, positions)
    return positions


def check_reach(name: str, positions: AnyArray) -> None:
    """Refuse positions that no object reaches to; a ScanError says how far they go."""
    farthest = float(np.abs(positions).max())
    if farthest > FARTHEST_PX:
        raise ScanError(
            name,
            f"up to {farthest:g} px from the origin",
            f"at most {FARTHEST_PX:g} px",
            action="Give positions in object pixels",
        )


def _start_positions(name: str, array: Any, measured: AnyArray) -> AnyArray:
    """Start positions; where they equal the measured ones, the two share one array."""
    if array is None:
        return measured
    start = _positions(name, array, len(measured))
    same = start.dtype == measured.dtype and np.array_equal(start, measured)
    return measured if same else start


def _probe(probe: Any, side: int) -> AnyArray:
    """The probe (N, N), or its modes (P, N, N)."""
    wanted = spec("scan", "probeGuess")
    if isinstance(probe, np.ndarray) and probe.ndim == 3:
        if probe.shape == (side, side, 1):
            probe = probe[:, :, 0]
        else:
            wanted = replace(wanted, axes=("P", "N", "N"))
    return _small(wanted, probe, {"N": side})


def _geometry(geometry: Any, N: int) -> Geometry | None:
    if geometry is None:
        return None
    if not isinstance(geometry, Geometry):
        raise OptionTypeError("geometry", type(geometry).__name__, "a Geometry")
    return geometry.for_frames(N)


def _frame_photons(photons: Any, frames: int) -> AnyArray | None:
    if photons is None:
        return None
    checked = _small(spec("scan", "frame_photons"), photons, {"M": frames}).astype(np.float64)
    if not (checked > 0).all():
        number = int((checked <= 0).argmax())
        raise ScanError(f"frame_photons[{number}]", checked[number], "a number above 0")
    return _read_only(checked)


def _object(obj: Any) -> AnyArray | None:
    return None if obj is None else _small(spec("scan", "objectGuess"), obj, {})


def _patches(Y: Any, frames: tuple[int, int, int]) -> FrameStack | None:
    """Ready-made patches, complex, one per frame, or None."""
    if Y is None:
        return None
    if isinstance(Y, np.ndarray):
        Y = Y[..., 0] if Y.ndim == 4 and Y.shape[-1] == 1 else Y
        check_array(Y, spec("scan", "Y"), {"M": frames[0], "N": frames[1]})
        return FrameStack.from_array(Y)
    if not isinstance(Y, FrameStack):
        raise OptionTypeError("Y", type(Y).__name__, "an array (M, N, N)")
    if Y.shape != frames or Y.dtype.kind != "c":
        raise ScanError("Y", f"{Y.shape} {Y.dtype}", f"{frames}, complex")
    return Y
