"""Finding the panels of a picture by their titles."""

from __future__ import annotations


def panels(figure):
    """Axes by the first line of their title."""
    return {axes.get_title().split("\n")[0]: axes for axes in figure.axes if axes.get_title()}


def panel(figure, word):
    return next(axes for title, axes in panels(figure).items() if word in title)


def colorbar_labels(figure):
    bars = [bar for axes in figure.axes for bar in axes.child_axes]
    return [bar.get_ylabel() for bar in bars]
