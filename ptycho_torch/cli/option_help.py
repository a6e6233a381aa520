"""Help of the data module's options, from the docstrings of what takes them."""

from __future__ import annotations

import inspect
import re

from lightning.pytorch.cli import LightningArgumentParser

from ptycho_torch.batches.dataset import PtychoDataset
from ptycho_torch.datamodule import PtychoDataModule

_PARAMETER = re.compile(r"^(\w+(?:, \w+)*)\n((?:    .+\n?)+)", re.MULTILINE)
_MARKUP = re.compile(r"``|:class:`(?:~[\w.]*\.)?([^`]*)`")


def describe(parser: LightningArgumentParser) -> None:
    """Give every option of the data module its words, also those that share them with others.

    jsonargparse reads numpydoc, but not two names above one text. What the data module only hands
    on is described by the dataset.
    """
    texts: dict[str, str] = {}
    for owner in (PtychoDataModule, PtychoDataset):
        for names, text in _PARAMETER.findall(inspect.getdoc(owner) or ""):
            plain = " ".join(_MARKUP.sub(r"\1", text).replace("%", "%%").split())
            texts.update({f"data.{name}": plain for name in names.split(", ")})
    for action in parser._actions:
        action.help = texts.get(action.dest, action.help)
