"""Frame energies and the scale that makes X from amplitudes.

One pass over the frames gives an energy per frame; the scale of any grouping follows from them.
Sums are float64: float32 sums would change the last bits of X.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.data.errors import OptionError, ScanError, describe

CHUNK_BYTES = 16 * 2**20
"""Bytes of frames held at a time where only some frames are read."""


class FrameChunks(Protocol):
    """Diffraction frames that can be streamed."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(M, N, N)."""

    @property
    def measurement(self) -> str:
        """``"amplitude"`` or ``"counts"``."""

    @property
    def path(self) -> object:
        """File the frames lie in, or None."""

    def chunks(self) -> Iterator[tuple[int, int, NDArray[np.generic]]]:
        """Blocks (start, stop, stored frames)."""


class MappedFrames(FrameChunks, Protocol):
    """Diffraction frames that can also be looked up."""

    @property
    def stored(self) -> NDArray[np.generic]:
        """All frames, mapped."""


def frame_energies(frames: FrameChunks) -> NDArray[np.float64]:
    """Sum over the pixels of amplitude ** 2, frame by frame, in bounded memory.

    Parameters
    ----------
    frames
        Diffraction frames, shape (M, N, N).

    Returns
    -------
    energies
        float64, shape (M,); in counts where the frames are in counts.

    Raises
    ------
    ScanError
        A frame holds NaN, infinity or a negative value.
    """
    energies = np.empty(frames.shape[0], dtype=np.float64)
    counts = frames.measurement == "counts"
    for start, stop, block in frames.chunks():
        energies[start:stop] = _block_energies(block, counts)
        if block.dtype.kind != "u" and block.size and not block.min() >= 0:
            _refuse_values(frames.path, start, block)
    bad = np.flatnonzero(~np.isfinite(energies))
    if len(bad):
        raise ScanError(
            describe(frames.path, f"diff3d frame {bad[0]}", "not finite", "finite values")
        )
    return energies


def chosen_frame_energies(
    frames: MappedFrames, indices: NDArray[np.integer]
) -> NDArray[np.float64]:
    """As :func:`frame_energies`, of some frames only; shape (len(indices),)."""
    if len(indices) == frames.shape[0]:
        return np.take(frame_energies(frames), indices)
    return frame_energies(_ChosenFrames(frames, indices))


class _ChosenFrames:
    """Some of the frames, streamed as if they were all."""

    def __init__(self, frames: MappedFrames, indices: NDArray[np.integer]) -> None:
        self._frames = frames
        self._indices = indices
        self.shape = (len(indices), *frames.shape[1:])
        self.measurement = frames.measurement
        self.path = frames.path

    def chunks(self) -> Iterator[tuple[int, int, NDArray[np.generic]]]:
        stored = self._frames.stored
        step = max(1, CHUNK_BYTES // max(1, stored[0].nbytes))
        for start in range(0, len(self._indices), step):
            block = stored[self._indices[start : start + step]]
            yield start, start + len(block), block


def _block_energies(block: NDArray[np.generic], counts: bool) -> NDArray[np.float64]:
    flat = block.reshape(len(block), -1)
    if counts:
        return np.asarray(flat.sum(axis=1, dtype=np.float64))
    values = flat.astype(np.float64, copy=False)
    return np.asarray(np.einsum("ij,ij->i", values, values))


def _refuse_values(path: object, start: int, block: NDArray[np.generic]) -> None:
    lowest = block.reshape(len(block), -1).min(axis=1)
    frame = int(np.flatnonzero(~(lowest >= 0))[0])
    raise ScanError(
        describe(
            path,
            f"diff3d frame {start + frame}",
            f"holding {lowest[frame]}",
            "finite values >= 0 (amplitude, or counts)",
        )
    )


def intensity_scale(
    energies: NDArray[np.float64],
    nn_indices: NDArray[np.integer],
    N: int,
    file: object = None,
) -> np.float32:
    """The number that multiplies amplitudes to give X.

    sqrt((N / 2) ** 2 / mean over the grouped frames of their energy); a frame in two groups counts
    twice.

    Parameters
    ----------
    energies
        float64, shape (M,).
    nn_indices
        Grouped frames, shape (B, C).
    N
        Pixels along a frame's side.
    file
        Where the frames come from, for the message.

    Raises
    ------
    ScanError
        All grouped frames are zero: no scale exists.
    """
    return pooled_scale([energies[nn_indices]], N, file)


def pooled_scale(
    grouped_energies: Iterable[NDArray[np.float64]], N: int, file: object = None
) -> np.float32:
    """As :func:`intensity_scale`, over the grouped energies of several scans together."""
    parts = list(grouped_energies)
    whole = parts[0] if len(parts) == 1 else np.concatenate([part.ravel() for part in parts])
    mean = np.mean(whole)
    if not mean > 0:
        raise ScanError(describe(file, "diff3d", "zero in every grouped frame", "some signal"))
    return np.float32(np.sqrt((N / 2) ** 2 / mean))


def norm_Y_I(mean_energy_X: float, nphotons: float) -> np.float32:
    """sqrt(nphotons / mean over the groups' frames of the sum over pixels of X ** 2)."""
    if not (nphotons > 0 and np.isfinite(nphotons)):
        raise OptionError(describe(None, "nphotons", nphotons, "a positive number"))
    return np.float32(np.sqrt(nphotons / mean_energy_X))
