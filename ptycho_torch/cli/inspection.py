"""``ptycho-torch inspect``: what a scan is, in a dozen lines and a picture.

Reads positions, probe and a few frames. Writes nothing but the picture that was asked for.
"""

from __future__ import annotations

import argparse
import math
from contextlib import suppress
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.cli.scans import grouping_config, open_scan
from ptycho_torch.data import grouping
from ptycho_torch.data.caches import groups_cache
from ptycho_torch.data.caches.names import cache_path, user_cache_directory
from ptycho_torch.data.config import GroupingConfig
from ptycho_torch.data.errors import OptionError, ScanFileError, shown
from ptycho_torch.data.grouping import GroupingRequest
from ptycho_torch.data.raw_data import RawData
from ptycho_torch.data.split import (
    check_fractions,
    region_of_frames,
    say_counts,
    scattered_frames,
    shared_frames,
    split_groups,
)

SAMPLE_FRAMES = 8
SPLIT_SEED = 0
"""The default seed of a data module."""


def inspect(options: argparse.Namespace) -> None:
    """Print what the scan is; draw it where ``--png`` asks for it."""
    config = grouping_config(options)
    if options.png is not None:
        _require_picture_path(options.png, options.scan)
    # With Y, which is then held to the contract too; only its header is read.
    raw = open_scan(options.scan, options.measurement, use_file_Y=True)
    groups = group_indices(raw, config)
    rows = {
        "contract": _contract(raw),
        "frames": _frames(raw),
        "positions": _positions(raw),
        "step": f"{nearest_step(raw.xcoords, raw.ycoords):.2f} px to the nearest neighbour, median",
        "probe": _probe(raw),
        "overlap": _overlap(raw),
        "object": "none" if raw.objectGuess is None else _array(raw.objectGuess),
        "groups": _describe_groups(groups, config),
        **_split(raw, groups, options.val_fraction, options.test_fraction),
        "cache": _cache(raw, config),
    }
    if raw.metadata:
        told = (f"{shown(key)} {shown(value)}" for key, value in raw.metadata.items())
        rows["metadata"] = ", ".join(told)
    print(options.scan)
    for name, text in rows.items():
        print(f"  {name:<10} {text}")
    if options.png is not None:
        from ptycho_torch.results.plotting import save_scan_figure

        save_scan_figure(raw, options.png, nn_indices=groups)
        print(f"  {'picture':<10} {options.png}")


def _require_picture_path(png: Path, scan: Path) -> None:
    """Refuse, before any work, a picture that cannot be drawn or would replace something else."""
    from ptycho_torch.results.plotting import require_matplotlib

    found = ""
    # A link's target is what would be replaced.
    target = png.resolve()
    if png.is_dir():
        found = "a directory"
    elif png.exists() and scan.exists() and png.samefile(scan):
        found = "the scan itself"
    elif png.suffix.lower() != ".png" or target.suffix.lower() != ".png":
        found = repr(target.name)
    if found:
        raise OptionError("--png", found, "a picture's name, ending in .png", file=png)
    require_matplotlib()


def probe_width_px(probe: NDArray[np.complexfloating]) -> float:
    """Diameter of the disc that has the probe's effective area, in pixels.

    The area is (sum I)**2 / sum I**2 over the intensity I, summed over modes: for an evenly lit
    disc this is the disc itself.

    Parameters
    ----------
    probe
        complex, shape (N, N) or (P, N, N).
    """
    intensity = np.square(np.abs(probe.astype(np.complex128)))
    if intensity.ndim == 3:
        intensity = intensity.sum(axis=0)
    power = float(np.square(intensity).sum())
    return 2.0 * math.sqrt(float(intensity.sum()) ** 2 / power / math.pi) if power > 0 else 0.0


def nearest_step(x: NDArray[np.floating], y: NDArray[np.floating]) -> float:
    """Median distance from a position to its nearest neighbour, in pixels; NaN for one frame."""
    if len(x) < 2:
        return math.nan
    table = grouping.neighbor_table(x, y, 1)
    own = np.arange(len(x))
    # At repeated positions the tree may name the twin first.
    nearest = np.where(table[:, 0] == own, table[:, 1], table[:, 0])
    return float(np.median(np.hypot(x[nearest] - x, y[nearest] - y)))


def _contract(raw: RawData) -> str:
    """What has been checked by now: opening a scan refuses whatever breaks the contract."""
    checked = ["names", "shapes", "dtypes", "positions", "a sample of frames"]
    if raw.has_ready_patches:
        checked.append("shape and dtype of Y")
    return f"kept: {', '.join(checked)} (every byte: ptycho-torch verify)"


def _frames(raw: RawData) -> str:
    frames, sides = raw.frames, " x ".join(map(str, raw.frames.shape))
    size = math.prod(frames.shape) * frames.dtype.itemsize / 2**20
    sample = frames.sample(SAMPLE_FRAMES).astype(np.float64)
    counts = sample if frames.measurement == "counts" else np.square(sample)
    return (
        f"{sides} {frames.dtype}, {frames.measurement}, {size:.1f} MiB; "
        f"about {counts.sum(axis=(1, 2)).mean():,.0f} counts a frame"
    )


def _positions(raw: RawData) -> str:
    (left, right), (top, bottom) = ((c.min(), c.max()) for c in (raw.xcoords, raw.ycoords))
    distinct = len(np.unique(np.column_stack([raw.xcoords, raw.ycoords]), axis=0))
    repeated = f"; {len(raw) - distinct} repeated" if distinct < len(raw) else ""
    return f"x {left:.2f} to {right:.2f} px, y {top:.2f} to {bottom:.2f} px{repeated}"


def _probe(raw: RawData) -> str:
    modes = raw.probeGuess.shape[0] if raw.probeGuess.ndim == 3 else 1
    return (
        f"{_array(raw.probeGuess)}, {modes} mode{'s' if modes > 1 else ''}; "
        f"{probe_width_px(raw.probeGuess):.1f} px wide (disc of equal effective area)"
    )


def _overlap(raw: RawData) -> str:
    width, step = probe_width_px(raw.probeGuess), nearest_step(raw.xcoords, raw.ycoords)
    if not (width > 0 and math.isfinite(step)):
        return "unknown"
    return f"{max(0.0, 1.0 - step / width):.2f} linear: 1 - step / probe width"


def group_indices(raw: RawData, config: GroupingConfig) -> NDArray[np.integer] | None:
    """The groups asked for; None where the scan has too few frames for one."""
    if len(raw) < config.channels:
        return None
    request = GroupingRequest.from_config(config, len(raw))
    return grouping.sample_then_group(raw.xcoords, raw.ycoords, request)


def _describe_groups(groups: NDArray[np.integer] | None, config: GroupingConfig) -> str:
    if groups is None:
        return f"none: a group has {config.channels} frames"
    return (
        f"{len(groups)} of {config.channels} frames (gridsize {config.gridsize}, "
        f"K {config.neighbor_count})"
    )


def _split(
    raw: RawData,
    groups: NDArray[np.integer] | None,
    val_fraction: float,
    test_fraction: float,
) -> dict[str, str]:
    """What a region split of the groups gives, and what a random one would share."""
    shares = {"validation": val_fraction, "test": test_fraction}
    check_fractions(tuple(shares.values()))
    shares = {name: share for name, share in shares.items() if share}
    if groups is None or not shares:
        return {"split": "none"}
    fractions = tuple(shares.values())
    strips = region_of_frames(raw.xcoords, raw.ycoords, fractions, SPLIT_SEED)
    found = split_groups(groups, strips, 1 + len(shares))
    counts = [len(part) for part in found.parts]
    shared = sum(
        len(shared_frames(groups[first], groups[second]))
        for first, second in combinations(found.parts, 2)
    )
    asked = ", ".join(f"{share:g} for {name}" for name, share in shares.items())
    told = say_counts(("training", *shares), counts, found.dropped)
    empty = [name for name, count in zip(("training", *shares), counts, strict=True) if not count]
    hint = f"; without {' and '.join(empty)} groups a data module refuses it" if empty else ""
    drawn = scattered_frames(len(groups), fractions, SPLIT_SEED)
    apart = np.unique(groups[drawn > 0])
    leaked = len(shared_frames(groups[drawn == 0], apart))
    return {
        "split": f"region, {asked}, seed {SPLIT_SEED}: {told}; {shared} frames shared{hint}",
        "leak": f"groups split at random instead: {leaked} of {len(apart)} "
        f"{' and '.join(shares)} frames ({leaked / len(apart):.0%}) would be in training too",
    }


def _cache(raw: RawData, config: GroupingConfig) -> str:
    if raw.path is None:
        return "none"
    beside = cache_path(raw.path, config.gridsize, config.neighbor_count)
    faults = []
    places = [beside]
    with suppress(ScanFileError):
        places.append(user_cache_directory(beside.parent) / beside.name)
    for path in places:
        if path.is_file():
            fault = "; ".join(groups_cache.verify(path, raw.xcoords, raw.ycoords))
            if not fault:
                return str(path)
            faults.append(fault)
    if faults:
        return f"not usable: {'; '.join(faults)}"
    return "none yet: ptycho-torch prepare writes it"


def _array(array: NDArray[np.generic]) -> str:
    return f"{' x '.join(map(str, array.shape))} {array.dtype}"
