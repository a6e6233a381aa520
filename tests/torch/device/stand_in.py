"""A process in which torch, built for CPUs, finds two CUDA devices that are not there.

Owns the building and loading of the guard, and the process that tests run in. The guard has to be
loaded before torch asks which accelerators there are, so that process is started for it.
"""

from __future__ import annotations

import ctypes
import faulthandler
import functools
import importlib
import importlib.util
import json
import shutil
import subprocess
import sys
import tempfile
import traceback
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).with_name("guard.cpp")
LONGEST_S = 300
"""A test that takes longer hangs: its process says where, and ends."""


def missing() -> str:
    """What the stand-in lacks here; empty where it can be built."""
    if shutil.which("g++") is None:
        return "no g++, which builds the stand-in for CUDA"
    folder = _torch_folder()
    if not (folder / "include/c10/core/impl/DeviceGuardImplInterface.h").exists():
        return "this torch has no C++ headers, which the stand-in for CUDA needs"
    if list((folder / "lib").glob("libtorch_cuda*")):
        return "this torch is built for CUDA, and finds no device"
    return ""


def run_test(file: Path, name: str, arguments: dict[str, Any]) -> str:
    """Run a test function of this folder beside the stand-in; the answer is its traceback."""
    pipe, process = _process()
    pipe.send((file.stem, name, arguments))
    while process.poll() is None:
        # Its own children hold the pipe open too, so that its end need not show there.
        if pipe.poll(1):
            return str(pipe.recv())
    _process.cache_clear()
    return "the process with the stand-in died; its last words are below"


def stop() -> None:
    """End the process, where there is one."""
    if _process.cache_info().currsize:
        pipe, process = _process()
        pipe.close()
        process.wait()
        _process.cache_clear()


@functools.cache
def _process() -> tuple[Connection, subprocess.Popen[bytes]]:
    """Our end of the pipe to the process, and it; it starts when the first test needs it."""
    ours, theirs = Pipe()
    number = theirs.fileno()
    command = [sys.executable, __file__, str(number), json.dumps(sys.path)]
    process = subprocess.Popen(command, pass_fds=[number])
    theirs.close()
    return ours, process


def _serve(pipe: Connection) -> None:
    _load(Path(tempfile.mkdtemp(prefix="cuda_stand_in_")))
    from pretended_cuda import pretended_cuda

    while True:
        try:
            module, name, arguments = pipe.recv()
        except EOFError:
            return
        faulthandler.dump_traceback_later(LONGEST_S, exit=True)
        try:
            with pretended_cuda():
                getattr(importlib.import_module(module), name)(**arguments)
        except BaseException:
            pipe.send(traceback.format_exc())
        else:
            pipe.send("")
        faulthandler.cancel_dump_traceback_later()


def _torch_folder() -> Path:
    found = importlib.util.find_spec("torch")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent


def _load(folder: Path) -> None:
    """Build the guard and load it before torch; loaded, it needs no file any more."""
    torch, library = _torch_folder(), folder / "guard.so"
    includes = [f"-I{torch}/include", f"-I{torch}/include/torch/csrc/api/include"]
    command = ["g++", "-std=c++20", "-O1", "-shared", "-fPIC", *includes, str(SOURCE)]
    command += ["-o", str(library), f"-L{torch}/lib", "-lc10", "-ltorch_cpu"]
    subprocess.run(command, check=True)
    for path in (torch / "lib/libc10.so", torch / "lib/libtorch_cpu.so", library):
        ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
    shutil.rmtree(folder)


if __name__ == "__main__":
    sys.path[:] = json.loads(sys.argv[2])
    _serve(Connection(int(sys.argv[1])))
