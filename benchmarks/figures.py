"""What a run finds: figures, targets and checks, and their JSON form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from benchmarks.measure import Spread, quotient


@dataclass(frozen=True)
class Figure:
    """One measured figure.

    Parameters
    ----------
    name, case
        What was measured, and at which sizes.
    value, unit
        The figure itself: it depends on the machine.
    against, ratio
        The figure that took turns with it, and how many times better this one is; faster or
        smaller is above 1.
    """

    name: str
    case: str
    value: Spread
    unit: str
    against: str = ""
    ratio: Spread | None = None


@dataclass(frozen=True)
class Target:
    """A figure the package is meant to reach."""

    what: str
    relation: Literal[">=", "<="]
    limit: float
    value: float
    unit: str = ""

    @property
    def reached(self) -> bool:
        if self.relation == ">=":
            return self.value >= self.limit
        return self.value <= self.limit


@dataclass
class Part:
    """What one part of the benchmarks found."""

    letter: str
    title: str
    figures: list[Figure] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)
    checks: dict[str, bool] = field(default_factory=dict)
    seconds: float = 0.0

    def rate(
        self,
        name: str,
        case: str,
        seconds: Sequence[float],
        amount: float,
        unit: str,
        against: tuple[str, Sequence[float]] | None = None,
    ) -> Figure:
        """Add a rate, ``amount`` / seconds; ``against`` is a name and its seconds for the same."""
        figure = Figure(
            name,
            case,
            Spread.of([amount / value for value in seconds]),
            unit,
            against[0] if against else "",
            quotient(against[1], seconds) if against else None,
        )
        self.figures.append(figure)
        return figure

    def duration(
        self,
        name: str,
        case: str,
        seconds: Sequence[float],
        against: tuple[str, Sequence[float]] | None = None,
        *,
        unit: Literal["s", "ms"] = "s",
    ) -> Figure:
        """Add seconds, or milliseconds."""
        factor = 1e3 if unit == "ms" else 1.0
        figure = Figure(
            name,
            case,
            Spread.of([factor * value for value in seconds]),
            unit,
            against[0] if against else "",
            quotient(against[1], seconds) if against else None,
        )
        self.figures.append(figure)
        return figure

    def plain(self, name: str, case: str, values: float | Sequence[float], unit: str) -> Figure:
        """Add a figure as it is: counted, not timed."""
        every = [values] if isinstance(values, (int, float)) else values
        figure = Figure(name, case, Spread.of(every), unit)
        self.figures.append(figure)
        return figure

    def as_dict(self) -> dict[str, Any]:
        """The same as JSON values."""
        return {
            "letter": self.letter,
            "title": self.title,
            "seconds": self.seconds,
            "figures": [asdict(figure) for figure in self.figures],
            "targets": [{**asdict(target), "reached": target.reached} for target in self.targets],
            "checks": self.checks,
        }
