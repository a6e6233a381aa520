"""CXI files of ptychography, as cdtools and PyNX write them.

Lengths are metres and energies joules (CXI 1.6). ``translation`` says how the sample moves in the
laboratory; ``basis_vectors`` are the steps from one detector pixel to the next row and the next
column there. Minus a translation, in steps of object pixels along these directions, is a position.
"""

from __future__ import annotations

import logging
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.data.config import check_choice
from ptycho_torch.data.detector import Detector
from ptycho_torch.data.errors import ScanError, ScanKeyError
from ptycho_torch.data.files.hdf5 import Hdf5File
from ptycho_torch.data.files.hdf5_stack import Hdf5Stack
from ptycho_torch.data.files.npy_header import shape_text
from ptycho_torch.data.geometry import Pixel
from ptycho_torch.data.readers.cxi_geometry import DETECTOR, SOURCE, geometry_of
from ptycho_torch.data.readers.hdf5_numbers import hdf5_of, read_numbers
from ptycho_torch.data.readers.in_metres import Options, scan_in_metres
from ptycho_torch.data.readers.scan_file import ScanFile
from ptycho_torch.data.scan import AnyArray, Scan

logger = logging.getLogger(__name__)

AxisOrderChoice = Literal["auto", "frames_first", "frames_last"]

_FRAMES = ("/entry_1/data_1/data", f"{DETECTOR}/data")
_TRANSLATIONS = tuple(
    f"{place}/translation"
    for place in ("/entry_1/sample_1/geometry_1", "/entry_1/data_1", DETECTOR)
)
_INTENSITIES = "/entry_1/data_1/intensities"
_BLOCK_BYTES = 16 << 20
_HAS_SIGNAL = 0x1000
"""The bit of a CXI mask that says nothing bad of a pixel."""


def recognises(file: ScanFile) -> bool:
    """Whether a file has frames where CXI has them, and is no product of Ptychodus."""
    with hdf5_of(file) as h5:
        return "/entry_1/ptychodus" not in h5 and any(name in h5 for name in _FRAMES)


def read_cxi(
    file: ScanFile,
    *,
    measurement: str = "auto",
    sidecar: str = "auto",
    detector: Detector | None = None,
    object_pixel_m: Pixel | None = None,
    near_field: bool = False,
    axis_order: str = "auto",
) -> Scan:
    """Read a CXI file of ptychography.

    Parameters
    ----------
    file
        The open file.
    measurement
        What the frames are; ``"auto"``: counts, as CXI has them.
    sidecar
        Where frames that are not mapped in place are unpacked to.
    detector
        How frames are cropped, binned and turned; None: as they are.
    object_pixel_m
        Side of an object pixel, metres, or (height, width); None: by the far-field relation.
    near_field
        The frames were taken in the near field, which no CXI file says; needs ``object_pixel_m``.
    axis_order
        Of translations (M, 3), ``"frames_first"``, or (3, M), ``"frames_last"``; ``"auto"`` refuses
        those of three frames.

    Returns
    -------
    Scan
        Positions are moved as by :func:`~ptycho_torch.data.readers.object_pixels.placed`, which the
        metadata say. Negative counts are 0 and pixels that are ever NaN are bad; the dark is
        subtracted; a monitor is ``frame_photons``; the illumination is the probe, scaled to the
        mean counts per frame, or None.

    Raises
    ------
    ScanFileError, ScanKeyError, ScanError, OptionError
        One line naming field, what was found and what was expected.
    """
    check_choice("axis_order", axis_order, AxisOrderChoice)
    options = Options(measurement, sidecar, detector or Detector(), object_pixel_m, near_field)
    with hdf5_of(file) as h5:
        _refuse_nexus(h5)
        if _INTENSITIES in h5:
            logger.warning("%s: %s is left out: frames are as measured", file.path, _INTENSITIES)
        source = Hdf5Stack.of(h5, _first(h5, _FRAMES))
        geometry, directions = geometry_of(h5)
        return scan_in_metres(
            file,
            source,
            options,
            format="cxi",
            positions_m=-_translations(h5, len(source), axis_order) @ directions,
            geometry=geometry,
            bad_pixels=_bad_pixels(h5, source),
            dark=_dark(h5),
            probe=_read(h5, f"{SOURCE}/illumination"),
            frame_photons=_monitor(h5),
        )


def _refuse_nexus(h5: Hdf5File) -> None:
    # There source_1/energy is the storage ring's, and lengths have units of their own.
    name = "/entry_1/definition"
    if name in h5 and (definition := h5.read_text(name)).startswith("NX"):
        raise ScanError(name, definition, "plain CXI: NeXus has other units and another energy")


def _first(h5: Hdf5File, names: tuple[str, ...]) -> str:
    for name in names:
        if name in h5:
            return name
    raise ScanKeyError(names[0], "missing", "in a CXI file of ptychography")


def _read(h5: Hdf5File, name: str) -> AnyArray | None:
    return h5.read_array(name) if name in h5 else None


def _translations(h5: Hdf5File, frames: int, axis_order: str) -> NDArray[np.float64]:
    """(M, 3), metres; cdtools stores them so, PyNX transposed."""
    name = _first(h5, _TRANSLATIONS)
    unit = h5.read_attr(name, "units", "m")
    if unit not in ("m", "metre", "meter"):
        raise ScanError(f"{name}@units", unit, "m")
    found = read_numbers(h5, name)
    assert found is not None
    shape = found.shape
    first, last = shape == (frames, 3), shape == (3, frames)
    if first and last and axis_order == "auto":
        raise ScanError(
            f"{name} shape",
            f"{shape_text(shape)}, ambiguous",
            "(M, 3) with M other than 3",
            action="Choose by --axis-order frames_first or --axis-order frames_last "
            "(axis_order='frames_first')",
        )
    use_first = first and axis_order != "frames_last"
    if not use_first and not (last and axis_order != "frames_first"):
        wanted = f"({frames}, 3) or (3, {frames}) for {frames} frames"
        raise ScanError(f"{name} shape", shape_text(shape), wanted)
    return found if use_first else found.T


def _bad_pixels(h5: Hdf5File, source: Hdf5Stack) -> NDArray[np.bool_] | None:
    """(H, W), or (M, H, W) where the mask varies: what the mask names, and what sees nothing."""
    name = f"{DETECTOR}/mask"
    bad = None
    if name in h5:
        dtype, shape = h5.dataset(name).dtype, h5.dataset(name).shape
        if dtype.kind not in "biu":
            raise ScanError(f"{name} dtype", dtype, "integers, 0 = good")
        if shape == source.shape:
            bad = _of_each_frame(h5, name)
        elif shape == source.shape[1:]:
            bad = _named(h5.read_array(name))
        else:
            wanted = f"{shape_text(source.shape[1:])} or {shape_text(source.shape)}, as frames"
            raise ScanError(f"{name} shape", shape_text(shape), wanted)
    blind = _blind(h5, source.shape[1:])
    return bad if blind is None else blind if bad is None else bad | blind


def _named(mask: AnyArray) -> NDArray[np.bool_]:
    """What a CXI mask says is bad."""
    if mask.dtype.kind == "b":
        return mask
    bad: NDArray[np.bool_] = (mask.astype(np.uint64) & ~np.uint64(_HAS_SIGNAL)) != 0
    return bad


def _of_each_frame(h5: Hdf5File, name: str) -> NDArray[np.bool_]:
    """Bad pixels (M, H, W), read in parts; (H, W) where all frames have the same."""
    mask, read = h5.dataset(name), h5.part_reader(name)
    most = max(1, _BLOCK_BYTES // (mask.nbytes // max(1, mask.shape[0])))
    deep = mask.chunks[0] if mask.chunks else 1
    step = max(1, most // deep * deep)
    bad = np.empty(mask.shape, bool)
    for start in range(0, len(bad), step):
        part = np.empty((min(step, len(bad) - start), *mask.shape[1:]), mask.dtype)
        read((slice(start, start + len(part)),), part)
        bad[start : start + len(part)] = _named(part)
    return bad[0] if all(np.array_equal(one, bad[0]) for one in bad) else bad


def _blind(h5: Hdf5File, frame: tuple[int, ...]) -> NDArray[np.bool_] | None:
    """Pixels (H, W) of no quantum efficiency; another than 1 is left out, with a word."""
    name = f"{DETECTOR}/qe_mask"
    if name not in h5:
        return None
    efficiency = h5.read_array(name)
    if efficiency.shape != frame or efficiency.dtype.kind not in "biuf":
        found = f"{shape_text(efficiency.shape)} {efficiency.dtype}"
        raise ScanError(name, found, f"numbers {shape_text(frame)}, as frames")
    blind: NDArray[np.bool_] = ~(efficiency > 0)
    if len(np.unique(efficiency[~blind])) > 1:
        text = "%s: %s is left out where it is above 0: frames are as measured"
        logger.warning(text, h5.path, name)
    return blind if blind.any() else None


def _dark(h5: Hdf5File) -> NDArray[np.float64] | None:
    """(H, W), of several their mean; ``data_dark`` in cdtools, ``dark`` in PyNX."""
    for name in ("data_dark", "dark"):
        dark = read_numbers(h5, f"{DETECTOR}/{name}")
        if dark is not None:
            return dark.mean(axis=0) if dark.ndim == 3 and len(dark) else dark
    return None


def _monitor(h5: Hdf5File) -> NDArray[np.float64] | None:
    """(M,); left out where it stood at 0."""
    monitor = read_numbers(h5, "/entry_1/data_1/monitor")
    if monitor is not None and not (monitor > 0).all():
        logger.warning("%s: the monitor is left out: it is 0 or less in places", h5.path)
        return None
    return monitor
