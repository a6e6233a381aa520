"""What comes first where a reader, a detector and corrections all have a say in a scan.

Owns that order, for every format.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from ptycho_torch.data.corrections import Corrections
from ptycho_torch.data.detector import Detector
from ptycho_torch.data.errors import NotSquareError, OptionError
from ptycho_torch.data.readers.probe_choice import array_in_npy
from ptycho_torch.data.readers.read_out import read_out
from ptycho_torch.data.readers.reader import Reader
from ptycho_torch.data.readers.scan_file import ScanFile
from ptycho_torch.data.scan import Scan


def given_to_reader(reader: Reader, given: dict[str, Any], corrected: Corrections) -> Corrections:
    """Corrections without those that the reader has an option for, which are now among ``given``.

    A mask among them becomes the detector's.
    An OptionError says that both are given and differ, or that the format has metres, so that
    positions come without a unit.
    """
    if "bad_pixels" in given and "bad_pixels" not in reader.options:
        mask = given.pop("bad_pixels")
        mask = array_in_npy(Path(mask)) if isinstance(mask, str | Path) else mask
        detector = given.get("detector") or Detector()
        if mask is not None and detector.bad_pixels is not None:
            found = "given beside that of the detector"
            raise OptionError("bad_pixels", found, "one mask", action="Join the two")
        if mask is not None:
            given["detector"] = replace(detector, bad_pixels=mask)
    for name, option in (("position_unit", "position_unit"), ("pixel_size_m", "object_pixel_m")):
        said = getattr(corrected, name)
        if not _corrects(corrected, name) or option not in reader.options:
            continue
        if given.setdefault(option, said) != said:
            found = f"{said!r} beside {option}={given[option]!r} of format {reader.name}"
            raise OptionError(name, found, "one of the two", action="Leave one out")
        corrected = replace(corrected, **{name: getattr(Corrections, name)})
    # A reader that crops frames gives positions in the pixels that are left: it knew their unit.
    if _corrects(corrected, "position_unit") and "detector" in reader.options:
        found = f"{corrected.position_unit!r} for format {reader.name}, which says its own unit"
        action = "Read HDF5 of another unit with --layout (layout=), where unit: stands beside the "
        action += "positions; write the positions of another file again in metres"
        raise OptionError("position_unit", found, "px", action=action)
    return corrected


def measured(
    reader: Reader, file: ScanFile, given: dict[str, Any], corrected: Corrections, sidecar: Any
) -> Scan:
    """The scan as a detector reads it out, and corrected; whichever has to be first, is."""
    detector, own = given.get("detector"), "detector" in reader.options
    as_stored = [name for name in ("zero_frequency", "pixel_size_m") if _corrects(corrected, name)]
    if detector is None or (own and not as_stored):
        return corrected.of_measurement(reader.scan_of(file, **given))
    # The dark and what a pixel reaches are of frames as stored; a window is of frames as they are
    # meant, and so is everything that positions are counted in.
    marks = {name: getattr(detector, name) for name in ("dark", "saturation", "bad_pixels")}
    level, window = Detector(**marks), replace(detector, **dict.fromkeys(marks))
    if own:
        try:
            scan = reader.scan_of(file, **{**given, "detector": level})
        except NotSquareError as error:
            expected = "square frames where a detector reads them out"
            raise OptionError(as_stored[0], "given for others", expected) from error
    else:
        del given["detector"]
        scan = reader.scan_of(file, **given)
        if any(mark is not None for mark in marks.values()):
            scan = read_out(scan, level, sidecar=sidecar)
    return read_out(corrected.of_measurement(scan), window, sidecar=sidecar)


def _corrects(corrected: Corrections, name: str) -> bool:
    return bool(getattr(corrected, name) != getattr(Corrections, name))
