"""The files that readers of the pages are supposed to have, made small."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
from builders import ROOT

from ptycho_torch.data.frames import Frames
from ptycho_torch.data.geometry import Geometry
from ptycho_torch.data.raw_data import RawData
from ptycho_torch.data.scan import Scan
from ptycho_torch.simulation.scan import simulate_scan

N, FRAMES = 32, 196
DETECTOR_PIXEL_M, DISTANCE_M, ENERGY_EV = 75e-6, 1.0, 8000.0
WAVELENGTH_M = 1.239841984e-6 / ENERGY_EV
PIXEL_M = WAVELENGTH_M * DISTANCE_M / (N * DETECTOR_PIXEL_M)


def put(name: str, folder: Path) -> None:
    """Put a file or a folder of that name where a reader types."""
    path = folder / name
    if name == "configs":
        shutil.copytree(ROOT / name, path)
    elif name == "raw/":
        path.mkdir()
        for number in (1, 2, 3):
            _scan(seed=number).to_file(path / f"scan_{number:03d}.npz")
    elif name.endswith(".npz"):
        _scan().to_file(path)
    elif name == "product.h5":
        _product(path)
    else:
        {".cxi": _cxi, ".h5": _hdf5, ".npy": _arrays}[path.suffix](path)


def _scan(seed: int = 0) -> RawData:
    scan: RawData = simulate_scan(n_frames=FRAMES, N=N, photons=1e5, seed=seed)
    return scan


def _counts(scan: RawData) -> np.ndarray[Any, Any]:
    return np.rint(np.asarray(scan.diff3d, np.float64) ** 2).astype(np.uint32)


def _metres(scan: RawData) -> np.ndarray[Any, Any]:
    """Positions (M, 2), (x, y), metres."""
    return np.stack([scan.xcoords, scan.ycoords], axis=1) * PIXEL_M


def _product(path: Path) -> None:
    """What Ptychodus saves: a product, and its frames in another file beside it."""
    from ptychodus_files import write_diffraction_h5, write_product_h5

    made = _scan()
    geometry = Geometry(
        wavelength_m=WAVELENGTH_M,
        distance_m=DISTANCE_M,
        detector_pixel_m=DETECTOR_PIXEL_M,
        object_pixel_m=PIXEL_M,
    )
    scan = Scan(
        xcoords=made.xcoords,
        ycoords=made.ycoords,
        frames=Frames.from_array(_counts(made), measurement="counts"),
        probeGuess=made.probeGuess,
        objectGuess=made.objectGuess,
        bad_pixels=np.arange(N * N).reshape(N, N) == 0,
        geometry=geometry,
        frame_photons=np.full(FRAMES, float(_counts(made).sum(axis=(1, 2)).mean())),
    )
    write_product_h5(path, scan)
    write_diffraction_h5(path.with_name("diffraction.h5"), scan)


def _cxi(path: Path) -> None:
    import h5py

    scan = _scan()
    with h5py.File(path, "w") as file:
        detector = file.create_group("entry_1/instrument_1/detector_1")
        detector["data"] = _counts(scan)
        detector["distance"] = DISTANCE_M
        detector["x_pixel_size"] = detector["y_pixel_size"] = DETECTOR_PIXEL_M
        detector["mask"] = np.zeros((N, N), np.uint32)
        file["entry_1/instrument_1/source_1/energy"] = ENERGY_EV * 1.602176634e-19
        # CXI's own axes: rows step along -y, columns along -x, and the sample moves the other way.
        translations = np.zeros((FRAMES, 3))
        translations[:, :2] = _metres(scan)
        file["entry_1/sample_1/geometry_1/translation"] = translations


def _hdf5(path: Path) -> None:
    """A beamline's file: counts, stage in micrometres with y upwards, a mask where 1 is good."""
    import h5py

    scan = _scan()
    stage_um = _metres(scan)[:, ::-1] * 1e6 * (-1, 1)
    with h5py.File(path, "w") as file:
        file["entry/detector/frames"] = _counts(scan)
        file["entry/detector/mask"] = np.ones((N, N), np.uint8)
        file["entry/detector/distance"] = DISTANCE_M * 1e3
        file["entry/energy"] = ENERGY_EV / 1e3
        file["entry/stage/position"] = stage_um
        file["entry/probe"] = scan.probeGuess


def _arrays(path: Path) -> None:
    """Frames, positions, a mask or a probe of the scan, by the name of the file."""
    scan = _scan()
    frames = _counts(scan)
    arrays = {
        "frames": frames,
        "positions": _metres(scan) * 1e6,
        "mask": np.zeros((N, N), np.uint8),
        "probe": scan.probeGuess,
        "dark": np.zeros((N, N), np.float32),
    }
    np.save(path, arrays[path.stem])
