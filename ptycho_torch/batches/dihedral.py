"""The eight symmetries of a square, for pixels and for positions.

Element e flips x where it holds 1, then y where it holds 2, then swaps the two where it holds 4.
Pixels turn about ``(N // 2, N // 2)``: where N is even, row and column 0 stay, as the transform of
a flipped patch has them. Positions turn about the object's pixel (0, 0).
"""

from __future__ import annotations

import torch
from torch import Tensor

FLIP_X, FLIP_Y, SWAP = 1, 2, 4


def turned_pixels(pixels: Tensor, elements: Tensor) -> Tensor:
    """Turn the last two axes of (B, ..., N, N), each sample by its element, int64 (B,)."""
    N = pixels.shape[-1]
    sources = _sources(N, pixels.device)[elements]
    flat = pixels.reshape(len(pixels), -1, N * N)
    turned = torch.gather(flat, 2, sources[:, None].expand(flat.shape))
    return turned.reshape(pixels.shape)


def turned_positions(positions: Tensor, elements: Tensor) -> Tensor:
    """Turn (B, 1, 2, C), (x, y) on axis 2, each sample by its element, int64 (B,)."""
    shape = (-1, 1, 1, 1)
    signs = torch.stack([1 - 2 * ((elements & flip) > 0) for flip in (FLIP_X, FLIP_Y)], dim=1)
    flipped = positions * signs.view(-1, 1, 2, 1)
    return torch.where((elements & SWAP).view(shape) > 0, flipped.flip(2), flipped)


def _sources(N: int, device: torch.device) -> Tensor:
    """For every element, where each pixel of the turned picture comes from, int64, (8, N * N)."""
    straight = torch.arange(N, device=device)
    back = (2 * (N // 2) - straight) % N
    tables = []
    for element in range(8):
        rows, columns = (back if element & flip else straight for flip in (FLIP_Y, FLIP_X))
        table = rows[:, None] * N + columns
        tables.append((table.T if element & SWAP else table).flatten())
    return torch.stack(tables)
