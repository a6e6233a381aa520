"""Commands that make, convert, prepare and check scan files, without torch."""

from __future__ import annotations

import argparse
import glob
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from threading import Event
from typing import Any, cast

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from ptycho_torch.data.caches.names import is_cache_name
from ptycho_torch.data.config import GroupingConfig
from ptycho_torch.data.corrections import Corrections
from ptycho_torch.data.detector import Detector
from ptycho_torch.data.errors import OptionError, naming, shown
from ptycho_torch.data.files.mapping import require_regular
from ptycho_torch.data.plausibility import warn_of
from ptycho_torch.data.prepare import each_in_a_thread, prepare_scan
from ptycho_torch.data.raw_data import RawData, read_scan
from ptycho_torch.data.readers.probe_choice import array_in_npy, probe_of
from ptycho_torch.data.readers.write_npz import write_scan
from ptycho_torch.data.scan_list import ListedScan, expand_scans, is_list, scans_in
from ptycho_torch.data.verify import verify_path
from ptycho_torch.simulation.scan import simulate_scan

logger = logging.getLogger(__name__)


def simulate(options: argparse.Namespace) -> None:
    """Write a simulated scan."""
    _check_out(options.out, options.overwrite)
    raw = simulate_scan(
        n_frames=options.frames,
        N=options.size,
        pattern=options.pattern,
        photons=options.photons,
        n_modes=options.modes,
        seed=options.seed,
        specimen=options.specimen,
        probe=None if options.probe is None else probe_of(options.probe, read_scan),
    )
    _write(options, raw)
    config = GroupingConfig()
    if len(raw) < config.channels:
        fewest = f"{config.channels}, of gridsize {config.gridsize}"
        logger.warning(
            "%s: %d frames make no group of %s, the default; add --frames %d or more, or train at "
            "gridsize 1",
            options.out,
            len(raw),
            fewest,
            config.channels,
        )


def convert(options: argparse.Namespace) -> None:
    """Read a scan of any registered format and write it as a canonical NPZ."""
    _check_out(options.out, options.overwrite)
    require_one_scan(options.scan)
    given = reading(options)
    raw = read_scan(options.scan, use_file_Y=True, **given)
    # Verify first: the copy gets fresh checksums that would hide damage.
    with byte_bar(f"{options.scan.name}: frames") as progress:
        raw.frames.verify(progress)
    warn_of(raw, given["corrections"])
    _write(options, raw)


def prepare(options: argparse.Namespace) -> None:
    """Map, check and group each scan, so that training starts at once."""
    config, given = grouping_config(options), reading(options)
    stopped = Event()

    def prepared(listed: ListedScan) -> str:
        path = cast("Path", listed.scan)
        if is_cache_name(path.name):  # a pattern of the shell takes caches for scans
            return f"{shown(path)}: a cache, left out"
        raw = listed.opened(**given)
        with byte_bar(f"{path.name}: frames", stopped) as progress:
            groups = prepare_scan(raw, config, progress=progress)
        warn_of(raw, given["corrections"])
        return (
            f"{shown(path)}: {len(raw)} frames, {raw.frames.nbytes / 2**20:.1f} MiB; "
            f"{len(groups.nn_indices)} groups of {config.channels} frames"
        )

    with logging_redirect_tqdm(loggers=[logging.getLogger("ptycho_torch")]):
        for line in each_in_a_thread(prepared, expand_scans(options.scans), stopped):
            print(line)


def verify(options: argparse.Namespace) -> None:
    """Check every path, say what is wrong with each, and end in code 1 if anything is wrong."""
    broken, given = 0, reading(options)
    for path in options.paths:
        require_one_scan(path)
    for path in options.paths:
        with byte_bar(f"{path.name}: frames") as progress:
            faults = verify_path(path, progress=progress, **given)
        for fault in faults:
            print(f"ptycho-torch: {shown(fault)}", file=sys.stderr)
        if not faults:
            print(f"{shown(path)}: ok")
        broken += bool(faults)
    if broken:
        raise SystemExit(1)


@contextmanager
def byte_bar(label: str, stopped: Event | None = None) -> Iterator[Callable[[int, int], None]]:
    """A progress bar for (bytes done, bytes in all); once ``stopped``, it ends the work."""
    with tqdm(
        desc=shown(label), unit="B", unit_scale=True, unit_divisor=1024, leave=False, disable=None
    ) as bar:

        def progress(done: int, total: int) -> None:
            if stopped is not None and stopped.is_set():
                raise KeyboardInterrupt
            bar.total = total
            bar.update(done - bar.n)

        yield progress


def reading(options: argparse.Namespace) -> dict[str, Any]:
    """How to read a scan, as the options say; what is not given is left to the reader."""
    names = ("format", "measurement", "layout", "diffraction", "probe", "axis_order")
    detector = {
        field.name: value
        for field in fields(Detector)
        if (value := getattr(options, field.name, None)) is not None
    }
    if isinstance(detector.get("dark"), Path):
        detector["dark"] = array_in_npy(detector["dark"])
    corrected: dict[str, Any] = {
        f.name: getattr(options, f.name, f.default) for f in fields(Corrections)
    }
    detector.pop("bad_pixels", None)
    if isinstance(corrected["bad_pixels"], Path):
        detector["bad_pixels"] = array_in_npy(corrected.pop("bad_pixels"))
    if detector.get("pad_value") == "bad":
        detector["pad_value"] = None
    corrections = Corrections(**corrected)
    given = {name: value for name in names if (value := getattr(options, name, None)) is not None}
    given |= {"corrections": corrections, **dict(options.reader_options)}
    return {**given, "detector": Detector(**detector)} if detector else given


def require_one_scan(path: Path) -> None:
    """Refuse what names several scans, for a command that takes one; an OptionError says so."""
    # os.path answers no where a name cannot be one: too long, or with a NUL in it.
    pattern = glob.has_magic(str(path)) and not os.path.exists(path)
    several = is_list(path), os.path.isdir(path), pattern
    if any(several):
        found = ("a list of scans", "a directory", "a pattern")[several.index(True)]
        scans = scans_in(path)[0] if several[1] else [each.scan for each in expand_scans(path)]
        names = ", ".join(map(str, scans[:3])) + (", ..." if scans[3:] else "")
        action = "ptycho-torch inspect and prepare take several at once"
        raise OptionError(
            shown(path), found, "one scan", action=f"Its scans are {names or 'none'}; {action}"
        )


def grouping_config(options: argparse.Namespace) -> GroupingConfig:
    """The grouping that the options ask for; what is not given keeps its default."""
    names = [field.name for field in fields(GroupingConfig)]
    asked = {name: getattr(options, name, None) for name in names}
    given = {name: value for name, value in asked.items() if value is not None}
    neighbors = options.neighbors
    if neighbors is None:
        neighbors = max(6, (options.gridsize or 2) ** 2)
    return GroupingConfig(**{**given, "neighbor_count": neighbors})


def _check_out(out: Path, overwrite: bool) -> None:
    with naming(out):
        if out.suffix != ".npz":
            raise OptionError("OUT", repr(out.name), "a name ending in .npz")
        if not out.parent.is_dir():
            # Making it would hide a misspelt name.
            found = "no directory" if out.parent.exists() else "missing"
            raise OptionError("folder of OUT", found, "a directory", file=out.parent)
        if os.path.exists(out):  # no for a name too long, which then cannot be written
            require_regular(out.stat())
            if not overwrite:
                action = "Add --overwrite to replace it"
                raise OptionError("OUT", "there already", "a new file", action=action)


def _write(options: argparse.Namespace, raw: RawData) -> None:
    out = write_scan(raw, options.out, replace=options.overwrite)
    size = out.stat().st_size / 2**20
    print(f"{shown(out)}: {len(raw)} frames of {raw.N} x {raw.N}, {size:.1f} MiB")
