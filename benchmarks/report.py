"""A run as JSON, as Markdown tables, and in the documentation."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

BEGIN = "<!-- bench:begin -->"
END = "<!-- bench:end -->"
DOCS = Path(__file__).parents[1] / "docs" / "explanation" / "performance.md"

Run = dict[str, Any]


def write_json(run: Run, path: Path) -> None:
    path.write_text(json.dumps(run, indent=1) + "\n", encoding="utf-8")


def read_json(path: Path) -> Run:
    run: Run = json.loads(path.read_text(encoding="utf-8"))
    return run


def markdown(run: Run) -> str:
    """Machine, targets, then one table per part."""
    blocks = [_machine(run), _targets(run), *(_part(part) for part in run["parts"].values())]
    return "\n\n".join(block for block in blocks if block) + "\n"


def write_docs(run: Run, page: Path = DOCS) -> None:
    """Put the tables of a run between the markers of a page."""
    text = page.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise SystemExit(f"{page}: markers are missing; expected {BEGIN} and {END}")
    page.write_text(f"{before}{BEGIN}\n{markdown(run)}{END}{after}", encoding="utf-8")


def _machine(run: Run) -> str:
    known = run["machine"]
    lines = [
        f"{known['cpu']}, {known['cores']} cores, {known['memory_GiB']} GiB, {known['kernel']}, "
        f"scratch on {known['file_system']}; Python {known['python']}, NumPy {known['numpy']}, "
        f"torch {known['torch']} with {known['torch_threads']} threads, tensordict "
        f"{known['tensordict']}, Lightning {known['lightning']}. Load before the run "
        f"{known['load_before']}; {known['date']}; the run took {run['seconds']:.0f} s.",
    ]
    if "gpu" in known:
        lines.append(f"GPU: {known['gpu']}, {known['gpu_memory_GiB']} GiB, CUDA {known['cuda']}.")
    if run["quick"]:
        lines.append("**A quick run: its sizes are tiny and its figures mean nothing.**")
    return "\n".join(lines)


def _targets(run: Run) -> str:
    rows = [
        [
            target["what"],
            f"{target['relation']} {_number(target['limit'])} {target['unit']}".strip(),
            f"{_number(target['value'])} {target['unit']}".strip(),
            "yes" if target["reached"] else "**no**",
        ]
        for part in run["parts"].values()
        for target in part["targets"]
    ]
    if not rows:
        return ""
    return "### Meant to be reached\n\n" + _table(["what", "wanted", "measured", "reached"], rows)


def _part(part: dict[str, Any]) -> str:
    if not part["figures"]:
        return ""
    rows = []
    for figure in part["figures"]:
        value, ratio = figure["value"], figure["ratio"]
        rows.append(
            [
                figure["name"],
                figure["case"],
                f"{_spread(value)} {figure['unit']}".strip(),
                "" if ratio is None else f"{_spread(ratio)} x {figure['against']}",
            ]
        )
    checked = sum(part["checks"].values())
    note = f"\n\n{checked} of {len(part['checks'])} checks of equal work passed."
    table = _table(["figure", "case", "median (quartiles)", "better by"], rows)
    return f"### {part['letter']}. {part['title']}\n\n{table}{note if part['checks'] else ''}"


def _spread(value: dict[str, float]) -> str:
    if value["count"] == 1:
        return _number(value["median"])
    return f"{_number(value['median'])} ({_number(value['low'])} to {_number(value['high'])})"


def _number(value: float) -> str:
    """Three significant digits, thousands apart."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{round(value, 2 - math.floor(math.log10(abs(value)))):,.{digits}f}"


def _table(head: list[str], rows: Iterable[list[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)
