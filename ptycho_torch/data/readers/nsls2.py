"""``scan_*.h5`` of NSLS-II (nsls2ptycho): amplitude with the zero frequency at the corner.

Frames were turned clockwise before they were written, and are turned back; ``points`` (2, M) are
(x, y) in micrometres. Newer files have no frames: ``raw_data/filename`` names the file that has
them as the detector gave them.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from ptycho_torch.data.detector import Detector
from ptycho_torch.data.errors import ScanError, ScanKeyError
from ptycho_torch.data.files.hdf5 import Hdf5File, opened_hdf5
from ptycho_torch.data.files.hdf5_stack import Hdf5Stack
from ptycho_torch.data.files.npy_header import shape_text
from ptycho_torch.data.geometry import Geometry, Pixel
from ptycho_torch.data.readers.hdf5_numbers import hdf5_of, read_number, read_numbers
from ptycho_torch.data.readers.in_metres import Options, scan_in_metres
from ptycho_torch.data.readers.scan_file import ScanFile
from ptycho_torch.data.readout import composed
from ptycho_torch.data.scan import Scan

_FRAMES, _POINTS, _NAME, _WINDOW = "/diffamp", "/points", "/raw_data/filename", "/raw_data/roi"
_RAW = "/entry/data/data"


def recognises(file: ScanFile) -> bool:
    """Whether a file has the points of nsls2ptycho, and its frames or the name of their file."""
    with hdf5_of(file) as h5:
        return _POINTS in h5 and (_FRAMES in h5 or _NAME in h5)


def read_nsls2(
    file: ScanFile,
    *,
    measurement: str = "auto",
    sidecar: str = "auto",
    detector: Detector | None = None,
    object_pixel_m: Pixel | None = None,
    near_field: bool = False,
    diffraction: str | Path | None = None,
) -> Scan:
    """Read a ``scan_*.h5`` of NSLS-II.

    Parameters
    ----------
    file
        The open file.
    measurement
        What the frames are; ``"auto"``: amplitude, as nsls2ptycho has them, and counts in a file of
        their own.
    sidecar, detector, object_pixel_m, near_field
        As for :func:`~ptycho_torch.data.readers.cxi.read_cxi`; the detector's orientation is
        applied after frames are turned back. Signs of the scan's axes lie in another file: where
        stage and detector do not fit, say so by it. Of frames in a file of their own, with a
        ``raw_data/roi``, the detector's size and centre are yours to say.
    diffraction
        The file of the frames; None: this one, or the one that it names in its folder or below.

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
    with ExitStack() as held:
        h5 = held.enter_context(hdf5_of(file, links=True))
        points = read_numbers(h5, _POINTS)
        if points is None:
            raise ScanKeyError(_POINTS, "missing", "(2, M) in micrometres")
        if points.ndim != 2 or len(points) != 2:
            raise ScanError(f"{_POINTS} shape", shape_text(points.shape), "(2, M)")
        if diffraction is None and _FRAMES in h5:
            source, kind = Hdf5Stack.of(h5, _FRAMES, corner=True), "amplitude"
            turned = composed("rot90", detector.orientation)
            detector = replace(detector.from_corner(), orientation=turned)
        else:
            _require_window(h5, detector)
            source, kind = Hdf5Stack.of(_beside(h5, diffraction, held), _RAW), "counts"
        as_stored = kind if measurement == "auto" else measurement
        return scan_in_metres(
            file,
            source,
            Options(as_stored, sidecar, detector, object_pixel_m, near_field),
            format="nsls2",
            positions_m=points[::-1].T * 1e-6,
            geometry=_geometry(h5),
        )


def _beside(h5: Hdf5File, diffraction: str | Path | None, held: ExitStack) -> Hdf5File:
    """The file of the frames: one that somebody names may lie anywhere."""
    if diffraction is not None:
        return held.enter_context(opened_hdf5(Path(diffraction).absolute(), links=True))
    if _NAME not in h5:
        raise ScanKeyError(f"{_FRAMES} or {_NAME}", "missing", "in the file")
    action = "Name the file of the frames: --diffraction FILE (diffraction=)"
    return h5.linked(h5.read_text(_NAME), _NAME, action)


def _require_window(h5: Hdf5File, detector: Detector) -> None:
    """Refuse a window of which the file does not tell whether rows or columns are first."""
    said = detector.size is not None and detector.centre != "keep"
    if said or (window := read_numbers(h5, _WINDOW)) is None:
        return
    found, expected = f"{window.tolist()}, rows or columns first", "a size and a centre"
    action = "Say the window: --size N --centre ROW,COLUMN (size=, centre=)"
    if window.shape == (2, 2):
        (top, bottom), (left, right) = window.astype(int).tolist()
        centre = f"{(top + bottom) // 2},{(left + right) // 2}"
        action = f"If rows are first, add --size {bottom - top} --centre {centre} (size=, centre=)"
    raise ScanError(_WINDOW, found, expected, action=action)


def _geometry(h5: Hdf5File) -> Geometry:
    def length(name: str, unit_m: float) -> float | None:
        number = read_number(h5, name)
        return None if number is None else number * unit_m

    return Geometry(
        wavelength_m=length("/lambda_nm", 1e-9),
        distance_m=length("/z_m", 1.0),
        detector_pixel_m=length("/ccd_pixel_um", 1e-6),
    )
