"""A stack read in full: its own checksum, its sidecars, every value.

Owns what is held against what, and which fault is told first. Writes nothing.
"""

from __future__ import annotations

from collections.abc import Callable

from ptycho_torch.data.errors import ScanError
from ptycho_torch.data.storage import FrameStack, Progress

CheckValues = Callable[..., None]
"""``check(block, start=...)`` raises a ScanError where a value cannot be, naming its frame."""


def verify_stack(stack: FrameStack, check: CheckValues, progress: Progress | None = None) -> None:
    """Read a stack and its sidecars to the last byte, in bounded memory.

    Parameters
    ----------
    stack
        Frames or patches.
    check
        Called with everything that :meth:`FrameStack.blocks` gives.
    progress
        Called with (bytes done, bytes in all).

    Raises
    ------
    ScanFileError
        The bytes are not those that were written.
    ScanError
        They are, and ``check`` refuses a value.
    """
    fault: ScanError | None = None
    done = 0
    for start, block in stack.blocks():
        if fault is None:
            try:
                check(block, start=start)
            except ScanError as error:
                # Of damaged bytes the checksum, known at the end, says more than a value.
                fault = error
        done += block.nbytes
        if progress is not None:
            progress(done, stack.nbytes)
    for path in stack.sidecar_paths():
        stack.verify_sidecar(path)
    if fault is not None:
        raise fault
