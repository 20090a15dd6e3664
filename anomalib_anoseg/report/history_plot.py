"""The plot of what infer has found over time."""

from typing import Any

import numpy as np
from matplotlib import dates, rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from anomalib_anoseg.report.history import Extremes, History, extremes, running_share
from anomalib_anoseg.report.plots import BAD, GOOD, STYLE, TEXT, as_svg


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
        return as_svg(figure)


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
