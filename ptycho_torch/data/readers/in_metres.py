"""From what a file says in metres to a scan in object pixels.

Owns the step that formats with counts and stage positions share: readout, geometry, positions, the
power of a probe. Knows no names in files.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.data.contract import check_finite
from ptycho_torch.data.detector import Detector
from ptycho_torch.data.errors import OptionError, ScanError
from ptycho_torch.data.files.frame_source import FrameSource
from ptycho_torch.data.files.npy_header import shape_text
from ptycho_torch.data.frames import Frames
from ptycho_torch.data.geometry import Geometry, Pixel, pair
from ptycho_torch.data.readers.measurement import settle_measurement
from ptycho_torch.data.readers.object_pixels import complete_geometry, placed
from ptycho_torch.data.readers.probe_choice import keeps_probe
from ptycho_torch.data.readers.scan_file import ScanFile
from ptycho_torch.data.readout import Readout
from ptycho_torch.data.scan import AnyArray, Scan

logger = logging.getLogger(__name__)


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
    ``geometry`` is that of the stored frames, ``bad_pixels`` (H, W) or (M, H, W), ``dark`` (H, W);
    a ``probe`` of the stored frames' pixels is left out where the detector options change them.
    """
    detector, as_stored = options.detector, options.measurement
    if as_stored == "amplitude" and (detector.bin != 1 or detector.dark is not None):
        expected = "neither: only counts can be summed and subtracted"
        raise OptionError("detector", "with bins or a dark beside amplitudes", expected)
    invalid, negative = bad_and_negative(source)
    bad = invalid if bad_pixels is None else _checked_mask(bad_pixels, source) | invalid
    if dark is not None and dark.shape == source.shape[1:] and not dark.any():
        dark = None  # whole numbers stay whole
    common = bad if bad.ndim == 2 else bad.all(axis=0)
    readout = detector.readout(source, bad_pixels=common, dark=dark)
    readout = replace(readout, zeroed=readout.zeroed or negative or bool(invalid.any()))
    if negative or invalid.any():
        logger.info(
            "%s: %d pixels with NaN or infinity are bad%s",
            file.path,
            invalid.sum(),
            "; negative counts become 0" if negative else "",
        )
    seen = complete_geometry(geometry, readout, options.object_pixel_m, options.near_field)
    frames = Frames.from_source(readout.through(source), sidecar=options.sidecar)
    if (read_bad := _read_out_mask(readout, bad)) is not None:
        frames = frames.with_bad_pixels(read_bad)
    frames = settle_measurement(frames, "counts" if as_stored == "auto" else as_stored)
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
    if not keeps_probe(readout, file.path):
        return None
    if probe.shape[-2:] != size:
        found, wanted = shape_text(probe.shape[-2:]), shape_text(size)
        text = "%s: the probe is left out: it has %s pixels, and frames %s"
        logger.warning(text, file.path, found, wanted)
        return None
    modes = probe.reshape(-1, *size)
    counts = frames.amplitude(frames.sample(64)).astype(np.float64) ** 2
    scaled = scaled_to(modes, float(counts.sum()) / len(counts) or 1.0)
    return scaled[0] if len(scaled) == 1 else scaled
