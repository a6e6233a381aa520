"""The geometry of a measurement: wavelength, distance, and what a pixel is in metres.

Owns the far-field relation between them. Knows neither frames nor positions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from ptycho_torch.data.errors import OptionError, OptionTypeError

HC_EV_M = 1.239841984e-6
"""Photon energy (eV) times wavelength (m)."""

AGREEMENT = 0.01
"""Relative difference up to which a pixel size that is given agrees with the computed one."""

Pixel = float | tuple[float, float]
"""Side of a pixel in metres; of pixels that are no squares (height, width)."""


@dataclass(frozen=True)
class Geometry:
    """What is known of how a scan was measured; None where it is not.

    Parameters
    ----------
    wavelength_m
        Of the light, or of the electrons, metres.
    distance_m
        From the object to the detector, metres.
    detector_pixel_m
        Side of a detector pixel, metres, after binning; a pair (height, width) where they differ.
    object_pixel_m
        Side of an object pixel, metres, or a pair; in the far field wavelength * distance /
        (N * detector pixel), with N the pixels along the side of a frame.
    near_field
        The frames were taken in the near field, where that relation does not hold.

    Raises
    ------
    OptionError, OptionTypeError
        A length is not a number above 0.

    Examples
    --------
    >>> geometry = Geometry.from_energy(8000.0, distance_m=2.0, detector_pixel_m=75e-6)
    >>> round(geometry.for_frames(64).object_pixel_m * 1e9, 1)
    64.6
    """

    wavelength_m: float | None = None
    distance_m: float | None = None
    detector_pixel_m: Pixel | None = None
    object_pixel_m: Pixel | None = None
    near_field: bool = False

    def __post_init__(self) -> None:
        for name in ("wavelength_m", "distance_m"):
            object.__setattr__(self, name, _length(name, getattr(self, name)))
        for name in ("detector_pixel_m", "object_pixel_m"):
            object.__setattr__(self, name, _pixel(name, getattr(self, name)))

    @classmethod
    def from_energy(cls, energy_ev: float | None, **known: Any) -> Geometry:
        """The geometry of light of so many electronvolts per photon."""
        energy = _length("energy_ev", energy_ev)
        return cls(wavelength_m=None if energy is None else HC_EV_M / energy, **known)

    @property
    def energy_ev(self) -> float | None:
        """Photon energy, electronvolts."""
        return None if self.wavelength_m is None else HC_EV_M / self.wavelength_m

    def field_of_view_m(self, N: int) -> tuple[float, float] | None:
        """Height and width of a patch of N x N object pixels, metres."""
        pixel = pair(self.for_frames(N).object_pixel_m)
        return None if pixel is None else (N * pixel[0], N * pixel[1])

    def for_frames(self, N: int) -> Geometry:
        """With the object pixel of frames of N x N pixels, where the far-field relation gives it.

        Raises
        ------
        OptionError
            A given object pixel differs from it by more than 1 per cent.
        """
        computed = self._far_field_pixel(N)
        given = pair(self.object_pixel_m)
        if computed is None:
            return self
        if given is None:
            return replace(self, object_pixel_m=computed)
        if any(abs(a - b) > AGREEMENT * b for a, b in zip(given, computed, strict=True)):
            raise OptionError(
                "object_pixel_m",
                _text(given),
                f"{_text(computed)}: wavelength * distance / (N * detector pixel) for N = {N}",
                action="Give three of the four, or --option near_field=true (near_field=True)",
            )
        return self

    def resized(self, N: int, *, binning: int = 1) -> Geometry:
        """The geometry of frames that were binned, then cropped or padded to N x N pixels."""
        detector = pair(self.detector_pixel_m)
        if binning != 1 and detector is not None:
            detector = detector[0] * binning, detector[1] * binning
        changed = replace(self, detector_pixel_m=detector)
        pixel = changed._far_field_pixel(N)
        return changed if pixel is None else replace(changed, object_pixel_m=pixel)

    def known(self) -> dict[str, Any]:
        """What is known, by name, as numbers, pairs and booleans."""
        return {name: value for name, value in asdict(self).items() if value not in (None, False)}

    def _far_field_pixel(self, N: int) -> tuple[float, float] | None:
        detector = pair(self.detector_pixel_m)
        if self.near_field or None in (self.wavelength_m, self.distance_m) or detector is None:
            return None
        assert self.wavelength_m is not None and self.distance_m is not None
        product = self.wavelength_m * self.distance_m / N
        return product / detector[0], product / detector[1]


def pair(pixel: Pixel | None) -> tuple[float, float] | None:
    """A pixel as (height, width)."""
    if pixel is None or isinstance(pixel, tuple):
        return pixel
    return pixel, pixel


def _length(name: str, value: Any) -> float | None:
    if value is None:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        raise OptionTypeError(name, repr(value), "a number") from error
    if not (math.isfinite(number) and number > 0):
        raise OptionError(name, number, "a number above 0")
    return number


def _pixel(name: str, value: Any) -> Pixel | None:
    if isinstance(value, Sequence) or getattr(value, "shape", ()) == (2,):
        if len(value) != 2:
            raise OptionError(name, f"{len(value)} numbers", "one, or a pair (height, width)")
        height, width = (_length(name, side) for side in value)
        if height is None or width is None:
            raise OptionTypeError(name, repr(value), "two numbers")
        return height if height == width else (height, width)
    return _length(name, value)


def _text(sides: tuple[float, float]) -> str:
    return " x ".join(f"{side:.6g}" for side in dict.fromkeys(sides)) + " m"
