"""Any HDF5 file of a scan, read as a layout says: paths, axes, units, signs, index.

What a layout may say is known by :mod:`ptycho_torch.data.readers.layout`.
"""

from __future__ import annotations

import logging
from contextlib import ExitStack
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.data.detector import Detector
from ptycho_torch.data.errors import OptionError, ScanError
from ptycho_torch.data.files.hdf5 import SUFFIXES, Hdf5File, is_hdf5, opened_hdf5
from ptycho_torch.data.files.hdf5_stack import Hdf5Stack
from ptycho_torch.data.files.mapping import state_of
from ptycho_torch.data.files.npy_header import shape_text
from ptycho_torch.data.frames import Frames
from ptycho_torch.data.geometry import Geometry, pair
from ptycho_torch.data.readers.in_metres import readout_of
from ptycho_torch.data.readers.layout import LENGTHS, Layout, layout_of, preset_names
from ptycho_torch.data.readers.layout_values import (
    Floats,
    array_at,
    columns_of,
    found_name,
    geometry_of,
    in_si,
    matched,
    modes_of,
    per_frame,
    plane_of,
    table_file,
    unit_of,
)
from ptycho_torch.data.readers.measurement import settle_measurement
from ptycho_torch.data.readers.object_pixels import MARGIN_PX
from ptycho_torch.data.readers.probe_choice import keeps_probe
from ptycho_torch.data.readers.scan_file import ScanFile
from ptycho_torch.data.readout import Readout
from ptycho_torch.data.scan import Scan

__all__ = ["SUFFIXES", "read_hdf5", "recognises"]

logger = logging.getLogger(__name__)
AS_THEY_COME = Detector()
MAX_TRANSPOSED_BYTES = 4 << 30


def recognises(file: ScanFile) -> bool:
    """Whether a file is HDF5 at all: what is where, a layout has to say."""
    return is_hdf5(file.stream)


def read_hdf5(
    file: ScanFile,
    *,
    layout: Any = "auto",
    measurement: str = "auto",
    sidecar: str = "auto",
    detector: Detector = AS_THEY_COME,
    diffraction: str | Path | None = None,
) -> Scan:
    """Read a scan as ``layout`` says: the path of a YAML, the name of a preset, or a mapping.

    ``measurement`` and the detector's ``orientation`` go before the layout's. Frames, mask and dark
    may lie in the file ``diffraction``.
    """
    if isinstance(layout, str) and layout == "auto":
        expected = "the path of a YAML, a mapping, or one of " + ", ".join(preset_names())
        action = "Add --layout YAML (layout=), or of another format --format NAME (format=)"
        raise OptionError("layout", "not given", expected, action=action)
    said = layout_of(layout)
    with ExitStack() as held:
        h5 = held.enter_context(opened_hdf5(file.path, links=True))
        of_frames = h5
        if diffraction is not None:
            of_frames = held.enter_context(opened_hdf5(Path(diffraction).absolute(), links=True))
        if (table := table_file(said, file.path)) is not None:
            file.others.append((table, state_of(table)))
        return _read(file.path, h5, of_frames, said, measurement, sidecar, detector)


def _read(
    path: Path,
    h5: Hdf5File,
    of_frames: Hdf5File,
    layout: Layout,
    measurement: str,
    sidecar: str,
    detector: Detector,
) -> Scan:
    x, y, named = columns_of(h5, layout, table_file(layout, path))
    if x.shape != y.shape:
        raise ScanError("positions", f"{len(x)} of x and {len(y)} of y", "as many of both")
    source = _source(of_frames, layout)
    n_frames = source.shape[0]
    indexes = (
        _optional(of_frames, layout, "frames", "index"),
        _optional(h5, layout, "positions", "index"),
    )
    rows, of_positions = matched(*indexes, n_frames, len(x))
    photons = _optional(h5, layout, "monitor")
    if photons is not None:
        photons = per_frame(photons.ravel(), {len(x): of_positions, n_frames: rows})
    if len(rows) < n_frames:
        source = source[rows] if isinstance(source, np.ndarray) else replace(source, index=rows)
    readout = _readout(path, of_frames, layout, source, detector)
    if isinstance(source, np.ndarray):
        frames = Frames.from_array(readout.apply(source), measurement="counts")
    else:
        through = readout.through(source)
        frames = Frames.from_source(through, sidecar=sidecar, measurement="counts")
    if measurement == "auto":
        measurement = layout.words.get("measurement", "auto")
    stored = geometry_of(h5, layout)
    geometry = None if stored is None else readout.corrected(stored)
    kept, near = (x[of_positions], y[of_positions]), bool(stored and stored.near_field)
    unit = readout.corrected(Geometry(object_pixel_m=1.0, near_field=near))
    scale = pair(unit.object_pixel_m) or (1.0, 1.0)
    x, y = _in_pixels(h5, layout, named, kept, readout.size, geometry, scale)
    picture = _optional(h5, layout, "object")
    picture = None if picture is None else plane_of("object", picture)
    x, y, moved = _patch_centres(layout, x, y, readout, scale, picture)
    probe = modes_of(_optional(h5, layout, "probe"))
    if probe is not None and not keeps_probe(readout, path, detector.orientation):
        probe = None  # the layout's orientation is the file's own, and its probe's
    if picture is not None and scale != (1.0, 1.0):
        logger.warning("%s: the object is left out: it has pixels of another size", path)
        picture = None
    return Scan(
        xcoords=x,
        ycoords=y,
        frames=settle_measurement(frames, measurement),
        probeGuess=probe,
        objectGuess=picture,
        bad_pixels=readout.bad_pixels,
        geometry=geometry,
        frame_photons=photons,
        metadata={"source": path.name, "format": f"hdf5, layout {layout.name}", **moved},
        path=path,
    )


def _source(h5: Hdf5File, layout: Layout) -> Hdf5Stack | NDArray[Any]:
    given = layout.require("frames", "path", "/entry/data/data")
    names: list[str] = []
    for name in given if isinstance(given, list) else [given]:
        group, _, last = name.rpartition("/")
        if "*" in last:
            names += [f"{group}/{n}" for n in h5.names(group or "/") if fnmatchcase(n, last)]
        else:
            names.append(found_name(h5, layout, "frames", name))
    corner = layout["frames"].get("corner", False)
    if layout["frames"].get("axes", "frames_first") == "frames_first":
        return Hdf5Stack.of(h5, names, corner=corner)
    stored = h5.read_array(names[0], MAX_TRANSPOSED_BYTES)
    if stored.ndim != 3 or len(names) > 1:
        expected = "(H, W, M), with frames on the last axis"
        raise ScanError("frames", shape_text(stored.shape), expected)
    frames = np.ascontiguousarray(np.moveaxis(stored, -1, 0))
    return np.fft.fftshift(frames, axes=(1, 2)) if corner else frames


def _readout(
    path: Path, h5: Hdf5File, layout: Layout, source: Hdf5Stack | NDArray[Any], detector: Detector
) -> Readout:
    mask, dark = _optional(h5, layout, "mask"), _optional(h5, layout, "dark")
    if mask is not None:
        mask = plane_of("mask", mask)
        mask = mask == 0 if layout["mask"].get("bad", "nonzero") == "zero" else mask != 0
    if dark is not None:
        dark = dark.mean(axis=0) if dark.ndim == 3 else dark
    if layout["frames"].get("corner"):
        mask, dark = (None if a is None else np.fft.fftshift(a) for a in (mask, dark))
        detector = detector.from_corner()
    if detector.orientation == "as stored":
        detector = replace(detector, orientation=layout["frames"].get("orientation", "as stored"))
    return readout_of(path, detector, source, mask, dark)[0]


def _in_pixels(
    h5: Hdf5File,
    layout: Layout,
    named: tuple[str | None, str | None],
    stored: tuple[Floats, Floats],
    N: int,
    geometry: Geometry | None,
    scale: tuple[float, float],
) -> tuple[Floats, Floats]:
    """Positions (x, y) in object pixels, which reading out made ``scale`` (height, width) large."""
    words, units = layout["positions"], [unit_of(h5, layout, "positions", n, *named) for n in named]
    if "px" in units and set(units) != {"px"}:
        found = f"{units[0]} of x and {units[1]} of y"
        raise ScanError("units of the positions", found, "lengths, or px of both")
    scales = [in_si(layout, "positions", unit, {"px": 1.0, **LENGTHS}) for unit in units]
    x, y = stored[0] * scales[0], stored[1] * scales[1]
    x, y = (y, x) if words.get("swapped") else (x, y)
    x, y = x * words.get("x_sign", 1), y * words.get("y_sign", 1)
    if "px" in units:
        return x / scale[1], y / scale[0]
    pixel = pair(geometry.for_frames(N).object_pixel_m if geometry else None)
    if pixel is None:
        expected = "energy, distance and detector_pixel in the layout, or object_pixel"
        action = "Add object_pixel: {value: 10, unit: nm}, or unit: px to positions"
        raise layout.wrong("object_pixel", "not known", expected, action)
    return x / pixel[1], y / pixel[0]


def _patch_centres(
    layout: Layout,
    x: Floats,
    y: Floats,
    readout: Readout,
    scale: tuple[float, float],
    picture: NDArray[Any] | None,
) -> tuple[Floats, Floats, dict[str, Any]]:
    """Positions as patch centres within the object, and by how much they were moved for it."""
    origin = layout["positions"].get("origin", "scan" if picture is None else None)
    if origin is None:
        expected = "where the object has its zero: centre, patch or corner"
        raise layout.wrong("positions.origin", "missing", expected, "Add origin: to positions")
    if origin == "scan":
        shift = readout.size // 2 + MARGIN_PX - np.array([x.min(), y.min()])
        moved = {"positions_shift_px": [float(shift[0]), float(shift[1])]}
        return x + shift[0], y + shift[1], moved
    if origin == "corner":
        half = readout.size * readout.bin // 2  # of the patch as it was stored
        return x + half, y + half, {}
    if origin == "centre":
        if picture is None:
            raise layout.wrong("positions.origin", "centre without an object", "scan")
        height, width = picture.shape[-2:]
        return x + width / 2 / scale[1], y + height / 2 / scale[0], {}
    return x, y, {}


def _optional(
    h5: Hdf5File, layout: Layout, section: str, word: str = "path"
) -> NDArray[Any] | None:
    path = layout[section].get(word)
    return None if path is None else array_at(h5, layout, section, path)
