"""An image that is too large for one pass is judged tile by tile, with the same result."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import photographs, remembering_model, segmenter, small_model
from torch import Tensor

from anomalib_anoseg import AnoSeg, PreProcessor
from anomalib_anoseg.export.tile import SMALLEST_TILE, TileModel, score_within
from anomalib_anoseg.inference.frames import Frame
from anomalib_anoseg.inference.segmenter import Segmenter
from anomalib_anoseg.networks import tiles
from anomalib_anoseg.networks.encoder import coordinates, pad
from anomalib_anoseg.torch_model import image_score
from anomalib_anoseg.utils.tiles import MARGIN, Tile, tiles_of

SIZE = 700, 845  # of an image, odd and not square


@pytest.mark.parametrize(
    ("height", "width"), [SIZE, (512, 512), (1, 5000), (513, 511), (3648, 5472)]
)
def test_kept_parts_make_up_the_image(height: int, width: int) -> None:
    """Oracle: each pixel is kept once, and none within the margin but at the image's border."""
    seen = np.zeros((height, width), np.uint8)
    for tile in tiles_of(height, width, 512):
        seen[tile.rows.first : tile.rows.last, tile.columns.first : tile.columns.last] += 1
        for span, length in zip(tile, (height, width), strict=True):
            assert span.start % 32 == 0
            assert span.first == 0 or span.first - span.start >= MARGIN
            assert span.last == length or span.start + 512 - span.last >= MARGIN
            assert span.start <= span.first < span.last <= span.start + 512 < length + 512
    assert (seen == 1).all()


def test_tiles_do_not_overlap_more_than_they_must() -> None:
    """Oracle: 20 megapixels hold 24.4 parts of 1536 - 384 pixels squared, with the border."""
    assert len(list(tiles_of(3648, 5472, 1536))) == 3 * 5
    assert all(
        before.columns.start < after.columns.start
        for before, after in pairwise(tiles_of(100, 5472, 1536))
    )


def test_a_crop_knows_its_place() -> None:
    """Oracle: the same part of the whole image's coordinates, at both strides."""
    whole, crop = torch.zeros(2, 3, *SIZE), torch.zeros(2, 3, 128, 96)
    place = torch.tensor([[64, 320, *SIZE], [0, 0, *SIZE]]).float()
    found = coordinates(crop, place)
    torch.testing.assert_close(found[0], coordinates(whole)[0, :, 64:192, 320:416])
    torch.testing.assert_close(found[1], coordinates(whole)[0, :, :128, :96])
    torch.testing.assert_close(
        coordinates(whole, torch.tensor([[0, 0, *SIZE]]).float().expand(2, -1)), coordinates(whole)
    )
    features = pad(whole)[..., ::16, ::16]
    torch.testing.assert_close(
        coordinates(features[..., :8, :6], place, stride=16)[0],
        coordinates(features)[0, :, 4:12, 20:26],
    )


def test_a_crop_that_reaches_beyond_the_image_stays_on_its_border() -> None:
    found = coordinates(torch.zeros(1, 3, 64, 64), torch.tensor([[0.0, 0.0, 40.0, 64.0]]))
    assert (found[0, 0, 39:] == 1).all()
    assert (found[0, 0, :39] < 1).all()


def native(remembers: bool) -> AnoSeg:
    """A model with batch statistics of real images and a memory, whose images keep their size."""
    make = remembering_model if remembers else segmenter
    model = make(seed=0, backbone="thin_resnet", pre_processor=PreProcessor("native"))
    images = photographs(4, height=160, width=160)
    if model.model.memory is not None:
        model.model.memory.fill([(images, torch.arange(4))], 4)
    with torch.no_grad():
        model.model.train()(images)
    return model.eval()


@pytest.fixture(scope="module")
def remembering() -> AnoSeg:
    torch.manual_seed(0)
    return native(remembers=True)


def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "ONE_PASS", 512 * 512)
    monkeypatch.setattr(tiles, "SIDE", 512)


@pytest.mark.parametrize("remembers", [True, False])
def test_tiles_give_the_map_of_one_pass(
    remembers: bool, remembering: AnoSeg, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: one pass; a trained network gives it to 1e-5, this one is as sure nowhere."""
    model = remembering if remembers else native(remembers=False)
    images = photographs(1, height=SIZE[0], width=SIZE[1])
    whole = model.model(images)
    small_tiles(monkeypatch)
    judged: list[torch.Size] = []
    look = model.model._look
    monkeypatch.setattr(
        model.model, "_look", lambda tile, *a: judged.append(tile.shape[-2:]) or look(tile, *a)
    )
    found = model.model(images)
    assert len(judged) == 3 * 4
    torch.testing.assert_close(found.anomaly_map, whole.anomaly_map, rtol=0, atol=1e-3)
    torch.testing.assert_close(found.pred_score, whole.pred_score, rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("backbone", "far"),
    [
        ("thin_resnet", False),
        ("resnet18", False),
        ("mobilenetv3_small_050", True),
        ("seresnet18", True),  # its branches are switched off until they are trained
    ],
)
def test_what_looks_at_all_of_an_image_is_not_cut(
    backbone: str, far: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: the architectures. MobileNetV3 and SE-ResNet have squeeze-and-excitation."""
    model = segmenter(seed=0, backbone=backbone).train()
    assert model.model.sees_far is far
    assert model.model.encoder.backbone.training
    small_tiles(monkeypatch)
    judged: list[int] = []
    look = model.model._look
    monkeypatch.setattr(model.model, "_look", lambda *a: judged.append(1) or look(*a))
    model.eval().model(photographs(1, height=SIZE[0], width=SIZE[1]))
    assert len(judged) == (1 if far else 3 * 4)


def test_a_memory_is_filled_with_what_one_pass_sees(
    remembering: AnoSeg, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: the features of one pass, away from which no margin may lead."""
    memory = remembering.model.memory
    assert memory is not None
    padded = pad(photographs(1, height=SIZE[0], width=SIZE[1]))
    with torch.no_grad():
        whole = memory._features(padded)
        small_tiles(monkeypatch)
        found = memory._features(padded)
    for one, other in zip(found, whole, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-3)


def cut(images: Tensor, tile: Tile, side: int) -> tuple[Tensor, Tensor]:
    top, left = tile.rows.start, tile.columns.start
    part = images[..., top : top + side, left : left + side]
    missing = (0, side - part.shape[-1], 0, side - part.shape[-2])
    padded = torch.nn.functional.pad(part, missing, mode="replicate")
    return padded, torch.tensor([[top, left, *images.shape[-2:]]]).float()


@pytest.mark.parametrize("size", [SIZE, (300, 2000), (40, 512)])
def test_the_highest_score_of_the_tiles_is_that_of_the_image(size: tuple[int, int]) -> None:
    """Oracle: the image's; where a tile's margin is higher, the tile beside it must say so."""
    anomaly_map = torch.rand(1, 1, *size)
    scores = [score_within(*cut(anomaly_map, tile, 512)) for tile in tiles_of(*size, 512)]
    torch.testing.assert_close(torch.stack(scores).amax(0), image_score(anomaly_map))
    lonely = torch.zeros_like(anomaly_map)
    lonely[..., -5:, -5:] = 1  # in the last corner
    scores = [score_within(*cut(lonely, tile, 512)) for tile in tiles_of(*size, 512)]
    torch.testing.assert_close(torch.stack(scores).amax(0), torch.ones(1))


@pytest.mark.parametrize("side", [64, 512, 2048])
def test_a_defect_scores_the_same_in_whatever_large_image(side: int) -> None:
    """Oracle: the defect's own mean. Noise of many more pixels does not reach it."""
    torch.manual_seed(side)
    anomaly_map = torch.rand(1, 1, side, side) * 0.2
    assert float(image_score(anomaly_map)) < 0.17  # one pixel of noise is up to 0.2
    anomaly_map[..., 20:28, 30:38] = 0.7
    assert float(image_score(anomaly_map)) == pytest.approx(0.7)


def test_a_margin_is_not_scored() -> None:
    spoilt = torch.zeros(1, 1, 512, 512)
    spoilt[..., :180, :] = 1  # what another tile sees better
    assert score_within(spoilt, torch.tensor([[320.0, 0.0, 1000.0, 512.0]])) == 0
    assert score_within(spoilt, torch.tensor([[0.0, 0.0, 1000.0, 512.0]])) == 1


@pytest.mark.parametrize(
    ("arguments", "side", "message"),
    [
        ({}, 512, "this model resizes them first: train with the pre-processor's image_size"),
        ({"pre_processor": PreProcessor("native")}, 500, "must be a multiple of 32"),
        ({"pre_processor": False}, SMALLEST_TILE - 32, f"{SMALLEST_TILE} or more"),
        (
            {"pre_processor": False, "image_score": "detector"},
            512,
            "image_score 'detector' judges whole images",
        ),
        (
            {"pre_processor": False, "backbone": "mobilenetv3_small_050"},
            512,
            "squeeze-and-excitation",
        ),
    ],
)
def test_what_has_no_tiles(arguments: dict[str, object], side: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TileModel(small_model(**arguments), side)


@pytest.mark.slow
@pytest.mark.parametrize("deep", [False, True], ids=["8 bits", "deeper"])
def test_infer_in_tiles_agrees_with_torch(remembering: AnoSeg, tmp_path: Path, deep: bool) -> None:
    """Oracle: one pass of torch.

    An image that is smaller than a tile is continued up to its size, which is seen at its border.
    """
    path = remembering.to_openvino(tmp_path, onnx_kwargs={"tile_size": SMALLEST_TILE})
    segmenter = Segmenter(path, precision="f32")
    images = [photographs(1, height=h, width=w) for h, w in (SIZE, (600, 640), (500, 560))]
    pixels = [(one[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8) for one in images]
    given = [one.astype(np.float32) / 255 if deep else one for one in pixels]
    frames = [Frame(str(n), one) for n, one in enumerate(given)] + [Frame("lost", None, "lost")]
    seen = list(segmenter(frames))
    assert seen[3] == (frames[3], None)
    for number, (one, (frame, prediction)) in enumerate(zip(pixels, seen[:3], strict=True)):
        expected = remembering(torch.from_numpy(one).permute(2, 0, 1)[None] / 255)
        assert frame.error == ""
        assert prediction is not None
        inside = slice(None, -MARGIN if number == 2 else None)
        difference = np.abs(prediction.anomaly_map - expected.anomaly_map[0, 0].numpy())
        assert difference[inside, inside].max() < 1e-3
        assert prediction.score == pytest.approx(
            float(expected.pred_score), abs=0.1 if number == 2 else 1e-3
        )
