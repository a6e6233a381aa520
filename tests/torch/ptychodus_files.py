"""Write one scan as the files of Ptychodus and pty-chi, each kind by a function of its own.

``poor`` leaves out whatever a file of the kind may lack. Layouts are those of Ptychodus 1.7.0.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
from builders import export_training_data

from ptycho_torch.data.geometry import pair
from ptycho_torch.data.scan import Scan

Named = dict[str, Any]


def counts_of(scan: Scan) -> np.ndarray[Any, Any]:
    return scan.frames.stored


def product_of(scan: Scan, poor: bool = False, corner: bool = False) -> tuple[Named, Named]:
    """Arrays, and what are attributes in HDF5, by the names of the NPZ product."""
    geometry = scan.geometry
    height, width = pair(geometry.object_pixel_m)
    rows, columns = scan.objectGuess.shape
    centre = (0.0, 0.0) if poor or corner else (3e-6, -2e-6)
    x, y = (scan.xcoords, scan.ycoords)
    if not corner:
        x, y = x - columns / 2, y - rows / 2
    arrays = {
        "probe_position_indexes": np.arange(len(scan)) + (0 if poor else 7),
        "probe_position_x_m": x * width + centre[1],
        "probe_position_y_m": y * height + centre[0],
        "probe": scan.probeGuess.astype(complex)[None, None],
        "object": scan.objectGuess.astype(complex)[None],
    }
    numbers = {
        "detector_object_distance_m": geometry.distance_m,
        "photon_energy_eV": geometry.energy_ev,
        "object_pixel_width_m": width,
        "object_pixel_height_m": height,
        "object_center_x_m": centre[1],
        "object_center_y_m": centre[0],
    }
    if not poor:
        arrays["probe_photon_counts"] = scan.frame_photons
        numbers |= {"probe_pixel_width_m": width, "probe_pixel_height_m": height}
        numbers |= {"name": "sample", "exposure_time_s": 0.1, "far_field": True}
    return arrays, numbers


def write_product_h5(path: Path, scan: Scan, *, poor: bool = False, root: bool = True) -> Path:
    """``root=False``: without the attributes of the root, as pty-chi needs none."""
    arrays, numbers = product_of(scan, poor)
    with h5py.File(path, "w") as file:
        file.update(arrays)
        for name, value in numbers.items():
            owner, _, attribute = name.partition("_")
            if owner == "object" or (owner == "probe" and "pixel" in name):
                file[owner].attrs[attribute] = value
            elif root:
                file.attrs[name] = value
    return path


def write_older_product(path: Path, scan: Scan, **changes: Any) -> Path:
    """The dialect before 1.0: other names, a probe without pixels, /costs."""
    write_product_h5(path, scan, poor=True)
    with h5py.File(path, "r+") as file:
        file.attrs["probe_energy_eV"] = file.attrs["photon_energy_eV"]
        del file.attrs["photon_energy_eV"]
        probe, obj = file["probe"][0], file["object"][0]
        attributes = dict(file["object"].attrs)
        del file["probe"], file["object"]
        file["probe"], file["object"], file["costs"] = probe, obj, np.ones(3)
        file["object"].attrs.update(attributes)
        file["probe"].attrs.update({"pixel_width_m": 0.0, "pixel_height_m": 0.0})
    return path


def write_product_npz(path: Path, scan: Scan, *, poor: bool = False) -> Path:
    arrays, numbers = product_of(scan, poor)
    np.savez(path, **arrays, **numbers)
    return path


def write_product_cxi(path: Path, scan: Scan, *, poor: bool = False) -> Path:
    arrays, numbers = product_of(scan, poor)
    energy_j = numbers.pop("photon_energy_eV") * 1.602176634e-19
    moves = [arrays.pop(f"probe_position_{axis}_m") for axis in "xy"]
    with h5py.File(path, "w") as file:
        file["cxi_version"] = 160
        file["entry_1/instrument_1/source_1/energy"] = energy_j
        distance = numbers.pop("detector_object_distance_m")
        file["entry_1/instrument_1/detector_1/distance"] = distance
        file["entry_1/sample_1/geometry_1/translation"] = np.stack(
            [*moves, np.zeros(len(scan))], axis=1
        )
        file["entry_1/image_1/data"] = arrays.pop("probe")
        file["entry_1/image_2/data"] = arrays.pop("object")
        if not poor:
            file["entry_1/title"] = numbers.pop("name")
            numbers.pop("far_field")
        for name, value in {**arrays, **numbers}.items():
            file[f"entry_1/ptychodus/{name}"] = value
    return path


def write_diffraction_h5(path: Path, scan: Scan, *, poor: bool = False) -> Path:
    with h5py.File(path, "w") as file:
        file.create_dataset("patterns", data=counts_of(scan), compression="lzf")
        file["bad_pixels"] = np.zeros((scan.N, scan.N), bool) if poor else scan.bad_pixels
        if not poor:
            file["indexes"] = np.arange(len(scan)) + 7
            height, width = pair(scan.geometry.detector_pixel_m)
            attributes = {"detector_pixel_width_m": width, "detector_pixel_height_m": height}
            file["patterns"].attrs.update(attributes)
    return path


def write_diffraction_npz(path: Path, scan: Scan, *, poor: bool = False) -> Path:
    beside = {"indexes": np.arange(len(scan)) + 7, "bad_pixels": scan.bad_pixels}
    np.savez_compressed(path, patterns=counts_of(scan), **({} if poor else beside))
    return path


def write_diffraction_npy(path: Path, scan: Scan, *, poor: bool = False) -> Path:
    np.save(path, counts_of(scan))
    return path


def write_training_h5(path: Path, scan: Scan, *, poor: bool = False) -> Path:
    height, width = pair(scan.geometry.object_pixel_m)
    with h5py.File(path, "w") as file:
        file.create_dataset("patterns", data=counts_of(scan), compression="lzf")
        file["bad_pixels"] = scan.bad_pixels
        file["probe"], file["object"] = scan.probeGuess[None], scan.objectGuess
        # Ptychodus counts from the middle of pixel 0.
        file["probe_position_x_px"] = scan.xcoords - 0.5
        file["probe_position_y_px"] = scan.ycoords - 0.5
        file["object_pixel_width_m"], file["object_pixel_height_m"] = width, height
        file["detector_object_distance_m"] = scan.geometry.distance_m
        file["photon_energy_eV"] = scan.geometry.energy_ev
    return path


def write_training_npz(path: Path, scan: Scan, *, poor: bool = False) -> Path:
    return export_training_data(path, scan, counts_of(scan))


def write_pair(folder: Path, scan: Scan, *, poor: bool = False) -> Path:
    """``scan_dp.hdf5`` and ``scan_para.hdf5`` as ptycho-vit reads them; the path of the latter."""
    with h5py.File(folder / "scan_dp.hdf5", "w") as file:
        file["dp"] = counts_of(scan)
    path = write_product_h5(folder / "scan_para.hdf5", scan, poor=poor, root=False)
    with h5py.File(path, "r+") as file:
        file.pop("probe_photon_counts", None)
        probe = file["probe"][0]
        del file["probe"]
        file["probe"] = probe
        if poor:
            del file["probe_position_indexes"]
    return path
