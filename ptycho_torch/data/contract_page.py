"""The page docs/contract.md, written from the contract table.

``python -m ptycho_torch.data.contract_page docs/contract.md`` writes it; a test compares the two.
"""

from __future__ import annotations

import sys
from pathlib import Path

from ptycho_torch.data.contract import ARRAYS, DEPARTURES

DOORS = (
    (
        "scan",
        "A scan on disk: canonical NPZ",
        "The arrays of a scan file, and of `RawData`. Pixel (N // 2, N // 2) of a frame's patch "
        "sits on object row y, column x.",
    ),
    (
        "grouped",
        "Grouped data: `RawData.generate_grouped_data`",
        "A dictionary of B groups of C = gridsize ** 2 frames.",
    ),
    (
        "container",
        "The container: `PtychoDataContainerTorch`",
        "Attributes, equal to those of the TensorFlow container.",
    ),
    (
        "batch",
        "A batch: `PtychoBatch`",
        "Fields of what `PtychoDataset` and `PtychoDataModule` hand to a model.",
    ),
)

HEAD = """# The contract

What every array is. This page is generated from the table in `ptycho_torch/data/contract.py` by
`make docs`; edit the table, not the page.

Axes: M frames of a scan, N pixels along a frame's side, C frames in a group, B groups, P probe
modes, H and W object rows and columns, xy the pair (column, row).
"""


def contract_page() -> str:
    """The whole page, Markdown."""
    lines = [HEAD]
    for door, title, introduction in DOORS:
        lines += [f"## {title}", "", introduction, ""]
        lines += ["| name | shape | dtype | unit | meaning |", "|---|---|---|---|---|"]
        lines += [
            f"| `{entry.name}` | {entry.shape_text()} | {entry.dtype} | {entry.unit} "
            f"| {entry.meaning.replace('|', chr(92) + '|')} |"
            for entry in ARRAYS
            if entry.door == door
        ]
        lines.append("")
    lines += ["## Where we depart from the reference", ""]
    lines += [f"* **{title}.** {text}" for title, text in DEPARTURES]
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> None:
    """Write the page to the path given."""
    (path,) = arguments
    Path(path).write_text(contract_page(), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
