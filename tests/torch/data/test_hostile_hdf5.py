"""Thousands of damaged HDF5 files: one line each, in little memory.

They are read in a child, because some of them hang or crash the HDF5 library itself (2.0: a text
whose heap is damaged hangs it); those are counted, and may not become more.
"""

from __future__ import annotations

import multiprocessing
import random
import resource
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest

from ptycho_torch.data.detector import Detector
from ptycho_torch.data.errors import PtychoTorchError
from ptycho_torch.data.files.hdf5 import opened_hdf5
from ptycho_torch.data.files.hdf5_stack import Hdf5Stack
from ptycho_torch.data.frames import Frames

h5py = pytest.importorskip(
    "h5py", reason="h5py is not installed: pip install ptycho-torch[formats]"
)

N_MUTATIONS = 2_000
HANG_S = 10
MOST_DEATHS = 2
MEMORY_BYTES = 300 << 20


def base(path: Path, packed: bool, libver: str) -> bytes:
    """A small file with everything that readers use."""
    draw = np.random.default_rng(0)
    frames = draw.integers(0, 99, (12, 8, 8), np.uint16)
    filters = {"compression": "gzip", "shuffle": True, "fletcher32": True} if packed else {}
    with h5py.File(path, "w", libver=libver) as file:
        file.create_dataset("entry/frames", data=frames, chunks=(3, 8, 4), **filters)
        file["entry/plain"] = frames
        file["entry/soft"] = h5py.SoftLink("/entry/frames")
        file["entry/outer"] = h5py.ExternalLink("other.h5", "/frames")
        file["positions"] = draw.random((12, 2))
        file["mask"] = np.zeros((8, 8), bool)
        file["unit"] = "um"
        file["positions"].attrs.update({"units": "m", "pixel_m": 8e-9, "vector": np.arange(6.0)})
    return path.read_bytes()


def mutated(content: bytes, seed: int) -> bytes:
    """Bytes changed, cut, doubled or zeroed: a function of the seed."""
    draw, out = random.Random(seed), bytearray(content)
    how = draw.choice(["bytes", "bits", "sizes", "cut", "zeros", "moved", "doubled"])
    at = draw.randrange(len(out))
    if how == "bytes":
        for _ in range(draw.choice([1, 2, 8, 64])):
            out[draw.randrange(len(out))] = draw.randrange(256)
    elif how == "bits":
        out[at] ^= 1 << draw.randrange(8)
    elif how == "sizes":
        value = draw.choice([0, 1, 0xFF, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 40, (1 << 64) - 1])
        width = draw.choice([1, 2, 4, 8])
        out[at : at + width] = (value & ((1 << 8 * width) - 1)).to_bytes(width, "little")
    elif how == "cut":
        del out[at:]
    else:
        length = draw.choice([4, 32, 256])
        source = draw.randrange(len(out))
        new = bytes(length) if how == "zeros" else bytes(out[source : source + length])
        out[at : at + (0 if how == "doubled" else length)] = new
    return bytes(out)


def read_all(path: Path) -> None:
    """Everything that a reader may do with a file."""
    with opened_hdf5(path, links=True) as file:
        for name in ("/", "entry"):
            file.names(name)
        tries: list[Callable[[], object]] = [
            lambda: file.read_array("positions"),
            lambda: file.read_text("unit"),
            lambda: file.read_attr("positions", "units"),
            lambda: file.read_attr("positions", "pixel_m"),
            lambda: file.read_attr("positions", "vector"),
            lambda: file.read_array("entry/outer"),
        ]
        tries += [lambda name=name: frames_of(file, name) for name in ("entry/soft", "entry/plain")]
        for attempt in tries:
            try:
                attempt()
            except PtychoTorchError as error:
                require_one_line(error)


def frames_of(file: object, name: str) -> None:
    stack = Hdf5Stack.of(file, name)
    if stack.data_bytes < 1 << 20:
        readout = Detector(size=6, centre="estimate").readout(stack)
        Frames.from_source(readout.through(stack), sidecar="off").verify()
    stack.sample(np.array([0, len(stack) - 1]))


def require_one_line(error: PtychoTorchError) -> None:
    line = str(error)
    assert "\n" not in line and line.isprintable(), repr(line)


def attack(sender: Connection, folder: Path, contents: list[bytes], seeds: range) -> None:
    """Read mutations; each seed is sent before it is tried, what went wrong after."""
    path = folder / "scan.h5"
    path.write_bytes(contents[0])
    read_all(path)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_BYTES, used + MEMORY_BYTES))
    for seed in seeds:
        sender.send(seed)
        path.write_bytes(mutated(contents[seed % len(contents)], seed))
        signal.alarm(HANG_S)  # ends the process
        try:
            read_all(path)
        except PtychoTorchError as error:
            require_one_line(error)
        except Exception as error:
            sender.send(f"{seed}: {error!r}"[:500])
        signal.alarm(0)
    sender.send("done")


@pytest.mark.slow
def test_damaged_files_raise_our_errors(tmp_path):
    bases = [(packed, lib) for packed in (False, True) for lib in ("earliest", "latest")]
    contents = [base(tmp_path / f"base{i}.h5", *how) for i, how in enumerate(bases)]
    context = multiprocessing.get_context("forkserver")
    faults: list[str] = []
    deaths: list[str] = []
    start = 0
    while start < N_MUTATIONS:
        receiver, sender = context.Pipe(duplex=False)
        seeds = range(start, N_MUTATIONS)
        child = context.Process(target=attack, args=(sender, tmp_path, contents, seeds))
        child.start()
        sender.close()
        told: object = None
        try:
            while (told := receiver.recv()) != "done":
                if isinstance(told, int):
                    start = told
                else:
                    faults.append(str(told))
            start = N_MUTATIONS
        except EOFError:
            child.join()
            deaths.append(f"{start}: the process died with exit code {child.exitcode}")
            start += 1
        child.join()
        assert len(deaths) <= MOST_DEATHS, deaths
    assert not faults
