"""The command that looks at one trained model; apart, because it takes anomalib and torch."""

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from anomalib.data import AnomalibDataModule
from lightning.pytorch import seed_everything
from tqdm import tqdm

from anomalib_anoseg.data.cases import set_up
from anomalib_anoseg.evaluation.evaluator import default_metrics
from anomalib_anoseg.evaluation.metrics import AUPR, AUPRO
from anomalib_anoseg.lightning_model import AnoSeg
from anomalib_anoseg.report import plots
from anomalib_anoseg.report.examples import Example, Failure, answers, thresholds_of, worst_first
from anomalib_anoseg.report.pages import Scores, model_page, write
from anomalib_anoseg.training.data_check import masks_of
from anomalib_anoseg.training.image_reading import read_by_ours
from anomalib_anoseg.training.remembering import warn_if_remembered
from anomalib_anoseg.utils.files import require_place
from anomalib_anoseg.utils.image_header import read_header
from anomalib_anoseg.utils.masks import check_mask

EPILOG = """Verdicts, masks and areas are those of the checkpoint's own thresholds and
sensitivities, which the page names. An image that cannot be read or judged is named on the page,
and the others are shown. Masks are checked as anomalib test checks them.

exit status: 0 every image was judged; 1 some were not; 2 wrong arguments or input; 130 interrupted.
"""


def page(
    ckpt_path: Path,
    data: AnomalibDataModule,
    output: Path = Path("results/page.html"),
    most: int = 200,
    device: str = "auto",
) -> int:
    """Show what a trained AnoSeg says of the test images: figures, curves, and every image.

    Args:
        ckpt_path: The .ckpt that training wrote.
        data: Its test images are shown.
        output: The page to write.
        most: Images on the page, at most; beyond that those whose scores are most wrong.
        device: Where the model runs: cpu, cuda, or auto for a GPU if there is one.

    Returns:
        The exit status: 0, or 1 if an image could not be read or judged.

    Raises:
        OSError: If there is no checkpoint, or the page cannot be written.
        ValueError: If it is truncated, or of another model; if there is no such device; if a mask
            cannot be that of its image; or if most is negative.
    """
    if most < 0:
        msg = f"--most must be at least 0 images, got {most}"
        raise ValueError(msg)
    where = find_device(device)
    require_place(output)
    model = AnoSeg.load_from_checkpoint(ckpt_path, map_location="cpu")
    metrics: list[Any] = [*default_metrics()]
    scores = Scores([], [])
    failures: list[Failure] = []

    def noted(answered: Iterable[Example | Failure]) -> Iterator[Example]:
        for answer in answered:
            if isinstance(answer, Example):
                (scores.defective if answer.defective else scores.good).append(answer.score)
                yield answer
            else:
                failures.append(answer)
                tqdm.write(f"{answer.name}: {answer.reason}", file=sys.stderr)

    if model.seed is not None:
        # Of images that are split at random training has left out those that this draws again.
        seed_everything(model.seed, workers=True, verbose=False)
    set_up(data, "test")
    dataset: Any = data.test_data
    warn_if_remembered(model.remembered, map(Path, dataset.samples.image_path))
    check_masks(dataset)
    with read_by_ours(dataset):
        seen = answers(model, dataset, metrics, where)
        examples = worst_first(noted(tqdm(seen, total=len(dataset), unit="image")), most)
    thresholds = thresholds_of(model)
    svgs = {"Scores": plots.score_histogram(*scores, thresholds.image)}
    figures, curves = _measured(metrics)
    title = f"AnoSeg on {'/'.join(filter(None, (data.name, getattr(data, 'category', None))))}"
    expected = getattr(model.post_processor, "false_alarms", None)
    plotted = svgs | curves
    html = model_page(title, figures, plotted, examples, failures, thresholds, scores, expected)
    write(output, html)
    print(output)  # noqa: T201
    return 1 if failures else 0


def find_device(name: str) -> torch.device:
    """Return a device that is there.

    Raises:
        ValueError: If it is not; the message names those that are.
    """
    there = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    there += ["mps"] if torch.backends.mps.is_available() else []
    there += [f"xpu:{index}" for index in range(torch.xpu.device_count())]
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not any(name in (known, known.partition(":")[0]) for known in there):
        msg = f"--device {name} is not there; this computer has {', '.join(there)}, or auto"
        raise ValueError(msg)
    return torch.device(name)


def check_masks(dataset: Any) -> None:
    """Refuse masks that cannot be meant, as ``anomalib test`` does.

    Raises:
        OSError: If a mask is missing.
        ValueError: If one has another size than its image, or more values than 0 and another one.
    """
    for image, mask in masks_of(dataset):
        try:
            read_header(Path(image))
        except (OSError, ValueError):
            continue  # the page says so where it shows the images
        check_mask(Path(image), Path(mask))


def _measured(metrics: list[Any]) -> tuple[dict[str, float], dict[str, str]]:
    """Return the values of the metrics, and the curves behind some of them as SVG."""
    values = {metric: metric.compute() for metric in metrics if metric.update_called}
    values = {metric: value for metric, value in values.items() if value is not None}
    svgs = {}
    for metric in values:
        if isinstance(metric, AUPR):
            x, y = (values.numpy() for values in metric.curve())
            svgs["Precision and recall of pixels"] = plots.curve(x, y, "recall", "precision")
        elif isinstance(metric, AUPRO):
            x, y = (values.numpy() for values in metric.curve())
            svgs["Overlap of defects (PRO)"] = plots.curve(
                x, y, "false positive rate", "overlap", limit=metric.fpr_limit
            )
    return {metric.name: float(value) for metric, value in values.items()}, svgs
