"""Parts that lie in any direction: found by good images alone, and remembered as they may lie."""

import logging
from typing import Any

import pytest
import torch
from conftest import photographs
from torch import Tensor
from torch.nn import functional as F

from anomalib_anoseg.networks.memory import STRIDES, Memory
from anomalib_anoseg.networks.region import Region
from anomalib_anoseg.networks.turning import BEYOND, sources, turned
from anomalib_anoseg.training import remembering
from anomalib_anoseg.training.remembering import remember

NAME = "tf_efficientnet_lite0"
SIDE = 96


def wedges(angles: list[float], seed: int = 0) -> Tensor:
    """Return grey images with one bright wedge each, which points in a direction."""
    generator = torch.Generator().manual_seed(seed)
    grid = torch.linspace(-1, 1, SIDE)
    wedge = ((grid[:, None].abs() < 0.35 * (0.7 - grid)) & (grid > -0.7)).float()
    images = torch.full((len(angles), 3, SIDE, SIDE), 0.3) + 0.5 * wedge
    images = torch.cat([turned(i[None], a) for i, a in zip(images, angles, strict=True)])
    return (images + 0.01 * torch.randn(images.shape, generator=generator)).clamp(0, 1)


def angles(count: int) -> list[float]:
    return (torch.rand(count, generator=torch.Generator().manual_seed(1)) * 360).tolist()


def batches(images: Tensor) -> list[tuple[Tensor, Tensor]]:
    return [*zip(images.split(4), torch.arange(len(images)).split(4), strict=True)]


class Images:
    """As TrainingImages: batches and how many images there are."""

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __iter__(self) -> Any:
        return iter(batches(self.images))


def filled(images: Tensor, **options: Any) -> Memory:
    memory = Memory(NAME, 300)
    memory.fill(batches(images), len(images), **options)
    return memory


@pytest.mark.parametrize("quarters", [0, 1, 2, 3])
def test_a_quarter_turn_of_a_square_moves_pixels(quarters: int) -> None:
    images = torch.rand(2, 3, 64, 64)
    expected = images.rot90(quarters, (2, 3))
    torch.testing.assert_close(turned(images, 90 * quarters), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("size", [(16, 16), (8, 16)])
@pytest.mark.parametrize("degrees", [0, 45, 90, 180, 270, 300])
def test_sources_say_where_a_cell_was(size: tuple[int, int], degrees: float) -> None:
    """The middle pixel of each cell has the cell's number as its value."""
    height, width = size
    numbers = torch.arange(height * width, dtype=torch.float32).view(1, 1, *size)
    wide = F.interpolate(numbers, scale_factor=9, mode="nearest")
    there = turned(wide, degrees)[0, 0, 4::9, 4::9].flatten()
    found = sources(degrees, *size)
    inside = found != BEYOND
    # A cell's middle may come to lie on the border of two.
    alike = (there[inside] - found[inside]).abs() < 1e-2
    assert alike.float().mean() > 0.7
    if degrees % 90 == 0 and height == width:
        assert inside.all()
        assert alike.all()
        assert found.sort().values.tolist() == [*range(height * width)]


def test_what_a_turn_brings_in_from_beyond() -> None:
    corner = sources(45, 16, 16).view(16, 16)
    assert corner[0, 0] == corner[0, -1] == corner[-1, 0] == corner[-1, -1] == BEYOND
    assert corner[8, 8] != BEYOND
    assert 0.75 < float((corner != BEYOND).float().mean()) < 0.88  # an octagon: 0.83
    # A quarter turn of a wide image: its ends are not seen, and what is beyond comes in.
    wide = sources(90, 8, 16).view(8, 16)
    assert (wide[:, :4] == BEYOND).all()
    assert (wide[:, 12:] == BEYOND).all()
    assert (wide[:, 4:12] != BEYOND).all()


def test_good_images_tell_whether_parts_lie_in_any_direction() -> None:
    lying_so, upright = wedges(angles(12)), wedges([0] * 12)
    assert filled(lying_so).is_of_any_direction(batches(lying_so))
    assert not filled(upright).is_of_any_direction(batches(upright))


@pytest.mark.parametrize("count", [1, 3])
def test_images_that_are_all_alike_prove_nothing(count: int) -> None:
    images = wedges([0]).expand(count, -1, -1, -1)
    assert not filled(images).is_of_any_direction(batches(images))
    flat = torch.full((count, 3, 64, 64), 0.5)
    assert not filled(flat).is_of_any_direction(batches(flat))


def test_a_direction_that_no_image_shows_is_remembered() -> None:
    images = wedges([0] * 4)
    new = turned(wedges([0], seed=1), 90)
    far, near = (filled(images, turns=turns)(new).distance.mean() for turns in (1, 4))
    assert near < far - 0.5  # in deviations


def test_images_in_one_direction_are_remembered_as_before() -> None:
    images = photographs(4, height=64, width=64)
    memory = filled(images, turns=1)
    assert int(memory.turns) == 1
    for level, stride in zip(memory.levels, STRIDES, strict=True):
        assert len(level.rows) == min(300, 4 * (64 // stride) ** 2)
        assert level.place.max() == 64 // stride - 1


def test_a_turned_image_is_explained_by_the_good_one_as_it_lies() -> None:
    """What is nearest to a mark is the mark, wherever the turned image has it."""
    images = 0.5 + 0.02 * torch.rand(2, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    images[1, :, 24:40, 88:104] = 0.95
    memory = Memory(NAME, 5000)
    memory.fill(batches(images), 2, turns=4)
    for quarter in range(4):
        seen = turned(images[1:], 90 * quarter)
        row, column = divmod(int(seen[0, 0].flatten().argmax()), 128)
        match = memory.look_up(seen, row, column)
        assert match.owner == 1
        assert 20 <= match.row < 44
        assert 84 <= match.column < 108


@pytest.mark.parametrize("turns", [1, 8])
def test_no_turn_shows_what_is_not_inspected(turns: int) -> None:
    images = photographs(3, height=64, width=64)
    region = Region([[(0.25, 0.25), (0.75, 0.25), (0.75, 0.75), (0.25, 0.75)]])
    memory = filled(images, region=region, turns=turns)
    for level, stride in zip(memory.levels, STRIDES, strict=True):
        cells = 64 // stride
        assert level.place.min() >= cells // 4
        assert level.place.max() < 3 * cells // 4
    assert isinstance(memory.is_of_any_direction(batches(images), region), bool)


def test_how_many_directions_are_remembered_is_kept() -> None:
    images = wedges([0] * 2)
    memory, again = filled(images, turns=4), Memory(NAME, 300)
    again.load_state_dict(memory.state_dict())
    assert int(again.turns) == 4
    memory.fill(batches(images), 2)
    assert int(memory.turns) == 1


@pytest.mark.parametrize(("most", "directions"), [(96, 8), (95, 4), (48, 4), (47, 1)])
def test_few_images_are_remembered_in_more_directions(
    monkeypatch: pytest.MonkeyPatch, most: int, directions: int
) -> None:
    monkeypatch.setattr(remembering, "TURNED", most)
    memory = Memory(NAME, 300)
    remember(memory, Images(wedges(angles(12))), None)
    assert int(memory.turns) == directions


def test_upright_parts_are_remembered_upright(caplog: pytest.LogCaptureFixture) -> None:
    upright, lying_so = wedges([0] * 12), wedges(angles(12))
    memory = Memory(NAME, 300)
    with caplog.at_level(logging.INFO, "anomalib_anoseg"):
        remember(memory, Images(upright), None)
        assert not caplog.messages
        remember(Memory(NAME, 300), Images(lying_so), None)
    assert "remembered in 8 directions" in caplog.text
    torch.testing.assert_close(memory.state_dict(), filled(upright).state_dict(), rtol=0, atol=0)
