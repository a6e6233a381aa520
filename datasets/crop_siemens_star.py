"""Cut the middle of the measured Siemens star into a file of 0.6 MB, for the documentation.

It keeps the centre of the detector, 64 x 64 of 128 x 128 pixels, where 96 % of the light falls, and
the frames around the star's middle. Half the detector has object pixels twice as large, so
positions in pixels are halved. Counts stay as they were measured; the file is of the same kind as
its source, ``.npz.bz2`` of the package tike, whose licence lies beside the copy.

    python datasets/fetch_siemens_star.py
    python datasets/crop_siemens_star.py [OUT.npz.bz2]
"""

from __future__ import annotations

import bz2
import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "datasets" / "download" / "siemens-star-small.npz.bz2"
OUT = ROOT / "docs" / "tutorials" / "siemens_star.npz.bz2"
SIDE = 64
# Corner of the patch that shows the star's middle, (row, column), and how far others may lie.
MIDDLE, REACH_PX = (0.0, -25.0), 95.0


def centre(frames: NDArray[Any]) -> NDArray[Any]:
    """The middle of frames (..., 128, 128) that have their zero frequency at the corner."""
    kept = np.r_[: SIDE // 2, frames.shape[-1] - SIDE // 2 : frames.shape[-1]]
    return frames[..., kept[:, None], kept]


def main(out: Path) -> None:
    """Crop, and write the file."""
    with np.load(io.BytesIO(bz2.decompress(SOURCE.read_bytes()))) as whole:
        counts, corners, probe = (whole[name] for name in ("data", "scan", "probe"))
    near = (np.abs(corners[0] - MIDDLE) < REACH_PX).all(axis=-1)
    factor = counts.shape[-1] / SIDE
    cropped = io.BytesIO()
    np.savez(
        cropped,
        data=np.rint(centre(counts[:, near])).astype(np.uint16),
        scan=(corners[:, near] / factor).astype(np.float32),
        # The probe has fewer, larger pixels as well: its far field is cropped.
        probe=np.fft.ifft2(centre(np.fft.fft2(probe))).astype(np.complex64),
    )
    out.write_bytes(bz2.compress(cropped.getvalue()))
    print(f"{out}: {near.sum()} frames of {SIDE} x {SIDE}, {out.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else OUT)
