"""Dectris master files (Eiger, FileWriter): frames in files beside, found by links; no positions.

Only relative links into the master's folder are followed. A missing file of frames is an error: the
frames that follow would meet the wrong positions.
"""

from __future__ import annotations

import re
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ptycho_torch.data.detector import Detector
from ptycho_torch.data.errors import ScanError, ScanKeyError
from ptycho_torch.data.files.hdf5 import Hdf5File
from ptycho_torch.data.files.hdf5_stack import Hdf5Stack
from ptycho_torch.data.files.mapping import state_of
from ptycho_torch.data.geometry import HC_EV_M, Geometry, Pixel
from ptycho_torch.data.readers.hdf5_numbers import hdf5_of, read_number
from ptycho_torch.data.readers.in_metres import Options, scan_in_metres
from ptycho_torch.data.readers.position_file import positions_from
from ptycho_torch.data.readers.scan_file import ScanFile
from ptycho_torch.data.scan import Scan

_DATA = "/entry/data"
_DETECTOR = "/entry/instrument/detector"
_WAVELENGTH = "/entry/instrument/beam/incident_wavelength"
_LENGTHS_M = MappingProxyType({"angstrom": 1e-10, "a": 1e-10, "m": 1.0, "nm": 1e-9})


def recognises(file: ScanFile) -> bool:
    """Whether a file has the links ``data_000001`` of a master."""
    with hdf5_of(file, links=True) as h5:
        return bool(_names(h5))


def read_dectris(
    file: ScanFile,
    *,
    measurement: str = "auto",
    sidecar: str = "auto",
    detector: Detector | None = None,
    object_pixel_m: Pixel | None = None,
    near_field: bool = False,
    positions: Any = None,
    position_unit: str = "m",
    position_axes: str = "auto",
) -> Scan:
    """Read a Dectris master file with positions from elsewhere.

    Parameters
    ----------
    file
        The open master file.
    measurement
        What the frames are; ``"auto"``: counts.
    sidecar, detector, object_pixel_m, near_field
        As for :func:`~ptycho_torch.data.readers.cxi.read_cxi`. A detector is rarely square and
        centred: its size and centre are ``detector``'s to say.
    positions
        A file of text, ``.npy`` or HDF5, or an array (M, 2).
    position_unit, position_axes
        As for :func:`~ptycho_torch.data.readers.position_file.positions_from`.

    Returns
    -------
    Scan
        Without a probe. Pixels that the mask names are bad, and those that hold the largest integer
        throughout.

    Raises
    ------
    ScanFileError, ScanKeyError, ScanFileNotFoundError, ScanError, OptionError
        One line naming field, what was found and what was expected.
    """
    if positions is None:
        raise ScanKeyError(
            "positions",
            "missing: Dectris files have none",
            "those of the stage",
            action="Add --option positions=FILE (positions=), a .csv, .npy or .h5, and with it "
            "--option position_unit=um, --option position_axes=x,y",
        )
    if isinstance(positions, str | Path):
        stage = Path(positions).absolute()
        file.others.append((stage, state_of(stage)))
    options = Options(measurement, sidecar, detector or Detector(), object_pixel_m, near_field)
    with hdf5_of(file, links=True) as h5:
        names = [f"{_DATA}/{name}" for name in _names(h5)]
        if not names:
            raise ScanKeyError(f"{_DATA}/data_000001", "missing", "in a Dectris master file")
        mask = next((n for n in _masks() if n in h5), None)
        return scan_in_metres(
            file,
            Hdf5Stack.of(h5, names),
            options,
            format="dectris",
            positions_m=positions_from(positions, position_unit, position_axes),
            geometry=_geometry(h5),
            bad_pixels=None if mask is None else h5.read_array(mask),
        )


def _names(h5: Hdf5File) -> list[str]:
    """Names of the links by number."""
    if _DATA not in h5:
        return []
    found = [name for name in h5.names(_DATA) if re.fullmatch("data_[0-9]{1,9}", name)]
    return sorted(found, key=lambda name: int(name[5:]))


def _masks() -> tuple[str, ...]:
    return f"{_DETECTOR}/pixel_mask", f"{_DETECTOR}/detectorSpecific/pixel_mask"


def _geometry(h5: Hdf5File) -> Geometry:
    height = read_number(h5, f"{_DETECTOR}/y_pixel_size")
    width = read_number(h5, f"{_DETECTOR}/x_pixel_size")
    return Geometry(
        wavelength_m=_wavelength(h5),
        distance_m=read_number(h5, f"{_DETECTOR}/detector_distance"),
        detector_pixel_m=None if height is None or width is None else (height, width),
    )


def _wavelength(h5: Hdf5File) -> float | None:
    """In angstroms unless it says its unit; else that of the energy, which is in eV."""
    wavelength = read_number(h5, _WAVELENGTH)
    if wavelength is not None:
        unit = str(h5.read_attr(_WAVELENGTH, "units", "angstrom"))
        if unit.lower() not in _LENGTHS_M:
            raise ScanError(f"{_WAVELENGTH}@units", unit, "one of " + ", ".join(_LENGTHS_M))
        return wavelength * _LENGTHS_M[unit.lower()]
    energy = read_number(h5, f"{_DETECTOR}/detectorSpecific/photon_energy")
    return None if energy is None else HC_EV_M / energy
