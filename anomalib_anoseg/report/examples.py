"""A trained model's answers to test images, small enough for a page."""

import base64
import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from anomalib.data import AnomalibDataModule, ImageBatch
from anomalib.metrics import AnomalibMetric
from anomalib.models.components import AnomalibModule
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.transforms.v2.functional import to_pil_image

SIDE = 256  # pixels of the longer side of a picture, at most
QUALITY = 75  # of photographs; maps and masks keep every value


class Example(NamedTuple):
    """What the page shows of one image. Pictures are data URIs.

    Attributes:
        name: The last folder and the file's name.
        kind: The folder, in MVTec AD's layout the kind of defect.
        defective: The truth.
        anomalous: The verdict.
        score: In [0, 1], 0.5 is the threshold.
        image: Before the resize to the network's size.
        ratio: Its width over its height, in which everything is shown.
        mask: The truth, None if there is none.
        anomaly_map: Grey; a value v of the map is stored as the whole part of 256 v.
        area: Pixels of the mask at 0.5, as a share of the image.
    """

    name: str
    kind: str
    defective: bool
    anomalous: bool
    score: float
    image: str
    ratio: float
    mask: str | None
    anomaly_map: str
    area: float

    @property
    def error(self) -> float:
        """How wrong the score is, [0, 1]."""
        return 1 - self.score if self.defective else self.score

    @property
    def outcome(self) -> str:
        """The verdict against the truth."""
        if self.defective == self.anomalous:
            return "correct"
        return "miss" if self.defective else "false alarm"


def answers(
    model: AnomalibModule,
    data: AnomalibDataModule,
    metrics: Iterable[AnomalibMetric],
    device: torch.device,
) -> Iterator[Example]:
    """Give the test images to a model as an exported one would get them.

    Args:
        model: A trained model that gives maps.
        data: Its test images are used; it is set up here.
        metrics: Updated with every image.
        device: Where the model runs.

    Yields:
        One example per test image, in the order of the data.
    """
    data.prepare_data()
    data.setup("test")
    data.eval_batch_size = 1  # images may have different sizes
    model = model.eval().to(device)
    for batch in data.test_dataloader():
        images = batch.image.to(device)
        with torch.inference_mode():
            answer = model(images)
        anomaly_map = answer.anomaly_map.float().cpu()
        mask = batch.gt_mask
        if mask is not None:
            size = anomaly_map.shape[-2:]
            mask = interpolate(mask.view(-1, 1, *mask.shape[-2:]).float(), size, mode="nearest") > 0
        seen = ImageBatch(
            image=batch.image,
            image_path=batch.image_path,
            gt_label=batch.gt_label,
            gt_mask=None if mask is None else mask[:, 0],
            anomaly_map=anomaly_map[:, 0],
            pred_mask=answer.pred_mask.cpu().view(anomaly_map.shape)[:, 0],
            pred_score=answer.pred_score.float().cpu().flatten(),
            pred_label=answer.pred_label.cpu().flatten(),
        )
        for metric in metrics:
            metric.update(seen)
        yield from make_examples(seen, mask)


def make_examples(batch: Any, masks: Tensor | None) -> Iterator[Example]:
    """Yield what the page shows of an ImageBatch with predictions; masks are (b, 1, h, w)."""
    for index, path in enumerate(map(Path, batch.image_path)):
        anomaly_map = batch.anomaly_map[index][None, None]
        score = float(batch.pred_score[index])
        yield Example(
            name=f"{path.parent.name}/{path.name}",
            kind=path.parent.name,
            defective=bool(batch.gt_label[index]),
            anomalous=bool(batch.pred_label[index]),
            score=score,
            image=_photograph(_small(batch.image[index][None].float())),
            ratio=batch.image.shape[-1] / batch.image.shape[-2],
            mask=None if masks is None else _levels(_small(masks[index][None].float())),
            anomaly_map=_levels(_small(anomaly_map)),
            area=float((anomaly_map > 0.5).float().mean()),
        )


def worst_first(examples: Iterable[Example], most: int) -> list[Example]:
    """Return those whose scores are most wrong, at most so many, memory for no more."""
    kept: list[Example] = []
    for example in examples:
        kept.append(example)
        if len(kept) >= 2 * most:
            kept = sorted(kept, key=lambda e: -e.error)[:most]
    return sorted(kept, key=lambda e: -e.error)[:most]


def _small(images: Tensor) -> Tensor:
    """Return (c, h, w) of (1, c, h, w), reduced to the size of the page."""
    height, width = images.shape[-2:]
    scale = SIDE / max(height, width)
    if scale < 1:
        size = (max(1, round(height * scale)), max(1, round(width * scale)))
        images = interpolate(images, size, mode="area")
    return images[0]


def _photograph(image: Tensor) -> str:
    return _uri(to_pil_image(image.clamp(0, 1)), quality=QUALITY)


def _levels(values: Tensor) -> str:
    levels = (values * 256).clamp(0, 255).to(torch.uint8)
    return _uri(to_pil_image(levels), lossless=True)


def _uri(picture: Image.Image, **options: int) -> str:
    data = io.BytesIO()
    picture.save(data, "WEBP", **options)  # a third of JPEG and PNG together
    return f"data:image/webp;base64,{base64.b64encode(data.getvalue()).decode()}"
