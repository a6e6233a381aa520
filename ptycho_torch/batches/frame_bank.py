"""The frames of several scans under one numbering, as tensors.

Owns where a frame lies; frames stay mapped files until they are asked for. Knows nothing of groups.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptycho_torch.data.errors import ScanError, naming
from ptycho_torch.data.files.mapping import read_soon
from ptycho_torch.data.frames import Frames

_Place = tuple[NDArray[Any], int, int, bool]
"""Frames of a scan, their first address and the one behind their last, and: rows lie in order."""

MOST_BYTES = np.iinfo(np.int64).max
"""Of a tensor, even of one whose rows overlap: torch counts them in 64 bits."""

PAGE_BYTES = 4096
"""Bytes from one touch to the next: the smallest page that systems use."""


class FrameBank:
    """Frames of S scans; frame i of scan s has the number ``starts[s] + i``.

    Parameters
    ----------
    frames
        One entry per scan, all of N x N pixels and of the same measurement.

    Raises
    ------
    ScanError
        Sides or measurements differ between scans.
    """

    def __init__(self, frames: Sequence[Frames]) -> None:
        first = frames[0]
        for other in frames[1:]:
            with naming(other.path):
                _refuse_unlike(other, first)
        self._frames = tuple(frames)
        self.N = first.shape[1]
        self.starts = np.cumsum([0, *(entry.shape[0] for entry in frames)])
        kinds = {entry.dtype for entry in frames}
        # Frames of one batch share one tensor: scans of different dtypes meet in float32.
        self._stored_as = kinds.pop() if len(kinds) == 1 else np.dtype(np.float32)
        self.dtype = torch.from_numpy(np.empty(0, self._stored_as)).dtype
        self.device = torch.device("cpu")
        self.shape = (int(self.starts[-1]), self.N, self.N)
        self._whole: Tensor | None = None
        self._places: dict[int, _Place] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Leave what lies over the maps behind: another process maps the frames again."""
        return {**self.__dict__, "_whole": None, "_places": {}}

    @property
    def nbytes(self) -> int:
        """Bytes of all frames as stored."""
        return int(self.starts[-1]) * self.N**2 * self.dtype.itemsize

    @property
    def identity(self) -> Hashable:
        """Equal for banks of the same frames, while one of them lives: the same files or arrays."""
        return str(self.dtype), *map(_identity, self._frames)

    def whole(self) -> Tensor | None:
        """All frames as one tensor over the map, (M, N, N), where there is one scan; else None.

        The same tensor as before, unless the frames have been mapped again since.
        """
        if len(self._frames) != 1:
            return None
        stored = self._frames[0].stored
        if self._whole is None or self._whole.data_ptr() != stored.ctypes.data:
            self._whole = tensor_over(stored)
        return self._whole

    def of_scans(
        self, numbers: NDArray[np.integer]
    ) -> Iterator[tuple[int, slice, NDArray[np.integer]]]:
        """Divide sorted frame numbers, (U,), among the scans.

        Yields
        ------
        scan, part, rows
            A scan that has some, where they are in ``numbers``, and its frames, (u,).
        """
        bounds = np.searchsorted(numbers, self.starts)
        for scan, (start, stop) in enumerate(pairwise(bounds)):
            if start != stop:
                yield scan, slice(start, stop), numbers[start:stop] - self.starts[scan]

    def fetch(self, numbers: NDArray[np.integer], *, pin: bool = False) -> Tensor:
        """Copy frames by number, (U,), sorted, as stored: (U, N, N), in this bank's dtype.

        ``pin``: into page-locked memory, from which copies to a GPU run beside everything else.
        """
        out = torch.empty((len(numbers), self.N, self.N), dtype=self.dtype, pin_memory=pin)
        self.gather(torch.from_numpy(np.asarray(numbers, np.int64)), out)
        return out

    def gather(self, numbers: Tensor, out: Tensor) -> None:
        """Copy frames by number, int64, (L,), in any order, into ``out``, (L, N, N).

        All scans are gathered by one call, as rows of one piece of memory that begins at the first
        of their maps and ends with the last.
        """
        chosen = numbers.numpy()
        scans = np.searchsorted(self.starts, chosen, side="right") - 1
        used, which = np.unique(scans, return_inverse=True)
        rows = chosen - self.starts[scans]
        # These references keep every map while it is read, also where a sidecar is made anew.
        arrays, starts, stops, plain = zip(*map(self._place, used.tolist()), strict=True)
        addresses = np.array(starts)
        frame_bytes = self.N**2 * self.dtype.itemsize
        first = min(starts)
        places = max(stops) - frame_bytes - first + 1
        if not all(plain) or places * frame_bytes > MOST_BYTES:
            for scan, array in enumerate(arrays):
                where = torch.from_numpy(np.flatnonzero(which == scan))
                part = tensor_over(array)[torch.from_numpy(rows)[where]]
                out[where] = part.to(self.dtype)
            return
        memory = torch.from_numpy(np.asarray(_Rows(first, places, frame_bytes)))
        at = addresses[which] - first + rows * frame_bytes
        flat = out.view(torch.uint8).view(len(out), frame_bytes)
        torch.index_select(memory, 0, torch.from_numpy(at), out=flat)

    def _place(self, scan: int) -> _Place:
        """Where the frames of a scan lie, looked up again when they are mapped anew."""
        array = self._frames[scan].mapped
        place = self._places.get(scan)
        if place is None or place[0] is not array:
            at, _ = array.__array_interface__["data"]
            plain = array.dtype == self._stored_as and bool(array.flags.c_contiguous)
            place = self._places[scan] = array, at, at + array.nbytes, plain
        return place

    def read_ahead(self, numbers: NDArray[np.integer]) -> None:
        """Touch every page of some frames, so that they are in memory when they are gathered.

        Parameters
        ----------
        numbers
            Frame numbers, sorted, shape (U,).
        """
        for scan, _, rows in self.of_scans(numbers):
            stored = self._frames[scan].stored
            if stored.flags.c_contiguous:
                pages = stored.reshape(len(stored), -1).view(np.uint8)[:, ::PAGE_BYTES]
                pages[rows]  # copies one byte per page, all of them in one call
            else:
                stored[rows]

    def read_soon(self, numbers: NDArray[np.integer]) -> None:
        """Have the kernel read some frames while this process goes on, neighbours in one piece.

        Parameters
        ----------
        numbers
            Frame numbers, sorted, shape (U,).
        """
        for scan, _, rows in self.of_scans(numbers):
            stored = self._frames[scan].stored
            if self._frames[scan].path is None or not stored.flags.c_contiguous:
                continue
            ends = np.flatnonzero(np.diff(rows) > 1) + 1
            for start, stop in pairwise([0, *ends, len(rows)]):
                read_soon(stored[rows[start] : rows[stop - 1] + 1])

    def copy_to(self, device: torch.device) -> Tensor:
        """Copy all frames to a device as one tensor, (M, N, N), block by block."""
        whole = torch.empty(self.shape, dtype=self.dtype, device=device)
        for start, frames in zip(self.starts[:-1], self._frames, strict=True):
            for first, stop, block in frames.chunks():
                whole[start + first : start + stop].copy_(tensor_over(block))
        return whole


def _identity(frames: Frames) -> Hashable:
    if frames.path is None:
        stored = frames.stored
        return stored.__array_interface__["data"][0], stored.shape, stored.strides
    return frames.field, frames.identity()


def _refuse_unlike(other: Frames, first: Frames) -> None:
    if other.shape[1:] != first.shape[1:]:
        expected = f"(M, {first.shape[1]}, {first.shape[2]}) as in {first.path}"
        raise ScanError("diff3d shape", other.shape, expected)
    if other.measurement != first.measurement:
        expected = f"{first.measurement} as in {first.path}"
        action = "Pass measurement= to read them alike, or convert the scans of counts first"
        raise ScanError("measurement", other.measurement, expected, action=action)


def tensor_over(array: NDArray[Any]) -> Tensor:
    """A tensor over the memory of an array; whoever gets it must only read it.

    Torch has no read-only tensors and therefore warns about read-only arrays.
    """
    if array.flags.writeable:
        return torch.from_numpy(array)
    return torch.from_numpy(np.asarray(_WritableView(array)))


class _WritableView:
    """Offers the memory of an array to NumPy as writable, and keeps the array alive."""

    def __init__(self, array: NDArray[Any]) -> None:
        self._array = array
        address, _ = array.__array_interface__["data"]
        self.__array_interface__ = {**array.__array_interface__, "data": (address, False)}


class _Rows:
    """Offers memory to NumPy as rows of bytes, one at every address."""

    def __init__(self, first: int, rows: int, row_bytes: int) -> None:
        self.__array_interface__ = {
            "version": 3,
            "typestr": "|u1",
            "shape": (rows, row_bytes),
            "strides": (1, 1),
            "data": (first, False),
        }
