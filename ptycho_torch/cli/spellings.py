"""One option, several spellings: on a scan's command line, and in a configuration.

Owns the table between them, and what is said of a word that a command does not know.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import fields
from types import MappingProxyType

from ptycho_torch.data.config import GroupingConfig
from ptycho_torch.data.errors import OptionError

_IN_CONFIGURATION = MappingProxyType(
    {
        **{f.name.replace("_", "-"): f"data.grouping.{f.name}" for f in fields(GroupingConfig)},
        "epochs": "trainer.max_epochs",
        "measurement": "data.measurement",
        "modes": "model.init_args.n_modes",
        "neighbors": "data.grouping.neighbor_count",
        "out": "trainer.default_root_dir",
        "probe": "data.probe",
        "test-fraction": "data.test_fraction",
        "val-fraction": "data.val_fraction",
    }
)
_ON_A_SCAN = MappingProxyType({dotted: name for name, dotted in _IN_CONFIGURATION.items()})

_CONVERT = "ptycho-torch convert SCAN OUT.npz"
# Options of another command, as it takes them, or of this one.
_ADVISED = re.compile(
    r"ptycho-torch \w+ SCAN(?: OUT\.npz)?(?: --[a-z-]+)*"
    r"|(?<![\w-])--(?!help)([a-z][a-z-]*)(?![\w.-])"
)


def unknown_option(
    words: Sequence[str], command: str, known: Iterable[str], converting: Iterable[str] = ()
) -> OptionError:
    """What to type instead of words that a command does not know.

    Parameters
    ----------
    words
        The first is the option, or a word too many.
    command
        The command.
    known
        Its options: ``--measurement`` or, of a configuration, ``data.measurement``.
    converting
        Options of ``convert``, where the command does not read scans by options of its own.
    """
    option, _, value = words[0].partition("=")
    if not option.startswith("-"):
        return OptionError(f"{command} takes no further word, as {option!r} is. {_see(command)}")
    name, options = option.lstrip("-"), [each.lstrip("-") for each in known]
    value = value or " ".join(word for word in words[1:2] if not word.startswith("-"))
    spelt = (_IN_CONFIGURATION.get(name), _ON_A_SCAN.get(name), name.rpartition(".")[2])
    close = difflib.get_close_matches(name, options, n=1, cutoff=0.75)
    for other in filter(None, (*spelt, *close)):
        if any(other == each or other.startswith(f"{each}.") for each in options):
            action = f"Type: --{other} {value}"
            break
    else:
        elsewhere = option in converting
        action = f"Type: {_CONVERT} {option} {value}" if elsewhere else _see(command)
    return OptionError(f"{command} has no option {option}. {action}".rstrip())


def _see(command: str) -> str:
    return f"Type: ptycho-torch {command} --help-all"


def advice_in_configuration(line: str) -> str:
    """A line with its options as a configuration's command line spells them.

    Options that only change how a scan is read are ``convert``'s; the line then says so.
    """
    converting = False

    def spelt(found: re.Match[str]) -> str:
        nonlocal converting
        dotted = _IN_CONFIGURATION.get(found[1] or "")
        converting |= found[1] is not None and dotted is None
        return f"--{dotted}" if dotted else found[0]

    line = _ADVISED.sub(spelt, line)
    return f"{line.rstrip('.')} in: {_CONVERT}." if converting else line
