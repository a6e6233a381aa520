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


def write_ptyd(path: Path, scan: Scan, *, poor: bool = False, link: bool = False) -> Path:
    """PtyPy's chunks of one frame each, so that 10 comes after 9; ``link`` puts each in a file."""
    import h5py

    counts, positions = counts_of(scan), metres_of(scan)
    assert GEOMETRY.energy_ev is not None and scan.bad_pixels is not None
    with h5py.File(path, "w") as file:
        meta = file.create_group("meta")
        meta["energy"] = GEOMETRY.energy_ev / 1e3
        meta["distance"] = DISTANCE_M
        meta["psize"] = DETECTOR_PIXEL_M if poor else [DETECTOR_PIXEL_M, DETECTOR_PIXEL_M]
        if not poor:
            meta["propagation"] = "farfield"
            meta["num_frames"] = M
            meta["label"] = "None"
        for number in range(M):
            content: dict[str, Any] = {
                "data": counts[number, None],
                "positions": positions[[number]],
            }
            if not poor:
                content["weights"] = np.broadcast_to(~scan.bad_pixels, (1, N, N)).astype(np.float32)
                content["indices"] = np.array([number])
            name = f"chunks/{number}"
            if link:
                part = f"{path.name}.part{number:03d}"
                with h5py.File(path.with_name(part), "w") as other:
                    for key, value in content.items():
                        other[key] = value
                file[name] = h5py.ExternalLink(part, "/")
            else:
                for key, value in content.items():
                    file[f"{name}/{key}"] = value
    return path


def clockwise(frames: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Frames turned clockwise about their zero frequency, (N//2, N//2)."""
    rows, columns = np.indices(frames.shape[1:]) - N // 2
    # A pixel (r, c) goes to (c, -r); the frequency -N/2 is its own opposite.
    turned = np.empty_like(frames)
    turned[:, (columns + N // 2) % N, (-rows + N // 2) % N] = frames
    return turned


def write_nsls2(path: Path, scan: Scan, *, poor: bool = False) -> Path:
    """NSLS-II: amplitude, clockwise, zero frequency at the corner; poor: without a geometry."""
    import h5py

    with h5py.File(path, "w") as file:
        amplitude = np.sqrt(counts_of(scan).astype(np.float32))
        file["diffamp"] = np.fft.ifftshift(clockwise(amplitude), axes=(1, 2))
        file["points"] = metres_of(scan).T[::-1] * 1e6
        if not poor:
            file["lambda_nm"] = WAVELENGTH_M * 1e9
            file["z_m"] = DISTANCE_M
            file["ccd_pixel_um"] = DETECTOR_PIXEL_M * 1e6
    return path


def write_dectris(path: Path, scan: Scan, *, poor: bool = False) -> Path:
    """A Dectris master, its frames in two files; the bad pixel holds the largest integer.

    Poor: one file, no mask, no geometry.
    """
    import h5py

    counts = counts_of(scan).astype(np.uint32)
    counts[:, BAD[0], BAD[1]] = 2**32 - 1
    parts = [counts] if poor else [counts[:7], counts[7:]]
    with h5py.File(path, "w") as file:
        for number, part in enumerate(parts, start=1):
            name = path.name.replace("master", f"data_{number:06d}")
            with h5py.File(path.with_name(name), "w") as other:
                other.create_dataset("entry/data/data", data=part, chunks=(1, N, N))
            file[f"entry/data/data_{number:06d}"] = h5py.ExternalLink(name, "/entry/data/data")
        if poor:
            return path
        detector = file.create_group("entry/instrument/detector")
        detector["detector_distance"] = DISTANCE_M
        detector["x_pixel_size"] = detector["y_pixel_size"] = DETECTOR_PIXEL_M
        mask = np.zeros((N, N), np.uint32)
        mask[BAD] = 1
        detector["detectorSpecific/pixel_mask"] = mask
        file["entry/instrument/beam/incident_wavelength"] = WAVELENGTH_M * 1e10
    return path


def write_tike(path: Path, scan: Scan, *, poor: bool = False) -> Path:
    """tike: counts with the zero frequency at the corner, positions of the patches' corners."""
    corners = np.stack([scan.ycoords, scan.xcoords], axis=1) - N / 2
    counts = np.fft.ifftshift(counts_of(scan), axes=(1, 2))
    probe = scan.probeGuess if poor else scan.probeGuess[None, None, None]
    leading = () if poor else (None,)
    np.savez(path, data=counts[leading], scan=corners[leading], probe=probe)
    return path
