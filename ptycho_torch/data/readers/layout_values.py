"""Numbers that a layout leads to: with their units in metres and electronvolts, matched by index.

Knows neither frames nor detectors.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.data.errors import ScanError, ScanFileError, ScanKeyError, naming
from ptycho_torch.data.files.hdf5 import Hdf5File
from ptycho_torch.data.files.mapping import opened
from ptycho_torch.data.files.npy_header import shape_text
from ptycho_torch.data.geometry import HC_EV_M, Geometry
from ptycho_torch.data.readers.index_matching import require_in_order
from ptycho_torch.data.readers.layout import ENERGIES, LENGTHS, Layout

logger = logging.getLogger(__name__)

Floats = NDArray[np.float64]
# How files spell the units in their attributes.
_SPELT = MappingProxyType(
    {
        **dict.fromkeys(("meter", "metre", "meters", "metres"), "m"),
        **dict.fromkeys(("micron", "microns", "micrometer", "µm"), "um"),
        **{"millimeter": "mm", "nanometer": "nm", "pixel": "px", "pixels": "px"},
        **{"ev": "eV", "kev": "keV", "j": "J", "joule": "J"},
    }
)
_MAX_TEXT_BYTES = 256 << 20


def found_name(h5: Hdf5File, layout: Layout, section: str, path: str) -> str:
    """The first of the paths between bars that is there; the ScanKeyError names the section."""
    names = [name.strip() for name in path.split("|")]
    for name in names:
        if name in h5:
            return name
    action = f"Correct {section} in the layout {layout.name}"
    raise ScanKeyError(f"{section} {' or '.join(names)}", "missing", "in the file", action=action)


def array_at(h5: Hdf5File, layout: Layout, section: str, path: str) -> NDArray[Any]:
    """The array at a path of the layout."""
    return h5.read_array(found_name(h5, layout, section, path))


def geometry_of(h5: Hdf5File, layout: Layout) -> Geometry | None:
    """What the layout leads to, of the frames as they are stored; None where that is nothing."""
    wavelength = _quantity(h5, layout, "wavelength", LENGTHS)
    energy = _quantity(h5, layout, "energy", ENERGIES)
    known: dict[str, Any] = {
        "wavelength_m": HC_EV_M / energy if energy and not wavelength else wavelength,
        "distance_m": _quantity(h5, layout, "distance", LENGTHS),
        "detector_pixel_m": _quantity(h5, layout, "detector_pixel", LENGTHS),
        "object_pixel_m": _quantity(h5, layout, "object_pixel", LENGTHS),
        "near_field": layout.words.get("near_field", False),
    }
    return Geometry(**known) if any(known.values()) else None


def unit_of(h5: Hdf5File, layout: Layout, section: str, *paths: str | None) -> str:
    """The unit that the layout says, else the one in the attribute of the first dataset with it."""
    if "unit" in layout[section]:
        return str(layout[section]["unit"])
    names = (found_name(h5, layout, section, path) for path in paths if path is not None)
    attributes = (h5.read_attr(name, "units") for name in names)
    said = next((each for each in attributes if isinstance(each, str)), None)
    if not isinstance(said, str):
        found = "missing, and the file has no units attribute"
        raise layout.wrong(f"{section}.unit", found, "a unit", f"Add unit: to {section}")
    return _SPELT.get(said.strip().lower(), said.strip())


def in_si(layout: Layout, section: str, unit: str, units: Mapping[str, float]) -> float:
    """What one of these units is in metres or electronvolts."""
    if unit not in units:
        expected = "one of " + ", ".join(units)
        raise layout.wrong(f"{section}.unit", repr(unit), expected, f"Add unit: to {section}")
    return units[unit]


def _quantity(h5: Hdf5File, layout: Layout, section: str, units: Mapping[str, float]) -> Any:
    """A number, or the pair (height, width) of two paths or values; None without the section."""
    words = layout[section]
    if not words:
        return None
    given = words.get("value", words.get("path"))
    if given is None:
        raise layout.wrong(section, "without path and value", "one of the two")
    sides = [
        _number(h5, layout, section, each)
        * in_si(
            layout,
            section,
            unit_of(h5, layout, section, *map(_dataset, (each, *_listed(given)))),
            units,
        )
        for each in _listed(given)
    ]
    if len(sides) > 2:
        raise layout.wrong(section, f"{len(sides)} numbers", "one, or two for height and width")
    return sides[0] if len(sides) == 1 else tuple(sides)


def _dataset(given: Any) -> str | None:
    return given if isinstance(given, str) else None


def _listed(given: Any) -> Sequence[Any]:
    return given if isinstance(given, list) else [given]


def _number(h5: Hdf5File, layout: Layout, section: str, given: Any) -> float:
    """A number as it is; of a path, the one that all numbers of the dataset agree on."""
    if not isinstance(given, str):
        return float(given)
    values = array_at(h5, layout, section, given).astype(np.float64).ravel()
    low, high = (values.min(), values.max()) if values.size else (np.nan, np.nan)
    if not np.isfinite([low, high]).all() or high - low > 1e-3 * abs(high):
        found = f"{low:g} to {high:g}" if values.size else "empty"
        raise ScanError(f"{section} {given}", found, "one finite number, or as good as one")
    return abs(float(values.mean()))


def table_file(layout: Layout, scan: Path) -> Path | None:
    """The file of their own in which positions lie, beside the scan; None: they are in the scan."""
    name = layout["positions"].get("file")
    return None if name is None else scan.parent / name.replace("{stem}", scan.stem)


def columns_of(
    h5: Hdf5File, layout: Layout, beside: Path | None
) -> tuple[Floats, Floats, tuple[str | None, str | None]]:
    """Positions as they are stored, x and y, and the dataset of each that may say its unit.

    ``beside`` is the file of :func:`table_file`.
    """
    words = layout["positions"]
    if "x" in words or "y" in words:
        names = [layout.require("positions", axis, f"{{{axis}: /path}}") for axis in "xy"]
        x, y = (array_at(h5, layout, "positions", name).astype(np.float64) for name in names)
        if words.get("raster") and x.ndim == y.ndim == 1:
            x, y = np.meshgrid(x, y)
        return x.ravel(), y.ravel(), (names[0], names[1])
    if beside is not None:
        table, name = _table(beside), None
    else:
        name = layout.require("positions", "path", "{path: /entry/positions, columns: [x, y]}")
        table = array_at(h5, layout, "positions", name)
    columns = layout.require("positions", "columns", "{columns: [x, y]}")
    if table.ndim == 2 and table.shape[0] == len(columns) == table.shape[1]:
        raise ScanError("positions", f"{shape_text(table.shape)}, ambiguous", "other than square")
    if table.ndim == 2 and table.shape[0] == len(columns):
        table = table.T
    if table.ndim != 2 or table.shape[1] != len(columns) or not {"x", "y"} <= set(columns):
        found = f"{shape_text(table.shape)} with columns {columns}"
        raise layout.wrong("positions.columns", found, "a name for each column, x and y among them")
    x, y = (table[:, columns.index(axis)].astype(np.float64) for axis in "xy")
    return x, y, (name, name)


def _table(path: Path) -> NDArray[Any]:
    """Numbers in a text file, with commas or spaces between them, or in an ``.npy``."""
    with naming(path), opened(path) as stream:
        try:
            if path.suffix == ".npy":
                loaded: NDArray[Any] = np.load(stream, allow_pickle=False)
                return loaded
            text = stream.read(_MAX_TEXT_BYTES).decode()
            lines = [line.replace(",", " ").split() for line in text.splitlines()]
            # A head begins with a letter or with a mark of comments.
            numbers = [line for line in lines if line and line[0][0] in "+-.0123456789"]
            return np.array(numbers, dtype=np.float64)
        except (ValueError, EOFError) as error:
            raise ScanFileError("positions", "no table", "columns of numbers") from error


def matched(
    frames: NDArray[Any] | None, positions: NDArray[Any] | None, n_frames: int, n_positions: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which frames and which positions belong together, as pairs in the order of the frames.

    Without an index of both they go by order, and there have to be equally many. With them, what
    has no partner is left out, which the log counts; a number that comes twice is a ScanError.
    """
    if frames is None or positions is None:
        if n_frames != n_positions:
            section = "frames" if frames is None and positions is not None else "positions"
            action = f"Name an index in the layout: {section}: {{index: /path}}"
            raise ScanError("positions", n_positions, f"{n_frames}, as frames", action=action)
        require_in_order("index", frames if positions is None else positions)
        return np.arange(n_frames), np.arange(n_frames)
    one = _index("frames.index", frames, n_frames)
    other = _index("positions.index", positions, n_positions)
    _, of_frames, of_positions = np.intersect1d(one, other, return_indices=True)
    if not len(of_frames):
        raise ScanError("positions.index", "without a number of a frame", "numbers of frames")
    if len(of_frames) < max(n_frames, n_positions):
        pairs = len(of_frames)
        text = "%d of %d positions have a frame, %d of %d frames a position; the rest is left out"
        logger.warning(text, pairs, n_positions, pairs, n_frames)
    order = np.argsort(of_frames)
    return of_frames[order].astype(np.int64), of_positions[order].astype(np.int64)


def _index(field: str, given: NDArray[Any], count: int) -> NDArray[Any]:
    index = given.ravel()
    if len(index) != count or len(np.unique(index)) != count:
        found = f"{len(index)} numbers, {len(np.unique(index))} of them distinct"
        raise ScanError(field, found, f"{count} distinct ones")
    return index


def per_frame(photons: NDArray[Any], kept: dict[int, NDArray[np.int64]]) -> NDArray[Any]:
    """The monitor of the frames in use: it has a number for each position, or for each frame."""
    if len(photons) not in kept:
        wanted = " or ".join(f"{count} numbers" for count in kept)
        raise ScanError("monitor", f"{len(photons)} numbers", wanted)
    return photons[kept[len(photons)]]


def plane_of(section: str, array: NDArray[Any]) -> NDArray[Any]:
    """An array of two axes; those of length 1 before them are dropped."""
    if array.ndim < 2 or array.size != array.shape[-1] * array.shape[-2]:
        raise ScanError(f"{section} shape", shape_text(array.shape), "(H, W)")
    return array.reshape(array.shape[-2:])


def modes_of(probe: NDArray[Any] | None) -> NDArray[Any] | None:
    """Modes (P, N, N); further axes before them are dropped where their length is 1."""
    if probe is None or probe.ndim <= 3:
        return probe
    if any(length != 1 for length in probe.shape[:-3]):
        raise ScanError("probe shape", shape_text(probe.shape), "(P, N, N) modes")
    return probe.reshape(probe.shape[-3:])
