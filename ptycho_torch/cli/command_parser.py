"""A command's words: the usual options in ``--help``, every one in ``--help-all``.

Owns how help is laid out and how words are refused. Knows no command.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

from ptycho_torch.data.errors import OptionError


class Command(argparse.ArgumentParser):
    """A parser whose help is short and whose refusals are one line.

    Parameters
    ----------
    usage
        What to type, its alternatives on lines of their own.
    example
        Commands to try, shown below the options.
    options
        As of :class:`argparse.ArgumentParser`.
    """

    def __init__(self, *, usage: str, example: str = "", **options: Any) -> None:
        super().__init__(
            usage=usage.replace("\n", "\n       "),
            epilog=example,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
            add_help=False,
            **options,
        )
        self._rare: list[Any] = []
        self.add_argument("-h", "--help", action=_Help, help="show this and exit")
        self.add_argument("--help-all", action=_Help, help="show every option and exit")

    def rare(self, title: str, description: str | None = None) -> argparse._ArgumentGroup:
        """A group of options that only ``--help-all`` shows."""
        self._rare.append(self.add_argument_group(title, description))
        return self._rare[-1]  # type: ignore[no-any-return]

    def format_help(self, everything: bool = False) -> str:
        """The help, without the rare groups unless ``everything`` is asked for."""
        formatter = self._get_formatter()
        formatter.add_usage(self.usage, self._actions, [])
        formatter.add_text(self.description)
        for group in self._action_groups:
            if everything or group not in self._rare:
                formatter.start_section(group.title)
                formatter.add_text(group.description)
                formatter.add_arguments(group._group_actions)
                formatter.end_section()
        formatter.add_text(self.epilog)
        return formatter.format_help()

    def error(self, message: str) -> NoReturn:
        """Refuse the words; the OptionError names the help to read."""
        raise OptionError(f"{message}. Type: {self.prog} --help")

    def words(self) -> dict[str, Sequence[str] | None]:
        """Every option, with the choices that it has; None: it takes no word or any."""
        return {
            option: None if action.choices is None else [str(each) for each in action.choices]
            for action in self._actions
            for option in action.option_strings
        }

    def commands(self) -> dict[str, Command]:
        """The commands below this one, by name."""
        return {
            name: command
            for action in self._actions
            if isinstance(action.choices, dict)
            for name, command in action.choices.items()
        }


class _Help(argparse.Action):
    def __init__(self, option_strings: Sequence[str], dest: str, **options: Any) -> None:
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, **options)

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> None:
        assert isinstance(parser, Command)
        print(parser.format_help(everything=option_string == "--help-all"), end="")
        parser.exit()
