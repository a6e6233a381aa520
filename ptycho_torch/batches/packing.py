"""Tensors that travel together: what is small is one piece of memory, and so one copy.

Owns where each lies in it. Knows tensors only.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

ALIGNED = 8
"""Bytes of the largest item; every small tensor starts at a multiple of it."""


@dataclass(frozen=True)
class Pack:
    """Tensors by name, on their way to another process, to pinned memory or to a device.

    Attributes
    ----------
    large
        Those that travel by themselves.
    small
        All others, uint8, (n,).
    layout
        Name, start in bytes, dtype and shape of each of these.
    """

    large: Mapping[str, Tensor]
    small: Tensor
    layout: tuple[tuple[str, int, torch.dtype, torch.Size], ...]

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], large: Collection[str]) -> Pack:
        """Copy the small ones into one piece; ``large`` names the others, as far as there are."""
        layout, size = [], 0
        small = {name: tensor for name, tensor in tensors.items() if name not in large}
        for name, tensor in small.items():
            layout.append((name, size, tensor.dtype, tensor.shape))
            size += -(-tensor.nbytes // ALIGNED) * ALIGNED
        apart = {name: tensor for name, tensor in tensors.items() if name in large}
        pack = cls(apart, torch.empty(size, dtype=torch.uint8), tuple(layout))
        for name, view in pack.tensors().items():
            if name in small:
                view.copy_(small[name])
        return pack

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Pack:
        """Copy to ``device``."""
        return self._moved(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Pack:
        """Copy to page-locked memory what is not there yet, so that copies to a GPU overlap."""
        return self._moved(lambda tensor: tensor.pin_memory())

    def values(self) -> Iterable[Tensor]:
        """What travels."""
        return *self.large.values(), self.small

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor; the small ones are views."""
        views = {
            name: self.small[start : start + shape.numel() * dtype.itemsize].view(dtype).view(shape)
            for name, start, dtype, shape in self.layout
        }
        return {**self.large, **views}

    def _moved(self, move: Callable[[Tensor], Tensor]) -> Pack:
        large = {name: move(tensor) for name, tensor in self.large.items()}
        return Pack(large, move(self.small), self.layout)
