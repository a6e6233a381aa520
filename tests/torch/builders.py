"""What several test modules build: scans, damage, configurations, trainers, Python processes.

Imports no torch: the tests of the NumPy rooms use it where torch is absent.
"""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from ptycho_torch import simulate_scan

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

    from ptycho_torch.data.scan import Scan

ROOT = Path(__file__).parents[2]
TORCH_FAMILY = ("torch", "lightning", "pytorch_lightning", "tensordict")
Arrays = dict[str, np.ndarray[Any, Any]]
# What a network has to reach on frames that it never saw; a flat object and mirrored patches fail
# each of them, as a test shows.
NETWORK_BARS = {"centred_correlation": 0.93, "phase_pearson": 0.93, "amplitude_pearson": 0.82}
# The scan that the tests of the command line run on.
FRAMES, SIDE = 40, 16

BLOCK_TORCH = f"""
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {TORCH_FAMILY!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
"""

FIT = """
seed_everything: 0
trainer:
  max_epochs: 2
  accelerator: cpu
  enable_progress_bar: false
  enable_model_summary: false
  log_every_n_steps: 1
  limit_val_batches: 0
  logger:
    class_path: lightning.pytorch.loggers.CSVLogger
    init_args: {{save_dir: out, name: logs}}
  callbacks:
    - class_path: ptycho_torch.results.report.ReconstructionReport
      init_args: {{output_dir: out}}
{trainer}
model:
  class_path: ptycho_torch.models.object_fit.ObjectFit
  init_args:
    learning_rate: 0.05
{model}
data:
  train: scan.npz
  batch_size: 8
  split: none
  ground_truth: none
{data}
"""


def simulated_arrays(folder: Path, **options: Any) -> Arrays:
    """Return every array of a simulated scan by its name in the file."""
    path = simulate_scan(**options).to_file(folder / "scan.npz")
    with np.load(path) as archive:
        return {name: archive[name] for name in archive.files}


def write_fit_config(folder: Path, data: str = "", model: str = "", trainer: str = "") -> None:
    """Write ``fit.yaml`` for ``scan.npz``, with further lines in its sections."""
    text = FIT.format(data=data, model=model, trainer=trainer)
    (folder / "fit.yaml").write_text(text, encoding="utf-8")


def listing(folder: Path) -> dict[str, str]:
    """Return what lies in a folder, with a checksum per file: equal before and after, or not."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        if path.is_file()
        else "folder"
        for path in folder.rglob("*")
    }


def flip(path: Path, place: int | None = None, bits: int = 1) -> None:
    """Change one byte (the middle one by default) and keep the times, as a failing disk does."""
    status, damaged = path.stat(), bytearray(path.read_bytes())
    damaged[len(damaged) // 2 if place is None else place] ^= bits
    path.write_bytes(damaged)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def assert_one_line(err: str, *words: str) -> None:
    """A refusal is one line that says each of the words."""
    assert err.count("\n") == 1, err
    for word in words:
        assert word in err


def complex_noise(shape: tuple[int, ...], seed: int = 0) -> np.ndarray[Any, Any]:
    """Return complex normal numbers, the same for the same seed."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=shape) + 1j * rng.normal(size=shape)


def run_python(
    code: str, *arguments: object, cwd: Path = ROOT, without_torch: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run code in a Python of its own; ``without_torch`` makes importing torch fail there."""
    code = f"{BLOCK_TORCH}\n{code}" if without_torch else code
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )


def quiet_trainer(folder: Path | None = None, **options: Any) -> Trainer:
    """Return a Trainer on the CPU that shows nothing and writes nothing by itself."""
    from lightning.pytorch import Trainer

    quiet = dict.fromkeys(
        ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False
    )
    return Trainer(**{"accelerator": "cpu", "default_root_dir": folder, **quiet, **options})


IRREGULAR = ("directory", "FIFO", "socket", "device", "dangling link")


def make_irregular(path: Path, kind: str) -> None:
    """Put at ``path`` what is no regular file, of its own: a test may replace what it finds."""
    if kind == "directory":
        path.mkdir()
        (path / "precious").touch()
    elif kind == "FIFO":
        os.mkfifo(path)
    elif kind == "socket":
        here = os.open(path.parent, os.O_RDONLY)
        try:
            # The path of a socket has at most 107 bytes.
            with socket.socket(socket.AF_UNIX) as server:
                server.bind(f"/proc/self/fd/{here}/{path.name}")
        finally:
            os.close(here)
    elif kind == "device":
        try:
            os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 5))
        except OSError as error:
            pytest.skip(f"no device can be made here: {error}")
    else:
        path.symlink_to(path.parent / "nowhere")


@contextmanager
def at_once(seconds: float = 20.0) -> Iterator[None]:
    """Fail what waits instead of hanging with it."""

    def give_up(*_: object) -> None:
        raise AssertionError("it waits")

    old = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)


def export_training_data(path: Path, scan: Scan, counts: np.ndarray[Any, Any]) -> Path:
    """Write a scan and its counts (M, N, N) as Ptychodus 1.7 does for training: an NPZ file."""
    # Ptychodus counts from the middle of pixel 0.
    x, y = scan.xcoords - 0.5, scan.ycoords - 0.5
    bad = np.zeros((scan.N, scan.N), bool) if scan.bad_pixels is None else scan.bad_pixels
    np.savez(
        path,
        xcoords=x,
        ycoords=y,
        xcoords_start=x,
        ycoords_start=y,
        diff3d=counts,
        bad_pixels=bad,
        probeGuess=scan.probeGuess.reshape(-1, scan.N, scan.N).astype(complex),
        objectGuess=scan.objectGuess.astype(complex),
        scan_index=np.zeros(len(x), int),
    )
    return path
