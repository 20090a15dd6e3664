"""A region of interest: what lies outside has no influence on anything."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import onnxruntime
import openvino as ov
import pytest
import torch
from anomalib.data import ImageBatch
from conftest import photographs, remembering_model, segmenter, small_model
from PIL import Image
from torch import Tensor, nn
from torch.export import Dim

from anomalib_anoseg import Anomalies, AnoSeg, PreProcessor, loss
from anomalib_anoseg.anomaly_generator import AnomalyGenerator
from anomalib_anoseg.evaluation.evaluator import default_metrics
from anomalib_anoseg.evaluation.inspected import judge_inside, update
from anomalib_anoseg.export.tile import TileModel
from anomalib_anoseg.networks import tiles
from anomalib_anoseg.networks.decision import Decision
from anomalib_anoseg.networks.memory import STRIDES, Memory
from anomalib_anoseg.networks.region import Region, fill
from anomalib_anoseg.training.crops import random_crops

FRAME = [[0.1, 0.1], [0.9, 0.1], [0.9, 0.9], [0.1, 0.9]]
HOLE = [[0.3, 0.4], [0.6, 0.4], [0.6, 0.7], [0.3, 0.7]]
RIGHT = [[[0.5, 0.0], [1.0, 0.0], [1.0, 1.0], [0.5, 1.0]]]
STAR = [[0.5, 0.0], [0.8, 0.95], [0.0, 0.35], [1.0, 0.35], [0.2, 0.95]]


def slowly_filled(polygons: list[list[list[float]]], side: int) -> Tensor:
    """Count the edges to the right of the centre of each pixel, one by one."""
    found = torch.zeros(side, side, dtype=torch.bool)
    for row in range(side):
        for column in range(side):
            x, y = (column + 0.5) / side, (row + 0.5) / side
            crossed = 0
            for polygon in polygons:
                for (x0, y0), (x1, y1) in zip(polygon, polygon[1:] + polygon[:1], strict=True):
                    if (y < y0) != (y < y1):
                        crossed += x0 + (y - y0) / (y1 - y0) * (x1 - x0) <= x
            found[row, column] = crossed % 2
    return found


@pytest.mark.parametrize("polygons", [[FRAME], [FRAME, HOLE], [STAR], [HOLE, FRAME, STAR], RIGHT])
@pytest.mark.parametrize("side", [1, 20, 33])
def test_polygons_are_filled_by_the_even_odd_rule(
    polygons: list[list[list[float]]], side: int
) -> None:
    assert torch.equal(fill(polygons, side), slowly_filled(polygons, side))


def painted(path: Path, inside: Tensor) -> str:
    Image.fromarray((inside * 255).byte().numpy()).save(path)
    return str(path)


def test_a_mask_lies_over_images_of_every_size(tmp_path: Path) -> None:
    """Oracle: itself, its pixels repeated, and every second one of them."""
    inside = torch.rand(30, 40) > 0.5
    region = Region(painted(tmp_path / "mask.png", inside))
    assert torch.equal(region(torch.zeros(2, 3, 30, 40))[0, 0], inside)
    larger = inside.repeat_interleave(3, 0).repeat_interleave(2, 1)
    assert torch.equal(region.at(90, 80)[0, 0], larger)
    assert torch.equal(region.at(15, 20)[0, 0], inside[1::2, 1::2])
    assert region.share == pytest.approx(float(inside.float().mean()))


@pytest.mark.parametrize("size", [(30, 40), (77, 61), (700, 845)])
def test_crops_get_their_part_of_it(size: tuple[int, int]) -> None:
    """Oracle: the same part of what whole images get."""
    region = Region([STAR])
    whole = region.at(*size)[0, 0]
    place = torch.tensor([[0, 0, *size], [7, 13, *size], [size[0] - 16, size[1] - 24, *size]])
    parts = region(torch.zeros(3, 3, 16, 24), place.float())
    for part, (top, left, *_) in zip(parts[:, 0], place.tolist(), strict=True):
        assert torch.equal(part, whole[top : top + 16, left : left + 24])


class Hide(nn.Module):
    """A region alone, to be exported."""

    def __init__(self, region: Region) -> None:
        super().__init__()
        self.region = region

    def forward(self, images: Tensor, place: Tensor | None = None) -> Tensor:
        return self.region.hide_outside(images, place)


@pytest.mark.slow
@pytest.mark.parametrize("takes_place", [False, True], ids=["open sizes", "tiles"])
def test_runtimes_hide_what_torch_hides(takes_place: bool, tmp_path: Path) -> None:
    """Oracle: torch, bit by bit."""
    hide = Hide(Region([FRAME, HOLE, STAR]))
    hide.region.inside = torch.rand(1001, 2003) > 0.5
    path = tmp_path / "model.onnx"
    place = torch.tensor([[0.0, 0.0, 64.0, 96.0]])
    example = (torch.rand(1, 3, 64, 96), place) if takes_place else (torch.rand(1, 3, 64, 96),)
    sides = {2: Dim("height", min=64), 3: Dim("width", min=64)}
    names = ["input", "place"][: len(example)]
    options: dict[str, Any] = {} if takes_place else {"dynamic_shapes": (sides,)}
    torch.onnx.export(
        hide, example, path, input_names=names, opset_version=18, dynamo=True, **options
    )
    compiled = ov.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    onnx = onnxruntime.InferenceSession(path)
    for height, width in ((64, 96), (333, 1000), (1001, 2003), (1500, 2001)):
        given = [torch.rand(1, 3, height, width)]
        if takes_place:
            given = [example[0], torch.tensor([[height - 64.0, width - 96.0, height, width]])]
        expected = hide(*given).numpy()
        arrays = [one.numpy() for one in given]
        assert (compiled(arrays)[0] == expected).all()
        assert (onnx.run(None, dict(zip(names, arrays, strict=True)))[0] == expected).all()


def test_what_is_hidden_is_grey() -> None:
    images = photographs(2, height=40, width=40)
    hidden = Region(RIGHT).hide_outside(images)
    assert torch.equal(hidden[..., 20:], images[..., 20:])
    assert (hidden[..., :20] == 0.5).all()


WRONG: list[tuple[Any, str]] = [
    ([], "must be a mask image or a list of polygons"),
    (FRAME, "must be a mask image or a list of polygons"),
    ([[[0.1, 0.2, 0.3]] * 3], r"each a list of points \(x, y\)"),
    (3, "must be a mask image or a list of polygons"),
    ([FRAME[:2]], "at least 3 points"),
    ([[[10, 10], [200, 10], [200, 90]]], "divide pixels by the size of the image"),
    ([[[0.1, 0.1], [float("nan"), 0.1], [0.2, 0.9]]], r"in \[0, 1\]"),
    ([[[0.5, 0.1], [0.5, 0.9], [0.5, 0.3]]], "covers nothing"),
    ([FRAME, FRAME], "covers nothing"),
]


@pytest.mark.parametrize(("given", "message"), WRONG)
def test_a_region_that_cannot_be_meant(given: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        segmenter(region=given)


def test_a_mask_that_cannot_be_meant(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.png"):
        segmenter(region=tmp_path / "none.png")
    black = painted(tmp_path / "black.png", torch.zeros(9, 9))
    with pytest.raises(ValueError, match=r"black\.png has no pixel above 0"):
        segmenter(region=black)
    Image.linear_gradient("L").save(tmp_path / "grey.jpg")
    with pytest.raises(ValueError, match=r"grey\.jpg has \d+ grey values .* save it with 0 and"):
        segmenter(region=tmp_path / "grey.jpg")
    Image.new("RGBA", (9, 9), (255, 255, 255, 0)).save(tmp_path / "alpha.png")
    with pytest.raises(ValueError, match=r"alpha\.png is transparent"):
        segmenter(region=tmp_path / "alpha.png")
    (tmp_path / "text.png").write_text("text")
    with pytest.raises(ValueError, match=r"cannot read .*text\.png: not an image"):
        segmenter(region=tmp_path / "text.png")


def test_what_the_critics_of_the_map_see_is_what_is_judged() -> None:
    """Oracle: evaluation, where nothing is found outside."""
    model = segmenter(region=RIGHT).train()
    images = photographs(2, height=64, width=64)
    outside = ~model.model.region(images)[0, 0]
    anomaly_map = model.model(images).anomaly_map
    assert float(anomaly_map[..., outside].max()) < 1e-9
    assert float(anomaly_map[..., ~outside].min()) > 1e-9


def shown(height: int, width: int, region: Region) -> Tensor:
    return region.at(height, width)[0, 0]


SMALL = [[[0.30, 0.70], [0.34, 0.70], [0.34, 0.74], [0.30, 0.74]]]  # 3 x 3 pixels of 64 x 64


@pytest.mark.parametrize("given", [RIGHT, [FRAME, HOLE], SMALL])
@pytest.mark.parametrize("laws", [Anomalies(synthetic_share=1), Anomalies.paper()])
def test_anomalies_lie_inside(given: Any, laws: Anomalies) -> None:
    """Oracle: the images, whose pixels outside stay; and every synthetic one has an anomaly."""
    inside = Region(given).at(64, 64)
    images = photographs(32, height=64, width=64)
    generator = AnomalyGenerator(laws)
    changed, masks = generator(images, torch.zeros_like(images[:, :1]), inside=inside)
    outside = ~inside.expand_as(images)
    assert torch.equal(changed[outside], images[outside])
    assert not (masks.bool() & ~inside).any()
    assert (masks.flatten(1).any(1) == (generator._params["batch_prob"] > 0.5)).all()
    again, _ = generator(images, masks, params=generator._params)
    assert torch.equal(again, changed)


def test_anomalies_lie_everywhere_inside() -> None:
    """Oracle: small patches on flat images are as dense in each quarter of the region."""
    laws = Anomalies(synthetic_share=1, patches=(4, 4), patch_area=(1e-4, 1e-4))
    images = torch.full((200, 3, 64, 64), 0.5)
    inside = Region([HOLE]).at(64, 64)
    _, masks = AnomalyGenerator(laws)(images, torch.zeros_like(images[:, :1]), inside=inside)
    found = masks[:, 0].sum(0)
    rows, columns = (inside[0, 0].any(1 - axis).nonzero().flatten().tolist() for axis in (0, 1))
    middle = (rows[0] + rows[-1]) // 2, (columns[0] + columns[-1]) // 2
    upper, left = found[: middle[0]].sum() / found.sum(), found[:, : middle[1]].sum() / found.sum()
    assert 0.4 < float(upper) < 0.6
    assert 0.4 < float(left) < 0.6


@pytest.mark.parametrize("kind", [loss.l1_loss, loss.dice_loss, loss.l1_bce_dice_loss])
def test_a_loss_looks_at_the_inside_alone(kind: Any) -> None:
    """Oracle: the loss of what is cut out."""
    logits, masks = torch.randn(4, 1, 16, 16), (torch.rand(4, 1, 16, 16) > 0.7).float()
    inside = Region(RIGHT).at(16, 16)
    found = kind(logits, masks * inside, inside)
    torch.testing.assert_close(found, kind(logits[..., 8:], masks[..., 8:]))
    torch.testing.assert_close(kind(logits, masks, torch.ones_like(inside)), kind(logits, masks))


def test_a_decision_is_measured_inside_alone() -> None:
    """Oracle: the one that is measured by what is cut out."""
    said = [torch.randn(3, 20, 20) for _ in range(3)]
    inside = Region(RIGHT).at(20, 20)[:, 0]
    hidden = [torch.where(inside, one, -torch.inf) for one in said]
    ours, cut = Decision(), Decision()
    sums = ours.fit([hidden])
    expected = cut.fit([[one[..., 10:] for one in said]])
    torch.testing.assert_close(ours.mean, cut.mean)
    torch.testing.assert_close(ours.std, cut.std)
    torch.testing.assert_close(sums, expected)
    for found in (ours(*hidden), ours.left_out(hidden, sums, 0)):
        assert (found[..., :10] == 0).all()
        assert (found[..., 10:] > 0).any()


def test_nothing_from_outside_is_remembered() -> None:
    """Oracle: where rows are from; and the memory of images that differ outside."""
    region = Region([FRAME, HOLE])
    images = photographs(4, height=96, width=128)
    others = torch.where(region(images), images, torch.rand_like(images))
    memories = [Memory("tf_efficientnet_lite0", 300) for _ in range(2)]
    for memory, seen in zip(memories, (images, others), strict=True):
        memory.fill([(seen, torch.arange(4))], 4, region=region)
    inside = shown(96, 128, region)
    for stride, level, other in zip(STRIDES, *(memory.levels for memory in memories), strict=True):
        assert torch.equal(level.rows, other.rows)
        found = level.place.unique(dim=0).tolist()
        for row, column in found:
            cell = inside[
                row * stride : (row + 1) * stride, column * stride : (column + 1) * stride
            ]
            assert cell.any()
        assert stride < 16 or len(found) == region.cells(images, stride).sum()


def trained(make: Any, **arguments: Any) -> AnoSeg:
    """A model with batch statistics of real images and a memory, in evaluation mode."""
    model = make(seed=0, region=[FRAME, HOLE], **arguments)
    images = photographs(4, height=96, width=96)
    if model.model.memory is not None:
        model.model.memory.fill([(images, torch.arange(4))], 4, region=model.model.region)
    with torch.no_grad():
        model.model.train()(images)
    return model.eval()


MAKERS = {
    "memory": remembering_model,
    "scratch": segmenter,
    "detector": lambda **given: small_model(image_score="detector", **given),
}


@pytest.mark.parametrize("kind", MAKERS)
def test_what_lies_outside_has_no_influence(kind: str) -> None:
    """Oracle: the same image with anything else outside."""
    model = trained(MAKERS[kind], pre_processor=PreProcessor("native"))
    images = photographs(2, height=100, width=130)
    inside = model.model.region(images)
    others = torch.where(inside, images, torch.rand_like(images))
    found, expected = model(others), model(images)
    assert torch.equal(found.anomaly_map, expected.anomaly_map)
    assert torch.equal(found.pred_score, expected.pred_score)
    outside = ~inside.expand_as(found.anomaly_map)
    assert (found.anomaly_map[outside] == 0).all()
    assert (found.anomaly_map[~outside] > 0).any()
    assert not found.pred_mask.view_as(outside)[outside].any()


@pytest.mark.parametrize("kind", ["memory", "scratch"])
def test_tiles_give_what_one_pass_gives(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: one pass, from which tiles differ by what no margin shows; see test_tiles.py."""
    model = trained(MAKERS[kind], backbone="thin_resnet", pre_processor=PreProcessor("native"))
    images = photographs(1, height=544, width=600)
    whole = model.model(images)
    tile = images[..., 32:544, 64:576]
    place = torch.tensor([[32.0, 64.0, 544.0, 600.0]])
    part = TileModel(model, 512)(tile, place).anomaly_map
    hidden = ~model.model.region(images)[..., 32:544, 64:576]
    assert hidden.any()
    assert torch.equal(part == 0, hidden)
    monkeypatch.setattr(tiles, "ONE_PASS", 512 * 512)
    monkeypatch.setattr(tiles, "SIDE", 512)
    found = model.model(images)
    torch.testing.assert_close(found.anomaly_map, whole.anomaly_map, rtol=0, atol=1e-3)
    assert torch.equal(found.anomaly_map == 0, whole.anomaly_map == 0)


def test_crops_show_some_of_it() -> None:
    """Oracle: where crops lie; wherever some of the region can be seen is where they are from."""
    region = Region(SMALL)
    images = torch.zeros(300, 3, 64, 64)
    crops, place = random_crops(images, 16, region)
    assert region(crops, place).flatten(1).any(1).all()
    rows = shown(64, 64, region).any(1).nonzero().flatten()
    assert set(place[:, 0].tolist()) == {*range(int(rows[0]) - 15, int(rows[-1]) + 1)}


def judged(rows: int = 64, columns: int = 64) -> ImageBatch:
    """Predictions in [0, 1], and true masks of a few defects."""
    maps, masks = torch.rand(6, rows, columns), torch.zeros(6, rows, columns, dtype=torch.bool)
    masks[0, 5:20, 40:50] = masks[1, 30:40, 28:36] = masks[2, 2:9, 3:9] = True
    return ImageBatch(
        image=torch.zeros(6, 3, rows, columns), gt_mask=masks, gt_label=masks.flatten(1).any(1),
        anomaly_map=maps, pred_mask=maps > 0.5, pred_score=maps.amax((1, 2)),
        pred_label=torch.tensor([True, False, True, False, True, False]),
    )  # fmt: skip


def test_figures_are_of_the_inside_alone() -> None:
    """Oracle: the figures of what is cut out."""
    batch = judged()
    cut = deepcopy(batch)
    inside = Region(RIGHT).at(64, 64)
    judge_inside(batch, inside)
    assert batch.gt_label.tolist() == [True, True, False, False, False, False]
    batch.anomaly_map = torch.where(inside[:, 0], batch.anomaly_map, 0)
    batch.pred_mask = batch.pred_mask & inside[:, 0]
    for name in ("gt_mask", "anomaly_map", "pred_mask"):
        setattr(cut, name, getattr(cut, name)[..., 32:].contiguous())
    cut.gt_label = cut.gt_mask.flatten(1).any(1)
    found, expected = default_metrics(), default_metrics()
    update(found, batch, inside)
    update(expected, cut, None)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.compute(), other.compute(), msg=one.name)
    assert batch.anomaly_map.min() == 0  # what others see is left as it is


def test_images_without_masks_keep_their_labels() -> None:
    batch = judged()
    batch.gt_mask = None
    before = batch.gt_label.clone()
    judge_inside(batch, Region(RIGHT).at(64, 64))
    assert torch.equal(batch.gt_label, before)
