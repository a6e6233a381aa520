"""Scans of Ptychodus 1.7 and of pty-chi: a product, and the frames in another file or the same.

Positions are metres, x along columns and y along rows; frames are counts. The object's centre, or
for some ``_para`` files its corner, is where they are counted from.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.data.config import Measurement, check_choice
from ptycho_torch.data.detector import Detector
from ptycho_torch.data.errors import OptionError
from ptycho_torch.data.files.hdf5 import Hdf5File, is_hdf5, opened_hdf5
from ptycho_torch.data.files.zip_archive import ZipArchive
from ptycho_torch.data.frames import Frames
from ptycho_torch.data.geometry import Geometry, pair
from ptycho_torch.data.readers.index_matching import Matching, match_indexes
from ptycho_torch.data.readers.paired_files import partner_of
from ptycho_torch.data.readers.probe_choice import keeps_probe
from ptycho_torch.data.readers.ptychodus_frames import (
    MeasuredFrames,
    Opened,
    frames_of,
    has_frames,
    opened_any,
)
from ptycho_torch.data.readers.ptychodus_names import CXI, Held, in_cxi, in_hdf5, in_npz
from ptycho_torch.data.readers.ptychodus_positions import Origin, positions_px
from ptycho_torch.data.readers.ptychodus_product import Product, product_of
from ptycho_torch.data.readers.scan_file import ScanFile
from ptycho_torch.data.readout import Readout
from ptycho_torch.data.scan import Scan

logger = logging.getLogger(__name__)


def recognises(file: ScanFile) -> bool:
    """Whether a file is a product, frames of Ptychodus, or half of a pair."""
    suffix = file.path.suffix.lower()
    if suffix == ".npz":
        return bool({"probe_position_x_m", "patterns"} & set(file.archive.members))
    if suffix == ".npy":
        return True
    if not is_hdf5(file.stream):
        return False
    with opened_hdf5(file.path) as h5:
        if suffix == ".cxi":
            return CXI in h5
        folded = "dp" in h5 and "ppX" not in h5
        return _has_positions(h5) or folded or ("patterns" in h5 and "bad_pixels" in h5)


def read_ptychodus(
    file: ScanFile,
    *,
    measurement: str = "auto",
    sidecar: str = "auto",
    detector: Detector | None = None,
    diffraction: str | Path | None = None,
    origin: str = "auto",
) -> Scan:
    """Read a product and its frames, matched by index.

    Parameters
    ----------
    file
        The product, or the file of the frames where the product is found beside it.
    measurement
        ``"auto"``: counts, as the format says; ``"amplitude"`` for files that break it.
    sidecar
        Where frames that cannot be mapped are unpacked to.
    detector
        How stored frames become square ones. Where it changes the object's pixel, the file's
        object is left out; where it changes the frames' size or turns them, so is the probe.
    diffraction
        The file of the frames; None: this one, or the one that pairs with it by name.
    origin
        What positions of a file without a photon energy are counted from: the object's
        ``"centre"`` or ``"corner"``; ``"auto"``: where all patches lie within the object.

    Raises
    ------
    ScanFileError, ScanKeyError, ScanError, OptionError
        One line naming field, what was found and what was expected.
    """
    check_choice("measurement", measurement, Measurement)
    check_choice("origin", origin, Origin)
    product, frames = _both(file, None if diffraction is None else Path(diffraction))
    readout = (detector or Detector()).readout(frames.source, bad_pixels=frames.bad_pixels)
    count = frames.source.shape[0]
    matching = match_indexes(product.indexes, len(product.x), frames.indexes, count, path=file.path)
    geometry = _geometry(product, frames, readout, file.path)
    unit = Geometry(object_pixel_m=1.0, near_field=product.near_field)
    scale = pair(readout.corrected(unit).object_pixel_m) or (1.0, 1.0)
    product = _without_unfit(product, readout, scale, file.path)
    x, y = positions_px(product, geometry, scale, readout.size, origin)
    numbers = np.full(count, -1, np.int64)
    numbers[matching.frames] = matching.indexes
    scan = Scan(
        xcoords=matching.of_frames(x),
        ycoords=matching.of_frames(y),
        frames=Frames.from_source(
            readout.through(frames.source),
            sidecar=sidecar,
            measurement="amplitude" if measurement == "amplitude" else "counts",
        ),
        probeGuess=product.probe,
        scan_index=numbers,
        objectGuess=product.obj,
        metadata={
            "source": file.path.name,
            "format": "ptychodus",
            "diffraction": frames.source.path.name,
            **product.notes,
        },
        path=file.path,
        bad_pixels=readout.bad_pixels,
        geometry=geometry,
        frame_photons=_photons(product, frames, matching, file.path),
    )
    return scan if matching.whole else scan.choose(matching.frames, part_name="matched")


def _both(file: ScanFile, diffraction: Path | None) -> tuple[Product, MeasuredFrames]:
    path = file.path
    with opened_any(path) as first:
        if diffraction is None and has_frames(first):
            frames = frames_of(first)
            if _has_positions(first):
                return product_of(_names(first)), frames
            with opened_any(partner_of(path, frames=False)) as other:
                if not isinstance(other, Path) and other.path and other.state:
                    file.others.append((other.path, other.state))
                return product_of(_names(other)), frames
        product = product_of(_names(first))
        other_path = partner_of(path, frames=True) if diffraction is None else diffraction
    with opened_any(other_path.absolute()) as other:
        return product, frames_of(other)


def _has_positions(file: Opened) -> bool:
    if isinstance(file, Path):
        return False
    if isinstance(file, ZipArchive):
        return "probe_position_x_m" in file.members
    return any(f"probe_position_x_{unit}" in file for unit in ("m", "px")) or CXI in file


def _names(file: Opened) -> Held:
    if isinstance(file, Hdf5File):
        return in_cxi(file) if CXI in file else in_hdf5(file)
    return (lambda name: None) if isinstance(file, Path) else in_npz(file)


def _geometry(product: Product, frames: MeasuredFrames, readout: Readout, path: Path) -> Geometry:
    stored = Geometry.from_energy(
        product.energy_ev,
        distance_m=product.distance_m,
        detector_pixel_m=frames.pixel_m,
        object_pixel_m=product.pixel_m,
        near_field=product.near_field,
    )
    corrected = readout.corrected(stored)
    try:
        return corrected.for_frames(readout.size)
    except OptionError as error:
        # Positions depend on the object's pixel, and no array on the detector's.
        logger.warning("%s: the detector's pixel is left out: %s", path, error)
        return replace(corrected, detector_pixel_m=None)


def _without_unfit(
    product: Product, readout: Readout, scale: tuple[float, float], path: Path
) -> Product:
    """The product without a probe of other frames, and without an object of other pixels."""
    probe, obj = product.probe, product.obj
    if probe is not None and not keeps_probe(readout, path):
        probe = None
    if obj is not None and scale != (1.0, 1.0):
        logger.warning("%s: the object is left out: it has pixels of another size", path)
        obj = None
    return replace(product, probe=probe, obj=obj)


def _photons(
    product: Product, frames: MeasuredFrames, matching: Matching, path: Path
) -> NDArray[np.float64] | None:
    """Photons of each frame: measured with the frames, else the product's."""
    if frames.photons is not None:
        photons = frames.photons
    elif product.photons is not None:
        photons = matching.of_frames(product.photons)
    else:
        return None
    if photons.min(initial=np.inf) > 0:
        return photons
    logger.warning("%s: probe_photon_counts are left out: not all are above 0", path)
    return None
