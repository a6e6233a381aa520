"""Draw docs/images/star.png, the first picture of the README, from what ``make real`` leaves.

    make real
    python docs/star_picture.py

The file of the star gives no pixel size. The zone plate's outer edge on the detector does: light
from a zone plate whose outermost zone is w wide reaches the spatial frequency 1 / (2 w), and pixel
k of N stands for k / (N * object pixel). tike's ``ptycho/fresnel.py`` gives 50 nm for the outermost
zone of this instrument. The edge is where the mean pattern falls fastest, to about a pixel, so the
object pixel is known to some 5 %.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ptycho_torch import RawData
from ptycho_torch.results.metrics import align, illuminated_mask
from ptycho_torch.results.plotting import add_colorbar, new_figure, save_figure

ROOT = Path(__file__).parents[1]
SCAN = ROOT / "datasets" / "siemens_star.npz"
FIT = ROOT / "outputs" / "siemens_star" / "reconstruction.npz"
PICTURE = ROOT / "docs" / "images" / "star.png"
OUTERMOST_ZONE_M = 50e-9
FRAME, BAR_M = 258, 2e-6


def object_pixel_m(frames: NDArray[np.floating]) -> float:
    """Object pixel from the outer edge of the zone plate's light, metres; frames (M, N, N)."""
    n = frames.shape[-1]
    rows, columns = np.indices((n, n)) - n // 2
    radius = np.rint(np.hypot(rows, columns)).astype(int)
    light = (frames.astype(float) ** 2).mean(axis=0)
    rings = np.bincount(radius.ravel(), light.ravel()) / np.bincount(radius.ravel())
    outer = np.log(rings[n // 4 : n // 2])
    edge = n // 4 + 0.5 + float(np.argmin(np.diff(outer)))
    return 2 * OUTERMOST_ZONE_M * edge / n


def main() -> None:
    raw = RawData.from_file(SCAN)
    with np.load(FIT) as fit:
        obj, probe = fit["object"], fit["probe"]
    positions = np.stack([raw.xcoords, raw.ycoords], axis=1)
    lit = illuminated_mask(probe, positions, obj.shape)
    phase = np.angle(align(obj, np.ones_like(obj), lit))
    rows, columns = np.flatnonzero(lit.any(axis=1)), np.flatnonzero(lit.any(axis=0))
    seen = np.s_[rows[0] + 8 : rows[-1] - 8, columns[0] + 8 : columns[-1] - 8]
    pixel_m = object_pixel_m(np.asarray(raw.diff3d))  # 30.1 nm

    figure = new_figure(10.6, 4.7)
    left, right = figure.subplots(1, 2)
    counts = np.asarray(raw.diff3d[FRAME], dtype=float) ** 2
    image = left.imshow(np.log10(np.maximum(counts, 1.0)), cmap="magma")
    left.set_title(f"one of {len(raw)} frames")
    add_colorbar(left, image, "log10 of counts")
    low, high = np.percentile(phase[lit], (0.5, 99.5))
    image = right.imshow(phase[seen], cmap="gray", vmin=low, vmax=high)
    right.set_title("phase of the object")
    add_colorbar(right, image, "rad")
    height, width = phase[seen].shape
    start, row = 0.05 * width, 0.955 * height
    right.plot([start, start + BAR_M / pixel_m], [row, row], color="white", lw=4)
    label = f"{BAR_M * 1e9:.0f} nm"
    box = {"facecolor": "black", "pad": 3, "edgecolor": "none"}
    right.text(start, row - 8, label, color="white", fontsize=12, va="bottom", bbox=box)
    for panel in (left, right):
        panel.set_xticks([])
        panel.set_yticks([])
    save_figure(figure, PICTURE)
    # 128 colours do for grey and magma, and halve the bytes.
    Image.open(PICTURE).convert("RGB").quantize(128).save(PICTURE, optimize=True)


if __name__ == "__main__":
    main()
