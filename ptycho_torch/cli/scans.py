"""Commands that make, convert, prepare and check scan files. None of them needs torch."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

import ptycho_torch
from ptycho_torch.data import groups_cache
from ptycho_torch.data.config import GroupingConfig
from ptycho_torch.data.errors import OptionError, PtychoTorchError, describe
from ptycho_torch.data.raw_data import RawData, read_scan
from ptycho_torch.data.simulate import simulate_scan

CACHE_SUFFIX = ".groups_cache.npz"


def simulate(options: argparse.Namespace) -> None:
    """Write a simulated scan."""
    _refuse_existing(options.out, options.overwrite)
    raw = simulate_scan(
        n_frames=options.frames,
        N=options.size,
        pattern=options.pattern,
        photons=options.photons,
        n_modes=options.modes,
        seed=options.seed,
    )
    options.out.parent.mkdir(parents=True, exist_ok=True)
    raw.to_file(options.out)
    _say_written(options.out, raw)


def convert(options: argparse.Namespace) -> None:
    """Read a scan of any registered format and write it as a canonical NPZ."""
    _refuse_existing(options.out, options.overwrite)
    raw = read_scan(options.scan, format=options.format)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    raw.to_file(options.out)
    _say_written(options.out, raw)


def prepare(options: argparse.Namespace) -> None:
    """Map the frames and group each scan, so that training starts at once."""
    config = grouping_config(options)
    with (
        logging_redirect_tqdm(),
        tqdm(options.scans, desc="prepare", unit="scan", file=sys.stderr) as progress,
    ):
        for path in progress:
            progress.set_postfix_str(path.name)
            raw = open_scan(path, options.measurement)
            cache = groups_cache.cache_path(path, config.gridsize, config.neighbor_count)
            before = _state(cache)
            frames = raw.frames.stored
            groups = raw.group(config)
            after = _state(cache)
            verb = "reused" if after is not None and after == before else "written"
            progress.write(
                f"{path}: {len(raw)} frames, {frames.nbytes / 2**20:.1f} MiB; "
                f"{len(groups.nn_indices)} groups of {config.channels}; "
                + (f"{cache} {verb}" if after is not None else "no cache beside the scan")
            )


def verify(options: argparse.Namespace) -> None:
    """Check every path, say what is wrong with each, and end in code 1 if anything is."""
    faults = 0
    for path in options.paths:
        try:
            if path.name.endswith(CACHE_SUFFIX):
                groups_cache.verify(path)
            else:
                raw = open_scan(path, options.measurement)
                raw.frame_energies()
        except PtychoTorchError as error:
            faults += 1
            print(f"ptycho-torch: {error}", file=sys.stderr)
        else:
            print(f"{path}: ok")
    if faults:
        raise SystemExit(1)


def bench(options: argparse.Namespace) -> None:
    """Run the benchmarks that lie beside the package in a source checkout."""
    root = Path(ptycho_torch.__file__).parents[1]
    if not (root / "benchmarks" / "__main__.py").is_file():
        raise OptionError(
            describe(root, "benchmarks/", "missing", "a source checkout", "Run it from a clone")
        )
    command = [sys.executable, "-m", "benchmarks", *options.arguments]
    raise SystemExit(subprocess.run(command, cwd=root, check=False).returncode)


def open_scan(path: Path, measurement: str, **reader_options: object) -> RawData:
    """Open a scan of any registered format; ``measurement`` "auto" is left to the reader."""
    if measurement != "auto":
        reader_options["measurement"] = measurement
    return read_scan(path, **reader_options)


def grouping_config(options: argparse.Namespace) -> GroupingConfig:
    """The grouping that ``--gridsize`` and ``--neighbors`` ask for."""
    neighbors = options.neighbors
    if neighbors is None:
        neighbors = max(6, options.gridsize**2)
    return GroupingConfig(gridsize=options.gridsize, neighbor_count=neighbors)


def _refuse_existing(out: Path, overwrite: bool) -> None:
    if out.suffix != ".npz":
        raise OptionError(describe(out, "OUT", repr(out.suffix), "a name ending in .npz"))
    if out.exists() and not overwrite:
        raise OptionError(
            describe(out, "OUT", "there already", "a new file", "Add --overwrite to replace it")
        )


def _say_written(out: Path, raw: RawData) -> None:
    size = out.stat().st_size / 2**20
    print(f"{out}: {len(raw)} frames of {raw.N} x {raw.N}, {size:.1f} MiB")


def _state(path: Path) -> tuple[int, int] | None:
    if not path.is_file():
        return None
    status = path.stat()
    return status.st_mtime_ns, status.st_size
