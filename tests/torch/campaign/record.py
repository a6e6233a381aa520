"""What an experiment saw, and the table that is made of it."""

from __future__ import annotations

import json
import os
import platform
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

BEGIN, END = "<!-- campaign: begin -->", "<!-- campaign: end -->"
FAILURES_SHOWN = 40


@dataclass
class Outcome:
    """One row of the table.

    Parameters
    ----------
    fault
        What was done.
    figure
        What must hold.
    rounds
        How often it was done.
    seed
        Of everything that was drawn at random.
    seen
        How often each thing was seen.
    failures
        One line for each round that broke the figure.
    seconds
        Wall time.
    """

    fault: str
    figure: str
    rounds: int
    seed: int
    seen: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def check(self, holds: bool, line: str) -> None:
        """Note a failure unless ``holds``."""
        if not holds:
            self.failures.append(line)

    def merge(self, other: Outcome) -> None:
        """Add what another saw of the same fault."""
        self.rounds += other.rounds
        self.seen += other.seen
        self.failures += other.failures

    def __str__(self) -> str:
        seen = ", ".join(f"{name} {count}" for name, count in sorted(self.seen.items()))
        verdict = f"{len(self.failures)} FAILED" if self.failures else "held"
        lines = [f"{self.fault}: {self.rounds} rounds, {self.seconds:.0f} s: {verdict} ({seen})"]
        return "\n  ".join(lines + self.failures[:FAILURES_SHOWN])


def timed(experiment: Callable[[], Outcome]) -> Outcome:
    """Run an experiment and note how long it took."""
    start = time.monotonic()
    outcome = experiment()
    outcome.seconds = time.monotonic() - start
    return outcome


def save(folder: Path, name: str, outcome: Outcome) -> None:
    """Keep an outcome, so that a campaign run in parts makes one table."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {**vars(outcome), "machine": machine(), "date": time.strftime("%Y-%m-%d")}
    (folder / f"{name}.json").write_text(json.dumps(content, indent=1), encoding="utf-8")


def machine() -> str:
    """Where the figures were measured."""
    model = platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [s for s in cpuinfo.read_text().splitlines() if s.startswith("model name")]
        model = names[0].partition(":")[2].strip() if names else model
    return (
        f"{os.cpu_count()} cores {model}, {platform.system()} {platform.release()}, "
        f"Python {platform.python_version()}"
    )


def write_table(folder: Path, names: list[str], page: Path) -> None:
    """Put the kept outcomes between the markers of a page."""
    rows = [
        "| fault | must hold | rounds | seed | seen | broken | s |",
        "|---|---|---|---|---|---|---|",
    ]
    machines: dict[str, None] = {}
    for name in names:
        path = folder / f"{name}.json"
        if not path.exists():
            continue
        kept = json.loads(path.read_text(encoding="utf-8"))
        seen = ", ".join(f"{what} {count:,}" for what, count in sorted(kept["seen"].items()))
        broken = len(kept["failures"])
        rows.append(
            f"| {kept['fault']} | {kept['figure']} | {kept['rounds']:,} | {kept['seed']} | {seen} "
            f"| {f'**{broken}**' if broken else 0} | {kept['seconds']:.0f} |"
        )
        machines[f"{kept['machine']}, {kept['date']}"] = None
    text = page.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    lines = [*rows, "", f"Measured on {'; '.join(machines)}."]
    page.write_text(f"{before}{BEGIN}\n{chr(10).join(lines)}\n{END}{after}", encoding="utf-8")
