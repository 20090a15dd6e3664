"""Self-contained HTML pages: no request to anywhere, everything escaped."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jinja2
import matplotlib as mpl
import numpy as np
from markupsafe import Markup

from anomalib_anoseg.inference.thresholds import Thresholds
from anomalib_anoseg.report import plots
from anomalib_anoseg.report.comparison import (
    Table,
    learning_curves,
    minutes,
    missing,
    provenance,
)
from anomalib_anoseg.report.runs import METRICS, Results
from anomalib_anoseg.utils.false_alarms import FalseAlarms
from anomalib_anoseg.utils.files import complete_file

if TYPE_CHECKING:  # a comparison needs no torch
    from anomalib_anoseg.report.examples import Example, Failure

# What a figure says, in one sentence.
EXPLANATIONS = {
    "image_AUROC": "How likely a defective image scores higher than a good one; 1 is perfect.",
    "image_F1Score": "Precision and recall of the verdicts on whole images, at the threshold.",
    "pixel_AUROC": "How likely a defective pixel scores higher than a good one.",
    "pixel_AUPR": "Precision of defective pixels, averaged over all recalls; severe on false ones.",
    "pixel_AUPRO": "How much of each defect is covered, small ones count as much as large ones; "
    "averaged up to 30 % false positive pixels.",
    "pixel_F1Score": "Precision and recall of defective pixels, at the threshold.",
    "pixel_IoU": "Overlap of the masks with the truth, as a share of both together.",
    "pixel_IoUMax": "The overlap that the best threshold for these images would have given.",
}


class Scores(NamedTuple):
    """The scores of the images that were judged, by the truth."""

    good: list[float]
    defective: list[float]


def comparison_page(results: Results, tables: list[Table]) -> str:
    """Return the page about several models."""
    ms = "ms per image, OpenVINO, one at a time"
    curves = {name: learning_curves(results.runs, key) for key, name in METRICS.items()}
    sections = {
        "latency": _scatters(tables, results.latency, ms),
        "minutes of training": _scatters(tables, minutes(results.runs), "minutes of training"),
        "good images": {
            metric: plots.lines(found, "good images", metric)
            for metric, found in curves.items()
            if found
        },
    }
    return render(
        "comparison.html.j2",
        tables=tables,
        sections={
            against: {metric: Markup(svg) for metric, svg in figures.items()}  # noqa: S704 - matplotlib escapes names
            for against, figures in sections.items()
            if figures
        },
        missing=missing(results.runs),
        provenance=provenance(results.runs),
    )


def _scatters(tables: list[Table], costs: dict[str, float], label: str) -> dict[str, str]:
    """Return a plot of the models' last column against what they cost, by metric."""
    figures = {}
    for table in tables:
        means = {model: cells[-1].mean for model, cells in table.rows.items()}
        points = {
            model: (costs[model], mean)
            for model, mean in means.items()
            if mean is not None and costs.get(model, 0) > 0
        }
        if len(points) > 1:
            figures[table.metric] = plots.scatter(points, label, table.metric)
    return figures


def model_page(
    title: str,
    figures: dict[str, float],
    svgs: dict[str, str],
    examples: "list[Example]",
    failures: "list[Failure]",
    thresholds: Thresholds,
    scores: Scores,
    false_alarms: FalseAlarms | None = None,
) -> str:
    """Return the page about one trained model.

    Args:
        title: Heads the page.
        figures: Values of metrics by anomalib's names, those of ``METRICS``.
        svgs: Plots by their titles.
        examples: Of images, in the order in which they are shown at first.
        failures: Images that could not be read or judged.
        thresholds: Those that verdicts and areas were taken at.
        scores: Of all images that were judged.
        false_alarms: What is to be expected of the image threshold, if the model says it.
    """
    colours = mpl.colormaps["inferno"](np.arange(256), bytes=True)[:, :3]
    return render(
        "model.html.j2",
        title=title,
        figures=[(METRICS[name], value, EXPLANATIONS[name]) for name, value in figures.items()],
        svgs={name: Markup(svg) for name, svg in svgs.items()},  # noqa: S704 - without any names
        examples=examples,
        masked=any(example.mask for example in examples),
        compared=any(example.comparisons for example in examples),
        failures=failures,
        thresholds=thresholds,
        scores=scores,
        false_alarms=false_alarms,
        kinds=sorted({example.kind for example in examples}),
        colours=colours.tolist(),
    )


def render(template: str, **values: Any) -> str:
    """Return a page."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("anomalib_anoseg.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template(template).render(**values)


def write(path: Path, text: str) -> None:
    """Write a file that is complete or not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with complete_file(path) as part:
        part.write_text(text, encoding="utf-8")
