"""Draw the conventions in docs/images: axes, signs, the mirror; a test compares the pictures.

    python docs/convention_drawings.py

Colours are of middle lightness on no background, so that pages in light and dark show them alike.
"""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).with_name("images")
GREY, BLUE, ORANGE, GREEN = "#7d7f83", "#3f86c8", "#cd7a2b", "#3d9363"
PAGE_COLOURS = ("#ffffff", "#131416")
"""What the pages are on, in light and in dark."""

Point = tuple[float, float]


def svg(width: int, height: int, title: str, *parts: str) -> str:
    """A picture of drawn parts, with a title for those who hear it."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        f'font-family="sans-serif" font-size="15">\n<title>{title}</title>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def text(x: float, y: float, words: str, colour: str = GREY, anchor: str = "start") -> str:
    """Words that begin, or are centred, at a point."""
    return f'<text x="{x:g}" y="{y:g}" fill="{colour}" text-anchor="{anchor}">{words}</text>'


def box(x: float, y: float, width: float, height: float, colour: str, dash: str = "") -> str:
    """A rectangle by its upper left corner."""
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    return (
        f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" fill="none" '
        f'stroke="{colour}" stroke-width="2"{dashed}/>'
    )


def dot(x: float, y: float, colour: str, radius: float = 5) -> str:
    """A filled circle."""
    return f'<circle cx="{x:g}" cy="{y:g}" r="{radius:g}" fill="{colour}"/>'


def arrow(start: Point, end: Point, colour: str) -> str:
    """A line with a head at its end."""
    (x, y), (to_x, to_y) = start, end
    length = ((to_x - x) ** 2 + (to_y - y) ** 2) ** 0.5
    ux, uy = (to_x - x) / length, (to_y - y) / length
    left = f"{to_x - 10 * ux - 5 * uy:.1f} {to_y - 10 * uy + 5 * ux:.1f}"
    right = f"{to_x - 10 * ux + 5 * uy:.1f} {to_y - 10 * uy - 5 * ux:.1f}"
    return (
        f'<path d="M{x:g} {y:g}L{to_x:.1f} {to_y:.1f}M{left}L{to_x:.1f} {to_y:.1f}L{right}" '
        f'fill="none" stroke="{colour}" stroke-width="2"/>'
    )


def axes() -> str:
    """The object with its axes and a patch in it, and the frame that comes of the patch."""
    return svg(
        680, 300, "x is the column and grows to the right, y is the row and grows downwards",
        box(40, 50, 330, 220, GREY), text(205, 290, "object (H, W)", anchor="middle"),
        dot(40, 50, GREY, 4), text(36, 20, "pixel (0, 0)"),
        arrow((40, 36), (200, 36), BLUE), text(208, 41, "x: column", BLUE),
        arrow((24, 50), (24, 190), BLUE), text(24, 212, "y:", BLUE, "middle"),
        text(24, 230, "row", BLUE, "middle"),
        box(160, 100, 120, 120, ORANGE), text(220, 240, "patch, N x N", ORANGE, "middle"),
        dot(220, 160, ORANGE), text(220, 145, "position (x, y)", ORANGE, "middle"),
        arrow((290, 160), (500, 160), GREY),
        text(440, 140, "| F(probe · patch) |", anchor="middle"),
        box(510, 100, 120, 120, GREEN), text(570, 240, "frame, N x N", GREEN, "middle"),
        dot(570, 160, GREEN), text(570, 145, "zero frequency", GREEN, "middle"),
        text(570, 185, "(N//2, N//2)", GREEN, "middle"),
    )  # fmt: skip


POSITIONS: tuple[Point, ...] = ((150, 70), (310, 95), (105, 165), (265, 225))


def mean() -> Point:
    """``global_offsets`` of the group in the drawings."""
    return (
        sum(x for x, _ in POSITIONS) / len(POSITIONS),
        sum(y for _, y in POSITIONS) / len(POSITIONS),
    )


def mirrored() -> list[Point]:
    """``global_offsets + local_offsets``, where the reference cuts ground-truth patches."""
    return [(2 * mean()[0] - x, 2 * mean()[1] - y) for x, y in POSITIONS]


def signs() -> str:
    """The offsets of a group: its mean from the origin, and from each position to the mean."""
    middle = mean()
    parts = [arrow((20, 20), middle, BLUE), text(30, 110, "global_offsets", BLUE)]
    for number, point in enumerate(POSITIONS):
        parts += [arrow(point, middle, ORANGE), dot(*point, GREEN)]
        above = point[1] < middle[1]
        y = point[1] + (-12 if above else 22)
        parts.append(text(point[0], y, f"p{number}", GREEN, "middle"))
    words = (
        (60, GREEN, "p0 ... p3: positions of the frames"),
        (95, BLUE, "global_offsets: their mean"),
        (130, ORANGE, "local_offsets: from each position"),
        (152, ORANGE, "to the mean, -(p - mean)"),
        (187, GREY, "p = global_offsets - local_offsets"),
    )
    legend = [text(365, y, line, colour) for y, colour, line in words]
    return svg(
        680, 260, "local_offsets point from each position to the mean of the group",
        dot(20, 20, GREY, 4), text(32, 25, "(0, 0)"), *parts, dot(*middle, BLUE), *legend,
    )  # fmt: skip


def mirror() -> str:
    """Where frames were measured, and where the reference cuts patches of the known object."""
    half, parts = 28, []
    for number, ((x, y), (mx, my)) in enumerate(zip(POSITIONS, mirrored(), strict=True)):
        colour = ORANGE if number == 1 else GREY
        parts += [box(x - half, y - half, 2 * half, 2 * half, colour), dot(x, y, colour, 4)]
        if number == 1:
            parts.append(box(mx - half, my - half, 2 * half, 2 * half, colour, "6 5"))
            parts += [dot(mx, my, colour, 4), arrow((x, y), (mx, my), colour)]
    words = (
        (80, ORANGE, "solid: frame 1 was measured here"),
        (110, ORANGE, "dashed: its patch of the known object"),
        (132, ORANGE, "is cut here by &quot;reference&quot;"),
        (167, BLUE, "mirrored through the group's mean"),
    )
    legend = [text(375, y, line, colour) for y, colour, line in words]
    return svg(
        680, 275, "the reference mirrors ground-truth patches through the mean of their group",
        *parts, dot(*mean(), BLUE), *legend,
    )  # fmt: skip


PICTURES = {"axes.svg": axes, "signs.svg": signs, "mirror.svg": mirror}

if __name__ == "__main__":
    for name, drawn in PICTURES.items():
        (FOLDER / name).write_text(drawn(), encoding="utf-8")
