"""The canonical NPZ: positions, amplitude frames and a probe under PtychoPINN's key names.

Small arrays are read at once; frames and ready-made patches stay in the file. Keys that the
contract does not know are ignored, and pickles are never loaded. What the arrays must be is known
by :mod:`ptycho_torch.data.scan`.
"""

from __future__ import annotations

import json
import logging
from dataclasses import fields
from typing import Any, Literal, get_args

import numpy as np

from ptycho_torch.data.config import check_choice
from ptycho_torch.data.errors import PtychoTorchError, ScanError
from ptycho_torch.data.files.npy_header import shape_text
from ptycho_torch.data.files.zip_archive import ZipArchive
from ptycho_torch.data.frames import AxisOrder, Frames, FrameStack
from ptycho_torch.data.geometry import Geometry
from ptycho_torch.data.readers.measurement import settle_measurement
from ptycho_torch.data.readers.ptychodus_product import CENTRE_PX
from ptycho_torch.data.readers.scan_file import ScanFile
from ptycho_torch.data.scan import AnyArray, Scan

logger = logging.getLogger(__name__)

AxisOrderChoice = Literal["auto", "frames_first", "frames_last"]
FramesKey = Literal["auto", "diff3d", "diffraction"]
FRAME_KEYS = ("diff3d", "diffraction")
OPTIONAL_KEYS = ("xcoords_start", "ycoords_start", "objectGuess", "frame_photons")
GEOMETRY_KEYS = tuple(field.name for field in fields(Geometry))
MAX_METADATA_BYTES = 16 << 20


def recognises(file: ScanFile) -> bool:
    """Whether a file has the keys of a canonical scan."""
    return any(key in file.archive.members for key in ("xcoords", *FRAME_KEYS))


def read_npz(
    file: ScanFile,
    *,
    measurement: str = "auto",
    sidecar: str = "auto",
    axis_order: str = "auto",
    frames_key: str = "auto",
) -> Scan:
    """Read a canonical NPZ.

    Parameters
    ----------
    file
        The open file.
    measurement
        What the frames are: ``"amplitude"``, ``"counts"`` or ``"auto"``; see
        :func:`~ptycho_torch.data.readers.measurement.settle_measurement`.
    sidecar
        Where compressed frames are unpacked to; see :meth:`FrameStack.from_npz`.
    axis_order
        ``"frames_first"`` (M, N, N), ``"frames_last"`` (N, N, M), or ``"auto"``: the word under
        ``axis_order`` in the file's metadata, else whichever the number of positions tells; refused
        where it tells nothing.
    frames_key
        Which of ``"diff3d"`` and ``"diffraction"`` to take where a file has both; ``"auto"``:
        ``diff3d``, where the two are alike.

    Raises
    ------
    ScanFileError, ScanKeyError, ScanError, OptionError
        One line naming field, what was found and what was expected.
    """
    check_choice("axis_order", axis_order, AxisOrderChoice)
    archive = file.archive
    check_choice("frames_key", frames_key, FramesKey)
    key = _frames_key(archive, frames_key)
    for required in ("xcoords", "ycoords"):
        archive.require(required)
    metadata = _metadata(archive)
    # What the file says of its own axes is no provenance of the scan.
    said = metadata.pop("axis_order", None)
    if axis_order == "auto" and said in get_args(AxisOrder):
        axis_order = said
    order = _axis_order(archive, key, axis_order)
    frames = Frames.from_archive(archive, key, sidecar=sidecar, axis_order=order)
    if "bad_pixels" in archive.members:
        frames = frames.with_bad_pixels(archive.read("bad_pixels"))
    # An export of Ptychodus: no canonical file has amplitudes in integers.
    exported = "bad_pixels" in archive.members and frames.dtype.kind in "iu"
    if exported and measurement == "auto":
        measurement = "counts"
    patches = None
    if "Y" in archive.members:
        patches = FrameStack.from_archive(archive, "Y", sidecar=sidecar)
    return Scan(
        xcoords=_read(archive, "xcoords", exported),
        ycoords=_read(archive, "ycoords", exported),
        frames=settle_measurement(frames, measurement),
        probeGuess=archive.read("probeGuess") if "probeGuess" in archive.members else None,
        scan_index=_scan_index(archive),
        Y=patches,
        metadata=metadata,
        path=file.path,
        geometry=_geometry(archive),
        **{k: _read(archive, k, exported) for k in OPTIONAL_KEYS if k in archive.members},
    )


def _read(archive: ZipArchive, key: str, exported: bool) -> AnyArray:
    """An array; positions that Ptychodus exported count from the middle of pixel 0."""
    array = archive.read(key)
    shifted = exported and "coords" in key and array.dtype.kind in "fiu"
    return array + CENTRE_PX if shifted else array


def _frames_key(archive: ZipArchive, wanted: str) -> str:
    found = [key for key in FRAME_KEYS if key in archive.members]
    if not found:
        archive.require(FRAME_KEYS[0])
    if len(found) == 2 and wanted != "auto":
        logger.info("%s: both diff3d and diffraction are there; %s is taken", archive.path, wanted)
        return wanted
    if len(found) == 2:
        first, second = (archive.header(key) for key in found)
        if (first.shape, first.dtype) != (second.shape, second.dtype):
            raise ScanError(
                "diff3d and diffraction",
                f"{first} and {second}",
                "one of them, or two alike",
                action="Remove the wrong one, or choose by --option frames_key=NAME (frames_key=)",
            )
    return found[0]


def _axis_order(archive: ZipArchive, key: str, choice: str) -> AxisOrder:
    if choice != "auto":
        return "frames_last" if choice == "frames_last" else "frames_first"
    positions = archive.header("xcoords").shape
    shape = archive.header(key).shape[:3]
    if len(shape) != 3 or len(positions) != 1:
        return "frames_first"
    first = shape[0] == positions[0] and shape[1] == shape[2]
    last = shape[2] == positions[0] and shape[0] == shape[1]
    if first and last:
        raise ScanError(
            f"{key} shape",
            f"{shape_text(shape)} with {positions[0]} positions, ambiguous",
            "frames on the first axis or on the last",
            action="Choose by --axis-order frames_first or --axis-order frames_last "
            "(axis_order='frames_first')",
        )
    return "frames_last" if last else "frames_first"


def _scan_index(archive: ZipArchive) -> AnyArray | None:
    if "scan_index" not in archive.members:
        return None
    numbers = archive.read("scan_index")
    if numbers.dtype.kind != "f":
        return numbers
    # Some writers store the numbers as floats.
    if not (np.abs(numbers) <= 2**53).all() or (numbers != np.floor(numbers)).any():
        raise ScanError("scan_index", "fractional", "whole numbers")
    return numbers.astype(np.int64)


def _geometry(archive: ZipArchive) -> Geometry | None:
    known = {name: archive.read(name) for name in GEOMETRY_KEYS if name in archive.members}
    for name, number in known.items():
        sides = (2,) if name.endswith("pixel_m") else ()
        if number.dtype.kind not in "fiub" or number.shape not in ((), sides):
            found = f"{shape_text(number.shape)} {number.dtype}"
            raise ScanError(name, found, "a number in metres" if name != "near_field" else "a bool")
    return Geometry(**{name: number.tolist() for name, number in known.items()}) if known else None


def _metadata(archive: ZipArchive) -> dict[str, Any]:
    """Provenance; anything but JSON text is left alone, because no array depends on it."""
    member = archive.members.get("_metadata")
    if member is None:
        return {}
    try:
        header = archive.header("_metadata")
        if (
            header.dtype.kind not in "US"
            or header.shape != ()
            or member.file_size > MAX_METADATA_BYTES
        ):
            raise ScanError("_metadata", header, "one JSON text")
        content = json.loads(archive.read("_metadata").item())
        if not isinstance(content, dict):
            raise ScanError("_metadata", "no mapping", "a JSON mapping")
        return content
    except (PtychoTorchError, ValueError, RecursionError) as error:
        logger.info("%s: _metadata skipped: %s", archive.path, error)
        return {}
