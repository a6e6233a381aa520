"""Processes that start in milliseconds: forked from a server that has everything imported."""

from __future__ import annotations

import ctypes
import io
import multiprocessing
import os
import sys
import types
from collections.abc import Callable
from multiprocessing.context import ForkServerContext
from typing import Any

FILE_CALLS = frozenset(
    "open write flush close fsync rename replace unlink remove mkdir utime ftruncate truncate "
    "posix_fallocate flock fchmod".split()
)

_CAPABILITY_VERSION_3 = 0x20080522
_OVERRIDES = 1 << 1 | 1 << 2 | 1 << 3  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER


def server() -> ForkServerContext:
    """The context of the server; the first process it starts starts it."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["ptycho_torch.cli.training", "ptycho_torch.data.verify", "filelock"]
    )
    return context


def call(function: Callable[..., Any], *arguments: Any, timeout_s: float = 600) -> Any:
    """Run a function in a process of its own and return what it returns.

    Raises
    ------
    RuntimeError
        The process died, or raised: a crash never takes the caller along.
    """
    context = server()
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(sender, function, arguments))
    process.start()
    sender.close()
    try:
        if not receiver.poll(timeout_s):
            raise RuntimeError(f"no answer within {timeout_s:g} s")
        answer, error = receiver.recv()
    except EOFError:
        process.join()
        raise RuntimeError(f"died with exit code {process.exitcode}") from None
    finally:
        process.join(5)
        if process.is_alive():
            process.kill()
            process.join()
    if error:
        raise RuntimeError(error)
    return answer


def _answer(sender: Any, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    import traceback

    try:
        sender.send((function(*arguments), ""))
    except BaseException:
        sender.send((None, traceback.format_exc()))


def at_file_call(
    number: int,
    act: Callable[[], None],
    names: frozenset[str] = FILE_CALLS,
    moment: str = "c_call",
) -> Callable[[], int]:
    """Do something at this process's ``number``-th file operation, counted from 1.

    ``moment`` is ``"c_call"``, just before it, or ``"c_return"``, just after it: there Python looks
    for signals.

    Returns
    -------
    stop
        Ends the counting; gives how many operations there were, up to one at which ``act`` raised.
    """
    seen = 0

    def hook(frame: types.FrameType, event: str, argument: Any) -> None:
        nonlocal seen
        if event != moment or getattr(argument, "__name__", "") not in names:
            return
        owner = getattr(argument, "__self__", None)
        system = isinstance(owner, types.ModuleType) and owner.__name__ in ("posix", "fcntl", "io")
        if (system or isinstance(owner, io.IOBase)) and _ours(frame):
            seen += 1
            if seen == number:
                act()

    sys.setprofile(hook)

    def stop() -> int:
        sys.setprofile(None)
        return seen

    return stop


def _ours(frame: types.FrameType | None) -> bool:
    """Whether the package is at work here, and not the import of a module."""
    ours = False
    while frame is not None:
        name = frame.f_code.co_filename
        if "importlib" in name:
            return False
        ours = ours or "/ptycho_torch/" in name
        frame = frame.f_back
    return ours


def obey_permissions() -> None:
    """Make mode bits count for this process from here on, as they do for everybody but root.

    Root stays root, and so keeps reading what only root may, such as a Python in root's home.
    """
    if os.geteuid() != 0:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; then their upper halves
    if libc.capget(header, sets):
        raise OSError(ctypes.get_errno(), "capget")
    for index in range(3):
        sets[index] &= ~_OVERRIDES
    if libc.capset(header, sets):
        raise OSError(ctypes.get_errno(), "capset")


def open_descriptors() -> int:
    """Files this process has open."""
    return len(os.listdir("/proc/self/fd"))
