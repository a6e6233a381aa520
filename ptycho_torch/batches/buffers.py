"""Memory of batches, used again once a batch is gone.

A fresh allocation of tens of megabytes arrives from the system page by page, and those page faults
take longer than gathering the frames. Owns the buffers; knows nothing of what is in them.
"""

from __future__ import annotations

import math
import weakref
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Buffer = NDArray[np.float32]

KEPT = 3
"""Free buffers kept per size: one batch in use, one waiting, one being built."""

KEPT_BYTES = 512 * 2**20
"""Bytes of all free buffers together; beyond them the sizes that came
back the longest time ago go."""

GPU_BLOCK_BYTES = 16 * 2**20
"""Bytes of a block on a GPU: its second-level cache holds one, and one that is made of it."""


class BufferPool:
    """Tensors whose memory returns here once nothing refers to it any more.

    Several threads may use one pool. A batch that somebody keeps stays as it is: the pool reuses
    only memory that no tensor, view or array holds. ``share_memory_`` moves a tensor elsewhere; an
    array made of it before then shows memory that nothing holds, as with any tensor.
    """

    def __init__(self) -> None:
        self._free: dict[int, list[Buffer]] = {}
        self._lent: dict[int, tuple[weakref.ref[Buffer], Buffer]] = {}

    def take(self, shape: tuple[int, ...]) -> Tensor:
        """Lend an uninitialised float32 tensor of this shape, on the CPU."""
        size = math.prod(shape)
        try:
            buffer = self._free[size].pop()
        except (KeyError, IndexError):
            # Torch aligns memory to cache lines; copies into NumPy's own memory are slower.
            buffer = torch.empty(size, dtype=torch.float32).numpy()
        # The tensor holds this view, and the pool watches the view: it ends with the last
        # reference to the tensor's storage.
        lease = buffer.reshape(shape)
        watch = weakref.ref(lease, self._give_back)
        self._lent[id(watch)] = watch, buffer
        return torch.from_numpy(lease)

    def _give_back(self, watch: weakref.ref[Buffer]) -> None:
        _, buffer = self._lent.pop(id(watch))
        # The size goes to the end, so that sizes nobody asked for lately are the first to leave.
        free = self._free.pop(buffer.size, [])
        if len(free) < KEPT:
            free.append(buffer)
        self._free[buffer.size] = free
        for size, oldest in list(self._free.items()):
            while oldest and self._free_bytes() > KEPT_BYTES:
                oldest.pop()
            if not oldest:
                self._free.pop(size, None)

    def _free_bytes(self) -> int:
        return sum(4 * size * len(free) for size, free in list(self._free.items()))

    def __getstate__(self) -> dict[str, Any]:
        """Leave every buffer behind: another process starts with an empty pool."""
        return {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        BufferPool.__init__(self)


def uninitialised(shape: tuple[int, ...], device: torch.device, pool: BufferPool | None) -> Tensor:
    """Float32 memory on a device: on the CPU from the pool, where there is one."""
    if pool is not None and device.type == "cpu":
        return pool.take(shape)
    return torch.empty(shape, dtype=torch.float32, device=device)


def block_length(count: int, nbytes: int, device: torch.device, cpu_bytes: int) -> int:
    """How many of ``count`` items of so many bytes to work on at a time, to keep them in cache.

    ``cpu_bytes`` fit in that of a CPU, :data:`GPU_BLOCK_BYTES` in that of a GPU.
    """
    block_bytes = cpu_bytes if device.type == "cpu" else GPU_BLOCK_BYTES
    return max(1, min(count, block_bytes // nbytes))
