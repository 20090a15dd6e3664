"""The command that looks at one trained model; apart, because it takes anomalib and torch."""

from pathlib import Path
from typing import Any

import torch
from anomalib.data import AnomalibDataModule
from tqdm import tqdm

from anomalib_anoseg.evaluation.evaluator import default_metrics
from anomalib_anoseg.evaluation.metrics import AUPR, AUPRO
from anomalib_anoseg.lightning_model import AnoSeg
from anomalib_anoseg.report import plots
from anomalib_anoseg.report.examples import Example, answers, worst_first
from anomalib_anoseg.report.pages import model_page, write


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
        The exit status, 0.

    Raises:
        FileNotFoundError: If there is no checkpoint.
        ValueError: If it is truncated, or of another model.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    model = AnoSeg.load_from_checkpoint(ckpt_path, map_location="cpu")
    metrics: list[Any] = [*default_metrics()]
    scores: dict[bool, list[float]] = {False: [], True: []}

    def noted(example: Example) -> Example:
        scores[example.defective].append(example.score)
        return example

    seen = answers(model, data, metrics, torch.device(device))
    examples = worst_first((noted(e) for e in tqdm(seen, unit="image")), most)
    values = {m.name: m.compute() for m in metrics if m.update_called}
    figures = {name: float(value) for name, value in values.items() if value is not None}
    svgs = {"Scores": plots.score_histogram(scores[False], scores[True])}
    for metric in metrics:
        if metric.name not in figures:
            continue
        if isinstance(metric, AUPR):
            x, y = (values.numpy() for values in metric.curve())
            svgs["Precision and recall of pixels"] = plots.curve(x, y, "recall", "precision")
        elif isinstance(metric, AUPRO):
            x, y = (values.numpy() for values in metric.curve())
            svgs["Overlap of defects (PRO)"] = plots.curve(
                x, y, "false positive rate", "overlap", limit=metric.fpr_limit
            )
    title = f"AnoSeg on {'/'.join(filter(None, (data.name, getattr(data, 'category', None))))}"
    tested = len(scores[False]) + len(scores[True])
    write(output, model_page(title, figures, svgs, examples, tested))
    print(output)  # noqa: T201
    return 0
