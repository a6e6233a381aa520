"""How diffraction patterns move from frame to frame, compared with how positions do.

A curved probe, or an object that deflects, casts a shadow of the object onto the detector, which
moves with the sample: neighbouring frames are alike up to a shift. Of a scan in order the shifts
are one multiple of the steps; axes exchanged or reversed, or frames out of step, show.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.data.grouping import neighbor_table
from ptycho_torch.data.scan import Scan

FIRST_FRAMES = 64
FARTHEST_FRAME = 128
"""Of a scan whose frames are chosen, the first ones have to lie so near the beginning."""
NEIGHBOURS = 3


def within_reach(scan: Scan) -> bool:
    """Whether the first frames in use are among the first that the file gives."""
    return bool(scan.file_indices(np.arange(min(FIRST_FRAMES, len(scan))))[-1] < FARTHEST_FRAME)


@dataclass(frozen=True, eq=False)
class Shadows:
    """Spectra (n, N, N) of amplitudes about their mean, and the positions (n, 2) beside them."""

    spectra: NDArray[np.complex128]
    positions: NDArray[np.float64]

    @classmethod
    def of_first_frames(cls, scan: Scan) -> Shadows:
        """Of the first 64 frames in use, which a file gives without being read to its end."""
        n = min(FIRST_FRAMES, len(scan))
        frames = scan.frames
        rows = scan.file_indices(np.arange(n))
        first = frames._storage.sample(np.arange(int(rows[-1]) + 1))
        stored = frames._cleared(first[rows], rows)
        amplitude = np.asarray(frames.amplitude(stored), dtype=np.float64)
        amplitude -= amplitude.mean(axis=0)
        norms = np.linalg.norm(amplitude, axis=(1, 2), keepdims=True)
        spectra = np.fft.fft2(amplitude / np.where(norms > 0, norms, 1))
        positions = np.stack([scan.xcoords[:n], scan.ycoords[:n]], axis=1)
        return cls(spectra, positions.astype(np.float64))

    def r2(self, lag: int) -> float:
        """Share of the shifts' variance that steps explain, frame i at position i + lag."""
        return self._fit(lag)[1]

    def magnification(self, lag: int) -> float:
        """How many detector pixels patterns move while positions move by a pixel."""
        return float(np.sqrt(abs(np.linalg.det(self._fit(lag)[0]))))

    def wrong_orientation(self) -> str | None:
        """What to type where shifts follow other axes than steps; None where they do not.

        Both axes reversed are not told from none.
        """
        (a, b), (c, d) = self._fit(0)[0]
        shares = {
            "": a + d,
            "--flip-y": a - d,
            "--swap-xy": b + c,
            "--swap-xy --flip-y": b - c,
        }
        best = max(shares, key=lambda name: abs(shares[name]))
        return best if best and abs(shares[best]) > 2 * abs(shares[""]) else None

    def _fit(self, lag: int) -> tuple[NDArray[np.float64], float]:
        """Matrix (2, 2) from steps to shifts, both (x, y), and its coefficient of determination."""
        n = len(self.positions)
        frames = np.arange(max(0, -lag), min(n, n - lag))
        places = self.positions[frames + lag]
        near = neighbor_table(places[:, 0], places[:, 1], min(NEIGHBOURS, len(frames) - 1))
        pairs = [(i, j) for i in range(len(frames)) for j in near[i] if i != j]
        steps = np.array([places[j] - places[i] for i, j in pairs])
        shifts = np.array([self._shift(int(frames[i]), int(frames[j])) for i, j in pairs])
        matrix = np.linalg.lstsq(steps, shifts, rcond=None)[0]
        total = float(np.square(shifts).sum())
        residual = float(np.square(shifts - steps @ matrix).sum())
        return matrix, 1 - residual / total if total > 0 else 0.0

    def _shift(self, i: int, j: int) -> tuple[float, float]:
        """Where the cross-correlation of two frames has its peak, (x, y), pixels."""
        N = self.spectra.shape[-1]
        likeness = np.fft.ifft2(self.spectra[i].conj() * self.spectra[j]).real
        row, column = np.unravel_index(int(likeness.argmax()), likeness.shape)
        half = N // 2
        return float((column + half) % N - half), float((row + half) % N - half)
