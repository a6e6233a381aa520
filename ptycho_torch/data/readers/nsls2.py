"""``scan_*.h5`` of NSLS-II (nsls2ptycho): amplitude with the zero frequency at the corner.

Frames were turned clockwise before they were written, and are turned back; ``points`` (2, M) are
(x, y) in micrometres.
"""

from __future__ import annotations

from dataclasses import replace

from ptycho_torch.data.detector import Detector
from ptycho_torch.data.errors import ScanError, ScanKeyError
from ptycho_torch.data.files.hdf5 import Hdf5File
from ptycho_torch.data.files.hdf5_stack import Hdf5Stack
from ptycho_torch.data.files.npy_header import shape_text
from ptycho_torch.data.geometry import Geometry, Pixel
from ptycho_torch.data.readers.hdf5_numbers import hdf5_of, read_number, read_numbers
from ptycho_torch.data.readers.in_metres import Options, scan_in_metres
from ptycho_torch.data.readers.scan_file import ScanFile
from ptycho_torch.data.readout import composed
from ptycho_torch.data.scan import Scan


def recognises(file: ScanFile) -> bool:
    """Whether a file has the frames and points of nsls2ptycho."""
    with hdf5_of(file) as h5:
        return "/diffamp" in h5 and "/points" in h5


def read_nsls2(
    file: ScanFile,
    *,
    measurement: str = "auto",
    sidecar: str = "auto",
    detector: Detector | None = None,
    object_pixel_m: Pixel | None = None,
    near_field: bool = False,
) -> Scan:
    """Read a ``scan_*.h5`` of NSLS-II.

    Parameters
    ----------
    file
        The open file.
    measurement
        What the frames are; ``"auto"``: amplitude, as nsls2ptycho has them.
    sidecar, detector, object_pixel_m, near_field
        As for :func:`~ptycho_torch.data.readers.cxi.read_cxi`; the detector's orientation is
        applied after frames are turned back. Signs of the scan's axes lie in another file: where
        stage and detector do not fit, say so by it.

    Returns
    -------
    Scan
        Without a probe.

    Raises
    ------
    ScanFileError, ScanKeyError, ScanError
        One line naming field, what was found and what was expected.
    """
    detector = detector or Detector()
    turned = replace(detector, orientation=composed("rot90", detector.orientation))
    as_stored = "amplitude" if measurement == "auto" else measurement
    options = Options(as_stored, sidecar, turned, object_pixel_m, near_field)
    with hdf5_of(file) as h5:
        points = read_numbers(h5, "/points")
        if points is None:
            raise ScanKeyError("/points", "missing", "(2, M) in micrometres")
        if points.ndim != 2 or len(points) != 2:
            raise ScanError("/points shape", shape_text(points.shape), "(2, M)")
        return scan_in_metres(
            file,
            Hdf5Stack.of(h5, "/diffamp", corner=True),
            options,
            format="nsls2",
            positions_m=points[::-1].T * 1e-6,
            geometry=_geometry(h5),
        )


def _geometry(h5: Hdf5File) -> Geometry:
    def length(name: str, unit_m: float) -> float | None:
        number = read_number(h5, name)
        return None if number is None else number * unit_m

    return Geometry(
        wavelength_m=length("/lambda_nm", 1e-9),
        distance_m=length("/z_m", 1.0),
        detector_pixel_m=length("/ccd_pixel_um", 1e-6),
    )
