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
from anomalib_anoseg.networks.turning import OUTSIDE, places, turned
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
    """As TrainingImages: batches, how many images and how many pixels there are."""

    def __init__(self, images: Tensor) -> None:
        self.images = images
        self.pixels = images[:, 0].numel()

    def __len__(self) -> int:
        return len(self.images)

    def __iter__(self) -> Any:
        return iter(batches(self.images))


def filled(images: Tensor, **options: Any) -> Memory:
    memory = Memory(NAME, 300)
    memory.fill(batches(images), len(images), **options)
    return memory


@pytest.mark.parametrize("quarters", [0, 1, 2, 3])
def test_an_eighth_more_than_a_quarter_is_the_quarter_of_an_eighth(quarters: int) -> None:
    images = torch.rand(2, 3, 64, 64)
    expected = turned(images, 45).rot90(quarters, (2, 3))
    torch.testing.assert_close(turned(images, 45 + 90 * quarters), expected)


def test_which_way_it_turns() -> None:
    images = torch.zeros(1, 1, 41, 41)
    images[..., 20, 36] = 1.0  # on the right
    up = turned(images, 90)[0, 0]
    assert (up == 1).nonzero().tolist() == [[4, 20]]
    between = turned(images, 45)[0, 0]
    row, column = divmod(int(between.argmax()), 41)
    assert (row, column) == (9, 31)  # 16 away from the middle, up and to the right


@pytest.mark.parametrize("size", [(16, 16), (8, 16)])
@pytest.mark.parametrize("degrees", [0, 45, 90, 135, 180, 270, 300])
def test_places_say_where_a_cell_was(size: tuple[int, int], degrees: float) -> None:
    """The pixels of each cell hold its row and its column."""
    height, width = size
    cells = torch.stack(torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij"))
    pixels = F.interpolate(cells[None].float(), scale_factor=9, mode="nearest")
    there = turned(pixels, degrees)[0, :, 4::9, 4::9].flatten(1).T
    found = places(degrees, *size)
    inside = found[:, 0] != OUTSIDE
    assert inside.any()
    # A cell's middle may come to lie on the border of two.
    off = (there - found)[inside].abs().max()
    assert off == 0 if degrees % 90 == 0 else off <= 0.51
    if degrees % 90 == 0:
        assert sorted(map(tuple, found.tolist())) == [*map(tuple, cells.flatten(1).T.tolist())]


def test_what_a_turn_brings_in_from_beyond_and_its_surroundings_are_not_seen() -> None:
    """The share is by hand: an octagon has 0.83 of its square, less three cells on each side."""
    seen = (places(45, 64, 64)[:, 0] != OUTSIDE).view(64, 64)
    assert not seen[[0, 0, -1, -1], [0, -1, 0, -1]].any()
    assert seen[32].all()  # its frame is the image's own
    assert 0.70 < float(seen.float().mean()) < 0.80


def test_bfloat16_is_turned_in_float32() -> None:
    images = torch.rand(1, 3, 256, 256).bfloat16()
    expected = turned(images.float(), 45).bfloat16()
    assert torch.equal(turned(images, 45), expected)


def test_good_images_tell_whether_parts_lie_in_any_direction() -> None:
    lying_so, upright = wedges(angles(12)), wedges([0] * 12)
    assert filled(lying_so).lie_in_any_direction(batches(lying_so))
    assert not filled(upright).lie_in_any_direction(batches(upright))


def test_a_small_print_on_even_ground_lies_in_one_direction() -> None:
    """Most of such an image looks alike from all sides."""
    images = torch.full((8, 3, SIDE, SIDE), 0.4)
    for column in range(16):
        images[:, :, 20 : 21 + column // 2, 20 + column] = 0.8
    images = images + 0.05 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    images = images.clamp(0, 1)
    assert not filled(images).lie_in_any_direction(batches(images))


def test_wide_images_are_turned_whole() -> None:
    """All of them is seen on their side too; their ends differ from each other."""
    generator = torch.Generator().manual_seed(0)
    images = 0.4 + 0.05 * torch.randn((8, 3, SIDE, 3 * SIDE), generator=generator)
    images[..., :64] += 0.3 * torch.rand((8, 1, 1, 64), generator=generator)
    images = images.clamp(0, 1)
    assert not filled(images).lie_in_any_direction(batches(images))
    memory = filled(images[:2], turns=8)
    for level, stride in zip(memory.levels, STRIDES, strict=True):
        assert (level.place >= 0).all()
        assert (level.place < torch.tensor([SIDE, 3 * SIDE]) // stride).all()
    grain = images[..., 64:]
    assert filled(grain).lie_in_any_direction(batches(grain))


@pytest.mark.parametrize("count", [1, 3])
def test_images_that_are_all_alike_prove_nothing(count: int) -> None:
    images = wedges([0]).expand(count, -1, -1, -1)
    assert not filled(images).lie_in_any_direction(batches(images))
    flat = torch.full((count, 3, 64, 64), 0.5)
    assert not filled(flat).lie_in_any_direction(batches(flat))


def test_a_direction_that_no_image_shows_is_remembered() -> None:
    images = wedges([0] * 4)
    new = turned(wedges([0], seed=1), 90)
    far, near = (filled(images, turns=turns)(new).distance.mean() for turns in (1, 4))
    assert near < far - 0.5  # in deviations


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


@pytest.fixture
def directions(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return in how many directions a memory is filled, each time that it is."""
    found: list[int] = []
    real = Memory.fill

    def fill(self: Memory, *args: Any, **options: Any) -> None:
        found.append(args[4] if len(args) == 5 else 1)
        real(self, *args, **options)

    monkeypatch.setattr(Memory, "fill", fill)
    return found


@pytest.mark.parametrize(
    ("most", "expected"), [(96, [1, 8]), (95, [1, 4]), (48, [1, 4]), (47, [1])]
)
def test_few_images_are_remembered_in_more_directions(
    monkeypatch: pytest.MonkeyPatch, directions: list[int], most: int, expected: list[int]
) -> None:
    monkeypatch.setattr(remembering, "TURNED", most * SIDE**2)
    remember(Memory(NAME, 300), Images(wedges(angles(12))))
    assert directions == expected


def test_upright_parts_are_remembered_upright(caplog: pytest.LogCaptureFixture) -> None:
    upright, lying_so = wedges([0] * 12), wedges(angles(12))
    memory = Memory(NAME, 300)
    with caplog.at_level(logging.INFO):
        remember(memory, Images(upright))
        assert not caplog.messages
        remember(Memory(NAME, 300), Images(lying_so))
    assert "remembered in 8 directions" in caplog.text
    torch.testing.assert_close(memory.state_dict(), filled(upright).state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("lying_so", [True, False])
def test_new_images_beside_others(lying_so: bool, directions: list[int]) -> None:
    """Two show no directions to speak of: what is remembered does."""
    old, new = (wedges(angles(12)), wedges([10, 200])) if lying_so else (wedges([0] * 12),) * 2
    memory = filled(old)
    remember(memory, Images(new), before=12)
    assert directions == [1, 8 if lying_so else 1]
