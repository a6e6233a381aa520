"""PtyPy's ``.ptyd``: counts in chunks, with positions in metres and weights.

Frames are already cropped, centred and turned, and ``meta`` says what they are then. A position is
(row, column) of the probe on the object. In PtyPy's link mode a chunk is a link to a file beside.
"""

from __future__ import annotations

import logging
from itertools import repeat

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.data.detector import Detector
from ptycho_torch.data.errors import ScanError, ScanFileError, ScanKeyError
from ptycho_torch.data.files.hdf5 import Hdf5File
from ptycho_torch.data.files.hdf5_stack import Hdf5Stack
from ptycho_torch.data.files.npy_header import shape_text
from ptycho_torch.data.geometry import HC_EV_M, Geometry, Pixel
from ptycho_torch.data.readers.hdf5_numbers import hdf5_of, read_numbers
from ptycho_torch.data.readers.in_metres import Options, scan_in_metres
from ptycho_torch.data.readers.scan_file import ScanFile
from ptycho_torch.data.scan import Scan

logger = logging.getLogger(__name__)

_MOST_WEIGHT_BYTES = 2 << 30


def recognises(file: ScanFile) -> bool:
    """Whether a file has PtyPy's chunks."""
    with hdf5_of(file, links=True) as h5:
        return "/chunks" in h5


def read_ptyd(
    file: ScanFile,
    *,
    measurement: str = "auto",
    sidecar: str = "auto",
    detector: Detector | None = None,
    object_pixel_m: Pixel | None = None,
    near_field: bool = False,
) -> Scan:
    """Read a ``.ptyd`` file, its chunks in the order of their numbers.

    Parameters
    ----------
    file
        The open file.
    measurement
        What the frames are; ``"auto"``: counts, as PtyPy has them.
    sidecar, detector, object_pixel_m, near_field
        As for :func:`~ptycho_torch.data.readers.cxi.read_cxi`; the near field may be said by the
        file's ``meta/propagation``, and an object pixel is there as large as one of the detector.

    Returns
    -------
    Scan
        Without a probe. Pixels of weight 0 are bad: (N, N) where all frames have the same.

    Raises
    ------
    ScanFileError, ScanKeyError, ScanFileNotFoundError, ScanError
        One line naming field, what was found and what was expected; a chunk whose file is missing.
    """
    options = Options(measurement, sidecar, detector or Detector(), object_pixel_m, near_field)
    with hdf5_of(file, links=True) as h5:
        chunks = _chunks(h5)
        source = Hdf5Stack.of(h5, [f"{chunk}/data" for chunk in chunks])
        counts = [_length(h5, chunk) for chunk in chunks]
        _compare_with_promised(h5, sum(counts))
        return scan_in_metres(
            file,
            source,
            options,
            format="ptyd",
            positions_m=np.concatenate(list(map(_positions, repeat(h5), chunks, counts))),
            geometry=_geometry(h5),
            bad_pixels=_bad_pixels(h5, chunks, counts, source.shape[1:]),
        )


def _chunks(h5: Hdf5File) -> list[str]:
    """Paths of the chunks by number: in order of the alphabet 10 goes before 9."""
    names = h5.names("/chunks")
    numbers = [name for name in names if name.isascii() and name.isdigit() and len(name) < 19]
    if not names or len(numbers) < len(names):
        found = "empty" if not names else f"with {sorted(set(names) - set(numbers))[0]}"
        raise ScanFileError("/chunks", found, "chunks named by numbers")
    return [f"/chunks/{name}" for name in sorted(numbers, key=int)]


def _length(h5: Hdf5File, chunk: str) -> int:
    return int(np.prod(h5.dataset(f"{chunk}/data").shape[:-2]))


def _positions(h5: Hdf5File, chunk: str, frames: int) -> NDArray[np.float64]:
    name = f"{chunk}/positions"
    found = read_numbers(h5, name)
    if found is None:
        raise ScanKeyError(name, "missing", f"positions of {frames} frames")
    if found.shape != (frames, 2):
        raise ScanError(f"{name} shape", shape_text(found.shape), f"({frames}, 2), as its data")
    return found


def _bad_pixels(
    h5: Hdf5File, chunks: list[str], counts: list[int], frame: tuple[int, ...]
) -> NDArray[np.bool_] | None:
    """Where the weights are 0: (H, W), or (M, H, W) where frames differ."""
    common = read_numbers(h5, "/meta/weight2d")
    all_good = np.zeros((1, *frame), bool)
    if common is not None and common.shape == frame:
        all_good = (common <= 0)[None]
    parts = []
    for chunk, frames in zip(chunks, counts, strict=True):
        name = f"{chunk}/weights"
        weights = h5.read_array(name, _MOST_WEIGHT_BYTES) if name in h5 else np.empty(0)
        bad = ~(weights > 0) if weights.size else all_good
        if bad.shape not in ((1, *frame), frame, (frames, *frame)):
            wanted = f"({frames}, {frame[0]}, {frame[1]}), as its data"
            raise ScanError(f"{name} shape", shape_text(bad.shape), wanted)
        bad = bad.reshape(-1, *frame)
        parts.append(bad[:1] if (bad == bad[0]).all() else bad)
    first = parts[0][0]
    if all(len(part) == 1 and np.array_equal(part[0], first) for part in parts):
        return first if first.any() else None
    return np.concatenate(
        [np.broadcast_to(p, (n, *frame)) for p, n in zip(parts, counts, strict=True)]
    )


def _geometry(h5: Hdf5File) -> Geometry:
    """What ``meta`` knows; ``energy`` there is in keV."""
    energy, pixel = _meta(h5, "energy"), _meta(h5, "psize")
    if energy is not None and not 1e-3 <= float(energy[0]) <= 1e3:
        raise ScanError("/meta/energy", energy[0], "keV")
    sides = None if pixel is None else (float(pixel[0]), float(pixel[-1]))
    distance = _meta(h5, "distance")
    near = _text(h5, "propagation") == "nearfield"
    return Geometry(
        wavelength_m=None if energy is None else HC_EV_M / (1e3 * float(energy[0])),
        distance_m=None if distance is None else float(distance[0]),
        detector_pixel_m=sides,
        object_pixel_m=sides if near else None,
        near_field=near,
    )


def _meta(h5: Hdf5File, key: str) -> NDArray[np.float64] | None:
    """One or two numbers, flat; None where there are none, which PtyPy writes as a text."""
    name = f"/meta/{key}"
    if _text(h5, key) == "None":
        return None
    numbers = read_numbers(h5, name)
    if numbers is not None and numbers.size not in (1, 2):
        raise ScanError(f"{name} shape", shape_text(numbers.shape), "one number, or two")
    return None if numbers is None or not numbers.any() else numbers.ravel()


def _text(h5: Hdf5File, key: str) -> str | None:
    """The value as text, or None where it is missing or a number."""
    name = f"/meta/{key}"
    if name not in h5:
        return None
    try:
        return h5.read_text(name)
    except ScanFileError:
        return None  # read as a number next, which refuses what is none


def _compare_with_promised(h5: Hdf5File, frames: int) -> None:
    promised = _meta(h5, "num_frames")
    if promised is not None and promised[0] != frames:
        logger.warning("%s: %d of %d frames are there", h5.path, frames, promised[0])
