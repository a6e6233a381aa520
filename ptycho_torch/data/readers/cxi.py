"""CXI files of ptychography, as cdtools and PyNX write them.

Lengths are metres and energies joules (CXI 1.6). ``translation`` says how the sample moves in the
laboratory; ``basis_vectors`` are the steps from one detector pixel to the next row and the next
column there. Minus a translation, in steps of object pixels along these directions, is a position.
"""

from __future__ import annotations

import logging
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.data.config import check_choice
from ptycho_torch.data.detector import Detector
from ptycho_torch.data.errors import ScanError, ScanKeyError
from ptycho_torch.data.files.hdf5 import Hdf5File
from ptycho_torch.data.files.hdf5_stack import Hdf5Stack
from ptycho_torch.data.files.npy_header import shape_text
from ptycho_torch.data.geometry import HC_EV_M, Geometry, Pixel
from ptycho_torch.data.readers.in_metres import (
    Options,
    hdf5_of,
    read_number,
    read_numbers,
    scan_in_metres,
)
from ptycho_torch.data.readers.scan_file import ScanFile
from ptycho_torch.data.scan import AnyArray, Scan

logger = logging.getLogger(__name__)

AxisOrderChoice = Literal["auto", "frames_first", "frames_last"]

_DETECTOR = "/entry_1/instrument_1/detector_1"
_SOURCE = "/entry_1/instrument_1/source_1"
_FRAMES = ("/entry_1/data_1/data", f"{_DETECTOR}/data")
_TRANSLATIONS = tuple(
    f"{place}/translation"
    for place in ("/entry_1/sample_1/geometry_1", "/entry_1/data_1", _DETECTOR)
)
_HAS_SIGNAL = 0x1000
"""The bit of a CXI mask that says nothing bad of a pixel."""
_JOULES_PER_EV = 1.602176634e-19
_LONGEST_M = 1e-6
_AGREEMENT = 0.01
_TILT = 0.1


def recognises(file: ScanFile) -> bool:
    """Whether a file has frames where CXI has them, and is no product of Ptychodus."""
    with hdf5_of(file) as h5:
        return "/entry_1/ptychodus" not in h5 and any(name in h5 for name in _FRAMES)


def read_cxi(
    file: ScanFile,
    *,
    measurement: str = "auto",
    sidecar: str = "auto",
    detector: Detector | None = None,
    object_pixel_m: Pixel | None = None,
    near_field: bool = False,
    axis_order: str = "auto",
) -> Scan:
    """Read a CXI file of ptychography.

    Parameters
    ----------
    file
        The open file.
    measurement
        What the frames are; ``"auto"``: counts, as CXI has them.
    sidecar
        Where frames that are not mapped in place are unpacked to.
    detector
        How frames are cropped, binned and turned; None: as they are.
    object_pixel_m
        Side of an object pixel, metres, or (height, width); None: by the far-field relation.
    near_field
        The frames were taken in the near field, which no CXI file says; needs ``object_pixel_m``.
    axis_order
        Of translations (M, 3), ``"frames_first"``, or (3, M), ``"frames_last"``; ``"auto"`` refuses
        those of three frames.

    Returns
    -------
    Scan
        Positions are moved as by :func:`~ptycho_torch.data.readers.in_metres.placed`, which the
        metadata say. Negative counts are 0 and pixels that are ever NaN are bad; the dark is
        subtracted; a monitor is ``frame_photons``; the illumination is the probe, scaled to the
        mean counts per frame, or None.

    Raises
    ------
    ScanFileError, ScanKeyError, ScanError, OptionError
        One line naming field, what was found and what was expected.
    """
    check_choice("axis_order", axis_order, AxisOrderChoice)
    options = Options(measurement, sidecar, detector or Detector(), object_pixel_m, near_field)
    with hdf5_of(file) as h5:
        _refuse_nexus(h5)
        source = Hdf5Stack.of(h5, _first(h5, _FRAMES))
        steps = _basis(h5)
        return scan_in_metres(
            file,
            source,
            options,
            format="cxi",
            positions_m=-_translations(h5, len(source), axis_order) @ _directions(steps),
            geometry=Geometry(
                wavelength_m=_wavelength(h5),
                distance_m=_distance(h5, steps),
                detector_pixel_m=_pixel(h5, steps),
            ),
            bad_pixels=_bad_pixels(h5),
            dark=_dark(h5),
            probe=_read(h5, f"{_SOURCE}/illumination"),
            frame_photons=_monitor(h5),
        )


def _refuse_nexus(h5: Hdf5File) -> None:
    # There source_1/energy is the storage ring's, and lengths have units of their own.
    name = "/entry_1/definition"
    if name in h5 and (definition := h5.read_text(name)).startswith("NX"):
        raise ScanError(name, definition, "plain CXI: NeXus has other units and another energy")


def _first(h5: Hdf5File, names: tuple[str, ...]) -> str:
    for name in names:
        if name in h5:
            return name
    raise ScanKeyError(names[0], "missing", "in a CXI file of ptychography")


def _read(h5: Hdf5File, name: str) -> AnyArray | None:
    return h5.read_array(name) if name in h5 else None


def _translations(h5: Hdf5File, frames: int, axis_order: str) -> NDArray[np.float64]:
    """(M, 3), metres; cdtools stores them so, PyNX transposed."""
    name = _first(h5, _TRANSLATIONS)
    unit = h5.read_attr(name, "units", "m")
    if unit not in ("m", "metre", "meter"):
        raise ScanError(f"{name}@units", unit, "m")
    found = read_numbers(h5, name)
    assert found is not None
    shape = found.shape
    first, last = shape == (frames, 3), shape == (3, frames)
    if first and last and axis_order == "auto":
        raise ScanError(
            f"{name} shape",
            f"{shape_text(shape)}, ambiguous",
            "(M, 3) with M other than 3",
            action="Pass axis_order='frames_first' or 'frames_last' to choose",
        )
    use_first = first and axis_order != "frames_last"
    if not use_first and not (last and axis_order != "frames_first"):
        wanted = f"({frames}, 3) or (3, {frames}) for {frames} frames"
        raise ScanError(f"{name} shape", shape_text(shape), wanted)
    return found if use_first else found.T


def _basis(h5: Hdf5File) -> NDArray[np.float64] | None:
    """(3, 2), metres: the step to the next row, and to the next column; None: CXI's default."""
    name = f"{_DETECTOR}/basis_vectors"
    steps = read_numbers(h5, name)
    if steps is None:
        return None
    if steps.shape not in ((3, 2), (2, 3)):
        raise ScanError(f"{name} shape", shape_text(steps.shape), "(3, 2) or (2, 3)")
    steps = steps if steps.shape == (3, 2) else steps.T
    lengths = np.linalg.norm(steps, axis=0)
    if not (lengths > 0).all():
        raise ScanError(name, f"of lengths {lengths.tolist()} m", "two steps")
    row, column = (steps / lengths).T
    if abs(row @ column) > _AGREEMENT or max(abs(row[2]), abs(column[2])) > _TILT:
        raise ScanError(name, steps.T.tolist(), "two steps at right angles, across the beam z")
    return steps


def _directions(steps: NDArray[np.float64] | None) -> NDArray[np.float64]:
    """(3, 2): along the rows' steps and the columns', what lies across the beam."""
    if steps is None:
        return np.array([[0.0, -1.0], [-1.0, 0.0], [0.0, 0.0]])
    across = steps * [[1.0], [1.0], [0.0]]
    found: NDArray[np.float64] = across / np.linalg.norm(across, axis=0)
    return found


def _pixel(h5: Hdf5File, steps: NDArray[np.float64] | None) -> Pixel | None:
    """(height, width); a missing one is like the other. Steps, where they are given, agree."""
    height = read_number(h5, f"{_DETECTOR}/y_pixel_size")
    width = read_number(h5, f"{_DETECTOR}/x_pixel_size")
    sizes = (height or width, width or height)
    if steps is None:
        return None if sizes[0] is None or sizes[1] is None else (sizes[0], sizes[1])
    row, column = np.linalg.norm(steps, axis=0).tolist()
    for size, step, axis in ((sizes[0], row, "y"), (sizes[1], column, "x")):
        if size is not None and abs(step - size) > _AGREEMENT * size:
            field = f"{_DETECTOR}/basis_vectors step"
            raise ScanError(field, f"{step:g} m", f"{axis}_pixel_size = {size:g} m")
    return row, column


def _distance(h5: Hdf5File, steps: NDArray[np.float64] | None) -> float | None:
    """From the sample to the detector's plane."""
    distance = read_number(h5, f"{_DETECTOR}/distance")
    name = f"{_DETECTOR}/corner_position"
    if distance is not None or (corner := read_numbers(h5, name)) is None:
        return distance
    if corner.shape != (3,):
        raise ScanError(f"{name} shape", shape_text(corner.shape), "(3,)")
    row, column = _directions(None).T if steps is None else steps.T
    normal = np.cross(row, column)
    return abs(float(corner @ normal / np.linalg.norm(normal))) or None


def _wavelength(h5: Hdf5File) -> float | None:
    """The wavelength, or that of the energy."""
    wavelength = read_number(h5, f"{_SOURCE}/wavelength")
    if wavelength is not None:
        if not 0 < wavelength < _LONGEST_M:
            raise ScanError(f"{_SOURCE}/wavelength", wavelength, f"metres, below {_LONGEST_M:g}")
        return wavelength
    name = f"{_SOURCE}/energy"
    energy = read_number(h5, name)
    if energy is None:
        return None
    if 10 <= energy <= 1e6:
        logger.warning("%s: %s is %g, which is taken for eV, not J", h5.path, name, energy)
        return HC_EV_M / energy
    if not 1e-19 < energy < 1e-12:
        wanted = "a photon's in joules: 8000 eV are 1.28e-15"
        raise ScanError(name, energy, wanted, action="Add source_1/wavelength in metres")
    return HC_EV_M * _JOULES_PER_EV / energy


def _bad_pixels(h5: Hdf5File) -> NDArray[np.bool_] | None:
    mask = _read(h5, f"{_DETECTOR}/mask")
    if mask is None or mask.dtype.kind == "b":
        return mask
    if mask.dtype.kind not in "iu":
        raise ScanError(f"{_DETECTOR}/mask dtype", mask.dtype, "integers, 0 = good")
    bad: NDArray[np.bool_] = (mask.astype(np.uint64) & ~np.uint64(_HAS_SIGNAL)) != 0
    return bad


def _dark(h5: Hdf5File) -> NDArray[np.float64] | None:
    """(H, W), of several their mean; ``data_dark`` in cdtools, ``dark`` in PyNX."""
    for name in ("data_dark", "dark"):
        dark = read_numbers(h5, f"{_DETECTOR}/{name}")
        if dark is not None:
            return dark.mean(axis=0) if dark.ndim == 3 and len(dark) else dark
    return None


def _monitor(h5: Hdf5File) -> NDArray[np.float64] | None:
    """(M,); left out where it stood at 0."""
    monitor = read_numbers(h5, "/entry_1/data_1/monitor")
    if monitor is not None and not (monitor > 0).all():
        logger.warning("%s: the monitor is left out: it is 0 or less in places", h5.path)
        return None
    return monitor
