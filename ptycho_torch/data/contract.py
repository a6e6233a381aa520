"""One table of every array that crosses a public door: name, axes, dtype, unit, meaning.

Axes: M frames of a scan, N pixels along a frame's side, C frames in a group, B groups, P probe
modes, H and W object rows and columns, xy the pair (column, row). Others ask this table instead of
saying a shape again. Knows no files.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.data.errors import OptionTypeError, ScanError

FLOATING = "floating"
REAL = "real"
COMPLEX = "complex"
NUMBER = "number"
INTEGER = "integer"

_KINDS = MappingProxyType({FLOATING: "f", REAL: "fiu", COMPLEX: "c", NUMBER: "fiuc", INTEGER: "iu"})


@dataclass(frozen=True)
class ArraySpec:
    """What one array is.

    Parameters
    ----------
    door
        Where it crosses: ``"scan"``, ``"grouped"``, ``"container"`` or ``"batch"``.
    name
        Key or attribute.
    axes
        Names of the axes, or digits for a fixed length; ``xy`` has length 2.
    dtype
        A NumPy dtype name, or a family: floating, real, complex, integer, number.
    unit
        Unit of the values.
    meaning
        One line; formulas in the names of this table.
    """

    door: str
    name: str
    axes: tuple[str, ...]
    dtype: str
    unit: str
    meaning: str

    def shape_text(self) -> str:
        """The axes as text: ``(M, N, N)``."""
        if len(self.axes) == 1:
            return f"({self.axes[0]},)"
        return f"({', '.join(self.axes)})"


def _scan(name: str, axes: str, dtype: str, unit: str, meaning: str) -> ArraySpec:
    return ArraySpec("scan", name, tuple(axes.split()), dtype, unit, meaning)


def _grouped(name: str, axes: str, dtype: str, unit: str, meaning: str) -> ArraySpec:
    return ArraySpec("grouped", name, tuple(axes.split()), dtype, unit, meaning)


def _container(name: str, axes: str, dtype: str, unit: str, meaning: str) -> ArraySpec:
    return ArraySpec("container", name, tuple(axes.split()), dtype, unit, meaning)


def _batch(name: str, axes: str, dtype: str, unit: str, meaning: str) -> ArraySpec:
    return ArraySpec("batch", name, tuple(axes.split()), dtype, unit, meaning)


ARRAYS: tuple[ArraySpec, ...] = (
    _scan("diff3d", "M N N", REAL, "sqrt(counts)", "amplitude, zero frequency at the centre"),
    _scan("xcoords", "M", FLOATING, "object px", "probe position, column of the patch centre"),
    _scan("ycoords", "M", FLOATING, "object px", "probe position, row of the patch centre"),
    _scan("xcoords_start", "M", FLOATING, "object px", "nominal column; default xcoords"),
    _scan("ycoords_start", "M", FLOATING, "object px", "nominal row; default ycoords"),
    _scan("probeGuess", "N N", COMPLEX, "sqrt(counts)", "probe; or (P, N, N) incoherent modes"),
    _scan("scan_index", "M", INTEGER, "", "scan or object number; default zeros"),
    _scan("objectGuess", "H W", NUMBER, "", "whole object, optional"),
    _scan("bad_pixels", "N N", "bool", "", "True = bad, optional; or per frame (M, N, N)"),
    _scan("frame_photons", "M", REAL, "photons", "light on the object in each frame, optional"),
    _scan("Y", "M N N", COMPLEX, "", "ready-made patches, optional; (M, N, N, 1) accepted"),
    _grouped("nn_indices", "B C", INTEGER, "", "int32; int64 for C = 1 and for oversampling"),
    _grouped("diffraction", "B N N C", REAL, "sqrt(counts)", "diff3d[nn], frames on the last axis"),
    _grouped("X_full", "B N N C", "float32", "1", "scale * float32(diffraction)"),
    _grouped("coords_nn", "B 1 xy C", FLOATING, "object px", "(x, y) of the grouped frames"),
    _grouped("coords_offsets", "B 1 xy 1", FLOATING, "object px", "mean of coords_nn over C"),
    _grouped("coords_relative", "B 1 xy C", FLOATING, "object px", "-(coords_nn - coords_offsets)"),
    _grouped("coords_start_nn", "B 1 xy C", FLOATING, "object px", "as coords_nn, nominal"),
    _grouped("coords_start_offsets", "B 1 xy 1", FLOATING, "object px", "as coords_offsets"),
    _grouped("coords_start_relative", "B 1 xy C", FLOATING, "object px", "as coords_relative"),
    _grouped("Y", "B N N C", "complex64", "", "patches; None without Y and objectGuess"),
    _grouped("objectGuess", "H W", NUMBER, "", "passed through"),
    _container("X", "B N N C", "float32", "1", "X_full"),
    _container("Y_I", "B N N C", "float32", "", "abs(Y); ones when Y is None"),
    _container("Y_phi", "B N N C", "float32", "rad", "angle(Y); zeros when Y is None"),
    _container("Y", "B N N C", "complex64", "", "Y_I * exp(i * Y_phi)"),
    _container("coords_nominal", "B 1 xy C", "float32", "object px", "coords_start_relative"),
    _container("coords_true", "B 1 xy C", "float32", "object px", "the same"),
    _container("coords", "B 1 xy C", "float32", "object px", "the same"),
    _container("coords_relative", "B 1 xy C", "float32", "object px", "coords_relative, measured"),
    _container("global_offsets", "B 1 xy 1", "float64", "object px", "coords_offsets"),
    _container("local_offsets", "B 1 xy C", "float64", "object px", "coords_relative"),
    _container("nn_indices", "B C", INTEGER, "", "as grouped"),
    _container("norm_Y_I", "", "float32", "", "sqrt(nphotons / mean over (B, C) of sum X**2)"),
    _container("probe", "N N", "complex64", "sqrt(counts)", "probeGuess"),
    _container("probeGuess", "N N", "complex64", "sqrt(counts)", "the same"),
    _batch("X", "B N N C", "float32", "1", "scale * amplitude; a channels-last view"),
    _batch("Y", "B N N C", "complex64", "", "patches, or None"),
    _batch("coords_nominal", "B 1 xy C", "float32", "object px", "coords_start_relative"),
    _batch("global_offsets", "B 1 xy 1", "float64", "object px", "coords_offsets"),
    _batch("local_offsets", "B 1 xy C", "float64", "object px", "position = global - local"),
    _batch("nn_indices", "B C", "int64", "", "frame indices within the scan"),
    _batch("scan_id", "B", "int64", "", "which of the dataset's scans"),
    _batch(
        "probe",
        "B P N N",
        "complex64",
        "sqrt(counts)",
        "modes; one copy per batch, broadcast over the groups",
    ),
    _batch("scale", "B", "float32", "1 / sqrt(counts)", "X = scale * amplitude"),
    _batch("bad_pixels", "B N N", "bool", "", "True = bad in a frame of the group, where X is 0"),
    _batch(
        "frame_photons",
        "B C",
        "float32",
        "photons",
        "in the scan, a monitor's scaled to the probe's, or None",
    ),
)

_FIXED = MappingProxyType({"1": 1, "xy": 2})
_SPECS = MappingProxyType({(spec.door, spec.name): spec for spec in ARRAYS})


def spec(door: str, name: str) -> ArraySpec:
    """The table's entry for an array at a door."""
    return _SPECS[door, name]


def check_array(array: Any, wanted: ArraySpec, sizes: dict[str, int]) -> NDArray[Any]:
    """Give the array back, or refuse a rank, an axis length or a dtype that breaks its entry.

    ``sizes`` are the lengths of the axes known so far, digits and ``xy`` apart; new axes get bound
    there. ScanError and OptionTypeError name the field, what was found and what was expected.
    """
    name, whole = wanted.name, wanted.shape_text()
    if not isinstance(array, np.ndarray):
        raise OptionTypeError(name, type(array).__name__, f"an array {whole}")
    if isinstance(array, np.ma.MaskedArray):
        action = "Its mask would be lost: give what is masked a value, as array.filled(0) does"
        raise OptionTypeError(name, "MaskedArray", f"an array {whole}", action=action)
    if array.ndim != len(wanted.axes):
        raise ScanError(f"{name} shape", array.shape, f"{len(wanted.axes)} axes {whole}")
    if not _fits(array.dtype, wanted.dtype):
        raise ScanError(f"{name} dtype", array.dtype, wanted.dtype)
    for axis, (label, length) in enumerate(zip(wanted.axes, array.shape, strict=True)):
        known = _FIXED.get(label) or sizes.setdefault(label, length)
        if length != known:
            raise ScanError(f"{name} axis {axis}", length, f"{label} = {known} in shape {whole}")
    if 0 in array.shape:
        raise ScanError(f"{name} shape", array.shape, "no empty axis")
    if array.dtype.itemsize > (16 if array.dtype.kind == "c" else 8):
        raise ScanError(f"{name} dtype", array.dtype, "double precision or less")
    return array


def _fits(dtype: np.dtype[Any], wanted: str) -> bool:
    return dtype.kind in _KINDS[wanted] if wanted in _KINDS else dtype == np.dtype(wanted)


def check_finite(array: NDArray[np.generic], name: str) -> None:
    """Refuse NaN and infinity, naming the first place."""
    finite = np.isfinite(array)
    if not finite.all():
        bad = np.argwhere(~finite)
        place = ", ".join(str(i) for i in bad[0])
        raise ScanError(f"{name}[{place}]", array[tuple(bad[0])], "a finite number")


def check_complex64(array: NDArray[Any], name: str) -> None:
    """Refuse numbers that would be infinite in a batch, which is complex64."""
    if array.dtype.itemsize > 8:
        largest = max(np.abs(array.real).max(initial=0), np.abs(array.imag).max(initial=0))
        if largest > np.finfo(np.float32).max:
            limit = f"at most {np.finfo(np.float32).max:g}, the largest number of complex64"
            raise ScanError(name, f"up to {largest:g}", limit)
