"""Where a CXI file has its geometry: basis vectors, pixel sizes, distance, wavelength."""

from __future__ import annotations

import logging

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.data.errors import ScanError
from ptycho_torch.data.files.hdf5 import Hdf5File
from ptycho_torch.data.files.npy_header import shape_text
from ptycho_torch.data.geometry import HC_EV_M, Geometry, Pixel
from ptycho_torch.data.readers.hdf5_numbers import read_number, read_numbers

logger = logging.getLogger(__name__)

DETECTOR = "/entry_1/instrument_1/detector_1"
SOURCE = "/entry_1/instrument_1/source_1"

_JOULES_PER_EV = 1.602176634e-19
_LONGEST_M = 1e-6
_AGREEMENT = 0.01
_TILT = 0.1


def geometry_of(h5: Hdf5File) -> tuple[Geometry, NDArray[np.float64]]:
    """The geometry of the stored frames; and the directions (3, 2) of the next row and column."""
    steps = _basis(h5)
    geometry = Geometry(
        wavelength_m=_wavelength(h5),
        distance_m=_distance(h5, steps),
        detector_pixel_m=_pixel(h5, steps),
    )
    return geometry, _directions(steps)


def _basis(h5: Hdf5File) -> NDArray[np.float64] | None:
    """(3, 2), metres: the step to the next row, and to the next column; None: CXI's default."""
    name = f"{DETECTOR}/basis_vectors"
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
    height = read_number(h5, f"{DETECTOR}/y_pixel_size")
    width = read_number(h5, f"{DETECTOR}/x_pixel_size")
    sizes = (height or width, width or height)
    if steps is None:
        return None if sizes[0] is None or sizes[1] is None else (sizes[0], sizes[1])
    row, column = np.linalg.norm(steps, axis=0).tolist()
    for size, step, axis in ((sizes[0], row, "y"), (sizes[1], column, "x")):
        if size is not None and abs(step - size) > _AGREEMENT * size:
            field = f"{DETECTOR}/basis_vectors step"
            raise ScanError(field, f"{step:g} m", f"{axis}_pixel_size = {size:g} m")
    return row, column


def _distance(h5: Hdf5File, steps: NDArray[np.float64] | None) -> float | None:
    """From the sample to the detector's plane."""
    distance = read_number(h5, f"{DETECTOR}/distance")
    name = f"{DETECTOR}/corner_position"
    if distance is not None or (corner := read_numbers(h5, name)) is None:
        return distance
    if corner.shape != (3,):
        raise ScanError(f"{name} shape", shape_text(corner.shape), "(3,)")
    row, column = _directions(None).T if steps is None else steps.T
    normal = np.cross(row, column)
    return abs(float(corner @ normal / np.linalg.norm(normal))) or None


def _wavelength(h5: Hdf5File) -> float | None:
    """The wavelength, or that of the energy."""
    wavelength = read_number(h5, f"{SOURCE}/wavelength")
    if wavelength is not None:
        if not 0 < wavelength < _LONGEST_M:
            raise ScanError(f"{SOURCE}/wavelength", wavelength, f"metres, below {_LONGEST_M:g}")
        return wavelength
    name = f"{SOURCE}/energy"
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
