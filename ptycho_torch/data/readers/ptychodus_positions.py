"""Positions of a Ptychodus product as patch centres in object pixels, and where they count from."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.data.errors import ScanError, ScanKeyError
from ptycho_torch.data.geometry import Geometry, pair
from ptycho_torch.data.readers.ptychodus_product import CENTRE_PX, Product

Origin = Literal["auto", "centre", "corner"]
MARGIN_PX = 2.0
"""Pixels kept free before the first patch where there is no object to count from."""


def positions_px(
    product: Product, geometry: Geometry, scale: tuple[float, float], side: int, origin: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Positions x, y (M,) as patch centres in pixels of frames with ``side`` pixels.

    ``scale`` (height, width): what reading out made of the object's pixel. Without an object there
    is no place to count from, and the first patch begins at pixel 2. ScanKeyError, ScanError: no
    pixel size, or an origin that the positions do not tell.
    """
    pixel, (cy, cx) = pair(geometry.object_pixel_m), product.centre_m or (0.0, 0.0)
    if product.in_pixels:
        x, y = product.x + CENTRE_PX, product.y + CENTRE_PX
        x, y = x / scale[1], y / scale[0]
    elif pixel is None:
        raise ScanKeyError(
            "pixel size of the object", "missing", "pixel_height_m and pixel_width_m of the object"
        )
    else:
        x, y = (product.x - cx) / pixel[1], (product.y - cy) / pixel[0]
    if product.obj is None:
        return x - x.min() + side / 2 + MARGIN_PX, y - y.min() + side / 2 + MARGIN_PX
    height, width = product.obj.shape
    centred = x + width / 2, y + height / 2
    if product.in_pixels or origin == "corner":
        return x, y
    if origin == "centre" or product.energy_ev is not None:
        return centred
    fits = [_fit(px, py, product.obj.shape, side) for px, py in (centred, (x, y))]
    if fits[0] == fits[1]:
        found = "within the object" if fits[0] else "beyond the object"
        raise ScanError(
            "positions",
            f"{found} from its centre and from its corner",
            "one origin by which all patches fit",
            action="Add --option origin=centre or --option origin=corner (origin='centre')",
        )
    return centred if fits[0] else (x, y)


def _fit(x: NDArray[np.float64], y: NDArray[np.float64], shape: tuple[int, ...], side: int) -> bool:
    """Whether all patches lie within the object, to a pixel."""
    return all(
        values.min() >= side / 2 - 1 and values.max() <= length - side / 2 + 1
        for values, length in ((y, shape[0]), (x, shape[1]))
    )
