"""The words that ``ptycho-torch`` understands: commands, their own options and their help."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import cast

from ptycho_torch import __version__
from ptycho_torch.cli.command_parser import Command
from ptycho_torch.cli.reading_options import (
    add_grouping,
    add_measurement,
    add_reading,
    add_sources,
)
from ptycho_torch.cli.spellings import unknown_option

TRAINING = MappingProxyType(
    {
        "fit": "reconstruct a scan, or train the model of a configuration",
        "validate": "one pass of a trained model over the validation groups",
        "test": "one pass of a trained model over the test groups",
        "predict": "run a trained model; stitch what it predicts to an object",
    }
)
"""Commands whose options LightningCLI parses, and what they do."""

CONFIGURED = ("--config", "--ckpt_path")
"""Options that begin a command with a configuration."""

_ROOMS = MappingProxyType(
    {
        "bench": "bench",
        "completion": "completion",
        "doctor": "doctor",
        "fit": "fit_scan",
        "init": "starter_kit",
        "inspect": "inspection",
    }
)
"""The room of a command; of every other it is ``scans``."""

_PASS = """\
usual options of a configuration, each also a line of FILE.yaml:
  --ckpt_path CHECKPOINT        the trained model
  --data.predict SCAN           scans: a path, a pattern, a folder or a list;
                                also --data.val, --data.test, --data.train
  --trainer.default_root_dir DIR  where files go

--help-all shows Lightning's options too.

example:
  ptycho-torch {name} --config fit.yaml --ckpt_path outputs/fit/checkpoint.ckpt"""


def names_a_scan(arguments: Sequence[str]) -> bool:
    """Whether the words are ``fit SCAN ...``: no configuration, and options of our own."""
    return list(arguments[:1]) == ["fit"] and not (arguments[1:2] or ["-"])[0].startswith("-")


def parse(arguments: Sequence[str]) -> Callable[[], None]:
    """The command that the arguments ask for, ready to run.

    Raises
    ------
    OptionError
        The arguments are refused.
    SystemExit
        The help or the version has been printed (code 0).
    """
    parser = command_line()
    options, unknown = parser.parse_known_args(arguments)
    if unknown:
        name = options.command
        raise unknown_option(unknown, name, parser.commands()[name].words())
    options.words = list(arguments)
    return partial(_run, options)


def command_line() -> Command:
    """The parser of the whole command line."""
    parser = Command(
        prog="ptycho-torch",
        usage="ptycho-torch COMMAND ...",
        description="Ptychographic scans to PyTorch batches, and a reconstruction from them.",
        example="example:\n  ptycho-torch fit SCAN         a picture of the object in SCAN\n"
        "  ptycho-torch fit --help       the usual options of a command, and an example",
    )
    parser.add_argument("--version", action="version", version=f"ptycho-torch {__version__}")
    commands = parser.add_subparsers(
        title="commands", prog=parser.prog, metavar="COMMAND", required=True, dest="command"
    )

    def add(name: str, words: str, help: str, *examples: str, below: str = "") -> Command:
        shown = "\n  ptycho-torch ".join(["example:", *examples]) if examples else ""
        return commands.add_parser(
            name,
            usage="\n".join(f"ptycho-torch {name} {line}".rstrip() for line in words.split("\n")),
            help=help,
            description=f"{help[0].upper()}{help[1:]}.",
            example=below or shown,
        )

    _init(add("init", "[DIR]", "write a small scan and configurations to start from", "init kit"))
    _doctor(add("doctor", "[DIR]", "say what works here and what is missing", "doctor"))
    inspect = "say what a scan is and whether it keeps the contract"
    _inspect(add("inspect", "SCAN [OPTIONS]", inspect, "inspect scan.npz --png scan.png"))
    words = "SCAN [OPTIONS]\n--config FILE.yaml [--SECTION.NAME VALUE ...]"
    _fit(add("fit", words, TRAINING["fit"], below=_FIT))
    convert = "write a scan of any known format as a canonical NPZ"
    example = "convert scan.cxi scan.npz --measurement counts"
    _convert(add("convert", "SCAN OUT.npz [OPTIONS]", convert, example))
    simulate = "write a simulated scan with a known object"
    example = "simulate scan.npz --frames 400 --size 32 --specimen cells"
    _simulate(add("simulate", "OUT.npz [OPTIONS]", simulate, example))
    prepare = "map, check and group scans, once, ahead of training"
    _prepare(add("prepare", "SCAN [SCAN ...] [OPTIONS]", prepare, "prepare 'scans/*.npz'"))
    verify = "check scans and caches to the last byte"
    _verify(add("verify", "PATH [PATH ...] [OPTIONS]", verify, "verify scan.npz"))
    for name, help in list(TRAINING.items())[1:]:
        # For their help: main hands these to LightningCLI.
        words = "--config FILE.yaml --ckpt_path CHECKPOINT [--SECTION.NAME VALUE ...]"
        _configured(add(name, words, help, below=_PASS.format(name=name)))
    _completion(add("completion", "{bash,zsh}", "print a script that completes words in a shell",
                    'completion bash >> ~/.bash_completion'))  # fmt: skip
    bench = add("bench", "...", "run the benchmarks of the source checkout")
    bench.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...")
    return parser


def _run(options: argparse.Namespace) -> None:
    name = options.command
    room = import_module(f"ptycho_torch.cli.{_ROOMS.get(name, 'scans')}")
    cast("Callable[[argparse.Namespace], None]", getattr(room, name))(options)


def _init(command: Command) -> None:
    command.add_argument(
        "dir", type=Path, nargs="?", default=Path(), metavar="DIR", help="default: this folder"
    )


def _doctor(command: Command) -> None:
    command.add_argument(
        "dir",
        type=Path,
        nargs="?",
        default=Path(),
        metavar="DIR",
        help="a folder of scans: are caches and locks possible there? default: this folder",
    )


def _completion(command: Command) -> None:
    command.add_argument("shell", choices=("bash", "zsh"), metavar="{bash,zsh}")


def _configured(command: Command) -> None:
    """The words that start a command with a configuration; LightningCLI knows the others."""
    for name in CONFIGURED:
        command.add_argument(name, metavar="FILE", help=argparse.SUPPRESS)


def _simulate(command: Command) -> None:
    command.add_argument("out", type=Path, metavar="OUT.npz")
    command.add_argument(
        "--frames", type=int, default=1156, metavar="M", help="number of frames; default 1156"
    )
    command.add_argument(
        "--size", type=int, default=64, metavar="N", help="pixels along a side; default 64"
    )
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
        help="mean photons per frame, with Poisson noise; none: noise-free; default 1e5",
    )
    command.add_argument(
        "--modes", type=int, default=1, metavar="P", help="incoherent probe modes; default 1"
    )
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
    command.add_argument("--seed", type=int, default=0, help="of positions, specimen and noise")
    _add_overwrite(command)


def _inspect(command: Command) -> None:
    command.add_argument("scan", type=Path, metavar="SCAN", help="or a folder or list of scans")
    command.add_argument("--png", type=Path, metavar="FILE", help="also draw it")
    command.add_argument(
        "--html", type=Path, metavar="FILE", help="also write all of it as a page for a browser"
    )
    command.add_argument(
        "--orientations",
        action="store_true",
        help="compare the eight orientations of the positions by short fits; draw them with --png",
    )
    add_reading(command)
    add_grouping(command)
    group = command.rare("split", "of a data module, to report")
    for part, share in (("val", 0.1), ("test", 0.0)):
        group.add_argument(
            f"--{part}-fraction",
            type=float,
            default=share,
            metavar="SHARE",
            help=f"share of the frames for the {part} part; default {share:g}",
        )


def _prepare(command: Command) -> None:
    command.add_argument("scans", type=Path, nargs="+", metavar="SCAN", help="or a list of scans")
    add_reading(command)
    add_grouping(command)


_FIT = """\
with a configuration (model, data and trainer; ptycho-torch init writes one):
  --config FILE.yaml       and, each also a line of FILE.yaml:
  --data.train SCAN        --trainer.max_epochs N     --model.CLASS_ARGUMENT X
  --ckpt_path CHECKPOINT   go on from it

--help-all shows Lightning's options too.

example:
  ptycho-torch fit scan.npz
  ptycho-torch fit scan.npz --measurement counts --modes 3
  ptycho-torch fit --config fit.yaml --trainer.max_epochs 20"""


def _fit(command: Command) -> None:
    command.add_argument("scan", type=Path, metavar="SCAN")
    command.add_argument("--out", type=Path, metavar="DIR", help="default outputs/<name of SCAN>")
    command.add_argument(
        "--epochs", type=int, metavar="E", help="default: by the number of frames, 8 to 60"
    )
    command.add_argument(
        "--modes", type=int, metavar="P", help="incoherent probe modes; default: the scan's"
    )
    add_reading(command)


def _verify(command: Command) -> None:
    command.add_argument("paths", type=Path, nargs="+", metavar="PATH")
    add_measurement(command)
    add_sources(command)


def _convert(command: Command) -> None:
    command.add_argument("scan", type=Path, metavar="SCAN")
    command.add_argument("out", type=Path, metavar="OUT.npz")
    add_reading(command, probe="file")
    _add_overwrite(command)


def _add_overwrite(command: Command) -> None:
    command.add_argument("--overwrite", action="store_true", help="replace OUT.npz if it exists")


def _photons(text: str) -> float | None:
    return None if text.lower() == "none" else float(text)
