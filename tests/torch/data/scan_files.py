"""Write one simulated scan as the files of other packages, each by a function of its own.

``poor=True`` leaves out whatever a file of the format may lack.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ptycho_torch.data.geometry import Geometry
from ptycho_torch.data.scan import Scan
from ptycho_torch.simulation.scan import simulate_scan

N, M = 16, 12
DETECTOR_PIXEL_M, WAVELENGTH_M, DISTANCE_M = 75e-6, 1.5e-10, 0.25
PIXEL_M = WAVELENGTH_M * DISTANCE_M / (N * DETECTOR_PIXEL_M)
GEOMETRY = Geometry(WAVELENGTH_M, DISTANCE_M, DETECTOR_PIXEL_M)
BAD = (5, 3)


def measured_scan() -> Scan:
    """A small scan of whole counts with one bad pixel and a known geometry."""
    scan = simulate_scan(n_frames=M, N=N, photons=2e4, seed=3)
    bad = np.zeros((N, N), bool)
    bad[BAD] = True
    return Scan(
        xcoords=scan.xcoords,
        ycoords=scan.ycoords,
        frames=np.where(bad, np.float32(0), scan.diff3d),
        probeGuess=scan.probeGuess,
        objectGuess=scan.objectGuess,
        bad_pixels=bad,
        geometry=GEOMETRY,
    )


def counts_of(scan: Scan) -> np.ndarray[Any, Any]:
    """Frames (M, N, N) as whole counts."""
    return np.rint(scan.diff3d.astype(np.float64) ** 2).astype(np.uint16)


def metres_of(scan: Scan, pixel_m: float = PIXEL_M) -> np.ndarray[Any, Any]:
    """Positions (M, 2), (row, column), metres."""
    return np.stack([scan.ycoords, scan.xcoords], axis=1) * pixel_m


DEFAULT_STEPS = ((0.0, -1.0), (-1.0, 0.0), (0.0, 0.0))


def write_cxi(
    path: Path,
    scan: Scan,
    *,
    poor: bool = False,
    steps: Any = DEFAULT_STEPS,
    pynx: bool = False,
    energy_unit: str = "J",
) -> Path:
    """CXI: ``steps`` (3, 2) are the directions of the next row and the next column.

    ``pynx`` stores translations (3, M) and the basis (2, 3), in double precision.
    """
    import h5py

    steps = np.asarray(steps, float)
    translations = -metres_of(scan) @ steps.T  # orthonormal: the transpose is the inverse
    basis = steps * DETECTOR_PIXEL_M
    energy_ev = GEOMETRY.energy_ev
    assert energy_ev is not None
    joules = energy_ev * 1.602176634e-19
    with h5py.File(path, "w") as file:
        detector = file.create_group("entry_1/instrument_1/detector_1")
        detector["data"] = counts_of(scan)
        detector["distance"] = DISTANCE_M
        detector["x_pixel_size"] = DETECTOR_PIXEL_M
        source = file.create_group("entry_1/instrument_1/source_1")
        source["energy"] = joules if energy_unit == "J" else energy_ev
        name = "entry_1/sample_1/geometry_1/translation"
        file[name] = translations.T if pynx else translations
        if poor:
            return path
        file["entry_1/data_1/data"] = h5py.SoftLink(detector["data"].name)
        detector["basis_vectors"] = basis.T if pynx else basis
        detector["y_pixel_size"] = DETECTOR_PIXEL_M
        mask = np.full(scan.frames.shape[1:], 0x1000, np.uint32)
        mask[BAD] = 1
        detector["mask"] = mask
        detector["dark" if pynx else "data_dark"] = np.zeros(scan.frames.shape[1:])
        source["wavelength"] = WAVELENGTH_M
        source["illumination"] = scan.probeGuess * 1e-3
        file["entry_1/data_1/monitor"] = np.arange(1.0, M + 1)
    return path
