"""Small tensors in one piece of memory: what goes to a device together is one copy.

Owns where each lies. Knows tensors only.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

ALIGNED = 8
"""Bytes of the largest item; every tensor starts at a multiple of it."""


def packed(tensors: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """Copy tensors into one buffer, uint8, (n,), and give them back as views of it."""
    starts, size = {}, 0
    for name, tensor in tensors.items():
        starts[name] = size
        size += -(-tensor.nbytes // ALIGNED) * ALIGNED
    buffer = torch.empty(size, dtype=torch.uint8)
    views = {name: _view(buffer, starts[name], tensor) for name, tensor in tensors.items()}
    for name, view in views.items():
        view.copy_(tensors[name])
    return buffer, views


def unpacked(buffer: Tensor, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same views of a copy of the buffer of :func:`packed`, wherever it is."""
    return {
        name: _view(buffer, int(tensor.storage_offset()) * tensor.element_size(), tensor)
        for name, tensor in tensors.items()
    }


def _view(buffer: Tensor, start: int, like: Tensor) -> Tensor:
    return buffer[start : start + like.nbytes].view(like.dtype).view(like.shape)
