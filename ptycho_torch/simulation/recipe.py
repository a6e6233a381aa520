"""What scans to learn from are drawn of: specimens or objects, probes, positions, photons.

Owns the draws of one scan. Makes no frames and no groups.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.data.config import check_choice, check_integer
from ptycho_torch.data.errors import OptionError, OptionTypeError, ScanKeyError, naming
from ptycho_torch.data.patches import reference_patches
from ptycho_torch.data.raw_data import RawData, read_scan
from ptycho_torch.data.readers.probe_choice import probe_of
from ptycho_torch.simulation.probes import random_probe
from ptycho_torch.simulation.scan import (
    NOISE_FREE_PHOTONS,
    ScanPattern,
    check_modes,
    check_object,
    check_photons,
    object_shape,
    scan_positions,
)
from ptycho_torch.simulation.specimens import Specimen, draw_specimen

Source = str | Path | RawData | NDArray[Any]
"""A scan, the path of one, or an array."""
if TYPE_CHECKING:
    Sources = Source | Sequence[Source]
else:
    # The command line makes its options of annotations, and can say only this.
    Sources = str | list[str]
Photons = float | tuple[float, float] | None

RANDOM_PROBE = "random"


@dataclass(frozen=True)
class DrawnScan:
    """A scan before its frames.

    Attributes
    ----------
    object
        complex64, (H, W).
    probe
        Modes, complex64, (P, N, N), in sqrt(counts).
    xcoords, ycoords
        float64, (M,), object pixels.
    energies
        Expected counts of every frame, float64, (M,).
    """

    object: NDArray[np.complex64]
    probe: NDArray[np.complex64]
    xcoords: NDArray[np.float64]
    ycoords: NDArray[np.float64]
    energies: NDArray[np.float64]


class ScanRecipe:
    """How to draw a scan from a key.

    Parameters
    ----------
    specimens
        A name of :func:`~ptycho_torch.simulation.specimens.draw_specimen`, or several.
    objects
        Objects instead of specimens: complex (H, W), or scans or their paths for their
        ``objectGuess``. Of one that is larger than a scan, every scan takes a part.
    probes
        ``"random"``; probes (N, N) or modes (P, N, N); scans or their paths; or several of these.
    frames_per_scan, N, pattern
        As ``n_frames``, ``N`` and ``pattern`` of :func:`~ptycho_torch.simulate_scan`.
    photons
        Mean counts per frame: a number, or (low, high), log-uniform per scan; None: no noise.
    n_modes
        Modes of random probes.

    Raises
    ------
    OptionError, OptionTypeError, ScanError, ScanKeyError
        An option cannot work, or a scan lacks what is asked of it.
    """

    def __init__(
        self,
        *,
        specimens: Specimen | Sequence[Specimen],
        objects: Sources | None,
        probes: Sources,
        frames_per_scan: int,
        N: int,
        pattern: ScanPattern,
        photons: Photons,
        n_modes: int,
    ) -> None:
        check_integer("frames_per_scan", frames_per_scan, minimum=1)
        check_integer("N", N, minimum=8)
        check_integer("n_modes", n_modes, minimum=1)
        check_choice("pattern", pattern, ScanPattern)
        self.N, self.frames_per_scan, self.pattern, self.n_modes = (
            N,
            frames_per_scan,
            pattern,
            n_modes,
        )
        self.names = tuple(_several(specimens, "specimens"))
        for name in self.names:
            check_choice("specimens", name, Specimen)
        self.photons = _span(photons)
        self.shape = object_shape(None, frames_per_scan, N)
        self.objects: tuple[NDArray[np.complex64], ...] = ()
        if objects is not None:
            if self.names != ("mixed",):
                raise OptionError("specimens", "given beside objects", "one of the two")
            self.objects = tuple(self._object(each) for each in _several(objects, "objects"))
        # None: random.
        self.probes = tuple(self._probe(each) for each in _several(probes, "probes"))
        self.modes = max(n_modes if each is None else len(each) for each in self.probes)

    @property
    def has_noise(self) -> bool:
        """Whether frames are to be counted."""
        return self.photons is not None

    def draw(self, *key: int) -> DrawnScan:
        """The scan of a key, whose numbers are >= 0; object, probe, positions and photons draw from
        generators of their own.
        """
        streams = np.random.SeedSequence(key).spawn(4)
        of_object, of_probe, of_positions, of_photons = map(np.random.default_rng, streams)
        obj = self._draw_object(of_object)
        x, y = scan_positions(self.frames_per_scan, self.N, self.shape, self.pattern, of_positions)
        modes = self.probes[of_probe.integers(len(self.probes))]
        if modes is None:
            modes = random_probe(self.N, self.n_modes, of_probe)
        intensity = (np.abs(modes) ** 2).sum(axis=0)
        patches = reference_patches(obj, x, y, self.N)
        energies = np.einsum("yx,byx->b", intensity, np.abs(patches) ** 2, dtype=np.float64)
        counts = NOISE_FREE_PHOTONS
        if self.photons is not None:
            low, high = map(math.log, self.photons)
            counts = math.exp(of_photons.uniform(low, high))
        factor = counts / energies.mean()
        probe = np.zeros((self.modes, self.N, self.N), np.complex64)
        probe[: len(modes)] = modes * math.sqrt(factor)
        return DrawnScan(obj, probe, x, y, energies * factor)

    def described(self) -> str:
        """What is drawn from, in a line that differs where it does."""
        digest = hashlib.sha256()
        for array in (*self.objects, *self.probes):
            digest.update(b"random" if array is None else array.tobytes())
        told = (self.names, self.frames_per_scan, self.N, self.pattern, self.photons, self.n_modes)
        return f"{told} {digest.hexdigest()}"

    def _draw_object(self, rng: np.random.Generator) -> NDArray[np.complex64]:
        if not self.objects:
            name = self.names[rng.integers(len(self.names))]
            return draw_specimen(name, self.shape, self.N, rng)
        whole = self.objects[rng.integers(len(self.objects))]
        top, left = (
            int(rng.integers(has - needs + 1))
            for has, needs in zip(whole.shape, self.shape, strict=True)
        )
        return whole[top : top + self.shape[0], left : left + self.shape[1]]

    def _object(self, source: Source) -> NDArray[np.complex64]:
        path = Path(source) if isinstance(source, (str, Path)) else None
        with naming(path):
            given = source if path is None else read_scan(path, probe="auto")
            if isinstance(given, RawData):
                if given.objectGuess is None:
                    raise ScanKeyError("objectGuess", "missing", "an object to simulate scans of")
                given = given.objectGuess
            obj = check_object(given, self.N)
            if any(has < needs for has, needs in zip(obj.shape, self.shape, strict=True)):
                expected = f"at least {self.shape}, for {self.frames_per_scan} frames a scan"
                action = "Lower frames_per_scan"
                raise OptionError("objects", f"of shape {obj.shape}", expected, action=action)
        return obj

    def _probe(self, source: Source) -> NDArray[np.complex128] | None:
        if isinstance(source, str) and source == RANDOM_PROBE:
            return None
        path = Path(source) if isinstance(source, (str, Path)) else None
        with naming(path):
            given = source.probeGuess if isinstance(source, RawData) else source
            return check_modes(given if path is None else probe_of(path, read_scan), self.N)


def _several(given: Any, name: str) -> list[Any]:
    several = list(given) if isinstance(given, (list, tuple)) else [given]
    if not several:
        raise OptionError(name, "empty", "at least one")
    return several


def _span(photons: Any) -> tuple[float, float] | None:
    if photons is None:
        return None
    ends: Iterable[Any] = photons if isinstance(photons, (list, tuple)) else (photons, photons)
    for end in ends:
        check_photons(end)
    low_high = tuple(float(end) for end in ends)
    if len(low_high) != 2 or low_high[0] > low_high[1]:
        raise OptionTypeError("photons", repr(photons), "a number, a pair (low, high) or None")
    return low_high[0], low_high[1]
