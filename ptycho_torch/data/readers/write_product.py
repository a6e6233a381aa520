"""Write a reconstruction as a product of Ptychodus 1.7 (HDF5), which Ptychodus opens as its own.

Names, dtypes and attributes are those of its ``save_product`` (BSD-3-Clause). Positions are metres
from the object's centre.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.data.errors import OptionError, OptionTypeError, ScanError
from ptycho_torch.data.files.atomic_write import atomic_write
from ptycho_torch.data.files.hdf5_array import require_h5py
from ptycho_torch.data.files.npy_header import shape_text
from ptycho_torch.data.geometry import Geometry, pair
from ptycho_torch.data.scan import Scan

_NUMBERS = (
    "exposure_time_s mass_attenuation_m2_per_kg tomography_angle_deg tilt_angle_deg "
    "focus_object_distance_m"
)


def write_product(
    path: str | Path,
    scan: Scan,
    obj: NDArray[Any],
    probe: NDArray[Any],
    *,
    losses: NDArray[Any] | None = None,
    replace: bool = True,
) -> Path:
    """Write an object and a probe with the positions and the geometry of their scan.

    Parameters
    ----------
    path
        The file to write; it appears whole or not at all.
    scan
        Its geometry has a wavelength, a distance and an object pixel, metres. Positions keep the
        indexes that their file had: those of a product in ``scan_index``, else frame numbers.
    obj
        complex, (H, W), object pixels.
    probe
        complex, (P, N, N) or (N, N), sqrt(counts).
    losses
        Error after each epoch, (E,), or None.
    replace
        False: a file of that name stays as it is.

    Returns
    -------
    path
        As it was given.

    Raises
    ------
    OptionError
        The scan's geometry does not say what a product has to.
    OptionTypeError, ScanError
        Object or probe is no array, or one of another shape or dtype.
    MissingDependencyError
        h5py is not installed.
    ScanFileError
        The file cannot be written.
    """
    h5py = require_h5py()
    place = Path(path)
    geometry, (height, width) = _known(scan.geometry)
    layers, modes = _stacked("obj", obj, (2,)), _stacked("probe", probe, (2, 3))
    modes = modes.reshape(1, -1, *modes.shape[-2:])
    sides = zip((scan.xcoords, scan.ycoords), obj.shape[::-1], (width, height), strict=True)
    x_m, y_m = ((values - length / 2) * pixel for values, length, pixel in sides)
    errors = np.empty(0) if losses is None else np.asarray(losses, np.float64)
    with atomic_write(place, replace=replace) as handle, h5py.File(handle, "w") as file:
        file.attrs.update(_root(scan, geometry, modes))
        file["probe_position_indexes"] = _indexes(scan)
        file["probe_position_x_m"], file["probe_position_y_m"] = x_m, y_m
        if scan.frame_photons is not None:
            file["probe_photon_counts"] = scan.frame_photons
        pixel_m = {"pixel_width_m": width, "pixel_height_m": height}
        file["probe"], file["object"] = modes, layers
        file["probe"].attrs.update(pixel_m)
        file["object"].attrs.update({"center_x_m": 0.0, "center_y_m": 0.0, **pixel_m})
        file["object_layer_spacing_m"] = np.empty(0)
        file["loss_epochs"], file["loss_values"] = np.arange(len(errors)), errors
    return place


def _known(geometry: Geometry | None) -> tuple[Geometry, tuple[float, float]]:
    names = ("wavelength_m", "distance_m", "object_pixel_m")
    unknown = [name for name in names if getattr(geometry, name, None) is None]
    pixel = None if geometry is None else pair(geometry.object_pixel_m)
    if geometry is None or pixel is None or unknown:
        wanted = "a Geometry with " + ", ".join(names)
        raise OptionError("geometry", f"without {', '.join(unknown)}", wanted)
    return geometry, pixel


def _stacked(name: str, array: NDArray[Any], ranks: tuple[int, ...]) -> NDArray[np.complex128]:
    if not isinstance(array, np.ndarray):
        raise OptionTypeError(name, type(array).__name__, "an array")
    if array.ndim not in ranks or array.dtype.kind != "c" or not array.size:
        wanted = f"complex, {' or '.join(map(str, ranks))} axes"
        raise ScanError(name, f"{shape_text(array.shape)} {array.dtype}", wanted)
    return array.astype(np.complex128)[None]


def _root(scan: Scan, geometry: Geometry, modes: NDArray[np.complex128]) -> dict[str, Any]:
    notes = scan.metadata or {}
    source = "ptycho_torch" if scan.path is None else scan.path.stem
    numbers = {name: notes.get(name) for name in _NUMBERS.split()}
    texts = {"name": notes.get("name", source), "comments": notes.get("comments", "")}
    return {
        **{name: str(text) for name, text in texts.items()},
        **{name: float(n) if isinstance(n, int | float) else 0.0 for name, n in numbers.items()},
        "detector_object_distance_m": geometry.distance_m,
        "photon_energy_eV": geometry.energy_ev,
        "probe_photon_count": float(np.sum(np.abs(modes) ** 2)),
        "far_field": not geometry.near_field,
    }


def _indexes(scan: Scan) -> NDArray[np.int64]:
    """Numbers that tell frames apart: the file's own, or their places in it."""
    numbers = scan.scan_index.astype(np.int64)
    if len(np.unique(numbers)) == len(numbers) and numbers.min() >= 0:
        return numbers
    return scan.file_indices(np.arange(len(scan))).astype(np.int64)
