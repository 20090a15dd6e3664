"""Which good image and place the page says that a defect was compared with.

Oracle: a copy of a remembered image is nearest to itself, place by place; elsewhere a loop over all
remembered rows.
"""

import base64
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import noisy_batch, photographs, segmenter
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2.functional import to_pil_image

from anomalib_anoseg import AnoSeg, PreProcessor
from anomalib_anoseg.inference.thresholds import Thresholds
from anomalib_anoseg.networks.memory import STRIDES, Match, Memory
from anomalib_anoseg.report.examples import make_examples
from anomalib_anoseg.report.nearest import DEFECTS, Comparison, compare, highest
from anomalib_anoseg.report.pages import Scores, model_page
from anomalib_anoseg.training.content import number_of
from anomalib_anoseg.utils.images import read_image

HALF = Thresholds(0.5, 0.5)
HEIGHT, WIDTH = 90, 70  # neither is a multiple of 32
COLUMN = "nearest good place</th>"


def read(path: str) -> Tensor:
    return torch.from_numpy(read_image(Path(path))).permute(2, 0, 1)[None].float() / 255


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> AnoSeg:
    """Not trained, but with every place of two good images in its memory."""
    folder = tmp_path_factory.mktemp("nearest") / "good"
    folder.mkdir()
    model = segmenter(
        pre_trained=True, memory_rows=5000, pre_processor=PreProcessor((HEIGHT, WIDTH))
    ).eval()
    for name, image in zip("ab", photographs(2, height=HEIGHT, width=WIDTH), strict=True):
        path = str(folder / f"{name}.png")
        to_pil_image(image).save(path)
        model.remembered[number_of(path)] = path
    images = torch.cat([read(path) for path in model.remembered.values()])
    memory_of(model).fill([(images, torch.tensor([*model.remembered]))], 2)
    return model


def memory_of(model: AnoSeg) -> Memory:
    assert model.model.memory is not None
    return model.model.memory


def defective(model: AnoSeg) -> Tensor:
    """Return the second good image with stripes in it that neither has."""
    image = read([*model.remembered.values()][1])
    image[:, :, 16:36, 20:40] = (torch.arange(20) // 3 % 2).float()
    return image


def peak(row: int, column: int) -> Tensor:
    """Return a map that is highest around one pixel."""
    anomaly_map = torch.zeros(1, HEIGHT, WIDTH)
    anomaly_map[:, row - 2 : row + 3, column - 2 : column + 3] = 1
    return anomaly_map


def asked(model: AnoSeg, image: Tensor, row: int, column: int) -> Comparison:
    (found,) = compare(model, image, peak(row, column), 0.5)
    return found


def pixels_of(uri: str | None) -> Tensor:
    assert uri is not None
    picture = Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))
    return torch.from_numpy(np.array(picture.convert("RGBA"))).permute(2, 0, 1) / 255


def test_a_remembered_image_is_nearest_to_itself(model: AnoSeg) -> None:
    for number, path in model.remembered.items():
        for row, column in ((0, 0), (HEIGHT - 1, WIDTH - 1), (7, 64), (50, 33), (81, 5)):
            found = memory_of(model).look_up(read(path), row, column)
            assert found == Match(number, row, column)


def test_places_are_right_in_images_of_different_sizes() -> None:
    """Also in those of which only a part is looked at again."""
    memory = Memory("tf_efficientnet_lite0", 6000)
    sizes = (40, 900), (700, 50)
    images = [photographs(1, height=height, width=width) for height, width in sizes]
    memory.fill([(image, torch.tensor([i])) for i, image in enumerate(images)], 2)
    for number, (image, (height, width)) in enumerate(zip(images, sizes, strict=True)):
        for row, column in ((0, 0), (39, 49), (height - 1, width - 1), (height // 2, width // 2)):
            assert memory.look_up(image, row, column) == Match(number, row, column)


def test_a_defect_is_compared_as_a_loop_over_all_rows_finds(model: AnoSeg) -> None:
    memory, image = memory_of(model), defective(model)
    with torch.no_grad():
        differences = memory(image).differences
        features = memory._features(torch.nn.functional.pad(image, (0, 26, 0, 6), "replicate"))
    levels = [*memory.levels]
    for row, column in ((20, 25), (30, 38), (17, 21)):
        deviations = [
            (differences[index][0, -1, row // stride, column // stride] - level.mean) / level.std
            for index, stride, level in zip(memory.indices, STRIDES, levels, strict=True)
        ]
        which = int(torch.stack(deviations).argmax())
        stride, level = STRIDES[which], levels[which]
        pooled = torch.nn.functional.avg_pool2d(features[memory.indices[which]], 3, 1, 1)
        here = pooled[0, :, row // stride, column // stride]
        near = min(range(len(level.rows)), key=lambda i: float((level.rows[i] - here).norm()))
        found = memory.look_up(image, row, column)
        assert found.owner == level.owner[near]
        assert [found.row // stride, found.column // stride] == level.place[near].tolist()
        assert (found.row % stride, found.column % stride) == (row % stride, column % stride)


def test_the_rest_of_a_defective_image_is_compared_with_itself(model: AnoSeg) -> None:
    image = defective(model)
    found = asked(model, image, 80, 10)
    assert (found.name, found.problem) == ("good/b.png", "")
    assert (found.height, found.width) == (HEIGHT, WIDTH)
    assert (found.here.row, found.here.column) == (80, 10)
    assert (found.there.row, found.there.column) == (80, 10)
    assert found.here.crop == found.there.crop
    assert str(found.here) == "(10, 80)"


def test_crops_are_cut_around_their_places(model: AnoSeg) -> None:
    image = defective(model)
    found = asked(model, image, 30, 30)
    height, width = HEIGHT // 4, WIDTH // 4
    good = read(next(p for p in model.remembered.values() if p.endswith(found.name)))
    for place, whole in ((found.here, image), (found.there, good)):
        crop = pixels_of(place.crop)
        assert crop.shape == (4, height, width)
        top, left = place.row - height // 2, place.column - width // 2
        inside = crop[3] > 0.5
        rows, columns = (torch.nonzero(inside.any(side)).flatten() for side in (1, 0))
        expected = whole[0][:, top + rows][:, :, left + columns]
        # WebP halves the resolution of colours.
        assert (crop[:3, rows][:, :, columns] - expected).mean(0).abs().mean() < 0.05
    corner = pixels_of(asked(model, image, 2, 2).here.crop)
    assert (corner[3] > 0.5).sum() == (height - height // 2 + 2) * (width - width // 2 + 2)


def test_each_defect_has_a_place_the_highest_first() -> None:
    """By hand: the middles of four squares, by their height; the last is one too many."""
    squares = {(10, 20): 0.7, (40, 30): 0.9, (70, 8): 0.8, (70, 60): 0.6}
    anomaly_map = sum(value * peak(*place) for place, value in squares.items())
    assert isinstance(anomaly_map, Tensor)
    assert highest(anomaly_map, 0.5) == [(40, 30), (70, 8), (10, 20)]
    assert highest(anomaly_map, 0.75) == [(40, 30), (70, 8)]
    assert highest(anomaly_map, 0.95) == [(40, 30)]  # no defect, but what gave the score
    assert highest(torch.zeros(1, HEIGHT, WIDTH), 0.5) == [(2, 2)]
    assert highest(torch.ones(1, HEIGHT, WIDTH), 0.5) == [(2, 2)]


def page(*comparisons: Comparison, times: int = 1) -> str:
    (example,) = make_examples(noisy_batch(), torch.ones(1, 1, 256, 256), 0.5)
    example = example._replace(comparisons=comparisons)
    return model_page("page", {}, {}, times * [example], [], HALF, Scores([], times * [1.0]))


def test_the_page_shows_and_says_both_places(model: AnoSeg) -> None:
    found = asked(model, defective(model), 30, 30)
    html = page(found)
    assert COLUMN in html
    assert f'<img src="{found.here.crop}" alt="hole/000.png around {found.here}"' in html
    assert f'<img src="{found.there.crop}" alt="{found.name} around {found.there}"' in html
    assert "<figcaption>(30, 30) of 70 \u00d7 90<" in html
    assert f"<figcaption>{found.there} of {found.name}<" in html


def test_a_page_of_200_images_with_crops_is_small(model: AnoSeg) -> None:
    """Crops of a large network, as noisy as photographs: reduced to what a page shows."""
    large = model.pre_processor
    model.pre_processor = PreProcessor((512, 512))
    image = photographs(1, height=512, width=512)
    anomaly_map = torch.zeros(1, 512, 512)
    stripes = anomaly_map.index_fill(1, torch.tensor([128, 256, 384]), 1)
    found = compare(model, image, stripes, 0.5)
    model.pre_processor = large
    assert len(found) == DEFECTS
    assert pixels_of(found[0].here.crop).shape == (4, 96, 96)
    assert len(page(*found, times=200)) < 15e6


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "the file is not where it was in training"),
        (b"\x89PNG\r\n", "broken.png"),
        ("a.png", "the file has changed since training"),
    ],
)
def test_an_image_that_is_not_there_is_still_named(
    content: bytes | str | None, words: str, model: AnoSeg, tmp_path: Path
) -> None:
    (first, other), paths = model.remembered, dict(model.remembered)
    path = tmp_path / "broken.png"
    if isinstance(content, str):
        path.write_bytes(Path(paths[first]).read_bytes())
    elif content is not None:
        path.write_bytes(content)
    image = defective(model)
    model.remembered[other] = str(path)
    found = asked(model, image, 80, 10)
    model.remembered = paths
    assert found.there.crop is None
    assert (found.there.row, found.there.column) == (80, 10)
    assert words in found.problem
    html = page(found)
    assert f"(10, 80) of {tmp_path.name}/broken.png, which cannot be shown: " in html
    assert html.count("<img") == 5  # two of them of the large view
    assert "None" not in html


def test_a_model_without_a_memory_says_nothing_of_it(model: AnoSeg) -> None:
    image = defective(model)
    for other in (segmenter(), segmenter(pre_trained=True)):  # the latter's memory is not filled
        assert compare(other.eval(), image, peak(30, 30), 0.5) == []
    html = page()
    assert COLUMN not in html
    assert "memory" not in html
