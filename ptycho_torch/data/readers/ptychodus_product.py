"""The product of Ptychodus: positions, probe, object and how they were measured.

Also of the older dialect, of its training export, and of the ``_para`` file of pty-chi. Knows no
frames.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.data.errors import ScanError, ScanKeyError
from ptycho_torch.data.files.npy_header import shape_text
from ptycho_torch.data.readers.ptychodus_names import Held

logger = logging.getLogger(__name__)

OLDER_NAMES = MappingProxyType(
    {
        "photon_energy_eV": "probe_energy_eV",
        "mass_attenuation_m2_per_kg": "mass_attenuation_m2_kg",
    }
)
CENTRE_PX = 0.5
"""Pixel positions count from the middle of pixel 0 there, from its edge here: so much is added."""
_NOTES = (
    "name comments exposure_time_s probe_photon_count mass_attenuation_m2_per_kg "
    "tomography_angle_deg tilt_angle_deg focus_object_distance_m polarization"
)


@dataclass(frozen=True, eq=False)
class Product:
    """A product: positions ``x``, ``y`` (M,) in metres, of training exports in object pixels.

    ``pixel_m`` (height, width) and ``centre_m`` (y, x) are those of the object; None where the file
    does not say. ``probe`` (P, N, N) or (N, N), ``obj`` (H, W); ``notes`` are words and numbers
    about the measurement that no array depends on.
    """

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    in_pixels: bool
    indexes: NDArray[Any] | None
    photons: NDArray[np.float64] | None
    probe: NDArray[Any] | None
    obj: NDArray[Any] | None
    pixel_m: tuple[float, float] | None
    centre_m: tuple[float, float] | None
    energy_ev: float | None
    distance_m: float | None
    near_field: bool
    notes: dict[str, Any]


def product_of(held: Held) -> Product:
    """Read a product; ScanKeyError, ScanError: positions are missing, or an array is no such."""
    in_pixels = held("probe_position_x_px") is not None
    x, y = (_row(held, f"probe_position_{axis}_{'px' if in_pixels else 'm'}") for axis in "xy")
    if x is None or y is None:
        raise ScanKeyError("probe_position_x_m and probe_position_y_m", "missing", "positions")
    if x.shape != y.shape:
        raise ScanError("probe_position_y shape", shape_text(y.shape), shape_text(x.shape))
    indexes = held("probe_position_indexes")
    photons = _row(held, "probe_photon_counts")
    far_field = held("far_field")
    return Product(
        x=x,
        y=y,
        in_pixels=in_pixels,
        indexes=None if indexes is None else np.asarray(indexes),
        photons=photons,
        probe=_probe(held("probe")),
        obj=_object(held("object")),
        pixel_m=_pixel(held, "object") or _pixel(held, "probe"),
        centre_m=_pair(held, "object_center_y_m", "object_center_x_m"),
        energy_ev=_number(held, "photon_energy_eV") or None,
        distance_m=_number(held, "detector_object_distance_m") or None,
        near_field=far_field is not None and not np.all(far_field),
        notes={name: value for name in _NOTES.split() if (value := _note(held, name))},
    )


def _row(held: Held, name: str) -> NDArray[np.float64] | None:
    found = held(name)
    if found is None:
        return None
    array = np.asarray(found)
    if array.ndim != 1 or array.dtype.kind not in "fiu":
        raise ScanError(name, f"{shape_text(array.shape)} {array.dtype}", "numbers (M,)")
    return array.astype(np.float64)


def _number(held: Held, name: str) -> float | None:
    found = held(name)
    if found is None and name in OLDER_NAMES:
        found = held(OLDER_NAMES[name])
    if found is None:
        return None
    array = np.asarray(found)
    if array.size != 1 or array.dtype.kind not in "fiu" or not np.isfinite(array).all():
        raise ScanError(name, f"{shape_text(array.shape)} {array.dtype}", "one finite number")
    return float(array.reshape(())[()])


def _pair(held: Held, first: str, second: str) -> tuple[float, float] | None:
    one, other = _number(held, first), _number(held, second)
    return None if one is None or other is None else (one, other)


def _pixel(held: Held, owner: str) -> tuple[float, float] | None:
    """Pixel (height, width); older files have 0 where they do not know it."""
    found = _pair(held, f"{owner}_pixel_height_m", f"{owner}_pixel_width_m")
    return found if found and min(found) > 0 else None


def _note(held: Held, name: str) -> Any:
    found = held(name)
    if found is None and name in OLDER_NAMES:
        found = held(OLDER_NAMES[name])
    if isinstance(found, np.ndarray):
        found = found.item() if found.size == 1 and found.dtype.kind in "fiubU" else None
    finite = not isinstance(found, float) or np.isfinite(found)
    return found if isinstance(found, str | int | float) and finite else None


def _complex(name: str, found: Any, most: int) -> NDArray[Any] | None:
    if found is None:
        return None
    array = np.asarray(found)
    if array.dtype.kind not in "cf" or not 2 <= array.ndim <= most or 0 in array.shape:
        raise ScanError(
            name, f"{shape_text(array.shape)} {array.dtype}", f"complex, 2 to {most} axes"
        )
    return array.astype(np.result_type(array.dtype, np.complex64), copy=False)


def _probe(found: Any) -> NDArray[Any] | None:
    """Modes of the first probe where it varies over the scan; the rest are small corrections."""
    probe = _complex("probe", found, 4)
    if probe is None:
        return None
    if probe.ndim == 4:
        if len(probe) > 1:
            logger.info("the first of %d orthogonal probe relaxation modes is taken", len(probe))
        probe = probe[0]
    return probe[0] if probe.ndim == 3 and len(probe) == 1 else probe


def _object(found: Any) -> NDArray[Any] | None:
    """The object; layers are multiplied, which is what they are without diffraction in between."""
    obj = _complex("object", found, 3)
    if obj is None or obj.ndim == 2:
        return obj
    if len(obj) > 1:
        logger.info("%d layers of the object are multiplied into one", len(obj))
    return np.asarray(np.prod(obj, axis=0))
