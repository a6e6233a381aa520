"""The options that say how a scan is read, corrected and grouped: the same in every command.

Owns their words and help. What is usual stands in a command's help; the rest are rare groups.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import get_args

from ptycho_torch.cli.command_parser import Command
from ptycho_torch.data.config import Measurement, NeighborChoice
from ptycho_torch.data.corrections import BadPixels, PositionUnit, ZeroFrequency
from ptycho_torch.data.readout import ORIENTATIONS


def add_measurement(command: Command) -> None:
    """Whether frames are amplitudes or counts."""
    command.add_argument(
        "--measurement",
        choices=get_args(Measurement),
        default="auto",
        help="what frames hold; auto refuses what may be either",
    )


def add_sources(command: Command) -> None:
    """What is where in the file, and in those beside it."""
    group = command.rare("file", "what is where in SCAN, and which files belong to it")
    group.add_argument("--format", default="auto", metavar="NAME", help="default: by its content")
    group.add_argument(
        "--layout", metavar="YAML", help="what is where in an HDF5 file: a YAML, or a preset's name"
    )
    group.add_argument(
        "--option",
        dest="reader_options",
        type=_reader_option,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an option of the format's reader, as near_field=true; may be repeated",
    )
    group.add_argument(
        "--diffraction", metavar="FILE", help="frames of a scan whose positions are in SCAN"
    )
    group.add_argument(
        "--axis-order",
        choices=("frames_first", "frames_last"),
        help="of (M, N, N) or (N, N, M) frames, where SCAN does not tell",
    )


def add_reading(command: Command, probe: str = "auto") -> None:
    """How a scan is read, and how it differs from the contract; ``inspect`` says what to use."""
    add_measurement(command)
    command.add_argument(
        "--position-unit",
        choices=get_args(PositionUnit),
        default="px",
        help="of xcoords and ycoords; px, the default: object pixels",
    )
    command.add_argument(
        "--pixel-size", dest="pixel_size_m", type=float, metavar="METRES", help="object pixel"
    )
    command.add_argument(
        "--probe",
        default=probe,
        help="the file's: file; the average pattern: initial; file, else initial: auto; or a path "
        f"of another; default {probe}",
    )
    add_sources(command)
    _add_detector(command)
    _add_corrections(command)


def _add_detector(command: Command) -> None:
    group = command.rare("detector", "how stored frames become N x N")
    group.add_argument("--size", type=int, metavar="N", help="crop or pad to so many pixels")
    group.add_argument(
        "--centre",
        type=_centre,
        metavar="CENTRE",
        help="keep, estimate or ROW,COLUMN of the zero frequency",
    )
    group.add_argument(
        "--bin", type=int, metavar="N", help="sum so many pixels along each axis into one"
    )
    group.add_argument(
        "--orientation",
        choices=tuple(ORIENTATIONS),
        metavar="NAME",
        help=f"turn or mirror frames: {', '.join(ORIENTATIONS)}",
    )
    group.add_argument(
        "--pad-value", type=_pad, metavar="VALUE", help="outside the detector; bad: no value"
    )
    group.add_argument(
        "--dark",
        type=_dark,
        metavar="FILE.npy",
        help="frame without light, to subtract; or a number",
    )
    group.add_argument(
        "--saturation", type=float, metavar="COUNTS", help="a pixel that reaches it is bad"
    )
    group.add_argument(
        "--bad-pixels",
        type=_bad_pixels,
        default="file",
        metavar="{file,estimate,FILE.npy}",
        help="estimate adds hot, dead and full pixels and constant lines of a sample of frames; "
        "FILE.npy those that are not 0 in an array (H, W), as frames are stored",
    )


def _add_corrections(command: Command) -> None:
    group = command.rare("corrections", "how SCAN differs from the contract")
    for name, help in (
        ("swap-xy", "exchange the axes of the positions"),
        ("flip-x", "reverse x"),
        ("flip-y", "reverse y"),
        ("shift-origin", "let the first patch begin at row and column 0 of the object"),
        ("transpose-frames", "exchange rows and columns of every frame"),
        ("scale-probe", "make sum |P|^2 the mean counts of a frame"),
    ):
        group.add_argument(f"--{name}", action="store_true", help=help)
    group.add_argument(
        "--zero-frequency",
        choices=get_args(ZeroFrequency),
        default="centre",
        help="where it lies in the frames of the file",
    )


def add_grouping(command: Command) -> None:
    """How positions become groups."""
    command.add_argument(
        "--gridsize", type=int, metavar="G", help="a group has G^2 frames; default 2"
    )
    command.add_argument(
        "--neighbors",
        type=int,
        metavar="K",
        help="a group is drawn from the K nearest; default 6, or G^2 if that is more",
    )
    group = command.rare("groups", "which frames may form one")
    group.add_argument(
        "--neighbor-choice",
        choices=get_args(NeighborChoice),
        default="nearest",
        help="draw from the K nearest neighbours, or one of them from each quadrant",
    )
    for end in ("min", "max"):
        group.add_argument(
            f"--{end}-neighbor-distance", type=float, metavar="PX", help="from the seed position"
        )
    for axis in "xy":
        group.add_argument(
            f"--{axis}-bounds",
            type=float,
            nargs=2,
            metavar=("LOW", "HIGH"),
            help="fractions of the scan's extent between which seed positions lie",
        )
    group.add_argument(
        "--groups-per-seed", type=int, metavar="N", help="groups around each seed position"
    )


def _centre(text: str) -> str | tuple[int, int]:
    if text in ("keep", "estimate"):
        return text
    row, column = text.split(",")
    return int(row), int(column)


def _pad(text: str) -> float | str:
    return text if text == "bad" else float(text)


def _bad_pixels(text: str) -> str | Path:
    if text in get_args(BadPixels):
        return text
    if not text.endswith(".npy"):
        raise argparse.ArgumentTypeError(f"{text!r} is none of file, estimate and FILE.npy")
    return Path(text)


def _dark(text: str) -> float | Path:
    try:
        return float(text)
    except ValueError:
        return Path(text)


def _reader_option(text: str) -> tuple[str, object]:
    """``NAME=VALUE``, the value as JSON where it is that, else as text."""
    name, equals, value = text.partition("=")
    if not (name.isidentifier() and equals):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value
