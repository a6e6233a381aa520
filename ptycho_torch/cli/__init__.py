"""The command ``ptycho-torch``: words in, exit code out.

Owns the exit codes, and what a user sees of faults, warnings and log lines. A command imports its
rooms when it runs, so ``--help`` is fast and needs no torch.

Exit codes: 0 done; 1 the data is at fault; 2 wrong usage; 130 interrupted. A fault is one line on
stderr; a traceback means a mistake in ptycho_torch itself.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TextIO

from ptycho_torch.cli.options import TRAINING, command_line, names_a_scan, parse
from ptycho_torch.cli.spellings import advice_in_configuration
from ptycho_torch.data.errors import (
    MissingDependencyError,
    OptionError,
    OptionTypeError,
    PtychoTorchError,
    shown,
)

DONE, DATA_AT_FAULT, WRONG_USAGE, INTERRUPTED = 0, 1, 2, 130

# What torch says where it has no exception of its own: the machine has no more to give, or another
# rank, which reports its own fault, has gone.
_CIRCUMSTANCES = (
    (
        re.compile(
            r"can't allocate memory|out of memory|can't start new thread"
            r"|DataLoader worker .* (killed by signal|exited unexpectedly)",
            re.DOTALL,
        ),
        "out of memory or processes",
    ),
    (
        re.compile(r"Connection (closed|reset) by peer|Broken pipe"),
        "another rank ended; its own output says why, and --ckpt_path FILE goes on",
    ),
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
        with _log_to_stderr(arguments), warnings.catch_warnings():
            warnings.showwarning = _show_warning
            command()
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else DONE
    except BrokenPipeError:
        # The reader of our output left (`ptycho-torch inspect ... | head`). Send what is still
        # buffered nowhere, or the interpreter complains about it on its way out.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (KeyboardInterrupt, Exception) as error:
        fault = _fault(error)
        if fault is None:
            raise
        line, code = fault
        print(f"ptycho-torch: {_one_line(_spelt(line, arguments))}", file=sys.stderr)
        return code
    return DONE


def _command(arguments: list[str]) -> Callable[[], None]:
    if _is_configured(arguments) and not {"-h", "--help"} & set(arguments):
        # LightningCLI parses all that follows.
        return lambda: _naming_what_is_missing(lambda: _train(arguments), arguments[0])
    command = parse(arguments)
    return lambda: _naming_what_is_missing(command, arguments[0])


def _is_configured(arguments: list[str]) -> bool:
    """Whether a configuration says what to do, not options on a scan."""
    return bool(arguments) and arguments[0] in TRAINING and not names_a_scan(arguments)


def _spelt(line: str, arguments: list[str]) -> str:
    """A line whose options are those of the command that prints it."""
    return advice_in_configuration(line) if _is_configured(arguments) else line


def _naming_what_is_missing(command: Callable[[], None], name: str) -> None:
    """Run a command; say which package it lacks, if it is one of those that train."""
    try:
        command()
    except ModuleNotFoundError as error:
        if error.name in ("torch", "lightning", "tensordict", "jsonargparse"):
            raise MissingDependencyError(
                f"{error.name} is not installed: ptycho-torch {name} needs it; "
                f"pip install {error.name}"
            ) from error
        raise


def _train(arguments: list[str]) -> None:
    from ptycho_torch.cli import training

    if "--help-all" in arguments:
        print(command_line().commands()[arguments[0]].format_help(everything=True))
        arguments = [arguments[0], "--help"]
    training.run(arguments)


def _fault(error: BaseException) -> tuple[str, int] | None:
    """What to say of an error, and the exit code; None: a fault in the code, with its traceback."""
    if isinstance(error, OptionError | OptionTypeError | MissingDependencyError):
        return str(error), WRONG_USAGE
    if isinstance(error, PtychoTorchError):
        return str(error), DATA_AT_FAULT
    if isinstance(error, OSError):
        where = f"{shown(error.filename)}: " if error.filename else ""
        return f"{where}{error.strerror or error}", DATA_AT_FAULT
    if isinstance(error, MemoryError):
        return f"out of memory: {error}".removesuffix(": "), DATA_AT_FAULT
    if _was_interrupted(error):
        return "interrupted", INTERRUPTED
    if isinstance(error, RuntimeError):
        for pattern, circumstance in _CIRCUMSTANCES:
            if pattern.search(str(error)):
                return f"{circumstance}: {error}"[:400], DATA_AT_FAULT
    return None


def _was_interrupted(error: BaseException | None) -> bool:
    """Whether an interruption, perhaps in the middle of tidying up, is what made an error."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


@contextmanager
def _log_to_stderr(arguments: list[str]) -> Iterator[None]:
    """Show the package's log lines while a command runs; leave logging as it was."""
    logger, handler = logging.getLogger("ptycho_torch"), logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Shown(arguments))
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


class _Shown(logging.Formatter):
    """Names of files are in the lines, and a terminal would obey what some names say."""

    def __init__(self, arguments: list[str]) -> None:
        super().__init__("%(message)s")
        self._arguments = arguments

    def format(self, record: logging.LogRecord) -> str:
        return _spelt(shown(super().format(record)), self._arguments)


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """One line for the user, without the place in the code, which helps nobody here."""
    out = sys.stderr if file is None else file
    print(f"ptycho-torch: warning: {_one_line(str(message))}", file=out)


def _one_line(text: str) -> str:
    return " ".join(text.split())
