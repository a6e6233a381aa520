"""Frames as Ptychodus keeps them: ``patterns`` in HDF5 or NPZ, a bare NPY, CXI, and ``/dp``.

All are counts with the zero frequency in the middle. Owns where frames, their indexes, bad pixels
and the detector's pixel lie; knows no positions.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.data.errors import ScanError, ScanKeyError
from ptycho_torch.data.files.frame_source import FrameSource
from ptycho_torch.data.files.hdf5 import Hdf5File, is_hdf5, opened_hdf5
from ptycho_torch.data.files.hdf5_stack import Hdf5Stack
from ptycho_torch.data.files.mapping import opened
from ptycho_torch.data.files.npy_header import shape_text
from ptycho_torch.data.files.stored_stack import stack_in_archive, stack_in_npy
from ptycho_torch.data.files.zip_archive import ZipArchive

_CXI_DETECTOR = "/entry_1/instrument_1/detector_1"
PLACES = ("patterns", "dp", f"{_CXI_DETECTOR}/data")
"""Where HDF5 files have frames, in the order in which they are looked for."""

Opened = Hdf5File | ZipArchive | Path
"""A file that is looked into: HDF5, NPZ, or the path of an NPY."""


@dataclass(frozen=True, eq=False)
class MeasuredFrames:
    """Frames (M, H, W), their ``indexes`` (M,), ``bad_pixels`` (H, W), nonzero = bad, and photons
    (M,); ``pixel_m`` is the detector's (height, width). None: the file does not say.
    """

    source: FrameSource
    indexes: NDArray[Any] | None = None
    bad_pixels: NDArray[Any] | None = None
    photons: NDArray[Any] | None = None
    pixel_m: tuple[float, float] | None = None


@contextmanager
def opened_any(path: Path) -> Iterator[Opened]:
    """Open a file of whichever kind it is, and name it in errors raised inside."""
    with opened(path) as stream:
        hdf5 = is_hdf5(stream)
        if not hdf5 and path.suffix.lower() == ".npz":
            yield ZipArchive(stream, path)
            return
    if not hdf5 and path.suffix.lower() == ".npy":
        yield path
        return
    with opened_hdf5(path, links=True) as file:
        yield file


def has_frames(file: Opened) -> bool:
    """Whether there are frames in an open file."""
    if isinstance(file, ZipArchive):
        return "patterns" in file.members
    return isinstance(file, Path) or any(place in file for place in PLACES)


def frames_of(file: Opened) -> MeasuredFrames:
    """Find frames in an open file, reading only what lies beside them."""
    if isinstance(file, Path):
        with opened(file) as stream:
            return MeasuredFrames(stack_in_npy(stream, file))
    if isinstance(file, ZipArchive):
        beside = ("indexes", "bad_pixels", "probe_photon_counts")
        read: list[Any] = [file.read(name) if name in file.members else None for name in beside]
        return MeasuredFrames(stack_in_archive(file, "patterns", "frames_first"), *read)
    for place in PLACES:
        if place in file:
            cxi = place.startswith(_CXI_DETECTOR)
            source = Hdf5Stack.of(file, place)
            return MeasuredFrames(source, *(_in_cxi(file) if cxi else _beside(file, place)))
    raise ScanKeyError(" or ".join(PLACES), "missing", "frames")


def _beside(file: Hdf5File, place: str) -> list[Any]:
    names = ("indexes", "bad_pixels", "probe_photon_counts")
    found: list[Any] = [file.read_array(name) if name in file else None for name in names]
    sides = [file.read_attr(place, f"detector_pixel_{side}_m") for side in ("height", "width")]
    return [*found, _pixel(sides)]


def _in_cxi(file: Hdf5File) -> list[Any]:
    def read(name: str) -> Any:
        place = f"{_CXI_DETECTOR}/{name}"
        return file.read_array(place) if place in file else None

    return [None, read("mask"), None, _pixel([read("y_pixel_size"), read("x_pixel_size")])]


def _pixel(sides: list[Any]) -> tuple[float, float] | None:
    if any(side is None for side in sides):
        return None
    numbers = [np.asarray(side) for side in sides]
    for number in numbers:
        if number.size != 1 or number.dtype.kind not in "fiu" or not np.isfinite(number).all():
            found = f"{shape_text(number.shape)} {number.dtype}"
            raise ScanError("detector pixel", found, "a number in metres")
    height, width = (float(number.reshape(())[()]) for number in numbers)
    return (height, width) if min(height, width) > 0 else None
