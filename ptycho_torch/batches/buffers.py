"""Memory of batches, used again once a batch is gone.

A fresh allocation of tens of megabytes comes from the system page by page, and the faults take
longer than gathering the frames. Owns the buffers; knows nothing of what is in them.
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
"""Free buffers kept of each size: a batch in use, one waiting, one being built."""


class BufferPool:
    """Tensors whose memory returns here when nothing refers to it any more.

    Safe to use from several threads. A batch that is kept stays as it is: only memory that no
    tensor, view or array holds is used again. ``share_memory_`` moves a tensor elsewhere: arrays
    that were made of it before then show memory that nothing holds, as they do of any tensor.
    """

    def __init__(self) -> None:
        self._free: dict[int, list[Buffer]] = {}
        self._lent: dict[int, tuple[weakref.ref[Buffer], Buffer]] = {}

    def take(self, shape: tuple[int, ...]) -> Tensor:
        """An uninitialised float32 tensor."""
        size = math.prod(shape)
        try:
            buffer = self._free[size].pop()
        except (KeyError, IndexError):
            # From torch, which aligns to cache lines: copies into NumPy's memory are slower.
            buffer = torch.empty(size, dtype=torch.float32).numpy()
        # The tensor holds this view, and the view is what is watched: it ends with the last
        # reference to the tensor's storage.
        lease = buffer.reshape(shape)
        watch = weakref.ref(lease, self._give_back)
        self._lent[id(watch)] = watch, buffer
        return torch.from_numpy(lease)

    def _give_back(self, watch: weakref.ref[Buffer]) -> None:
        _, buffer = self._lent.pop(id(watch))
        free = self._free.setdefault(buffer.size, [])
        if len(free) < KEPT:
            free.append(buffer)

    def __getstate__(self) -> dict[str, Any]:
        """Nothing travels to another process."""
        return {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        BufferPool.__init__(self)
