"""Figures of the pages, as SVG that takes the colour of the text around it."""

import io
import re
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter, MaxNLocator
from numpy.typing import NDArray

TEXT = "#010203"  # stands for the colour of the page's text, which depends on light and dark
STYLE: Any = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "axes.spines.top": False,
    "axes.spines.right": False,
    **dict.fromkeys(
        ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), TEXT
    ),
}
GOOD, BAD = "#2b8cbe", "#e6550d"  # told apart also by the colour-blind, on light and on dark


def score_histogram(good: list[float], bad: list[float], threshold: float) -> str:
    """Return the scores of good and defective images, and the threshold between them."""
    with rc_context(STYLE):
        figure, axes = _axes("image score", "images")
        bins = np.linspace(0, 1, 31).tolist()
        kinds = [k for k in ((good, GOOD, "good"), (bad, BAD, "defective")) if k[0]]
        if kinds:
            values, colours, labels = zip(*kinds, strict=True)
            axes.hist(values, bins, color=colours, label=labels, stacked=True)
        line = axes.axvline(threshold, color=TEXT, linestyle=":", label="threshold")
        axes.legend(frameon=False)
        axes.set_xlim(0, 1)
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        line.set_gid("threshold-line")  # the page moves it along the axes
        axes.patch.set_gid("score-axes")
        return as_svg(figure)


def curve(
    x: NDArray[np.float64], y: NDArray[np.float64], x_label: str, y_label: str, limit: float = 1.0
) -> str:
    """Return a curve of two figures in [0, 1], x up to its limit."""
    with rc_context(STYLE):
        figure, axes = _axes(x_label, y_label)
        # Curves of thousands of thresholds have no more to show than the page has pixels.
        kept = np.unique(np.linspace(0, len(x) - 1, 2000).astype(int))
        axes.plot(x[kept], y[kept], color=GOOD)
        axes.set_xlim(0, limit)
        axes.set_ylim(0, 1.02)
        return as_svg(figure)


def scatter(points: dict[str, tuple[float, float]], x_label: str, y_label: str) -> str:
    """Return named points, x on a logarithmic scale."""
    with rc_context(STYLE):
        figure, axes = _axes(x_label, y_label)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(LogFormatter())  # 30, not 3 x 10^1
        axes.xaxis.set_minor_formatter(LogFormatter(minor_thresholds=(2, 0.5)))
        for name, (x, y) in points.items():
            axes.plot(x, y, "o", color=GOOD)
            axes.annotate(name, (x, y), xytext=(4, 4), textcoords="offset points")
        axes.margins(0.2)
        return as_svg(figure)


def lines(curves: dict[str, list[tuple[float, float]]], x_label: str, y_label: str) -> str:
    """Return named curves, x on a logarithmic scale, each with a marker of its own."""
    with rc_context(STYLE):
        figure, axes = _axes(x_label, y_label)
        axes.set_xscale("log")
        for marker, (name, points) in zip(cycle("os^vDP*X"), curves.items(), strict=False):
            axes.plot(*zip(*points, strict=True), marker=marker, label=name)
        counts = sorted({x for points in curves.values() for x, _ in points})
        axes.set_xticks(counts, [f"{x:g}" for x in counts])
        axes.minorticks_off()
        figure.legend(loc="outside upper left", ncols=2, frameon=False, fontsize="small")
        return as_svg(figure)


def _axes(x_label: str, y_label: str) -> tuple[Figure, Axes]:
    figure = Figure((4.5, 3), layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    return figure, axes


def as_svg(figure: Figure) -> str:
    """Return a figure as part of a page."""
    text = io.StringIO()
    # Without a date the same results give the same page.
    figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :].replace(TEXT, "currentColor")
    return re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
