"""What an object says of itself: some lines in a terminal, a small table in a notebook.

Owns the form, and what a scan says. Asks an object only for what it holds already; what it cannot
say, because it is half built or damaged, is a line that says so.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.data.errors import shown

SHOWN_FRAMES = 3
WIDEST_PX = 80
"""A frame's side in the picture, which bounds the bytes that a notebook keeps."""

Say = Callable[[Any], object]


@dataclass(frozen=True)
class Description:
    """What a kind of object says: a title, lines (name, what it says), and counts (n, N, N).

    A line that says None is left out.
    """

    title: Say
    lines: tuple[tuple[str, Say], ...]
    counts: Callable[[Any], NDArray[Any] | None]

    def text(self, thing: object) -> str:
        """The title, and a line for each fact."""
        said = self._said(thing)
        width = max(map(len, said), default=0)
        rows = (f"  {name:{width}}  {text}" for name, text in said.items())
        return "\n".join([self._title(thing), *rows])

    def html(self, thing: object) -> str:
        """The same as a table, every word escaped, with a few frames where matplotlib is."""
        cells = ((escape(name), escape(text)) for name, text in self._said(thing).items())
        rows = "".join(f"<tr><th>{name}</th><td>{text}</td></tr>" for name, text in cells)
        title = f"<b>{escape(self._title(thing))}</b>"
        return f"<div>{title}<table>{rows}</table>{self._picture(thing)}</div>"

    def _title(self, thing: object) -> str:
        return _safely(self.title, thing, f"{type(thing).__name__}: ") or ""

    def _said(self, thing: object) -> dict[str, str]:
        said = {name: _safely(say, thing) for name, say in self.lines}
        return {name: text for name, text in said.items() if text is not None}

    def _picture(self, thing: object) -> str:
        try:
            from matplotlib.image import imsave

            counts = self.counts(thing)
            if counts is None:
                return ""
            file = io.BytesIO()
            imsave(file, _side_by_side(counts[:SHOWN_FRAMES]), cmap="inferno", format="png")
        except Exception:  # a picture is worth no error
            return ""
        data = base64.b64encode(file.getvalue()).decode("ascii")
        return f'<img alt="frames, log scale" src="data:image/png;base64,{data}">'


def axes(shape: Sequence[int], names: Sequence[str]) -> str:
    """A shape with the names of its axes, counted from the last: ``(B=8, N=64, N=64)``."""
    named = ([""] * len(shape) + list(names))[len(names) :]
    pairs = zip(named, shape, strict=True)
    sizes = [f"{name}={size}" if name else f"{size}" for name, size in pairs]
    return f"({', '.join(sizes)}{',' if len(sizes) == 1 else ''})"


def array(value: Any, *names: str) -> str:
    """Shape with the names of its axes, and dtype, of an array or a tensor."""
    if value is None:
        return "none"
    return f"{axes(value.shape, names)} {str(value.dtype).removeprefix('torch.')}"


def sample_counts(scan: Any) -> NDArray[Any] | None:
    """Counts (n, N, N) of a few frames of a scan; None where only reading all would give them."""
    scan.check_unchanged()  # a map of a file cut short would end the process
    frames = scan.frames
    if not frames.frame_by_frame:
        return None
    stored = frames.sample(SHOWN_FRAMES).astype(np.float64)
    return np.asarray(stored if frames.measurement == "counts" else stored**2)


def _safely(say: Say, thing: object, otherwise: str = "") -> str | None:
    try:
        said = say(thing)
        return None if said is None else shown(said)
    except Exception:  # whatever is wrong with an object, it can be printed
        return f"{otherwise}half built or damaged"


def _side_by_side(counts: NDArray[Any]) -> NDArray[np.float64]:
    """Logarithms of counts (n, N, N), the brightest of each bin of pixels, in one row (n, N')."""
    n, N = len(counts), counts.shape[-1]
    bin_px = -(-N // WIDEST_PX)
    side = -(-N // bin_px)
    padded = np.zeros((n, side * bin_px, side * bin_px))
    padded[:, :N, :N] = np.nan_to_num(counts)
    brightest = padded.reshape(n, side, bin_px, side, bin_px).max(axis=(2, 4))
    high = float(brightest.max()) or 1.0
    low = 1.0 if high > 10 else high / 1e4
    return np.hstack(list(np.log(np.maximum(brightest, low))))


def _positions(scan: Any) -> str:
    wide, high = np.ptp(scan.xcoords), np.ptp(scan.ycoords)
    return f"x, y {array(scan.xcoords, 'M')}, px, over {wide:.4g} x {high:.4g} px"


def _probe(scan: Any) -> str:
    probe = vars(scan)["probeGuess"]
    if probe is None:
        return "none"
    photons = float((np.abs(probe.astype(np.complex128)) ** 2).sum())
    modes = 1 if probe.ndim == 2 else len(probe)
    text = f"{array(probe, 'P', 'N', 'N')}, {photons:.4g} photons"
    return text if modes == 1 else f"{text} in {modes} modes"


def _mask(scan: Any) -> str:
    bad = scan.frames.bad_pixels
    if bad is None or bad.ndim == 3:
        return array(bad, "M", "N", "N")
    return f"{array(bad, 'N', 'N')}, {np.count_nonzero(bad)} of {bad.size}"


def geometry_text(geometry: Any) -> str:
    """What is known of a geometry, in metres."""
    known = {} if geometry is None else geometry.known()
    words = []
    for name, value in known.items():
        said = name.removesuffix("_m").replace("_", " ")
        sides = " x ".join(f"{side:.4g}" for side in np.atleast_1d(value))
        words.append(said if value is True else f"{said} {sides} m")
    return ", ".join(words) or "not known"


def _photons(scan: Any) -> str:
    photons = scan.frame_photons
    if photons is None:
        return "not known per frame"
    return f"{array(photons, 'M')}, {photons.mean():.4g} in the mean"


def scan_title(scan: Any) -> str:
    """Where a scan is from, and how many frames it has."""
    where = "memory" if scan.path is None else scan.path
    return f"{type(scan).__name__}({where}: {scan.n_frames} frames of {scan.N} x {scan.N})"


SCAN = Description(
    scan_title,
    (
        ("frames", lambda s: f"{axes((s.n_frames, s.N, s.N), 'MNN')} {s.frames.dtype}, "
            f"{'counts' if s.frames.measurement == 'counts' else 'amplitude, sqrt(counts)'}"),
        ("positions", _positions),
        ("probe", _probe),
        ("object", lambda s: array(s.objectGuess, "H", "W")),
        ("patches", lambda s: array(s.patches, "M", "N", "N")),
        ("bad pixels", _mask),
        ("geometry", lambda s: geometry_text(s.geometry)),
        ("photons", _photons),
    ),
    sample_counts,
)  # fmt: skip
