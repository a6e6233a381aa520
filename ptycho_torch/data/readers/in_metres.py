"""From what a file says in metres to a scan in object pixels.

Owns the step that formats with counts and stage positions share: readout, geometry, positions, the
power of a probe. Knows no names in files.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.data.contract import check_finite
from ptycho_torch.data.detector import Detector
from ptycho_torch.data.errors import ScanError, ScanKeyError
from ptycho_torch.data.files.frame_source import FrameSource
from ptycho_torch.data.files.hdf5 import Hdf5File, opened_hdf5
from ptycho_torch.data.files.mapping import FileState
from ptycho_torch.data.files.npy_header import shape_text
from ptycho_torch.data.frames import Frames
from ptycho_torch.data.geometry import Geometry, Pixel, pair
from ptycho_torch.data.readers.measurement import settle_measurement
from ptycho_torch.data.readers.scan_file import ScanFile
from ptycho_torch.data.readout import Readout
from ptycho_torch.data.scan import AnyArray, Scan

logger = logging.getLogger(__name__)

MARGIN_PX = 2.0
"""Pixels kept free before the first patch, for interpolation and for positions that get refined."""


@dataclass(frozen=True)
class Options:
    """What users may say of any such format: see :func:`~ptycho_torch.data.readers.cxi.read_cxi`.

    ``geometry`` of a scan is what its file says, corrected by these.
    """

    measurement: str = "auto"
    sidecar: str = "auto"
    detector: Detector = field(default_factory=Detector)
    object_pixel_m: Pixel | None = None
    near_field: bool = False


@contextmanager
def hdf5_of(file: ScanFile, *, links: bool = False) -> Iterator[Hdf5File]:
    """The open scan file as HDF5, refused where its name leads elsewhere by now."""
    state = FileState.of(os.fstat(file.stream.fileno()))
    with opened_hdf5(file.path, state, links=links) as h5:
        yield h5


def read_numbers(h5: Hdf5File, name: str) -> NDArray[np.float64] | None:
    """A dataset of real, finite numbers as float64, or None where there is none."""
    if name not in h5:
        return None
    array = h5.read_array(name)
    if array.dtype.kind not in "fiu":
        raise ScanError(f"{name} dtype", array.dtype, "real numbers")
    check_finite(array, name)
    return array.astype(np.float64)


def read_number(h5: Hdf5File, name: str) -> float | None:
    """One number, or None where there is none; of zero, which writers put for unknown, too."""
    array = read_numbers(h5, name)
    if array is None:
        return None
    if array.size != 1:
        raise ScanError(f"{name} shape", shape_text(array.shape), "one number")
    return float(array.reshape(())) or None


def bad_and_negative(source: FrameSource) -> tuple[NDArray[np.bool_], bool]:
    """Pixels (H, W) that are NaN or infinite in any frame, and whether any value is negative.

    Frames of unsigned integers are not read for it.
    """
    bad, negative = np.zeros(source.shape[1:], bool), False
    if source.dtype.kind != "u":
        for _, block in source.blocks():
            low, high = block.min(axis=0), block.max(axis=0)  # both carry a NaN through
            bad |= ~(np.isfinite(low) & np.isfinite(high))
            negative = negative or bool((low < 0).any())
    return bad, negative


def scan_in_metres(
    file: ScanFile,
    source: FrameSource,
    options: Options,
    *,
    format: str,
    positions_m: AnyArray,
    geometry: Geometry,
    bad_pixels: AnyArray | None = None,
    dark: AnyArray | None = None,
    probe: AnyArray | None = None,
    **arrays: Any,
) -> Scan:
    """Build a scan from frames (M, H, W) of counts and positions (M, 2), (row, column) in metres.

    Pixels that are NaN or infinite in any frame are bad in all; negative counts become 0.
    ``geometry`` is that of the stored frames, ``bad_pixels`` (H, W) or (M, H, W), ``dark`` (H, W); a
    ``probe`` of the stored frames' pixels is left out where the detector options change them.
    """
    invalid, negative = bad_and_negative(source)
    bad = invalid if bad_pixels is None else _checked_mask(bad_pixels, source) | invalid
    if dark is not None and dark.shape == source.shape[1:] and not dark.any():
        dark = None  # whole numbers stay whole
    common = bad if bad.ndim == 2 else bad.all(axis=0)
    readout = options.detector.readout(source, bad_pixels=common, dark=dark)
    readout = replace(readout, zeroed=readout.zeroed or negative or bool(invalid.any()))
    if negative or invalid.any():
        logger.info(
            "%s: %d pixels with NaN or infinity are bad%s",
            file.path,
            invalid.sum(),
            "; negative counts become 0" if negative else "",
        )
    seen = complete_geometry(geometry, readout, options)
    as_stored = "counts" if options.measurement == "auto" else options.measurement
    frames = Frames.from_source(readout.through(source), sidecar=options.sidecar)
    if (read_bad := _read_out_mask(readout, bad)) is not None:
        frames = frames.with_bad_pixels(read_bad)
    frames = settle_measurement(frames, as_stored)
    if positions_m.shape != (len(frames), 2):
        found = f"{len(positions_m)} for {len(frames)} frames"
        raise ScanError("positions", found, "one position per frame")
    check_finite(positions_m, "positions")
    centres = positions_m / np.array(pair(seen.object_pixel_m))
    (ycoords, xcoords), shift = placed(centres, readout.size)
    return Scan(
        xcoords=xcoords,
        ycoords=ycoords,
        frames=frames,
        probeGuess=_probe(file, probe, frames, readout),
        metadata={
            "source": file.path.name,
            "format": format,
            "positions_shift_px": shift[::-1],
        },
        path=file.path,
        geometry=seen,
        **arrays,
    )


def complete_geometry(geometry: Geometry, readout: Readout, options: Options) -> Geometry:
    """The geometry of the frames as they are read out, its object pixel known.

    A ScanKeyError says what it takes to know it.
    """
    near = options.near_field or geometry.near_field
    seen = readout.corrected(replace(geometry, near_field=near))
    if options.object_pixel_m is not None:
        seen = replace(seen, object_pixel_m=options.object_pixel_m)
    seen = seen.for_frames(readout.size)
    if seen.object_pixel_m is not None:
        return seen
    lengths = ("wavelength_m", "distance_m", "detector_pixel_m")
    missing = [name for name in lengths if getattr(seen, name) is None]
    if near:
        what = "the detector's pixel over the magnification, in the near field"
    else:
        what = f"one, or {' and '.join(missing)} in the file"
    raise ScanKeyError("object_pixel_m", "missing", what, action="Pass object_pixel_m, in metres")


def placed(centres: AnyArray, N: int) -> tuple[AnyArray, list[float]]:
    """Patch centres (M, 2) as two arrays, float64, within an array that begins at 0; and the shift.

    A stage has its origin anywhere, and no frame depends on it. Along an axis where the first patch
    begins at a negative pixel, or over N pixels from the origin, all are moved so that it begins at
    pixel 2.
    """
    first = centres.min(axis=0) - N / 2
    shift = np.where((first < 0) | (first > N), MARGIN_PX - first, 0.0)
    return (centres + shift).T.astype(np.float64), [float(s) for s in shift]


def scaled_to(probe: AnyArray, mean_counts: float) -> AnyArray:
    """The probe, complex64, with sum |P|**2 equal to the mean counts of a frame."""
    power = float(np.sum(np.abs(probe.astype(np.complex128)) ** 2))
    if not 0 < power < np.inf:
        raise ScanError("probe", f"of power {power:g}", "some signal, finite")
    scaled: AnyArray = (probe * np.sqrt(mean_counts / power)).astype(np.complex64)
    return scaled


def _checked_mask(bad_pixels: AnyArray, source: FrameSource) -> NDArray[np.bool_]:
    if bad_pixels.shape not in (source.shape, source.shape[1:]):
        wanted = f"{shape_text(source.shape[1:])}, as frames"
        raise ScanError("mask shape", shape_text(bad_pixels.shape), wanted)
    bad: NDArray[np.bool_] = bad_pixels != 0
    return bad


def _read_out_mask(readout: Readout, bad: NDArray[np.bool_]) -> NDArray[np.bool_] | None:
    """Bad pixels of the frames as they are read out, (N, N), or (M, N, N) where they vary."""
    if bad.ndim == 2:
        return readout.bad_pixels
    common = np.zeros(readout.frame_shape, bool) if readout.bad is None else readout.bad
    each = np.zeros((len(bad), readout.size, readout.size), bool)
    for number, frame in enumerate(bad):
        seen = replace(readout, bad=frame | common).bad_pixels
        each[number] = False if seen is None else seen
    return each


def _probe(
    file: ScanFile, probe: AnyArray | None, frames: Frames, readout: Readout
) -> AnyArray | None:
    """The file's probe in sqrt(counts), where it is one of these frames."""
    if probe is None:
        return None
    if probe.dtype.kind != "c" or probe.ndim < 2 or probe[..., 0, 0].size > 64:
        raise ScanError("probe", f"{shape_text(probe.shape)} {probe.dtype}", "complex (P, N, N)")
    size = readout.size, readout.size
    if (
        probe.shape[-2:] != size
        or readout.frame_shape != size
        or readout.orientation != "as stored"
    ):
        logger.warning(
            "%s: the probe is left out: it has %s pixels, and frames are read as %s, %s",
            file.path,
            shape_text(probe.shape[-2:]),
            shape_text(size),
            readout.orientation,
        )
        return None
    modes = probe.reshape(-1, *size)
    counts = frames.amplitude(frames.sample(64)).astype(np.float64) ** 2
    scaled = scaled_to(modes, float(counts.sum()) / len(counts) or 1.0)
    return scaled[0] if len(scaled) == 1 else scaled
