"""What is remembered of good images, and how far others are from it."""

import gc
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from conftest import photographs
from torch import Tensor
from torch.nn.functional import interpolate

from anomalib_anoseg import AnoSeg
from anomalib_anoseg.networks import coreset as coreset_module
from anomalib_anoseg.networks import level as level_module
from anomalib_anoseg.networks import memory as memory_module
from anomalib_anoseg.networks.coreset import coreset
from anomalib_anoseg.networks.decoders import MemoryDecoder
from anomalib_anoseg.networks.level import Level
from anomalib_anoseg.networks.memory import STRIDES, Memory, Recollection
from anomalib_anoseg.networks.pretrained import weights_follow

NAME = "tf_efficientnet_lite0"
NOBODY = torch.tensor([-1])


def made(rows: int = 100) -> Memory:
    return Memory(NAME, rows)


def batches(images: Tensor, numbers: Tensor | None = None) -> list[tuple[Tensor, Tensor]]:
    numbers = torch.arange(len(images)) if numbers is None else numbers
    return [*zip(images.split(2), numbers.split(2), strict=True)]


def filled(images: Tensor, numbers: Tensor | None = None, rows: int = 100) -> Memory:
    memory = made(rows)
    memory.fill(batches(images, numbers), len(images))
    return memory


def levels(memory: Memory) -> list[Level]:
    return [level for level in memory.levels if isinstance(level, Level)]


@pytest.fixture(scope="module")
def images() -> Tensor:
    torch.manual_seed(0)
    return photographs(4, height=64, width=64)


@pytest.fixture(scope="module")
def memory(images: Tensor) -> Memory:
    """Return a memory of four images; not to be changed."""
    return filled(images)


def level_of(rows: Tensor, owner: Tensor) -> Level:
    level = Level(rows.shape[1])
    level.keep(rows, owner, torch.arange(len(rows)), len(rows), torch.Generator().manual_seed(0))
    return level


def slow_nearest(rows: Tensor, owners: Tensor, place: Tensor, own: int) -> int:
    """Return the index of the nearest row of another image, one by one."""
    best, found = math.inf, -1
    for index, (row, owner) in enumerate(zip(rows, owners, strict=True)):
        distance = math.dist(row.tolist(), place.tolist())
        if int(owner) != own and distance < best:
            best, found = distance, index
    return found


def test_a_single_place_has_no_deviation() -> None:
    """One image, of which the region shows a single place."""
    level = level_of(torch.randn(1, 5), torch.zeros(1, dtype=torch.long))
    assert level(torch.randn(1, 5, 2, 2)).isfinite().all()


@pytest.mark.parametrize("own", [-1, 0, 2])
def test_nearest_rows(own: int) -> None:
    """Oracle: a loop over rows and places."""
    rows, owner = torch.randn(30, 5), torch.arange(30) % 3
    level = level_of(rows, owner)
    features = torch.randn(2, 5, 3, 4)
    numbers = torch.tensor([own, 1])
    near = level.nearest(features, numbers)
    seen = level(features, numbers)
    assert near.shape == (2, 12)
    assert seen.shape == (2, 6, 3, 4)
    for image in range(2):
        for place in range(12):
            wanted = features[image].flatten(1)[:, place]
            index = slow_nearest(rows, owner, wanted, int(numbers[image]))
            assert near[image, place] == index
            difference = (wanted - rows[index]).abs()
            got = seen[image].flatten(1)[:, place]
            torch.testing.assert_close(got[:-1], difference)
            torch.testing.assert_close(got[-1], difference.square().mean().sqrt())


def test_distances_of_good_images_are_those_to_other_images() -> None:
    """By hand: rows at 0 and 1 of one image, at 3 and 7 of another, one channel."""
    level = level_of(torch.tensor([[0.0], [1.0], [3.0], [7.0]]), torch.tensor([0, 0, 1, 1]))
    distances = torch.tensor([3.0, 2.0, 2.0, 6.0])
    torch.testing.assert_close(level.mean, distances.mean())
    torch.testing.assert_close(level.std, distances.std())


def test_rows_beside_those_before() -> None:
    """By hand: rows at 0 and 1 stay, and new images at 3 and 7 are 2 and 4 from the nearest."""
    level = level_of(torch.tensor([[0.0], [1.0]]), torch.tensor([0, 1]))
    level.mean.fill_(1.0)
    level.std.fill_(2.0)
    rows, owner = torch.tensor([[3.0], [7.0]]), torch.tensor([5, 6])
    level.keep(rows, owner, torch.zeros(2, dtype=torch.long), 9, torch.Generator(), before=0.75)
    assert level.rows.flatten().tolist() == [0, 1, 3, 7]
    assert level.owner.tolist() == [0, 1, 5, 6]
    # A mixture: the means are 1 and 3, the variances 4 and 2.
    torch.testing.assert_close(level.mean, torch.tensor(0.75 * 1 + 0.25 * 3))
    variance = 0.75 * 4 + 0.25 * 2 + 0.75 * 0.25 * (3 - 1) ** 2
    torch.testing.assert_close(level.std, torch.tensor(variance**0.5))


def test_many_new_images_do_not_crowd_out_the_old_ones() -> None:
    """Old rows in one corner, a thousand times as many new ones in another, places for ten."""
    old, new = torch.rand(10, 4), 5 + torch.rand(10_000, 4)
    level = level_of(old, torch.zeros(10, dtype=torch.long))
    owner = torch.arange(1, 11).repeat_interleave(1000)
    place = torch.zeros(len(new), dtype=torch.long)
    level.keep(new, owner, place, 10, torch.Generator().manual_seed(0), before=0.5)
    assert len(level.rows) == 10
    assert (level.owner == 0).any()
    assert (level.owner > 0).any()
    for rows in (old, new):  # half a corner's diagonal would be 1
        assert torch.cdist(rows, level.rows).amin(1).max() < 1


def test_adding_forgets_nothing_where_there_is_room(images: Tensor) -> None:
    """Oracle: each image at distance 0 from what is remembered of it."""
    memory = made(rows=5000)
    memory.fill(batches(images[:2]), 2)
    memory.fill(batches(images[2:], torch.tensor([2, 3])), 2, before=2)
    for compared in memory(images).differences.values():
        assert compared[:, -1].max() == 0
    assert all(level.owner.unique().tolist() == [0, 1, 2, 3] for level in levels(memory))


def test_where_only_its_own_rows_are_left_an_image_is_compared_with_them() -> None:
    """Oracle: the same without a number. Else each place were compared with an arbitrary row."""
    rows = torch.randn(20, 4)
    level = level_of(rows, torch.zeros(20, dtype=torch.long))
    features = torch.randn(2, 4, 2, 2)
    for numbers in (torch.tensor([0, 0]), torch.tensor([0, 7])):
        torch.testing.assert_close(level(features, numbers), level(features), rtol=0, atol=0)


def test_distances_are_right_where_features_are_large() -> None:
    """Oracle: float64. The square of a sum loses what is small, the difference itself does not."""
    rows = 300 + torch.randn(50, 8)
    level = level_of(rows, torch.arange(50))
    features = 300 + torch.randn(1, 8, 5, 5)
    places = features.flatten(2)[0].T.double()
    expected = torch.cdist(places, rows.double()).amin(1) / 8**0.5
    torch.testing.assert_close(
        level(features)[0, -1].flatten().double(), expected, rtol=1e-2, atol=0
    )


def slow_coreset(points: Tensor, count: int) -> list[int]:
    """Return the row furthest from the mean, then always the one furthest from those before."""
    centre = points.mean(0)
    kept = [max(range(len(points)), key=lambda i: float((points[i] - centre).norm()))]
    while len(kept) < count:

        def alone(index: int) -> float:
            return min(float((points[index] - points[other]).norm()) for other in kept)

        kept.append(max(range(len(points)), key=alone))
    return kept


def test_coreset(monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: the definition, on the projected points; there are as many directions as channels."""
    monkeypatch.setattr(coreset_module, "PROJECTIONS", 6)
    rows = torch.randn(60, 6)
    found = coreset(rows, 12, torch.Generator().manual_seed(5))
    directions = torch.randn(6, 6, generator=torch.Generator().manual_seed(5))
    assert found.tolist() == slow_coreset(rows @ directions, 12)


def test_a_coreset_covers_what_chance_would_leave_out() -> None:
    """One in a hundred rows lies apart."""
    rows = torch.randn(1000, 64)
    rows[::100] += 20 * torch.randn(10, 64)
    found = coreset(rows, 30, torch.Generator().manual_seed(0))
    assert {*range(0, 1000, 100)} <= {*found.tolist()}


def test_a_coreset_covers_the_middle() -> None:
    """A third of the rows lies where their mean is, far from the others."""
    rows = torch.cat([0.1 * torch.randn(30, 8) + offset for offset in (-10, 0, 10)])
    found = coreset(rows, 3, torch.Generator().manual_seed(0))
    assert sorted(index // 30 for index in found.tolist()) == [0, 1, 2]


@pytest.mark.parametrize("count", [20, 21, 1000])
def test_a_coreset_of_more_rows_than_there_are(count: int) -> None:
    found = coreset(torch.randn(20, 4), count, torch.Generator())
    assert found.tolist() == [*range(20)]


def test_what_is_kept_comes_from_where_it_says(images: Tensor, memory: Memory) -> None:
    """Oracle: the encoder's features at the owner and the place of each row."""
    with torch.no_grad():
        features = memory.encoder((images - memory.mean) / memory.std)
    for index, level in zip(memory.indices, levels(memory), strict=True):
        pooled = torch.nn.functional.avg_pool2d(features[index], 3, 1, 1)
        expected = pooled[level.owner, :, level.place[:, 0], level.place[:, 1]]
        torch.testing.assert_close(level.rows, expected, rtol=1e-3, atol=1e-3)
    # 64, 256 and 1024 places in 4 images of 64 x 64, at strides 16, 8 and 4; 100 at most.
    assert [len(level.rows) for level in levels(memory)] == [100, 100, 64]
    assert STRIDES == (4, 8, 16)


def test_a_defect_stands_out(images: Tensor, memory: Memory) -> None:
    defective = images[:1].clone()
    defective[..., 24:40, 24:40] = torch.rand(16, 16)
    good = memory(images[:1]).distance
    bad = memory(defective).distance
    assert bad.shape == (1, 1, 64, 64)
    assert bad[..., 28:36, 28:36].mean() > good.amax()
    assert bad[0, 0].argmax() // 64 in range(16, 48)


def test_the_distance_is_the_mean_of_those_of_all_levels(memory: Memory) -> None:
    """Oracle: by hand, from what each level says of its own places."""
    shown = photographs(2, height=64, width=64)
    found = memory(shown)
    usual = [
        (found.differences[index][:, -1:] - level.mean) / level.std
        for index, level in zip(memory.indices, levels(memory), strict=True)
    ]
    size = usual[0].shape[-2:]
    parts = [interpolate(one, size=size, mode="bilinear") for one in usual]
    expected = interpolate((parts[0] + parts[1] + parts[2]) / 3, size=(64, 64), mode="bilinear")
    torch.testing.assert_close(found.distance, expected)


def test_rows_of_the_same_image_are_left_out(images: Tensor, memory: Memory) -> None:
    """Oracle: a memory in which the image never was. Rows are not thinned, so that both agree."""
    whole, without = filled(images, rows=5000), filled(images[1:], rows=5000)
    left_out = whole(images[:1], torch.tensor([0])).differences
    never_there = without(images[:1]).differences
    for stride, seen in left_out.items():
        torch.testing.assert_close(seen, never_there[stride], rtol=1e-4, atol=1e-4)
    recalled = whole(images[:1]).differences
    assert max(seen[:, -1].amax() for seen in recalled.values()) < 1e-2  # it finds itself
    assert min(seen[:, -1].amin() for seen in left_out.values()) > 1e-2
    assert memory(images[:1], NOBODY).distance.equal(memory(images[:1]).distance)


def test_images_of_one_number_count_as_one(images: Tensor) -> None:
    """Oracle: by the same image twice under two numbers, each finds itself in the other."""
    twice = torch.cat([images, images])
    once = filled(twice, torch.arange(8) % 4, rows=5000)
    apart = filled(twice, rows=5000)
    for one, two in zip(levels(once), levels(apart), strict=True):
        assert one.mean > 0.1
        assert two.mean < 1e-3


@pytest.mark.parametrize("numbers", [[0, 1, 2], [0, 0, 0]], ids=["three files", "three copies"])
def test_images_that_are_all_alike(numbers: list[int]) -> None:
    """Distances are 0, and so is what they deviate by."""
    alike = torch.full((3, 3, 64, 64), 0.5)
    memory = filled(alike, torch.tensor(numbers))
    seen = memory(alike[:1])
    assert seen.distance.abs().max() < 1
    other = memory(photographs(1, height=64, width=64)).distance
    assert other.isfinite().all()
    assert other.amax() > 100


@pytest.mark.parametrize("count", [1, 5])
def test_few_images_are_enough_to_start(count: int) -> None:
    images = photographs(count, height=64, width=64)
    memory = filled(images)
    assert sorted(set(levels(memory)[0].owner.tolist())) == [*range(count)]
    for owners in (None, torch.arange(count)):
        seen = memory(images, owners)
        assert seen.distance.isfinite().all()
        assert all(value.isfinite().all() for value in seen.differences.values())
    assert memory(1 - images).distance.amax() > memory(images).distance.amax()


def test_images_of_several_sizes() -> None:
    sizes = ((64, 64), (96, 33), (50, 130))
    images = [photographs(1, height=height, width=width) for height, width in sizes]
    memory = made()
    memory.fill([(image, torch.tensor([i])) for i, image in enumerate(images)], 3)
    for image, (height, width) in zip(images, ((64, 64), (96, 64), (64, 160)), strict=True):
        assert memory(image).distance.shape == (1, 1, height, width)


def test_the_same_images_give_the_same_memory(images: Tensor, memory: Memory) -> None:
    """Whatever the random numbers of training are, and without taking any of them."""
    again = made()
    torch.manual_seed(123)
    expected = torch.rand(1)
    torch.manual_seed(123)
    again.fill(batches(images), len(images))
    assert torch.rand(1) == expected
    torch.testing.assert_close(again.state_dict(), memory.state_dict(), rtol=0, atol=0)


def test_filled_again_it_forgets_what_was(images: Tensor, memory: Memory) -> None:
    used = filled(photographs(3, height=64, width=64))
    used.fill(batches(images), len(images))
    torch.testing.assert_close(used.state_dict(), memory.state_dict(), rtol=0, atol=0)


def test_it_does_not_grow_with_the_number_of_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forty images of 1024 + 256 + 64 places each; 200 of a level may be candidates."""
    monkeypatch.setattr(memory_module, "CANDIDATES", 200)
    offered: list[int] = []

    def watched(rows: Tensor, count: int, generator: torch.Generator) -> Tensor:
        offered.append(len(rows))
        return coreset(rows, count, generator)

    monkeypatch.setattr(level_module, "coreset", watched)

    def stream() -> Iterator[tuple[Tensor, Tensor]]:
        for index in range(40):
            yield photographs(1, height=64, width=64), torch.tensor([index])

    memory = made()
    memory.fill(stream(), 40)
    assert offered == [200, 200, 200]
    assert all(len(level.rows) == 100 for level in levels(memory))


def test_rows_keep_nothing_of_the_image_that_they_were_drawn_from(
    images: Tensor, memory: Memory
) -> None:
    """A view would hold all places of all images, in memory and in a checkpoint."""
    del images
    for level in levels(memory):
        assert level.rows.untyped_storage().nbytes() == level.rows.nbytes


def test_values_that_are_no_numbers_are_refused(images: Tensor) -> None:
    bad = images.clone()
    bad[2, 0, 5, 5] = math.nan
    with pytest.raises(ValueError, match="not finite in a good image"):
        filled(bad)


def test_filling_holds_no_more_with_each_image(images: Tensor) -> None:
    """10,000 images took 6 GB: what was held of each kept the encoder's memory from the system."""
    alive = []

    def counted() -> Iterator[tuple[Tensor, Tensor]]:
        for index in range(6):
            gc.collect()
            alive.append(sum(isinstance(thing, Tensor) for thing in gc.get_objects()))
            yield images[:1], torch.tensor([index])

    made().fill(counted(), 6)
    assert alive[-1] == alive[2]


@pytest.mark.parametrize(
    ("name", "strides"), [("vit_tiny_patch16_224", r"\[16, 16, 16\]"), ("resnet10t", None)]
)
def test_an_encoder_of_one_stride_is_refused(name: str, strides: str | None) -> None:
    with weights_follow():  # none are needed to tell
        if strides is None:
            Memory(name, 10)
            return
        with pytest.raises(ValueError, match=rf"strides \(4, 8, 16\), {name}.* {strides}"):
            Memory(name, 10)


def test_a_name_that_timm_does_not_know() -> None:
    with pytest.raises(ValueError, match="memory_backbone 'resnet1' cannot be built"):
        Memory("resnet1", 10)


def test_a_state_with_another_number_of_rows(images: Tensor, memory: Memory) -> None:
    """Oracle: what the first one says. The limit may be another, too."""
    other = made(rows=7)
    other.load_state_dict(memory.state_dict())
    torch.testing.assert_close(other.state_dict(), memory.state_dict(), rtol=0, atol=0)
    torch.testing.assert_close(other(images).distance, memory(images).distance, rtol=0, atol=0)


def test_a_state_of_another_encoder(memory: Memory) -> None:
    with weights_follow():
        other = Memory("resnet10t", 10)
    with pytest.raises(RuntimeError, match=r"levels\.0\.rows"):
        other.load_state_dict(memory.state_dict())
    assert [level.rows.shape[1] for level in levels(other)] == other.channels[1:4]


def test_nothing_is_trained(images: Tensor) -> None:
    """Neither weights nor statistics of the encoder move, whatever training does."""
    model = AnoSeg(backbone="resnet10t", memory_rows=10)
    memory = model.model.memory
    assert memory is not None
    before = {name: value.clone() for name, value in memory.state_dict().items()}
    model.train()
    assert model.model.training
    assert not any(part.training for part in memory.modules())
    output: Any = model.model(images, torch.arange(4))
    output.memory_logits.sum().backward()
    assert all(p.grad is None and not p.requires_grad for p in memory.parameters())
    weights = [*model.model.memory_decoder.parameters()]
    assert all(weight.grad is not None for weight in weights)
    torch.testing.assert_close(memory.state_dict(), before, rtol=0, atol=0)


def test_mixed_precision(images: Tensor, memory: Memory) -> None:
    """Oracle: float32. What is remembered was seen in float32, and the decoder runs in bfloat16."""
    others = photographs(2, height=64, width=64)
    expected = memory(others)
    with torch.autocast("cpu", torch.bfloat16):
        seen = memory(others)
        found_itself = memory(images)
    assert seen.distance.isfinite().all()
    assert (seen.distance - expected.distance).abs().mean() < 0.1 * expected.distance.std()
    assert found_itself.distance.mean() < expected.distance.mean()


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float64])
def test_a_memory_in_another_precision(
    precision: torch.dtype, images: Tensor, memory: Memory
) -> None:
    """Lightning's "bf16-true" and "64-true" convert a whole model before it is filled."""
    others = photographs(8, height=64, width=64)
    converted = made().to(precision)
    converted.fill(batches(images), len(images))
    seen, expected = converted(others).distance, memory(others).distance
    assert seen.isfinite().all()
    assert (seen - expected).abs().mean() < 0.3 * expected.std()


def test_a_memory_that_was_never_filled() -> None:
    """It can be exported; what it says is finite."""
    seen = made()(photographs(1, height=64, width=64), torch.tensor([0]))
    assert seen.distance.isfinite().all()


class TestMemoryDecoder:
    """What it reads of the features, and what it does not."""

    def parts(self, images: Tensor, memory: Memory) -> tuple[MemoryDecoder, Recollection]:
        decoder = MemoryDecoder(memory.channels, memory.strides, memory.indices).eval()
        with torch.no_grad():
            return decoder, memory(images)

    @pytest.mark.parametrize("size", [(64, 64), (33, 100)])
    def test_its_map_has_the_size_of_the_padded_images(
        self, size: tuple[int, int], memory: Memory
    ) -> None:
        decoder, seen = self.parts(photographs(2, height=size[0], width=size[1]), memory)
        assert decoder(*seen[:2]).shape == seen.distance.shape

    def test_it_reads_differences_and_the_finer_features(
        self, images: Tensor, memory: Memory
    ) -> None:
        """Of the raw features at stride 16 none, beside the coordinates."""
        decoder, seen = self.parts(images, memory)
        expected = decoder(*seen[:2])
        for index, value in enumerate(seen.features):
            changed = [*seen.features]
            changed[index] = torch.randn_like(value)
            same = torch.equal(decoder(changed, seen.differences), expected)
            assert same == (memory.strides[index] == 16)
        for index, value in seen.differences.items():
            changed_differences = seen.differences | {index: torch.randn_like(value)}
            assert not torch.equal(decoder(seen.features, changed_differences), expected)
