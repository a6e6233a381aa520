"""Frame energies and the scale that makes X from amplitudes.

One pass over the frames gives one energy per frame; the scale of any grouping follows from them.
Sums are float64: float32 sums would change the last bits of X.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.data.errors import OptionError, ScanError, naming
from ptycho_torch.data.frames import Frames, Progress, StoredAs, check_frame_values

logger = logging.getLogger(__name__)

CHUNK_BYTES = 2**20
"""Bytes of frames summed at a time: they and their float64 copy stay in the processor's cache."""

GLARE = 1000
"""Times the median energy of a scan's frames that no change of beam or specimen explains."""

SMALLEST, LARGEST = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)
"""X is float32: a scale or an amplitude outside these loses its digits or becomes infinite."""


def frame_energies(
    frames: Frames,
    indices: NDArray[np.integer] | None = None,
    *,
    check: bool = False,
    progress: Progress | None = None,
) -> NDArray[np.float64]:
    """Sum over the pixels of amplitude ** 2, frame by frame, in bounded memory.

    float64, shape (M,), in counts where the frames (M, N, N) are; with ``indices``, (L,), of those
    frames. ``check`` compares the frames with the file's checksum in the same pass, where all are
    streamed; ``progress`` is called with (bytes done, bytes in all). A ScanError names a frame with
    NaN, infinity, a negative value or one too large for float32, a ScanFileError a damaged file.
    Warnings name frames with the largest integer of their dtype, and frames that outshine the scan.
    """
    largest = LARGEST if frames.measurement == "counts" else LARGEST**2
    count = frames.shape[0] if indices is None else len(indices)
    top = np.iinfo(frames.dtype).max if frames.dtype.kind in "iu" else None
    energies, full = np.empty(count, dtype=np.float64), np.zeros(count, dtype=np.int64)
    for start, _, block in frames.chunks(CHUNK_BYTES, check=check, chosen=indices):
        flat = block.reshape(len(block), -1)
        part = energies[start : start + len(block)]
        if frames.measurement == "counts":
            flat.sum(axis=1, dtype=np.float64, out=part)
        else:
            values = flat.astype(np.float64, copy=False)
            np.einsum("ij,ij->i", values, values, out=part)
        if not np.isfinite(part).all() or (block.dtype.kind != "u" and not block.min() >= 0):
            for row, frame in enumerate(block, start=start):
                number = row if indices is None else int(indices[row])
                with naming(frames.path):
                    check_frame_values(frame[None], start=number, field=frames.field)
        if not part.max(initial=0) <= largest:
            with naming(frames.path):
                raise _out_of_range(f"up to {block.max():g}", frames.measurement)
        if top is not None and block.max(initial=0) == top:
            full[start : start + len(block)] = (flat == top).sum(axis=1)
        if progress is not None:
            frame_bytes = frames.nbytes // len(frames)
            progress((start + len(block)) * frame_bytes, count * frame_bytes)
    numbers = np.arange(count) if indices is None else np.asarray(indices)
    _warn_of_full(frames, full, numbers)
    _warn_of_glare(frames, np.where(full, 0, energies), numbers)
    return energies


def _warn_of_full(frames: Frames, full: NDArray[np.int64], numbers: NDArray[np.integer]) -> None:
    """Say which frames have how many pixels (L,) that hold the largest integer of their dtype."""
    if not (held := np.flatnonzero(full)).size:
        return
    top = np.iinfo(frames.dtype).max
    action = f"--saturation {top} (saturation={top}) makes them bad in every frame"
    if frames.measurement == "amplitude":
        action = "--bad-pixels FILE.npy (bad_pixels=) that names them leaves them out"
    logger.warning(
        "%s: %d of %d frames have pixels that hold %d, the largest integer of %s (frame %s): "
        "saturated, or marks of no value? %s",
        frames.path or "scan in memory",
        len(held),
        len(full),
        top,
        frames.dtype,
        _listed([f"{numbers[row]}: {full[row]} pixels" for row in held[:4]]),
        action,
    )


def _warn_of_glare(
    frames: Frames, energies: NDArray[np.float64], numbers: NDArray[np.integer]
) -> None:
    """Say which frames outshine the scan so far that something else than light is in them."""
    lit = energies[energies > 0]
    glaring = np.flatnonzero(energies > GLARE * np.median(lit)) if len(lit) else lit
    if not len(glaring):
        return
    logger.warning(
        "%s: %d of %d frames have over %d times the light of a usual one (%s): are some of their "
        "pixels marks of no value? --saturation COUNTS or --bad-pixels FILE leaves them out "
        "(Detector(saturation=), bad_pixels=); the scale of X follows the brightest",
        frames.path or "scan in memory",
        len(glaring),
        len(energies),
        GLARE,
        _listed([str(numbers[row]) for row in glaring[:4]]),
    )


def _listed(words: list[str]) -> str:
    """The first three."""
    return ", ".join(words[:3]) + (", ..." if len(words) > 3 else "")


def intensity_scale(
    grouped_energies: Sequence[NDArray[np.float64]], N: int, measurement: StoredAs = "amplitude"
) -> np.float32:
    """The number that multiplies amplitudes to give X.

    sqrt((N / 2) ** 2 / mean over the grouped frames of their energy); a frame in two groups counts
    twice. ``grouped_energies`` are ``energies[nn_indices]``, float64, shape (B, C); several scans
    share the scale of all. A ScanError where all grouped frames are zero, or float32 does not hold
    the scale or what is stored, the ``measurement``.
    """
    one = len(grouped_energies) == 1
    energies = grouped_energies[0] if one else np.concatenate([e.ravel() for e in grouped_energies])
    mean = np.mean(energies)
    if not mean > 0:
        raise ScanError("diff3d", "zero in every grouped frame", "some signal")
    with np.errstate(over="ignore"):
        scale = np.sqrt((N / 2) ** 2 / mean)
    stored = mean / N**2 if measurement == "counts" else np.sqrt(mean) / N
    if not (SMALLEST <= scale <= LARGEST and stored >= SMALLEST):
        raise _out_of_range(f"about {stored:g} in every pixel", measurement)
    return np.float32(scale)


def _out_of_range(found: str, measurement: StoredAs) -> ScanError:
    expected = f"{measurement} between {SMALLEST:g} and {LARGEST:g} (float32)"
    action = "Multiply the frames by one number that brings them near 1"
    return ScanError("diff3d", found, expected, action=action)


def norm_Y_I(mean_energy_X: float, nphotons: float) -> np.float32:
    """sqrt(nphotons / mean over the groups' frames of the sum over pixels of X ** 2)."""
    if not (nphotons > 0 and np.isfinite(nphotons)):
        raise OptionError("nphotons", nphotons, "a positive number")
    return np.float32(np.sqrt(nphotons / mean_energy_X))
