"""Memory of batches, used again once a batch is gone.

A fresh allocation of tens of megabytes comes from the system page by page, and the faults take
longer than gathering the frames. Owns the buffers; knows nothing of what is in them.
"""

from __future__ import annotations

import threading
import weakref
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

KEPT = 3
"""Free buffers kept of each size: a batch in use, one waiting, one being built."""


class BufferPool:
    """Tensors whose memory returns here when nothing refers to it any more.

    Safe to use from several threads. A batch that is kept stays as it is: only memory that no
    tensor, view or array holds is used again.
    """

    def __init__(self) -> None:
        self._free: dict[int, list[NDArray[np.uint8]]] = {}
        self._lock = threading.Lock()

    def take(self, shape: tuple[int, ...]) -> Tensor:
        """An uninitialised float32 tensor."""
        nbytes = 4 * int(np.prod(shape))
        with self._lock:
            free = self._free.get(nbytes)
            buffer = free.pop() if free else None
        if buffer is None:
            buffer = np.empty(nbytes, dtype=np.uint8)
        # The tensor holds this view, and the view is what is watched: it ends with the last
        # reference to the tensor's storage.
        lease = buffer[:]
        weakref.finalize(lease, self._give_back, buffer).atexit = False
        return torch.from_numpy(lease).view(torch.float32).view(shape)

    def _give_back(self, buffer: NDArray[np.uint8]) -> None:
        with self._lock:
            free = self._free.setdefault(buffer.nbytes, [])
            if len(free) < KEPT:
                free.append(buffer)

    def __getstate__(self) -> dict[str, Any]:
        """Nothing travels to another process."""
        return {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        BufferPool.__init__(self)
