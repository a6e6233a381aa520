"""What looks wrong with a scan that keeps the contract, and what to type: one table of checks.

Owns the checks and their thresholds. Each is a function of the evidence, which reads positions,
probe and at most 128 frames, and gives a verdict or None. :mod:`ptycho_torch.data.corrections` has
what the verdicts say to type.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.data.corrections import (
    METRES,
    Corrections,
    constant_lines,
    counts_of,
)
from ptycho_torch.data.evidence import FEWEST_FRAMES, Evidence
from ptycho_torch.data.geometry import pair
from ptycho_torch.data.grouping import neighbor_table
from ptycho_torch.data.initial_probe import is_average_pattern
from ptycho_torch.data.pixel_estimates import PixelEstimates
from ptycho_torch.data.scan import Scan

logger = logging.getLogger(__name__)

SMALLEST_SPAN_PX = 0.5
POWER_RATIO = 8.0
BACKGROUND = 0.2
CLEAR_R2 = 0.3
ORDER_R2 = 0.15
STRICT_R2 = 0.7
WIDEST = 1.5
"""How much wider than a frame light on the object is that no far field can have. A probe fills less
than its array, and the measure of its width is good to a few tenths."""
MOSTLY_BAD = 0.5


@dataclass(frozen=True)
class Verdict:
    """What a check saw, what it expected, and what to type; ``field`` is what it is about."""

    field: str
    saw: str
    expected: str
    action: str

    def __str__(self) -> str:
        return f"{self.field}: {self.saw}; expected {self.expected}. {self.action}"


def _units(seen: Evidence) -> Verdict | None:
    if len(seen.x) < FEWEST_FRAMES or seen.span > SMALLEST_SPAN_PX:
        return None
    if seen.span == 0:
        return Verdict("positions", "all alike", "a scan", "Look for the positions elsewhere")
    saw = f"the scan spans {seen.span:.2f} px ({seen.span:.2g})"
    unit = "m" if seen.span < 1e-2 else "um"
    expected = "object pixels, about the width of the probe or more"
    if not seen.in_metres:
        expected += f": are these { ({'m': 'metres', 'um': 'micrometres'}[unit]) }?"
    return Verdict("positions", saw, expected, _unit_action(seen, unit))


_GEOMETRY_ACTION = (
    "Check energy, distance and pixels of the file, and the unit: of positions in a layout; a file "
    "of other units than its format has is read with --layout"
)


def _unit_action(seen: Evidence, unit: str) -> str:
    if seen.given.position_unit != "px":
        return f"Try another unit than --position-unit {seen.given.position_unit}"
    if seen.in_metres:
        return _GEOMETRY_ACTION
    geometry = seen.scan.geometry
    known = pair(None if geometry is None else geometry.object_pixel_m)
    if known is None:
        return f"Add --position-unit {unit} --pixel-size METRES"
    span_px = seen.span * METRES[unit] / known[1]
    return f"Add --position-unit {unit}: the scan then spans {span_px:.4g} px"


def _overlap(seen: Evidence) -> Verdict | None:
    if len(seen.x) < FEWEST_FRAMES or not seen.span > 0:
        return None
    width, what = float(seen.N), "patches"
    # An average pattern is in focus, whatever the width of the light on the object.
    if seen.light.any() and not is_average_pattern(seen.scan):
        width, what = _width(seen.light), "a probe"
    nearest = neighbor_table(seen.x, seen.y, 1)
    steps = np.hypot(seen.x[nearest] - seen.x[:, None], seen.y[nearest] - seen.y[:, None])
    step = float(np.median(steps.max(axis=1)))
    if step <= width:
        return None
    saw = f"a step of {step:.3g} px over {what} {width:.3g} px wide: frames share nothing"
    action = "Of positions in nanometres add --position-unit nm; else check --pixel-size METRES"
    if seen.in_metres:
        action = _GEOMETRY_ACTION
    if seen.given.position_unit != "px":
        action = f"Check --position-unit {seen.given.position_unit} and --pixel-size METRES"
    return Verdict("overlap", saw, "a step below that width", action)


def _width(light: NDArray[np.float64]) -> float:
    """Diameter, pixels, of the disc that light (N, N) is as wide as."""
    return float(2 * np.sqrt(light.sum() ** 2 / np.square(light).sum() / np.pi))


def _near_field(seen: Evidence) -> Verdict | None:
    geometry, shadows = seen.scan.geometry, seen.shadows
    if shadows is None or not seen.mean.any() or (geometry is not None and geometry.near_field):
        return None
    if _overlap(seen) is not None:  # positions in another unit widen the light too
        return None
    scale = shadows.magnification(0)
    if shadows.r2(0) < STRICT_R2 or not scale > 0:
        return None
    width = _width(seen.mean) / scale
    if width < WIDEST * seen.N:
        return None
    saw = f"patterns follow the sample as if the light on it were {width:.0f} px wide"
    expected = f"at most the {seen.N} px of a frame in the far field"
    if width < WIDEST * seen.N * seen.bins:
        action = (
            f"Add a smaller --bin than {seen.bins}, which leaves 1 px in {seen.bins} of a patch"
        )
        return Verdict("frames", saw, expected, action)
    format = str((seen.scan.metadata or {}).get("format", ""))
    how = "let the file say so: near_field in an NPZ, far_field in a product of Ptychodus"
    if format.startswith("hdf5"):
        how = "add near_field: true to the layout, and object_pixel"
    elif seen.in_metres and format != "ptychodus":
        how = "add --option near_field=true --option object_pixel_m=METRES, a detector pixel over "
        how += "the magnification"
    action = f"In the near field {how}; else check energy, distance, pixels and bins"
    return Verdict("frames", saw, expected, action)


def _mask(seen: Evidence) -> Verdict | None:
    bad = seen.scan.bad_pixels
    share = 0.0 if bad is None else float(_on_detector(bad).mean())
    if share <= MOSTLY_BAD:
        return None
    action = "Is 1 good there? Read HDF5 with --layout, where mask: has bad: zero; write an NPZ "
    action += "again with its bad_pixels inverted"
    return Verdict("bad_pixels", f"{share:.0%} of the detector", "a small part of it", action)


def _on_detector(bad: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Bad pixels without a border, all of it bad, as a detector that pads frames leaves it.

    One that leaves less than a quarter of a frame's side, or not its centre, is the mask's own.
    """
    good = ~np.asarray(bad if bad.ndim == 2 else bad.all(axis=0))
    N, inside = len(good), [slice(None)] * (bad.ndim - 2)
    for axis in (1, 0):
        kept = np.flatnonzero(good.any(axis=axis))
        if len(kept) == 0 or np.ptp(kept) + 1 < N / 4 or not kept[0] <= N // 2 <= kept[-1]:
            return bad
        inside.append(slice(kept[0], kept[-1] + 1))
    return bad[tuple(inside)]


def _origin(seen: Evidence) -> Verdict | None:
    if seen.span <= SMALLEST_SPAN_PX:
        return None
    first, half = min(seen.x.min(), seen.y.min()), seen.N // 2
    expected = f"about {half} px or more, so that every patch lies on the object"
    action = "Add --shift-origin"
    if seen.given.shift_origin or seen.given.position_unit != "px":
        action = "Check the size of an object pixel: --pixel-size METRES"
        action = _GEOMETRY_ACTION if seen.in_metres else action
    if first < half - 1:
        return Verdict("positions", f"they begin at {first:.1f} px", expected, action)
    if first > half + 2 * seen.span + 2 * seen.N:
        saw = f"they begin at {first:.1f} px and span {seen.span:.1f} px"
        return Verdict("positions", saw, "a small empty border of the object", action)
    if seen.scan.objectGuess is None:
        return None
    height, width = seen.scan.objectGuess.shape
    over = max(seen.x.max() + seen.N - half - width, seen.y.max() + seen.N - half - height)
    if over <= 1:
        return None
    saw = f"the last patch reaches {over:.1f} px beyond an object of {height} x {width}"
    return Verdict("positions", saw, "patches on the object", action)


def _corner(seen: Evidence) -> Verdict | None:
    axis = np.abs(np.arange(seen.N) - seen.N // 2) < seen.N / 4
    centre = seen.mean[axis][:, axis].sum()
    corners = seen.mean[~axis][:, ~axis].sum()
    if corners <= 1.5 * centre:
        return None
    saw = f"{corners / max(seen.mean.sum(), 1e-300):.0%} of the light in the corners"
    given = seen.given.zero_frequency == "corner"
    action = "Leave out --zero-frequency corner" if given else "Add --zero-frequency corner"
    return Verdict("frames", saw, "it at the centre", action)


def _sentinels(seen: Evidence) -> Verdict | None:
    if not seen.full.any():
        return None
    value = counts_of(seen.scan.frames, seen.stored[:1])[0][seen.full].max()
    saw = f"{int(seen.full.sum())} pixels hold {value:.10g} in every frame, the largest integer"
    return Verdict("frames", saw, "counts", "Add --bad-pixels estimate")


def _largest(seen: Evidence) -> Verdict | None:
    if not seen.reached.any():
        return None
    largest = np.iinfo(seen.stored.dtype).max
    saw = f"{int(seen.reached.sum())} pixels hold {largest} in some frames, the largest integer"
    action = f"Add --saturation {largest}, by which they are bad in every frame"
    if seen.scan.frames.measurement == "amplitude":
        action = "Add --bad-pixels FILE.npy that names them"
    return Verdict("frames", saw, "counts", action)


def _bad_pixels(seen: Evidence) -> Verdict | None:
    estimates = PixelEstimates.of(seen.counts, seen.bad | seen.full | seen.reached)
    hot, dead = int(estimates.hot.sum()), int(estimates.dead.sum())
    if not hot + dead:
        return None
    saw = f"{hot} hot and {dead} dead pixels that bad_pixels does not name"
    return Verdict("frames", saw, "a mask of them", "Add --bad-pixels estimate")


def _constant(seen: Evidence) -> Verdict | None:
    rows, columns = constant_lines(seen.counts)
    for constant, name in ((rows[:, 0], "rows"), (columns[0], "columns")):
        if constant.any():
            saw = (
                f"{int(constant.sum())} {name} that hold one value each, first {constant.argmax()}"
            )
            return Verdict("frames", saw, "counts", "Add --bad-pixels estimate")
    return None


def _background(seen: Evidence) -> Verdict | None:
    good = seen.mean[~seen.bad]
    level = float(np.quantile(good, 0.05))
    share = level * good.size / max(float(good.sum()), 1e-300)
    if share <= BACKGROUND:
        return None
    saw = f"a background of {share:.0%} of the light, the same in every pixel"
    action = f"Subtract it: --dark {level:.4g}, or --dark FILE.npy of a frame without light"
    if seen.scan.frames.measurement == "amplitude":
        action = f"Write the scan again from counts; of counts, --dark {level:.4g} subtracts it"
    return Verdict("frames", saw, "dark corners", action)


def _probe_power(seen: Evidence) -> Verdict | None:
    if is_average_pattern(seen.scan):  # of these frames, with whatever is wrong in them
        return None
    power, counts = float(seen.light.sum()), float(seen.counts.sum(axis=(1, 2)).mean())
    if not (power > 0 and counts > 0) or 1 / POWER_RATIO < power / counts < POWER_RATIO:
        return None
    saw = f"sum |P|**2 is {power:.4g} and a frame has {counts:.4g} counts"
    return Verdict("probeGuess", saw, "the two alike", "Scale the probe: add --scale-probe")


def _probe_place(seen: Evidence) -> Verdict | None:
    axis = np.abs(np.arange(seen.N) - seen.N // 2) < seen.N / 4
    if seen.light[~axis][:, ~axis].sum() <= 1.5 * seen.light[axis][:, axis].sum():
        return None
    action = "Add --probe FILE.npy of numpy.fft.fftshift(probe), or --probe initial"
    return Verdict("probeGuess", "in the corners of its array", "it at the centre", action)


def _measurement(seen: Evidence) -> Verdict | None:
    stored = seen.stored.astype(np.float64)
    lit = stored[stored > 0]
    if not len(lit) or seen.stored.dtype.kind in "iu" or lit.max() < 4:
        return None
    squares = np.square(lit)
    whole = bool((lit == np.round(lit)).all())
    squares_whole = bool(np.allclose(squares, np.round(squares), rtol=1e-6, atol=1e-3))
    if seen.scan.frames.measurement == "amplitude" and whole:
        return Verdict("frames", "whole numbers", "amplitudes", "Try --measurement counts")
    if seen.scan.frames.measurement == "counts" and squares_whole and not whole:
        saw = "square roots of whole numbers"
        return Verdict("frames", saw, "counts", "Try --measurement amplitude")
    return None


def _orientation(seen: Evidence) -> Verdict | None:
    shadows = seen.shadows
    if shadows is None or shadows.r2(0) < CLEAR_R2:
        return None
    wrong = shadows.wrong_orientation()
    if wrong is None:
        return None
    saw = f"patterns do not move as positions do ({wrong})"
    either = [_moves_after(seen.given, wrong, twin) or "none" for twin in (False, True)]
    action = f"Try {' or '.join(either)}; ptycho-torch inspect SCAN --orientations compares all "
    action += "eight, and of a known probe tells these two apart"
    if given := _moves(seen.given):
        action = f"Try {' or '.join(either)} instead of {given}"
    return Verdict("orientation", saw, "both along the same axes", action)


def _moves(given: Corrections) -> str:
    """The words of these corrections that exchange or reverse axes of the positions."""
    words = ("swap_xy", "flip_x", "flip_y")
    return " ".join(f"--{w.replace('_', '-')}" for w in words if getattr(given, w))


def _moves_after(given: Corrections, wrong: str, twin: bool = False) -> str:
    """The words for the corrections given and then the ones named: axes are swapped, then reversed.

    The ``twin`` has both axes reversed as well, which the patterns do not tell apart.
    """
    swap, x, y = "--swap-xy" in wrong, given.flip_x, given.flip_y
    x, y = (y, x) if swap else (x, y)
    y ^= "--flip-y" in wrong
    flip_y = twin if x == y else not twin
    return _moves(Corrections(swap_xy=swap != given.swap_xy, flip_x=twin, flip_y=flip_y))


def _order(seen: Evidence) -> Verdict | None:
    shadows = seen.shadows
    if shadows is None:
        return None
    lag = max((-1, 0, 1), key=shadows.r2)
    if not lag or shadows.r2(lag) < max(CLEAR_R2, shadows.r2(0) + ORDER_R2):
        return None
    saw = f"frame i fits position i {lag:+d} (R2 {shadows.r2(lag):.2f}, as is {shadows.r2(0):.2f})"
    action = f"Drop the {'first position' if lag > 0 else 'first frame'} and write the scan again"
    if np.ptp(seen.scan.scan_index) > 0:
        action = "Frames and positions go by index: do both begin at 0, or both at 1?"
    return Verdict("order", saw, "frames and positions in one order", action)


CHECKS: tuple[Callable[[Evidence], Verdict | None], ...] = (
    _units,
    _overlap,
    _near_field,
    _origin,
    _mask,
    _corner,
    _sentinels,
    _largest,
    _bad_pixels,
    _constant,
    _background,
    _probe_power,
    _probe_place,
    _measurement,
    _orientation,
    _order,
)
"""What is looked at, in this order."""


def implausible(scan: Scan, given: Corrections | None = None) -> list[Verdict]:
    """Every verdict on a scan, the most telling first; an empty list says that nothing was seen.

    Reads at most 128 frames and writes nothing. ``given`` are the corrections that the scan was
    read with: what to type does not repeat them.
    """
    seen = Evidence(scan, given or Corrections())
    return [verdict for check in CHECKS if (verdict := check(seen)) is not None]


def warn_of(scan: Scan, given: Corrections | None = None) -> list[Verdict]:
    """Log every verdict on a scan as a warning of one line, and give them back."""
    verdicts = implausible(scan, given)
    for verdict in verdicts:
        logger.warning("%s: %s", scan.path or "scan in memory", verdict)
    return verdicts
