"""Verdicts on a scan as cards of a page: what was seen, what was expected, what to type."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import get_args

from ptycho_torch.data.config import Measurement
from ptycho_torch.data.corrections import BadPixels, PositionUnit, ZeroFrequency
from ptycho_torch.data.errors import shown
from ptycho_torch.data.plausibility import Verdict
from ptycho_torch.results.page import Markup, element, joined

_CHOICES = (PositionUnit, ZeroFrequency, BadPixels, Measurement)
_WORDS = tuple(sorted({word for choices in _CHOICES for word in get_args(choices)}))
_VALUE = rf"[A-Z]+(?:\.npy)?|\w+=\w+|\d[\d.]*(?:e[+-]?\d+)?|initial|{'|'.join(_WORDS)}"
_OPTION = re.compile(rf"--[a-z][a-z-]*(?: (?:{_VALUE})(?!\w))?")


def verdict_cards(verdicts: Sequence[Verdict]) -> Markup:
    """A card for every verdict, with what to type; one that says so where there is none."""
    cards = [
        element(
            "li",
            element("p", element("strong", shown(each.field)), f": {shown(each.saw)}"),
            element("p", f"Expected: {shown(each.expected)}", kind="soft"),
            element("p", _with_options(shown(each.action))),
            kind="card warning",
        )
        for each in verdicts
    ]
    fine = element("p", element("strong", "Nothing looks wrong"), " with this scan.")
    return element("ul", *cards or [element("li", fine, kind="card")], kind="verdicts")


def _with_options(words: str) -> Markup:
    """Words in which every option of a command is set as code."""
    done, parts = 0, []
    for found in _OPTION.finditer(words):
        parts += [words[done : found.start()], element("code", found.group())]
        done = found.end()
    return joined([*parts, words[done:]])
