"""``ptycho-torch completion``: a script for the shell, which needs no Python at a tab.

Owns the script. The words are those of the parser.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterable

from ptycho_torch.cli.options import CONFIGURED, TRAINING, command_line

_SCRIPT = """\
_ptycho_torch() {
  local word="${COMP_WORDS[COMP_CWORD]}" before="${COMP_WORDS[COMP_CWORD-1]}" words=""
  [ "$COMP_CWORD" -gt 1 ] && before="${COMP_WORDS[1]} $before"
  case "$before" in
%s
  esac
  if [ -z "$words" ] && [ "${word#-}" != "$word" ]; then
    case "${COMP_WORDS[1]}" in
%s
    esac
  fi
  COMPREPLY=($(compgen -W "$words" -- "$word"))
}
complete -o default -F _ptycho_torch ptycho-torch"""
"""Words after which others follow; then, of a word that begins with a dash, the options. Where the
script has no word, the shell completes names of files."""

_ZSH = "autoload -U +X compinit && compinit\nautoload -U +X bashcompinit && bashcompinit\n"


def completion(options: argparse.Namespace) -> None:
    """Print the script for bash, or for zsh, which runs the same one."""
    parser = command_line()
    commands = parser.commands()
    after = [_case(parser.prog, [*commands, *parser.words()])]
    after += [
        _case(f"{name} {option}", choices)
        for name, command in commands.items()
        for option, choices in command.words().items()
        if choices
    ]
    after.append(_case("completion completion", ("bash", "zsh")))
    begun = [
        _case(name, [*command.words(), *(CONFIGURED if name in TRAINING else ())])
        for name, command in commands.items()
    ]
    print((_ZSH if options.shell == "zsh" else "") + _SCRIPT % ("\n".join(after), "\n".join(begun)))


def _case(pattern: str, words: Iterable[str]) -> str:
    listed = " ".join(word for word in words if " " not in word)
    return f"    {shlex.quote(pattern)}) words={shlex.quote(listed)} ;;"
