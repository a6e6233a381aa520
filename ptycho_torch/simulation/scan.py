"""Simulated scans: a known object and probe, a scan pattern, photon noise, canonical frames.

Owns scan patterns and the making of frames. What specimen and probe look like is ``specimens``' and
``probes``', how a patch is cut ``patches``'; a scan made here obeys the same convention as a
measured one.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.data.config import check_choice, check_integer, check_seed
from ptycho_torch.data.contract import check_complex64, check_finite
from ptycho_torch.data.errors import OptionError, OptionTypeError
from ptycho_torch.data.patches import reference_patches
from ptycho_torch.data.raw_data import RawData
from ptycho_torch.simulation.probes import make_probe
from ptycho_torch.simulation.specimens import Specimen, draw_specimen

ScanPattern = Literal["jittered_raster", "raster", "fermat", "random"]

JITTER_STEPS = 0.4
"""How far a jittered raster moves a position at most, in steps of the raster."""

NOISE_FREE_PHOTONS = 1e5
"""Mean counts per frame when there is no noise: a scale is needed all the same."""

_CHUNK_BYTES = 32 * 2**20
_SMALLEST_FRAME = 8


def simulate_scan(
    *,
    n_frames: int,
    N: int,
    object_size: int | tuple[int, int] | None = None,
    pattern: ScanPattern = "jittered_raster",
    photons: float | None = 1e5,
    n_modes: int = 1,
    seed: int = 0,
    object: NDArray[Any] | None = None,
    probe: NDArray[Any] | None = None,
    specimen: Specimen | None = None,
) -> RawData:
    """Simulate a far-field scan with sub-pixel positions and known object and probe.

    Parameters
    ----------
    n_frames
        Number of frames M, exact for every pattern.
    N
        Frame size in pixels.
    object_size
        Object size in pixels, a side or (H, W); None: so large that neighbouring positions of a
        raster are N / 12 apart, in whole pixels.
    pattern
        ``"jittered_raster"``: rows and columns, each position moved at random by up to 0.4 steps;
        ``"raster"``: without the jitter; ``"fermat"``: Fermat spiral; ``"random"``: uniform.
    photons
        Mean counts per frame. Frames are then square roots of Poisson numbers. None: no noise.
    n_modes
        Number P of incoherent probe modes; a given probe has its own.
    seed
        Seed of specimen, positions and noise, which draw from generators of their own: other
        noise does not move the positions. NumPy's global generator is neither read nor changed.
    object
        Object (H, W), complex, at least N + 1 pixels along a side; None: a specimen.
    probe
        Probe (N, N), or modes (P, N, N), complex, such as the ``probeGuess`` of a measured scan. It
        is scaled to ``photons``; None: a defocused lens.
    specimen
        What to draw where no object is given: ``"star"`` (as None), ``"shapes"``, ``"cells"``,
        ``"dead_leaves"``, ``"grf"``, ``"siemens"``, ``"text"``, ``"texture"`` or ``"mixed"``; see
        :func:`~ptycho_torch.simulation.specimens.draw_specimen`.

    Returns
    -------
    RawData
        Frames (M, N, N) float32 amplitude. ``objectGuess`` (H, W) and ``probeGuess`` (N, N), or
        (P, N, N) for P > 1, are the truth, complex64, and give the noise-free frames:
        |F(probe * patch)| with F unitary. ``metadata`` says how the scan was made.

    Raises
    ------
    OptionError, OptionTypeError
        An argument is out of range or of the wrong type, or contradicts another.
    ScanError
        The given object or probe is not finite.

    Examples
    --------
    >>> scan = simulate_scan(n_frames=25, N=32, photons=None)
    >>> scan.frames.shape, scan.probeGuess.shape
    ((25, 32, 32), (32, 32))
    >>> cells = simulate_scan(n_frames=25, N=32, specimen="cells", probe=scan.probeGuess, seed=1)
    """
    check_integer("n_frames", n_frames, minimum=1)
    check_integer("N", N, minimum=_SMALLEST_FRAME)
    check_integer("n_modes", n_modes, minimum=1)
    check_choice("pattern", pattern, ScanPattern)
    check_seed("seed", seed)
    if seed is None:
        raise OptionTypeError("seed", None, "an integer")
    check_photons(photons)
    given_probe = None if probe is None else check_modes(probe, N, n_modes)
    if object is not None:
        _refuse_beside_object(object_size=object_size, specimen=specimen)
        object = check_object(object, N)
        object_size = object.shape
    shape = object_shape(object_size, n_frames, N)
    of_specimen, draw_positions, draw_noise = (
        np.random.Generator(np.random.PCG64(stream))
        for stream in np.random.SeedSequence(seed).spawn(3)
    )
    truth = draw_specimen(specimen or "star", shape, N, of_specimen) if object is None else object
    x, y = scan_positions(n_frames, N, shape, pattern, draw_positions)
    mean_counts = NOISE_FREE_PHOTONS if photons is None else float(photons)
    modes = make_probe(N, n_modes) if given_probe is None else given_probe
    scaled = _scaled_probe(modes, truth, x, y, mean_counts)
    frames = _frames(scaled, truth, x, y, draw_noise if photons is not None else None)
    metadata = {
        "generator": "ptycho_torch.simulate_scan",
        "pattern": pattern,
        "nphotons": None if photons is None else float(photons),
        "n_frames": n_frames,
        "N": N,
        "object_size": list(shape),
        "n_modes": len(scaled),
        "seed": seed,
        "specimen": ("star" if specimen is None else specimen) if object is None else "given",
        "probe": "lens" if probe is None else "given",
    }
    return RawData(
        x,
        y,
        x.copy(),
        y.copy(),
        frames,
        scaled[0] if len(scaled) == 1 else scaled,
        np.zeros(n_frames, dtype=np.int64),
        objectGuess=truth,
        metadata=metadata,
    )


def scan_positions(
    n_frames: int,
    N: int,
    shape: tuple[int, int],
    pattern: ScanPattern,
    rng: np.random.Generator,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Positions whose patches lie inside the object with all taps: x, y (M,) float64, object px."""
    low = np.array([N // 2, N // 2], dtype=np.float64)
    # The last pixel of a patch at a sub-pixel position reads one pixel further.
    field = np.array([shape[1] - N, shape[0] - N], dtype=np.float64) - 1
    if pattern == "random":
        offsets = rng.uniform(size=(n_frames, 2)) * field
    elif pattern == "fermat":
        offsets = _fermat(n_frames) * field
    else:
        jitter = JITTER_STEPS if pattern == "jittered_raster" else 0.0
        offsets = _raster(n_frames, field, jitter, rng)
    # Rounding may carry the last position of a row past the edge.
    x, y = np.clip(low + offsets, low, low + field).T
    return np.ascontiguousarray(x), np.ascontiguousarray(y)


def _raster(
    n_frames: int, field: NDArray[np.float64], jitter: float, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Offsets (M, 2) in the field, pixels, in rows from the top left; the last may be short."""
    columns = min(n_frames, max(1, round(math.sqrt(n_frames * (field[0] + 1) / (field[1] + 1)))))
    rows = math.ceil(n_frames / columns)
    lattice = np.stack(np.divmod(np.arange(n_frames), columns)[::-1], axis=1).astype(np.float64)
    lattice += rng.uniform(-jitter, jitter, size=lattice.shape)
    # With jitter the outermost positions may not leave the field either.
    spans = np.array([columns, rows]) - 1 + 2 * jitter
    # A step is computed before it is multiplied: a whole one then gives whole positions.
    steps = np.divide(field, spans, out=np.zeros(2), where=spans > 0)
    offsets: NDArray[np.float64] = (lattice + jitter) * steps
    return offsets


def _fermat(n_frames: int) -> NDArray[np.float64]:
    """Unit positions (M, 2) on a Fermat spiral: equal area a point, golden angle between two."""
    k = np.arange(n_frames)
    radius = 0.5 * np.sqrt(k / max(1, n_frames - 1))
    angle = k * np.pi * (3 - math.sqrt(5))
    unit: NDArray[np.float64] = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return 0.5 + radius[:, None] * unit


def _scaled_probe(
    modes: NDArray[np.complex128],
    truth: NDArray[np.complex64],
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    mean_counts: float,
) -> NDArray[np.complex64]:
    """Scale the probe so that the mean over frames of the expected counts is ``mean_counts``."""
    N = modes.shape[-1]
    intensity = (np.abs(modes) ** 2).sum(axis=0)
    counts = 0.0
    # The transform is unitary: counts are those of the exit waves.
    for block in _blocks(len(x), N, 1):
        patches = reference_patches(truth, x[block], y[block], N)
        counts += float(np.einsum("yx,byx->", intensity, np.abs(patches) ** 2, dtype=np.float64))
    scale = math.sqrt(mean_counts * len(x) / counts)
    return (modes * scale).astype(np.complex64)


def _frames(
    probe: NDArray[np.complex64],
    truth: NDArray[np.complex64],
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    noise: np.random.Generator | None,
) -> NDArray[np.float32]:
    """Amplitudes (M, N, N) float32, zero frequency at N // 2; photon noise when drawn from."""
    import scipy.fft

    modes, N = probe.shape[0], probe.shape[-1]
    frames = np.empty((len(x), N, N), dtype=np.float32)
    for block in _blocks(len(x), N, modes):
        patches = reference_patches(truth, x[block], y[block], N)
        waves = scipy.fft.fft2(probe[:, None] * patches, norm="ortho", overwrite_x=True)
        counts = (waves.real.astype(np.float64) ** 2 + waves.imag.astype(np.float64) ** 2).sum(
            axis=0
        )
        if noise is not None:
            counts = noise.poisson(counts)
        frames[block] = np.fft.fftshift(np.sqrt(counts), axes=(-2, -1))
    return frames


def _blocks(n_frames: int, N: int, modes: int) -> list[slice]:
    """Runs of frames whose intermediate arrays stay within a few times ``_CHUNK_BYTES``."""
    size = max(1, _CHUNK_BYTES // (8 * modes * N * N))
    return [slice(start, start + size) for start in range(0, n_frames, size)]


def check_modes(probe: object, N: int, n_modes: int = 1) -> NDArray[np.complex128]:
    """A given probe (N, N), or its modes (P, N, N), as modes complex128.

    Raises
    ------
    OptionError, OptionTypeError
        It has another shape, another number of modes than is asked for (1: any), or no light.
    ScanError
        It is not finite.
    """
    modes = _complex(probe, "probe")
    if modes.ndim not in (2, 3) or modes.shape[-2:] != (N, N) or not modes.size:
        raise OptionError("probe", f"of shape {modes.shape}", f"({N}, {N}) or (P, {N}, {N})")
    modes = modes.reshape(-1, N, N)
    if n_modes not in (1, len(modes)):
        found = f"{n_modes} beside a probe of {len(modes)}"
        raise OptionError("n_modes", found, "left out: a given probe has its own modes")
    if not modes.any():
        raise OptionError("probe", "0 everywhere", "some light")
    return modes.astype(np.complex128)


def check_object(given: object, N: int) -> NDArray[np.complex64]:
    """A given object (H, W), as complex64.

    Raises
    ------
    OptionError, OptionTypeError
        It is none, or too small for a frame.
    ScanError
        It is not finite.
    """
    values = _complex(given, "object")
    if values.ndim != 2 or min(values.shape) < N + 1:
        # One pixel more than a frame: a sub-pixel patch reads its neighbour.
        expected = f"(H, W), each at least N + 1 = {N + 1}"
        raise OptionError("object", f"of shape {values.shape}", expected)
    if not values.any():
        raise OptionError("object", "0 everywhere", "something that lets light through")
    return values.astype(np.complex64)


def _refuse_beside_object(**options: object) -> None:
    for name, value in options.items():
        if value is not None:
            raise OptionError(name, f"{value!r} beside an object", "left out: the object is given")


def _complex(given: object, name: str) -> NDArray[Any]:
    if not isinstance(given, np.ndarray) or given.dtype.kind != "c":
        found = given.dtype if isinstance(given, np.ndarray) else type(given).__name__
        raise OptionTypeError(name, found, "a complex array")
    check_finite(given, name)
    check_complex64(given, name)
    return given


def object_shape(
    object_size: int | tuple[int, ...] | None, n_frames: int, N: int
) -> tuple[int, int]:
    """(H, W) in pixels of the object that ``object_size`` of :func:`simulate_scan` asks for."""
    if object_size is None:
        columns = max(1, round(math.sqrt(n_frames)))
        rows = math.ceil(n_frames / columns)
        step = max(1, round(N / 12))
        return N + 1 + (rows - 1) * step, N + 1 + (columns - 1) * step
    # A configuration file has lists where Python has tuples.
    sides = object_size if isinstance(object_size, (tuple, list)) else (object_size, object_size)
    if len(sides) != 2:
        raise OptionError("object_size", object_size, "a side or a pair (H, W)")
    for side in sides:
        # One pixel more than a frame: a sub-pixel patch reads its neighbour.
        check_integer("object_size", side, minimum=N + 1)
    return int(sides[0]), int(sides[1])


def check_photons(photons: object) -> None:
    """Refuse what is no mean of counts; None is no noise."""
    if photons is None:
        return
    if isinstance(photons, bool) or not isinstance(photons, (int, float, np.number)):
        raise OptionTypeError("photons", repr(photons), "mean counts per frame, or None")
    if not (math.isfinite(photons) and photons > 0):
        raise OptionError("photons", photons, "a finite number above 0, or None")
