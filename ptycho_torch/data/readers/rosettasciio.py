"""Rasters of electron diffraction patterns (4D-STEM), read by RosettaSciIO where it is installed.

Such files have no positions: they are the raster of the scan axes, times their step, turned. They
are read into memory.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.data.config import check_integer
from ptycho_torch.data.detector import Detector
from ptycho_torch.data.errors import MissingDependencyError, OptionError, ScanError, ScanFileError
from ptycho_torch.data.files.npy_header import shape_text
from ptycho_torch.data.frames import Frames
from ptycho_torch.data.geometry import Geometry, pair
from ptycho_torch.data.readers.layout import LENGTHS
from ptycho_torch.data.readers.measurement import settle_measurement
from ptycho_torch.data.readers.object_pixels import OBJECT_PIXEL
from ptycho_torch.data.readers.scan_file import ScanFile
from ptycho_torch.data.scan import Scan

SUFFIXES = (".mib", ".blo", ".dm3", ".dm4", ".emd", ".hspy", ".tvips", ".prz")
DEFAULT_MAX_BYTES = 16 << 30
MARGIN_PX = 2.0
AS_THEY_COME = Detector()


def recognises(file: ScanFile) -> bool:
    """Whether RosettaSciIO may know the file: by its ending."""
    return file.path.name.lower().endswith(SUFFIXES)


def read_rosettasciio(
    file: ScanFile,
    *,
    measurement: str = "auto",
    detector: Detector = AS_THEY_COME,
    rotation: float = 0.0,
    transpose: bool = False,
    scan_step_m: float | Sequence[float] | None = None,
    object_pixel_m: float | None = None,
    max_bytes: int = DEFAULT_MAX_BYTES,
) -> Scan:
    """Read a raster (rows, columns, H, W) of frames.

    Positions are column and row times the step, turned by ``rotation`` degrees from the column axis
    to the row axis, and moved so that the first patch begins at pixel 2. ``transpose`` exchanges
    the axes of each frame. ``scan_step_m`` is the step in metres or the pair (row, column),
    ``object_pixel_m`` that of the stored frames; None: as the file's axes say. A file of more than
    ``max_bytes`` is refused. The probe is not in such files.
    """
    check_integer("max_bytes", max_bytes, minimum=1)
    size = file.path.stat().st_size
    if size > max_bytes:
        action = "Raise it: --option max_bytes=N (max_bytes=N)"
        raise ScanFileError(
            "size", f"{size} bytes", f"at most max_bytes = {max_bytes}", action=action
        )
    signal = _raster(file)
    data: NDArray[Any] = np.asarray(signal["data"])
    axes = {axis["index_in_array"]: axis for axis in signal["axes"]}
    if data.ndim != 4:
        raise ScanError("data shape", shape_text(data.shape), "(rows, columns, H, W)")
    if transpose:
        detector = replace(detector, orientation="transpose")
    stored = data.reshape(-1, *data.shape[2:])
    readout = detector.readout(stored)
    geometry = readout.corrected(_geometry(signal, axes, data.shape, object_pixel_m))
    pixel = pair(geometry.object_pixel_m)
    assert pixel is not None
    step = _step(axes, scan_step_m)
    rows, columns = (index.ravel().astype(np.float64) for index in np.indices(data.shape[:2]))
    down, along = rows * step[0], columns * step[1]
    cos, sin = math.cos(math.radians(rotation)), math.sin(math.radians(rotation))
    x, y = (along * cos - down * sin) / pixel[1], (along * sin + down * cos) / pixel[0]
    edge = readout.size // 2 + MARGIN_PX
    frames = Frames.from_array(readout.apply(stored), measurement="counts")
    return Scan(
        xcoords=x - x.min() + edge,
        ycoords=y - y.min() + edge,
        frames=settle_measurement(frames, measurement),
        probeGuess=None,
        bad_pixels=readout.bad_pixels,
        geometry=geometry,
        metadata={"source": file.path.name, "format": "rosettasciio", "rotation_deg": rotation},
        path=file.path,
    )


def _raster(file: ScanFile) -> Mapping[str, Any]:
    """The first signal of four axes in the file, as RosettaSciIO gives it."""
    try:
        from rsciio import IO_PLUGINS
    except ImportError as error:
        action = "pip install rosettasciio"
        raise MissingDependencyError(
            "rosettasciio", "missing", "installed", action=action
        ) from error
    ending = file.path.suffix.lower().removeprefix(".")
    fitting = [each for each in IO_PLUGINS if ending in map(str.lower, each["file_extensions"])]
    if not fitting:
        raise ScanFileError("file name", repr(file.path.name), "an ending that RosettaSciIO knows")
    try:
        signals = import_module(fitting[0]["api"]).file_reader(str(file.path), lazy=False)
    except Exception as error:
        # A file may be damaged, and the reader is somebody else's, and so is what it raises.
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ScanFileError("file", f"not read by RosettaSciIO ({reason})", "a scan") from error
    rasters: list[Mapping[str, Any]] = [s for s in signals if np.ndim(s["data"]) == 4]
    if not rasters:
        shapes = ", ".join(shape_text(np.shape(s["data"])) for s in signals) or "nothing"
        raise ScanError("data shape", shapes, "(rows, columns, H, W)")
    return rasters[0]


def _step(axes: Mapping[int, Any], given: float | Sequence[float] | None) -> tuple[float, float]:
    if given is not None:
        sides = tuple(given) if isinstance(given, Sequence) else (given, given)
        if len(sides) != 2 or not all(math.isfinite(side) and side > 0 for side in sides):
            raise OptionError("scan_step_m", given, "metres above 0, or a pair (row, column)")
        return sides
    steps = [_in_metres(axes.get(number, {})) for number in (0, 1)]
    if steps[0] is None or steps[1] is None:
        expected = "a step in nm or the like"
        action = "Add --option scan_step_m=METRES (scan_step_m=)"
        raise ScanError("scan axes", "without a unit", expected, action=action)
    return steps[0], steps[1]


def _geometry(
    signal: Mapping[str, Any], axes: Mapping[int, Any], shape: Sequence[int], given: float | None
) -> Geometry:
    tem = signal.get("metadata", {}).get("Acquisition_instrument", {}).get("TEM", {})
    volts = 1e3 * float(tem.get("beam_energy") or 0)
    # Relativistic; volts.
    wavelength = 12.2643e-10 / math.sqrt(volts * (1 + 0.978476e-6 * volts)) if volts else None
    if given is not None:
        return Geometry(wavelength_m=wavelength, object_pixel_m=given)
    sides = []
    for number in (2, 3):
        axis = axes.get(number, {})
        unit, scale = str(axis.get("units", "")), abs(float(axis.get("scale") or 0))
        angle = {"mrad": 1e-3, "rad": 1.0}.get(unit)
        inverse = _in_metres({"units": unit.removeprefix("1/").removesuffix("^-1"), "scale": 1.0})
        if angle and scale and wavelength:
            sides.append(wavelength / (shape[number] * angle * scale))
        elif inverse and scale and unit != unit.removeprefix("1/").removesuffix("^-1"):
            sides.append(inverse / (shape[number] * scale))
    if len(sides) != 2:
        expected = "axes in 1/nm, or in mrad with a beam energy"
        raise ScanError("frame axes", "without a scale", expected, action=OBJECT_PIXEL)
    return Geometry(wavelength_m=wavelength, object_pixel_m=(sides[0], sides[1]))


def _in_metres(axis: Mapping[str, Any]) -> float | None:
    unit = str(axis.get("units", "")).replace("µ", "u").replace("Å", "angstrom")
    scale = abs(float(axis.get("scale") or 0))
    return scale * LENGTHS[unit] if unit in LENGTHS and scale else None
