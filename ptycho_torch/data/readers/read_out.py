"""A scan whose frames lie in the file as N x N, read out anew by a detector's options.

For formats whose readers take no :class:`~ptycho_torch.data.detector.Detector`; positions, probe
and geometry follow the pixels.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from ptycho_torch.data.detector import Detector
from ptycho_torch.data.errors import OptionError
from ptycho_torch.data.frames import Frames
from ptycho_torch.data.geometry import Geometry, pair
from ptycho_torch.data.readers.probe_choice import keeps_probe
from ptycho_torch.data.scan import AnyArray, Scan

logger = logging.getLogger(__name__)


def read_out(scan: Scan, detector: Detector, *, sidecar: str | Path) -> Scan:
    """Crop, pad, bin, centre and turn the frames of a scan, once, streamed into a sidecar.

    Where the detector is cropped or padded, object pixels have another size: positions follow, and
    an object and ready-made patches are left out, as is a probe of frames of another size, or where
    frames are turned: no file says whether its probe was made of frames as stored. An
    OptionError says that amplitudes cannot be binned or corrected, or that every frame has a mask
    of its own.
    """
    frames = scan.frames
    _require_counts(frames, detector)
    if frames.bad_pixels is not None and frames.bad_pixels.ndim == 3:
        raise OptionError("detector", "with a mask per frame", "one mask for all frames")
    readout = detector.readout(frames.source, bad_pixels=frames.bad_pixels)
    if not readout.changes_frames:
        return scan.sharing(scan, frames=frames.with_bad_pixels(readout.bad_pixels))
    source = frames.source
    if isinstance(source, np.ndarray):
        made = Frames.from_array(readout.apply(source), measurement=frames.measurement)
    else:
        made = Frames.from_source(
            readout.through(source), sidecar=sidecar, measurement=frames.measurement
        )
    near = scan.geometry is not None and scan.geometry.near_field
    unit = Geometry(object_pixel_m=1.0, near_field=near)
    height, width = pair(readout.corrected(unit).object_pixel_m) or (1.0, 1.0)
    probe = scan.probeGuess if scan.has_probe and keeps_probe(readout, scan.path) else None
    same_pixels = (height, width) == (1.0, 1.0)
    if scan.objectGuess is not None and not same_pixels:
        logger.warning("%s: objectGuess is left out: it has other pixels", scan.path)
    return Scan(
        xcoords=_scaled(scan.xcoords, width),
        ycoords=_scaled(scan.ycoords, height),
        xcoords_start=_scaled(scan.xcoords_start, width),
        ycoords_start=_scaled(scan.ycoords_start, height),
        frames=made,
        probeGuess=probe,
        scan_index=scan.scan_index,
        objectGuess=scan.objectGuess if same_pixels else None,
        Y=scan.patches if made.shape == frames.shape and same_pixels else None,
        norm_Y_I=scan.norm_Y_I,
        metadata=scan.metadata,
        path=scan.path,
        bad_pixels=readout.bad_pixels,
        geometry=None if scan.geometry is None else readout.corrected(scan.geometry),
        frame_photons=scan.frame_photons,
    )


def _require_counts(frames: Frames, detector: Detector) -> None:
    asked = {"bin": detector.bin != 1, "dark": detector.dark is not None}
    asked["saturation"] = detector.saturation is not None
    for name, is_asked in asked.items():
        if is_asked and frames.measurement != "counts":
            action = "Leave it out, or of counts add --measurement counts (measurement='counts')"
            raise OptionError(name, "given for amplitudes", "frames of counts", action=action)


def _scaled(positions: AnyArray, pixel: float) -> AnyArray:
    return positions if pixel == 1 else positions / pixel
