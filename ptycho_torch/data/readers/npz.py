"""The canonical NPZ: positions, amplitude frames and a probe under PtychoPINN's key names.

Small arrays are read and checked at once; frames and ready-made patches stay in the file. Keys that
the contract does not know are ignored, and pickles are never loaded.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from ptycho_torch.data.caches.names import SidecarPolicy
from ptycho_torch.data.config import check_choice
from ptycho_torch.data.contract import ArraySpec, spec
from ptycho_torch.data.errors import PtychoTorchError, ScanError
from ptycho_torch.data.files.npy_header import shape_text
from ptycho_torch.data.files.stored_stack import AxisOrder
from ptycho_torch.data.frames import Frames, FrameStack
from ptycho_torch.data.readers.archive import AnyArray, Archive, open_archive
from ptycho_torch.data.readers.fields import ScanFields
from ptycho_torch.data.readers.measurement import settle_measurement

logger = logging.getLogger(__name__)

AxisOrderChoice = Literal["auto", "frames_first", "frames_last"]
FRAME_KEYS = ("diff3d", "diffraction")
MAX_METADATA_BYTES = 16 << 20


def recognises(path: Path) -> bool:
    """Whether a file has the keys of a canonical scan."""
    with open_archive(path) as archive:
        return "xcoords" in archive.members or any(key in archive.members for key in FRAME_KEYS)


def read_npz(
    path: Path,
    *,
    measurement: str = "auto",
    sidecar: SidecarPolicy | str = "auto",
    axis_order: str = "auto",
) -> ScanFields:
    """Read a canonical NPZ.

    Parameters
    ----------
    path
        The file.
    measurement
        What the frames are: ``"amplitude"``, ``"counts"`` or ``"auto"``; see
        :func:`~ptycho_torch.data.readers.measurement.settle_measurement`.
    sidecar
        Where compressed frames are converted to; see :meth:`FrameStack.from_npz`.
    axis_order
        ``"frames_first"`` (M, N, N), ``"frames_last"`` (N, N, M), or ``"auto"``: the word under
        ``axis_order`` in the file's metadata, else whichever the number of positions tells; refused
        where it tells nothing.

    Raises
    ------
    ScanFileNotFoundError, ScanFileError, ScanKeyError, ScanError, OptionError
        One line naming file, field, what was found and what was expected.
    """
    check_choice("axis_order", axis_order, AxisOrderChoice)
    with open_archive(path) as archive:
        key = _frames_key(archive)
        for required in ("xcoords", "ycoords", "probeGuess"):
            archive.require(required)
        metadata = _metadata(archive)
        if axis_order == "auto" and metadata.get("axis_order") in get_args(AxisOrder):
            axis_order = metadata["axis_order"]
        order = _axis_order(archive, key, axis_order)
        stack = Frames.from_archive(archive, key, sidecar=sidecar, axis_order=order)
        sizes = {"M": stack.shape[0], "N": stack.shape[1]}
        xcoords = read_positions(archive, "xcoords", sizes)
        ycoords = read_positions(archive, "ycoords", sizes)
        xcoords_start, ycoords_start = xcoords, ycoords
        if "xcoords_start" in archive.members:
            xcoords_start = read_positions(archive, "xcoords_start", sizes)
        if "ycoords_start" in archive.members:
            ycoords_start = read_positions(archive, "ycoords_start", sizes)
        probe = read_probe(archive, sizes)
        scan_index = _scan_index(archive, sizes)
        object_guess = None
        if "objectGuess" in archive.members:
            object_guess = archive.read_checked(spec("scan", "objectGuess"), {})
        patches = None
        if "Y" in archive.members:
            patches = FrameStack.from_archive(archive, "Y", sidecar=sidecar)
    frames = settle_measurement(stack, measurement)
    return ScanFields(
        path=path,
        xcoords=xcoords,
        ycoords=ycoords,
        xcoords_start=xcoords_start,
        ycoords_start=ycoords_start,
        frames=frames,
        probeGuess=probe,
        scan_index=scan_index,
        objectGuess=object_guess,
        Y=patches,
        metadata=metadata,
    )


def _frames_key(archive: Archive) -> str:
    found = [key for key in FRAME_KEYS if key in archive.members]
    if not found:
        archive.require(FRAME_KEYS[0])
    if len(found) == 2:
        first, second = (archive.header(key) for key in found)
        if (first.shape, first.dtype) != (second.shape, second.dtype):
            raise ScanError(
                "diff3d and diffraction",
                f"{first} and {second}",
                "one of them, or two alike",
                action="Remove the wrong one",
                file=archive.file,
            )
    return found[0]


def _axis_order(archive: Archive, key: str, choice: str) -> AxisOrder:
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
            f"{shape_text(shape)} with {positions[0]} positions, so frames may lie on the "
            "first axis or on the last",
            "to be told which",
            action="Pass axis_order='frames_first' or 'frames_last' to read_scan",
            file=archive.file,
        )
    return "frames_last" if last else "frames_first"


def read_positions(archive: Archive, name: str, sizes: dict[str, int]) -> AnyArray:
    """Coordinates (M,); a float dtype is kept, integers become float64."""
    wanted = spec("scan", name)
    if archive.header(name).dtype.kind in "iu":
        wanted = _with_dtype(wanted, "integer")
    coordinates = archive.read_checked(wanted, sizes)
    if coordinates.dtype.kind == "f":
        return coordinates
    return coordinates.astype(np.float64)


def _with_dtype(wanted: ArraySpec, dtype: str) -> ArraySpec:
    return ArraySpec(wanted.door, wanted.name, wanted.axes, dtype, wanted.unit, wanted.meaning)


def read_probe(archive: Archive, sizes: dict[str, int]) -> AnyArray:
    """Probe (N, N), or modes (P, N, N); (N, N, 1) loses its last axis."""
    wanted = spec("scan", "probeGuess")
    shape = archive.header(wanted.name).shape
    side = sizes["N"]
    if len(shape) == 3:
        single = shape == (side, side, 1)
        axes = ("N", "N", "1") if single else ("P", "N", "N")
        wanted = ArraySpec("scan", wanted.name, axes, wanted.dtype, wanted.unit, wanted.meaning)
        probe = archive.read_checked(wanted, {"N": side, "1": 1})
        return np.ascontiguousarray(probe[:, :, 0]) if single else probe
    return archive.read_checked(wanted, {"N": side})


def _scan_index(archive: Archive, sizes: dict[str, int]) -> AnyArray:
    wanted = spec("scan", "scan_index")
    if wanted.name not in archive.members:
        return np.zeros(sizes["M"], np.int64)
    if archive.header(wanted.name).dtype.kind != "f":
        return archive.read_checked(wanted, sizes)
    # Some writers store the numbers as floats.
    numbers = archive.read_checked(_with_dtype(wanted, "floating"), sizes)
    if (numbers != np.floor(numbers)).any() or (np.abs(numbers) > 2**53).any():
        raise ScanError(wanted.name, "fractional", "whole numbers", file=archive.file)
    return numbers.astype(np.int64)


def _metadata(archive: Archive) -> dict[str, Any]:
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
            raise ScanError("_metadata", header, "one JSON text", file=archive.file)
        text = archive.read("_metadata").item()
        content = json.loads(text)
        if not isinstance(content, dict):
            raise ScanError("_metadata", "no mapping", "a JSON mapping", file=archive.file)
        return content
    except (PtychoTorchError, ValueError, RecursionError) as error:
        logger.info("_metadata skipped: %s", error)
        return {}
