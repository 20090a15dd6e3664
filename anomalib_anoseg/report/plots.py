"""Figures of the pages, as SVG that takes the colour of the text around it."""

import io
import re
from typing import Any

import numpy as np
from matplotlib import dates, rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from anomalib_anoseg.report.history import Extremes, History, extremes, running_share

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
        return _svg(figure)


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
        return _svg(figure)


def scatter(points: dict[str, tuple[float, float]], x_label: str, y_label: str) -> str:
    """Return named points, x on a logarithmic scale."""
    with rc_context(STYLE):
        figure, axes = _axes(x_label, y_label)
        axes.set_xscale("log")
        for name, (x, y) in points.items():
            axes.plot(x, y, "o", color=GOOD)
            axes.annotate(name, (x, y), xytext=(4, 4), textcoords="offset points")
        axes.margins(0.2)
        return _svg(figure)


def over_time(history: History) -> str:
    """Return the scores of at least one image, and below them the share that is defective.

    Without times they come in the order in which they were judged. Nothing is drawn between images:
    a line would cross nights in which there were none.
    """
    x = np.arange(1.0, len(history.scores) + 1) if history.times is None else history.times
    order = np.argsort(x, kind="stable")
    x, scores, defective = x[order], history.scores[order], history.defective[order]
    span = float(x[0]), float(x[-1])
    latest, shares = running_share(defective)
    with rc_context(STYLE):
        figure = Figure((11, 4.5), layout="constrained")
        ratios = [3, 1] if len(shares) else [1]
        top, *below = figure.subplots(
            len(ratios), sharex=True, height_ratios=ratios, squeeze=False
        ).flat
        for which, colour, label in (
            (~defective, GOOD, "called good"),
            (defective, BAD, "called defective"),
        ):
            _bars(top, extremes(x[which], scores[which], *span), colour, label)
        _references(top, history.about)
        top.set_ylabel("image score")
        top.set_ylim(0, 1)
        for axes in below:
            _bars(axes, extremes(x[latest - 1 :], shares, *span), BAD)
            axes.set_ylabel(f"defective of\nthe latest {latest}")
            axes.yaxis.set_major_formatter(PercentFormatter(1))
            axes.set_ylim(bottom=0)
        _name_times((top, *below)[-1], timed=history.times is not None)
        figure.legend(loc="outside upper right", frameon=False, ncols=4, markerscale=2)
        return _svg(figure)


def _bars(axes: Axes, thin: Extremes, colour: str, label: str | None = None) -> None:
    """Draw a bar from each lowest value to the highest, with a dot at either end."""
    if len(thin.x):
        axes.vlines(thin.x, thin.low, thin.high, color=colour)
        ends = np.concatenate([thin.low, thin.high])
        axes.plot(np.tile(thin.x, 2), ends, ".", color=colour, markersize=4, label=label)


def _name_times(axes: Axes, *, timed: bool) -> None:
    axes.set_xlabel("time, UTC" if timed else "image")
    if timed:
        known: Any = dates  # untyped
        locator = known.AutoDateLocator()
        axes.xaxis.set_major_locator(locator)
        axes.xaxis.set_major_formatter(known.ConciseDateFormatter(locator))
    else:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _references(axes: Axes, about: dict[str, Any]) -> None:
    """Draw the image threshold and where good parts used to score, as far as they are known."""
    if "image_threshold" in about:
        axes.axhline(about["image_threshold"], color=TEXT, linestyle=":", label="image threshold")
    drift = about.get("drift")
    if drift:
        low, high = drift["usual_low"], drift["usual_high"]
        axes.axhspan(low, high, color=TEXT, alpha=0.15, linewidth=0, label="usual for good parts")


def _axes(x_label: str, y_label: str) -> tuple[Figure, Axes]:
    figure = Figure((4.5, 3), layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    return figure, axes


def _svg(figure: Figure) -> str:
    text = io.StringIO()
    # Without a date the same results give the same page.
    figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :].replace(TEXT, "currentColor")
    return re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
