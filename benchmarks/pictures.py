"""Pictures of a run; nothing where matplotlib is absent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

Figure = dict[str, Any]


def draw(run: dict[str, Any], folder: Path) -> list[Path]:
    """One picture for each part that has something to compare."""
    try:
        import matplotlib as mpl
    except ModuleNotFoundError:
        return []
    mpl.use("Agg")
    drawn = []
    for letter, part in run["parts"].items():
        if letter == "h":
            drawn.append(_against_size(part, folder / "h.png"))
        else:
            compared = [figure for figure in part["figures"] if figure["ratio"] is not None]
            if compared:
                drawn.append(_bars(part, compared, folder / f"{letter}.png"))
    return drawn


def _bars(part: dict[str, Any], figures: list[Figure], path: Path) -> Path:
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(10, 1.2 + 0.3 * len(figures)), layout="constrained")
    axes = canvas.subplots()
    ratios = [figure["ratio"] for figure in figures]
    medians = [ratio["median"] for ratio in ratios]
    errors = [
        [max(0.0, ratio["median"] - ratio["low"]) for ratio in ratios],
        [max(0.0, ratio["high"] - ratio["median"]) for ratio in ratios],
    ]
    labels = [f"{figure['name']}; {figure['case']}" for figure in figures]
    axes.barh(range(len(figures)), medians, xerr=errors, color="tab:blue", ecolor="black")
    axes.set_yticks(range(len(figures)), labels, fontsize=7)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.axvline(1.0, color="black", linewidth=0.8)
    axes.set_xlabel("times better than: " + "; ".join(sorted({f["against"] for f in figures})))
    axes.set_title(part["title"], fontsize=9)
    canvas.savefig(path, dpi=120)
    return path


def _against_size(part: dict[str, Any], path: Path) -> Path:
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(6, 4), layout="constrained")
    axes = canvas.subplots()
    lines: dict[str, list[tuple[int, float]]] = {}
    for figure in part["figures"]:
        if figure["unit"] == "s":
            size = int(figure["case"].split(" ")[0].replace(",", ""))
            lines.setdefault(figure["name"], []).append((size, figure["value"]["median"]))
    for name, points in lines.items():
        axes.loglog(*zip(*points, strict=True), marker="o", label=name)
    axes.set_xlabel("positions M")
    axes.set_ylabel("s")
    axes.legend(fontsize=8)
    axes.set_title(part["title"], fontsize=9)
    canvas.savefig(path, dpi=120)
    return path
