"""Draw docs/images/architecture.svg from the imports of the package; a test compares the two.

    python docs/architecture.py

A box is a wing of the package or a room of its NumPy floor, an arrow an import. Left out are arrows
that a chain of others implies, the front door, which names everything, and the errors, which every
room may raise.
"""

from __future__ import annotations

import ast
import math
from graphlib import TopologicalSorter
from html import escape
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs" / "images" / "architecture.svg"
FLOOR = "data"

ROW_PX, BOX_PX, GAP_PX, MARGIN_PX = 58, 26, 24, 20
SWEEPS = 24

Graph = dict[str, set[str]]
Point = tuple[float, float]


def module_imports(package: Path) -> Graph:
    """Modules of a package by dotted name, and the modules of it that each one imports."""
    files = {
        ".".join(path.relative_to(package.parent).with_suffix("").parts): path
        for path in sorted(package.rglob("*.py"))
    }
    modules = {name.removesuffix(".__init__"): path for name, path in files.items()}
    return {name: _imported(path, set(modules)) - {name} for name, path in modules.items()}


def _imported(path: Path, modules: set[str]) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                room = f"{node.module}.{alias.name}"
                found.add(room if room in modules else node.module)
    return found & modules


def box_imports(package: Path = ROOT / "ptycho_torch") -> Graph:
    """The same between boxes."""
    boxes: Graph = {}
    for name, imported in module_imports(package).items():
        box = _box(name)
        if box:
            boxes.setdefault(box, set()).update({_box(other) for other in imported} - {box, ""})
    return boxes


def _box(module: str) -> str:
    parts = module.split(".")[1:]
    if parts in ([], [FLOOR], [FLOOR, "errors"]):
        return ""
    return "/".join(parts[: 2 if parts[0] == FLOOR else 1])


def circles_joined(graph: Graph) -> Graph:
    """The graph with one box for boxes that import each other: the picture goes down only."""
    below = {name: _below(graph, name) for name in graph}
    shared = {
        name: {name} | {other for other in below[name] if name in below[other]} for name in graph
    }
    label = {
        name: " ".join([min(names), *sorted(other.partition("/")[2] for other in names)[1:]])
        for name, names in shared.items()
    }
    return {
        label[name]: {label[other] for one in names for other in graph[one]} - {label[name]}
        for name, names in shared.items()
    }


def without_implied(graph: Graph) -> Graph:
    """The graph without the arrows that longer ways imply."""
    return {
        name: others - set().union(*(_below(graph, other) for other in others))
        for name, others in graph.items()
    }


def _below(graph: Graph, name: str) -> set[str]:
    """Everything that a box imports, over any number of others."""
    found: set[str] = set()
    waiting = list(graph[name])
    while waiting:
        other = waiting.pop()
        if other not in found:
            found.add(other)
            waiting += graph[other]
    return found


def rows_of(graph: Graph) -> dict[str, int]:
    """Row of each box, counted from above: torch rooms low, rooms of the NumPy floor high."""
    heights: dict[str, int] = {}
    depths: dict[str, int] = {}
    order = list(TopologicalSorter(graph).static_order())
    importers = {name: {other for other in graph if name in graph[other]} for name in graph}
    for name in order:
        if not _on_floor(name):
            below = [heights[other] for other in graph[name] if not _on_floor(other)]
            heights[name] = max(below, default=-1) + 1
    for name in reversed(order):
        if _on_floor(name):
            above = [depths[other] for other in importers[name] if _on_floor(other)]
            depths[name] = max(above, default=-1) + 1
    top = max(heights.values(), default=-1)
    return {name: top - height for name, height in heights.items()} | {
        name: top + 1 + depth for name, depth in depths.items()
    }


def _label(name: str) -> str:
    return name.removeprefix(f"{FLOOR}/")


def _width_px(name: str) -> int:
    """Width of a box; a bend of an arrow takes next to none."""
    return 12 if ">" in name else max(64, 7 * len(_label(name)) + 14)


def _on_floor(name: str) -> bool:
    return name.startswith(f"{FLOOR}/")


def places_of(graph: Graph, rows: dict[str, int]) -> tuple[dict[str, Point], list[list[str]]]:
    """Where boxes lie in the picture, and the ways of the arrows through the rows between them."""
    levels: list[list[str]] = [[] for _ in range(max(rows.values()) + 1)]
    for name in sorted(rows):
        levels[rows[name]].append(name)
    ways = []
    for name in sorted(graph):
        for other in sorted(graph[name]):
            between = range(rows[name] + 1, rows[other])
            bends = [f"{name}>{other}@{row}" for row in between]
            for row, bend in zip(between, bends, strict=True):
                levels[row].append(bend)
            ways.append([name, *bends, other])
    neighbours: dict[str, list[str]] = {name: [] for level in levels for name in level}
    for way in ways:
        for upper, lower in pairwise(way):
            neighbours[upper].append(lower)
            neighbours[lower].append(upper)
    return _spread(levels, neighbours), ways


def _spread(levels: list[list[str]], neighbours: dict[str, list[str]]) -> dict[str, Point]:
    """Order every row by the mean place of its neighbours, again and again, up and down."""
    x = {name: float(i) for level in levels for i, name in enumerate(level)}
    for sweep in range(SWEEPS):
        for level in levels if sweep % 2 else levels[::-1]:
            wish = {name: _mean([x[other] for other in neighbours[name]]) for name in level}
            level.sort(key=lambda name: (round(wish[name], 3), name))
            widths = [_width_px(name) + GAP_PX for name in level]
            middles = [sum(widths[:i]) + widths[i] / 2 for i in range(len(level))]
            shift = _mean([wish[n] - m for n, m in zip(level, middles, strict=True)])
            x |= {name: middle + shift for name, middle in zip(level, middles, strict=True)}
    left = min(x[name] - _width_px(name) / 2 for name in x)
    return {
        name: (MARGIN_PX + x[name] - left, MARGIN_PX + (row + 0.5) * ROW_PX)
        for row, level in enumerate(levels)
        for name in level
    }


def _mean(values: list[float]) -> float:
    # fsum: plain sums differ in their last bit between Python versions, and with them the picture.
    return math.fsum(values) / max(1, len(values))


def picture() -> str:
    """The picture, SVG."""
    graph = without_implied(circles_joined(box_imports()))
    rows = rows_of(graph)
    places, ways = places_of(graph, rows)
    width = max(x + _width_px(name) / 2 for name, (x, _) in places.items()) + MARGIN_PX
    height = 2 * MARGIN_PX + (max(rows.values()) + 1) * ROW_PX
    floor = min(places[name][1] for name in rows if _on_floor(name)) - ROW_PX / 2
    arrows = [_arrow([places[name] for name in way]) for way in ways]
    boxes = [_rectangle(name, places[name]) for name in sorted(rows)]
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{width:.0f}" height="{height:.0f}" fill="white"/>',
        f'<rect y="{floor:.0f}" width="{width:.0f}" height="{height - floor:.0f}" fill="#eef3f8"/>',
        '<text x="8" y="18" fill="#555">may use torch</text>',
        f'<text x="8" y="{height - 8:.0f}" fill="#555">data: NumPy only</text>',
        *arrows,
        *boxes,
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _arrow(points: list[Point]) -> str:
    (x, y), *rest = points
    path = [f"M{x:.0f} {y + BOX_PX / 2:.0f}"]
    y += BOX_PX / 2
    for number, (to_x, to_y) in enumerate(rest, start=1):
        end = to_y - (BOX_PX / 2 if number == len(rest) else 0)
        middle = (y + end) / 2
        path.append(f"C{x:.0f} {middle:.0f} {to_x:.0f} {middle:.0f} {to_x:.0f} {end:.0f}")
        x, y = to_x, end
    head = f"M{x - 3.5:.1f} {y - 6:.0f}L{x:.0f} {y:.0f}L{x + 3.5:.1f} {y - 6:.0f}"
    return f'<path d="{" ".join(path)}{head}" fill="none" stroke="#6b7c93"/>'


def _rectangle(name: str, place: Point) -> str:
    x, y = place
    width = _width_px(name)
    return (
        f'<rect x="{x - width / 2:.0f}" y="{y - BOX_PX / 2:.0f}" width="{width:.0f}" '
        f'height="{BOX_PX}" rx="5" fill="white" stroke="#2b4c7e"/>'
        f'<text x="{x:.0f}" y="{y + 4:.0f}" text-anchor="middle">{escape(_label(name))}</text>'
    )


if __name__ == "__main__":
    PICTURE.write_text(picture(), encoding="utf-8")
