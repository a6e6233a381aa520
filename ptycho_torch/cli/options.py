"""The words that ``ptycho-torch`` understands: commands, their options and their help."""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import get_args

from ptycho_torch import __version__
from ptycho_torch.data.config import Measurement, NeighborChoice
from ptycho_torch.data.corrections import BadPixels, PositionUnit, ZeroFrequency
from ptycho_torch.data.readout import ORIENTATIONS

TRAINING = MappingProxyType(
    {
        "fit": "train a model",
        "validate": "run one pass over the validation groups",
        "test": "run one pass over the test groups",
        "predict": "run a trained model over the prediction groups",
    }
)
"""Commands whose options LightningCLI parses, and what they do."""


def names_a_scan(arguments: Sequence[str]) -> bool:
    """Whether the words are ``fit SCAN ...``: no configuration, and options of our own."""
    return list(arguments[:1]) == ["fit"] and not (arguments[1:2] or ["-"])[0].startswith("-")


def parse(arguments: Sequence[str]) -> Callable[[], None]:
    """The command that the arguments ask for, ready to run.

    Raises
    ------
    SystemExit
        argparse refused the arguments (code 2), or has printed the help or version (code 0).
    """
    parser = argparse.ArgumentParser(
        prog="ptycho-torch",
        description="Ptychographic scans to PyTorch batches, and a reconstruction from them.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"ptycho-torch {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True, dest="command")

    def add(name: str, help: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=help, description=help, allow_abbrev=False)

    _simulate(add("simulate", "write a simulated scan with a known object"))
    _inspect(add("inspect", "say what a scan is and whether it keeps the contract"))
    _prepare(add("prepare", "map, check and group scans, once, ahead of training"))
    _verify(add("verify", "check scans and caches to the last byte"))
    _convert(add("convert", "write a scan of any known format as a canonical NPZ"))
    fit = "train a model: fit --config FILE.yaml; or reconstruct a scan: fit SCAN"
    _fit(add("fit", fit))
    for name, help in list(TRAINING.items())[1:]:
        # Only for the list of commands: main hands these to LightningCLI.
        commands.add_parser(name, help=f"{help}: {name} --config FILE.yaml", add_help=False)
    bench = add("bench", "run the benchmarks of the source checkout")
    bench.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...")
    options = parser.parse_args(arguments)
    options.typed = shlex.join(["ptycho-torch", *arguments])
    return partial(_run, options)


def _run(options: argparse.Namespace) -> None:
    name = options.command
    room = {"inspect": "inspection", "bench": "bench", "fit": "fit_scan"}.get(name, "scans")
    getattr(import_module(f"ptycho_torch.cli.{room}"), name)(options)


def _simulate(command: argparse.ArgumentParser) -> None:
    command.add_argument("out", type=Path, metavar="OUT.npz")
    command.add_argument("--frames", type=int, default=1156, help="number of frames")
    command.add_argument("--size", type=int, default=64, help="pixels along a frame's side")
    command.add_argument(
        "--pattern",
        choices=("jittered_raster", "raster", "fermat", "random"),
        default="jittered_raster",
        help="how the positions lie",
    )
    command.add_argument(
        "--photons",
        type=_photons,
        default=1e5,
        help="mean photons per frame, with Poisson noise; 'none' is noise-free",
    )
    command.add_argument("--modes", type=int, default=1, help="incoherent probe modes")
    command.add_argument(
        "--specimen",
        default="star",
        metavar="NAME",
        help="star, or one that differs from seed to seed: shapes, cells, dead_leaves, grf, "
        "siemens, text, texture, or mixed for one of these",
    )
    command.add_argument(
        "--probe", type=Path, metavar="FILE", help="of a scan, or a .npy; default: a lens"
    )
    command.add_argument("--seed", type=int, default=0)
    _add_overwrite(command)


def _inspect(command: argparse.ArgumentParser) -> None:
    command.add_argument("scan", type=Path, metavar="SCAN", help="or several, or a list of scans")
    _add_layout(command)
    command.add_argument("--png", type=Path, metavar="FILE", help="also draw it")
    command.add_argument(
        "--html", type=Path, metavar="FILE", help="also write all of it as a page for a browser"
    )
    command.add_argument(
        "--orientations",
        action="store_true",
        help="compare the eight orientations of the positions by short fits; draw them with --png",
    )
    for part, share in (("val", 0.1), ("test", 0.0)):
        command.add_argument(
            f"--{part}-fraction",
            type=float,
            default=share,
            metavar="SHARE",
            help=f"{part}_fraction of a data module whose split to report",
        )
    _add_reading(command)
    _add_corrections(command, probe="auto")
    _add_grouping(command)


def _prepare(command: argparse.ArgumentParser) -> None:
    command.add_argument("scans", type=Path, nargs="+", metavar="SCAN", help="or a list of scans")
    _add_layout(command)
    _add_reading(command)
    _add_corrections(command, probe="auto")
    _add_grouping(command)


def _fit(command: argparse.ArgumentParser) -> None:
    command.add_argument("scan", type=Path, metavar="SCAN")
    command.add_argument("--out", type=Path, metavar="DIR", help="default outputs/<name of SCAN>")
    command.add_argument("--epochs", type=int, help="default: by the number of frames, 8 to 60")
    command.add_argument("--modes", type=int, help="incoherent probe modes; default: the scan's")
    _add_layout(command)
    _add_reading(command)
    _add_corrections(command, probe="auto")


def _verify(command: argparse.ArgumentParser) -> None:
    command.add_argument("paths", type=Path, nargs="+", metavar="PATH")
    _add_layout(command)
    _add_reading(command)
    _add_sources(command)


def _convert(command: argparse.ArgumentParser) -> None:
    command.add_argument("scan", type=Path, metavar="IN")
    command.add_argument("out", type=Path, metavar="OUT.npz")
    _add_layout(command)
    _add_reading(command)
    _add_corrections(command)
    _add_overwrite(command)


def _add_reading(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--measurement",
        choices=get_args(Measurement),
        default="auto",
        help="whether diff3d holds amplitude or counts; 'auto' refuses what may be either",
    )


def _add_sources(command: argparse.ArgumentParser) -> None:
    command.add_argument("--format", default="auto", help="of the scan; 'auto' asks the file")
    command.add_argument(
        "--diffraction", metavar="FILE", help="frames of a scan whose positions are in IN"
    )
    command.add_argument(
        "--axis-order", choices=("frames_first", "frames_last"), help="where IN does not tell"
    )


def _add_detector(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("detector", "how stored frames become N x N")
    group.add_argument("--size", type=int, metavar="N", help="crop or pad to so many pixels")
    group.add_argument(
        "--centre",
        type=_centre,
        metavar="CENTRE",
        help="'keep', 'estimate' or ROW,COLUMN of the zero frequency",
    )
    group.add_argument("--bin", type=int, help="sum so many pixels along each axis into one")
    group.add_argument("--orientation", choices=tuple(ORIENTATIONS), help="turn or mirror frames")
    group.add_argument(
        "--pad-value", type=_pad, metavar="VALUE", help="outside the detector; 'bad': no value"
    )
    group.add_argument(
        "--dark",
        type=_dark,
        metavar="FILE.npy",
        help="frame without light, to subtract; or a number",
    )
    group.add_argument("--saturation", type=float, help="a pixel that reaches it is bad")


def _add_corrections(command: argparse.ArgumentParser, probe: str = "file") -> None:
    """How the scan differs from the contract; plausibility says when to use which."""
    _add_sources(command)
    _add_detector(command)
    command.add_argument(
        "--probe",
        default=probe,
        help="the file's: file; the average pattern: initial; file, else initial: auto; or a path "
        f"of another; default {probe}",
    )
    command.add_argument(
        "--position-unit",
        choices=get_args(PositionUnit),
        default="px",
        help="of xcoords and ycoords; px: object pixels",
    )
    command.add_argument(
        "--pixel-size", dest="pixel_size_m", type=float, metavar="METRES", help="object pixel"
    )
    for name, help in (
        ("swap-xy", "exchange the axes of the positions"),
        ("flip-x", "reverse x"),
        ("flip-y", "reverse y"),
        ("shift-origin", "let the first patch begin at row and column 0 of the object"),
        ("transpose-frames", "exchange rows and columns of every frame"),
        ("scale-probe", "make sum |P|^2 the mean counts of a frame"),
    ):
        command.add_argument(f"--{name}", action="store_true", help=help)
    command.add_argument(
        "--zero-frequency",
        choices=get_args(ZeroFrequency),
        default="centre",
        help="where it lies in the frames of the file",
    )
    command.add_argument(
        "--bad-pixels",
        type=_bad_pixels,
        default="file",
        metavar="{file,estimate,FILE.npy}",
        help="'estimate' adds hot, dead and full pixels and constant lines of a sample of frames; "
        "FILE.npy those that are not 0 in an array (H, W), as frames are stored",
    )


def _add_layout(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--layout", metavar="YAML", help="what is where in an HDF5 file: a YAML, or a preset's name"
    )
    command.add_argument(
        "--option",
        dest="reader_options",
        type=_reader_option,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an option of the format's reader, as near_field=true; may be repeated",
    )


def _add_grouping(command: argparse.ArgumentParser) -> None:
    command.add_argument("--gridsize", type=int, default=2, help="a group has gridsize^2 frames")
    command.add_argument(
        "--neighbors", type=int, default=None, help="K; default 6, more where gridsize needs it"
    )
    command.add_argument(
        "--neighbor-choice",
        choices=get_args(NeighborChoice),
        default="nearest",
        help="draw from the K nearest neighbours, or one of them from each quadrant",
    )
    for end in ("min", "max"):
        command.add_argument(
            f"--{end}-neighbor-distance", type=float, metavar="PX", help="from the seed position"
        )
    for axis in "xy":
        command.add_argument(
            f"--{axis}-bounds",
            type=float,
            nargs=2,
            metavar=("LOW", "HIGH"),
            help="fractions of the scan's extent between which seed positions lie",
        )
    command.add_argument("--groups-per-seed", type=int, help="groups around each seed position")


def _add_overwrite(command: argparse.ArgumentParser) -> None:
    command.add_argument("--overwrite", action="store_true", help="replace OUT.npz if it exists")


def _photons(text: str) -> float | None:
    return None if text.lower() == "none" else float(text)


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
