"""What a stack of frames in files must answer, whatever its format, to be mapped or unpacked.

Owns the protocol between formats on one side and storage and sidecars on the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.data.files.mapping import FileState
from ptycho_torch.data.files.stored_stack import BLOCK_BYTES, Chunk, FramesIdentity


class FrameSource(Protocol):
    """Frames (M, H, W) in files: small, pickled to workers, nothing kept open."""

    @property
    def path(self) -> Path:
        """The file that the scan was opened by."""

    @property
    def state(self) -> FileState:
        """Its state when the headers were checked."""

    @property
    def field(self) -> str:
        """Name of the stack in the file, for messages."""

    @property
    def label(self) -> str:
        """Part of the sidecar's name: without a separator, another for other options."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(M, H, W)."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype in native byte order."""

    @property
    def data_bytes(self) -> int:
        """Bytes of all frames."""

    @property
    def in_place(self) -> bool:
        """The file can be mapped as it is."""

    @property
    def frame_by_frame(self) -> bool:
        """Whole frames follow each other in :meth:`blocks`."""

    def identity(self) -> FramesIdentity:
        """What tells these frames from others, without reading them."""

    def made_from(self) -> dict[str, Any]:
        """What a sidecar of these frames records, as JSON values; few bytes."""

    def require_unchanged(self) -> None:
        """Refuse files that are not those that were opened."""

    def map(self, stream: BinaryIO) -> NDArray[Any]:
        """Map the frames from the open file; only where they lie :attr:`in_place`."""

    def compared(self, chunks: Iterator[Chunk]) -> Iterator[Chunk]:
        """The same chunks of the map; a ScanFileError after the last of a wrong checksum."""

    def blocks(self) -> Iterator[tuple[int, NDArray[Any]]]:
        """All values in the order of the file: number of the first frame, part of the stack."""

    def frame_blocks(self, block_bytes: int = BLOCK_BYTES) -> Iterator[Chunk]:
        """Blocks of whole frames in order; only where :attr:`frame_by_frame` holds."""

    def sample(self, spread: NDArray[np.intp]) -> NDArray[Any]:
        """As many frames as in ``spread``, exactly those where they can be reached at random."""

    def load(self) -> NDArray[Any]:
        """All frames in memory."""
