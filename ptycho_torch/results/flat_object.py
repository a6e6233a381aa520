"""How good a Fourier error is, beside a flat object's and what only shot noise leaves.

NumPy only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ptycho_torch.data.scan import Scan

SAMPLE_FRAMES = 64


def shot_noise_error(scan: Scan) -> float:
    """Fourier error that the noise of counts leaves to a perfect model, from a few frames."""
    sample = scan.frames.amplitude(scan.frames.sample(SAMPLE_FRAMES)).astype(np.float64)
    mean = np.square(sample).mean(axis=0)
    # The square root of a Poisson number has the variance 1/4, or its mean where that is less.
    return float(np.sqrt(np.minimum(mean, 0.25).sum() / mean.sum()))


@dataclass(frozen=True)
class FitVerdict:
    """How good an error is beside that of a flat object and of noise, in a line."""

    error: float
    flat: float
    noise: float

    @property
    def share(self) -> float:
        """What is left of the flat object's error, noise apart; 0 is perfect."""
        return float(np.sqrt(max(0.0, self.error**2 - self.noise**2))) / max(self.flat, 1e-12)

    def __str__(self) -> str:
        if self.share > 0.75:
            words = "hardly better than a flat object: the scan is probably misread"
        elif self.share > 0.45:
            words = "the frames are explained in part"
        else:
            words = "the frames are explained well"
        return (
            f"Fourier error {self.error:.4f} (a flat object {self.flat:.4f}, "
            f"shot noise {self.noise:.4f}): {words}"
        )
