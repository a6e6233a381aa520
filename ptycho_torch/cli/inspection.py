"""``ptycho-torch inspect``: what a scan is, in a dozen lines and a picture.

Reads positions, probe and a few frames. Writes only the picture and the page that the
user asks for; for a page it reads every frame.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.cli.scan_table import print_scans
from ptycho_torch.cli.scans import byte_bar, grouping_config, reading
from ptycho_torch.data.caches import groups_cache
from ptycho_torch.data.caches.names import groups_places
from ptycho_torch.data.caches.scan_groups import drawn_groups
from ptycho_torch.data.config import GroupingConfig
from ptycho_torch.data.errors import OptionError, ScanError, naming, shown
from ptycho_torch.data.frames import Frames
from ptycho_torch.data.geometry import Geometry, pair
from ptycho_torch.data.initial_probe import is_average_pattern
from ptycho_torch.data.plausibility import Verdict, implausible
from ptycho_torch.data.raw_data import RawData, read_scan
from ptycho_torch.data.scan_list import expand_scans, is_list
from ptycho_torch.results.coverage import linear_overlap, nearest_step, probe_width_px
from ptycho_torch.results.split_preview import SplitPreview, preview_split

SAMPLE_FRAMES = 8
PICTURES = MappingProxyType({"png": "picture", "html": "page"})
"""Options that name a file to draw into, which are the endings of its name, and what it is."""


def inspect(options: argparse.Namespace) -> None:
    """Print what the scan is; draw it where ``--png`` or ``--html`` asks for it."""
    config = grouping_config(options)
    if is_list(options.scan) or options.scan.is_dir() or len(expand_scans(options.scan)) > 1:
        for option in _pictures(options):
            raise OptionError(f"--{option}", "given for several scans", "one scan")
        print_scans(expand_scans(options.scan), reading(options), config)
        return
    for option, path in _pictures(options).items():
        with naming(path):
            _require_picture_path(option, path, options.scan)
    # With Y, so that opening checks it too; reads only its header.
    given = reading(options)
    raw = read_scan(options.scan, use_file_Y=True, **given)
    groups = group_indices(raw, config)
    shares = options.val_fraction, options.test_fraction
    split = preview_split(raw.xcoords, raw.ycoords, groups, *shares)
    if groups is None and options.gridsize is not None:
        raise _too_few(raw, config)
    rows = {
        **_scan_rows(raw),
        "groups": _groups(groups, config),
        **({"split": "none"} if split is None else split.rows),
        "cache": _cache(options.scan, raw, config),
    }
    if raw.metadata:
        entries = (f"{shown(key)} {shown(value)}" for key, value in raw.metadata.items())
        rows["metadata"] = ", ".join(entries)
    print(shown(options.scan))
    for name, text in rows.items():
        print(f"  {name:<10} {text}")
    verdicts = implausible(raw, given["corrections"])
    for text in [shown(verdict) for verdict in verdicts] or ["nothing that looks wrong"]:
        print(f"  {'plausible' if not verdicts else 'warning':<10} {text}")
    _draw(options, raw, groups, rows, verdicts, split)
    if options.orientations:
        from ptycho_torch.cli.orientations import say_orientations

        say_orientations(raw, options.png)


def _draw(
    options: argparse.Namespace,
    raw: RawData,
    groups: NDArray[np.integer] | None,
    rows: Mapping[str, str],
    verdicts: Sequence[Verdict],
    split: SplitPreview | None,
) -> None:
    """Write the picture and the page that are asked for."""
    if options.png is not None:
        from ptycho_torch.results.plotting import save_figure
        from ptycho_torch.results.scan_figure import plot_scan

        save_figure(plot_scan(raw, groups), options.png)
        print(f"  {'picture':<10} {shown(options.png)}")
    if options.html is not None:
        from ptycho_torch.results.page import write_page
        from ptycho_torch.results.scan_page import scan_page

        with byte_bar(f"{options.scan.name}: frames") as progress:
            energies = raw.frames.verify(progress)
        page = scan_page(raw, groups, energies, rows=rows, verdicts=verdicts, split=split)
        write_page(options.html, shown(options.scan.name), shown(options.scan.absolute()), page)
        print(f"  {'page':<10} {shown(options.html)}")


def _pictures(options: argparse.Namespace) -> dict[str, Path]:
    """The files to draw into, by option."""
    return {name: path for name in PICTURES if (path := getattr(options, name)) is not None}


def group_indices(raw: RawData, config: GroupingConfig) -> NDArray[np.integer] | None:
    """The groups asked for, (B, C), without a look at the frames; None: too few frames for one."""
    if len(raw) < config.channels:
        return None
    with naming(raw.path):
        return drawn_groups(raw.xcoords, raw.ycoords, config)


def _too_few(raw: RawData, config: GroupingConfig) -> ScanError:
    expected = f"at least {config.channels} for groups of --gridsize {config.gridsize}"
    action = f"Type --gridsize {math.isqrt(len(raw))} or less"
    field = "the number of positions"
    return ScanError(field, len(raw), expected, action=action, file=raw.path)


def _require_picture_path(option: str, path: Path, scan: Path) -> None:
    """Refuse, before any work, a picture that cannot be drawn or would replace something else."""
    from ptycho_torch.results.plotting import require_matplotlib

    found = ""
    # Writing to a link replaces its target.
    target, suffix = path.resolve(), f".{option}"
    if path.is_dir():
        found = "a directory"
    elif path.exists() and scan.exists() and path.samefile(scan):
        found = "the scan itself"
    elif path.suffix.lower() != suffix or target.suffix.lower() != suffix:
        found = repr(target.name)
    if found:
        raise OptionError(f"--{option}", found, f"a {PICTURES[option]}'s name, ending in {suffix}")
    require_matplotlib()


def _scan_rows(raw: RawData) -> dict[str, str]:
    width, step = probe_width_px(raw.probeGuess), nearest_step(raw.xcoords, raw.ycoords)
    overlap = linear_overlap(width, step)
    modes = raw.probeGuess.shape[0] if raw.probeGuess.ndim == 3 else 1
    probe = f"{_array(raw.probeGuess)}, {modes} mode{'s' if modes > 1 else ''}; "
    probe += f"{width:.1f} px wide (disc of equal effective area)"
    if is_average_pattern(raw):  # in focus: a place for a probe, not as wide as the light
        probe, overlap = "unknown: the average pattern stands in its place", None
    return {
        "contract": _contract(raw),
        "frames": _frames(raw),
        **({} if raw.bad_pixels is None else {"bad pixels": _bad_pixels(raw.bad_pixels)}),
        **({} if raw.geometry is None else {"geometry": _geometry(raw.geometry, raw.N)}),
        "positions": _positions(raw),
        "step": f"{step:.2f} px to the nearest neighbour, median",
        "probe": probe,
        "overlap": "unknown"
        if overlap is None
        else f"{overlap:.2f} linear: 1 - step / probe width",
        "object": "none" if raw.objectGuess is None else _array(raw.objectGuess),
    }


def _contract(raw: RawData) -> str:
    """What is sure by now: opening a scan refuses whatever breaks the contract."""
    checked = ["names", "shapes", "dtypes", "positions", "a sample of frames"]
    if raw.patches is not None:
        checked.append("shape and dtype of Y")
    return f"kept: {', '.join(checked)} (every byte: ptycho-torch verify)"


def _frames(raw: RawData) -> str:
    frames = raw.frames
    size = math.prod(frames.shape) * frames.dtype.itemsize / 2**20
    sample = frames.sample(SAMPLE_FRAMES).astype(np.float64)
    counts = sample if frames.measurement == "counts" else np.square(sample)
    return (
        f"{_array(frames)}, {frames.measurement}, {size:.1f} MiB; "
        f"about {counts.sum(axis=(1, 2)).mean():,.0f} counts per frame"
    )


def _bad_pixels(bad: NDArray[np.bool_]) -> str:
    where = "per frame; " if bad.ndim == 3 else ""
    return f"{where}{bad.mean():.2%} of the detector, left out everywhere"


def _geometry(geometry: Geometry, N: int) -> str:
    energy, pixel = geometry.energy_ev, pair(geometry.object_pixel_m)
    view = geometry.field_of_view_m(N)
    parts = [
        "" if energy is None else f"{energy / 1e3:.4g} keV",
        "" if geometry.distance_m is None else f"{geometry.distance_m:.4g} m to the detector",
        "" if pixel is None else f"object pixel {pixel[0] * 1e9:.4g} nm",
        "" if view is None else f"frame {view[0] * 1e6:.4g} um wide",
        "near field" if geometry.near_field else "",
    ]
    return ", ".join(part for part in parts if part)


def _positions(raw: RawData) -> str:
    (left, right), (top, bottom) = ((c.min(), c.max()) for c in (raw.xcoords, raw.ycoords))
    distinct = len(np.unique(np.column_stack([raw.xcoords, raw.ycoords]), axis=0))
    repeated = f"; {len(raw) - distinct} repeated" if distinct < len(raw) else ""
    return f"x {left:.2f} to {right:.2f} px, y {top:.2f} to {bottom:.2f} px{repeated}"


def _groups(groups: NDArray[np.integer] | None, config: GroupingConfig) -> str:
    if groups is None:
        return f"none: a group has {config.channels} frames; --gridsize 1 makes each frame one"
    grid = f"gridsize {config.gridsize}, K {config.neighbor_count}"
    if config.chooses:
        grid += f", chosen: {len(np.unique(groups))} frames in use"
    return f"{len(groups)} of {config.channels} frames ({grid})"


def _cache(scan: Path, raw: RawData, config: GroupingConfig) -> str:
    faults = []
    for path in groups_places(scan, config.gridsize, config.neighbor_count, "auto"):
        if path.is_file():
            fault = "; ".join(groups_cache.verify(path, raw.xcoords, raw.ycoords))
            if not fault:
                return shown(path)
            faults.append(fault)
    if faults:
        return f"not usable: {'; '.join(faults)}"
    return "none yet: ptycho-torch prepare writes it"


def _array(array: NDArray[np.generic] | Frames) -> str:
    return f"{' x '.join(map(str, array.shape))} {array.dtype}"
