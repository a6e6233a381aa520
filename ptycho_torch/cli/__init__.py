"""The command ``ptycho-torch``: words in, exit code out.

Owns the options, the exit codes and everything that is printed. What a command does is asked of the
rooms below, which are imported when the command runs: ``--help`` is fast, and needs no torch.

Exit codes: 0 done; 1 the data is at fault; 2 wrong usage; 130 interrupted. A fault is one line on
stderr; a traceback means a mistake in ptycho_torch itself.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import TextIO, get_args

from ptycho_torch import __version__
from ptycho_torch.data.config import Measurement
from ptycho_torch.data.errors import (
    MissingDependencyError,
    OptionError,
    OptionTypeError,
    PtychoTorchError,
)

# What torch says where it has no exception of its own: the machine has no more to give, or another
# rank, which tells its own fault, has gone.
_CIRCUMSTANCES = (
    (
        re.compile(
            r"can't allocate memory|out of memory|can't start new thread"
            r"|DataLoader worker .* (killed by signal|exited unexpectedly)",
            re.DOTALL,
        ),
        "out of memory or processes",
    ),
    (re.compile(r"Connection (closed|reset) by peer|Broken pipe"), "another rank ended"),
)

DONE, DATA_AT_FAULT, WRONG_USAGE, INTERRUPTED = 0, 1, 2, 130

TRAINING = MappingProxyType(
    {
        "fit": "train a model",
        "validate": "run one pass over the validation groups",
        "test": "run one pass over the test groups",
        "predict": "run a trained model over the prediction groups",
    }
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Parameters
    ----------
    argv
        Arguments after the program's name; None takes those of the process.

    Returns
    -------
    code
        0 done, 1 the data is at fault, 2 wrong usage, 130 interrupted.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        command = _command(arguments)
        with _log_to_stderr(), warnings.catch_warnings():
            warnings.showwarning = _show_warning
            command()
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else DONE
    except KeyboardInterrupt:
        return _fault("interrupted", INTERRUPTED)
    except (OptionError, OptionTypeError, MissingDependencyError) as error:
        return _fault(error, WRONG_USAGE)
    except PtychoTorchError as error:
        return _fault(error, DATA_AT_FAULT)
    except BrokenPipeError:
        # The reader of our output left (`ptycho-torch inspect ... | head`). What is still buffered
        # goes nowhere, or the interpreter would complain about it on its way out.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _fault(f"{where}{error.strerror or error}", DATA_AT_FAULT)
    except MemoryError as error:
        return _fault(f"out of memory: {error}".removesuffix(": "), DATA_AT_FAULT)
    except Exception as error:
        if _was_interrupted(error):
            return _fault("interrupted", INTERRUPTED)
        for pattern, circumstance in _CIRCUMSTANCES:
            if isinstance(error, RuntimeError) and pattern.search(str(error)):
                return _fault(f"{circumstance}: {error}"[:400], DATA_AT_FAULT)
        raise
    return DONE


def _was_interrupted(error: BaseException | None) -> bool:
    """Whether an interruption is what made an error: one in the middle of tidying up."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def _command(arguments: list[str]) -> Callable[[], None]:
    if arguments and arguments[0] in TRAINING:
        # LightningCLI has its own parser for all that follows.
        return lambda: _train(arguments)
    options = _parser().parse_args(arguments)
    run: Callable[[argparse.Namespace], None] = options.run
    return lambda: run(options)


def _train(arguments: list[str]) -> None:
    try:
        from ptycho_torch.cli import training
    except ModuleNotFoundError as error:
        if error.name in ("torch", "lightning", "tensordict", "jsonargparse"):
            raise MissingDependencyError(
                f"{error.name} is not installed: ptycho-torch {arguments[0]} needs it; "
                f"pip install {error.name}"
            ) from error
        raise
    training.run(arguments)


def _room(module: str, function: str) -> Callable[[argparse.Namespace], None]:
    """A command whose module is imported when it runs."""

    def run(options: argparse.Namespace) -> None:
        getattr(import_module(f"ptycho_torch.cli.{module}"), function)(options)

    return run


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ptycho-torch",
        description="Ptychographic scans to PyTorch batches, and a reconstruction from them.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"ptycho-torch {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def add(name: str, module: str, help: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=help, description=help, allow_abbrev=False)
        command.set_defaults(run=_room(module, name))
        return command

    command = add("simulate", "scans", "write a simulated scan with a known object")
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
        help="mean photons a frame, Poisson noise; 'none' is noise-free",
    )
    command.add_argument("--modes", type=int, default=1, help="incoherent probe modes")
    command.add_argument("--seed", type=int, default=0)
    _add_overwrite(command)

    command = add("inspect", "inspection", "say what a scan is and whether it keeps the contract")
    command.add_argument("scan", type=Path, metavar="SCAN")
    command.add_argument("--png", type=Path, metavar="FILE", help="also draw it")
    for part, share in (("val", 0.1), ("test", 0.0)):
        command.add_argument(
            f"--{part}-fraction",
            type=float,
            default=share,
            metavar="SHARE",
            help=f"as {part}_fraction of a data module, for the report of its split",
        )
    _add_reading(command)
    _add_grouping(command)

    command = add("prepare", "scans", "map, check and group scans, once, ahead of training")
    command.add_argument("scans", type=Path, nargs="+", metavar="SCAN")
    _add_reading(command)
    _add_grouping(command)

    command = add("verify", "scans", "check scans and caches to the last byte")
    command.add_argument("paths", type=Path, nargs="+", metavar="PATH")
    _add_reading(command)

    command = add("convert", "scans", "write a scan of any known format as a canonical NPZ")
    command.add_argument("scan", type=Path, metavar="IN")
    command.add_argument("out", type=Path, metavar="OUT.npz")
    command.add_argument("--format", default="auto", help="format of IN; 'auto' judges the file")
    _add_reading(command)
    _add_overwrite(command)

    for name, help in TRAINING.items():
        # For the list of commands alone: main hands these to LightningCLI.
        commands.add_parser(name, help=f"{help}: {name} --config FILE.yaml", add_help=False)

    command = add("bench", "scans", "run the benchmarks of the source checkout")
    command.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...")
    return parser


def _add_reading(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--measurement",
        choices=get_args(Measurement),
        default="auto",
        help="whether diff3d holds amplitude or counts; 'auto' refuses what may be either",
    )


def _add_grouping(command: argparse.ArgumentParser) -> None:
    command.add_argument("--gridsize", type=int, default=2, help="a group has gridsize^2 frames")
    command.add_argument(
        "--neighbors", type=int, default=None, help="K; default 6, more where gridsize needs it"
    )


def _add_overwrite(command: argparse.ArgumentParser) -> None:
    command.add_argument("--overwrite", action="store_true", help="replace OUT.npz where it exists")


def _photons(text: str) -> float | None:
    return None if text.lower() == "none" else float(text)


class _log_to_stderr:
    """Show the package's log lines while a command runs, and leave logging as it was."""

    def __enter__(self) -> None:
        self._logger = logging.getLogger("ptycho_torch")
        self._level = self._logger.level
        self._handler = logging.StreamHandler(sys.stderr)
        self._handler.setFormatter(logging.Formatter("%(message)s"))
        self._logger.addHandler(self._handler)
        self._logger.setLevel(logging.INFO)

    def __exit__(self, *error: object) -> None:
        self._logger.removeHandler(self._handler)
        self._logger.setLevel(self._level)


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """One line for the user; where in the code a warning was raised helps nobody here."""
    text = " ".join(str(message).split())
    print(f"ptycho-torch: warning: {text}", file=sys.stderr if file is None else file)


def _fault(message: object, code: int) -> int:
    line = " ".join(str(message).split())
    print(f"ptycho-torch: {line}", file=sys.stderr)
    return code
