"""Each part of the synthesis against hand-computed values, kornia, torchvision or torch."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from conftest import photographs
from kornia.augmentation import RandomAffine
from kornia.enhance import adjust_hue, adjust_saturation_with_gray_subtraction
from kornia.geometry import create_meshgrid
from kornia.geometry.linalg import transform_points
from kornia.geometry.transform import warp_affine
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from anomalib_anoseg import AnomalyGenerator
from anomalib_anoseg.synthesis.colours import jitter_colours
from anomalib_anoseg.synthesis.geometry import look_up, read, through_hard_augmentation
from anomalib_anoseg.synthesis.laws import Anomalies
from anomalib_anoseg.synthesis.sampling import AnomalyParameters
from anomalib_anoseg.synthesis.structure import on_structure

PAPER = replace(Anomalies.paper(), synthetic_share=1.0)


def neutral(n: int, side: int = 64, **changed: Any) -> dict[str, Tensor]:
    """Parameters that change nothing: no hard augmentation, one patch in its own place."""
    no = torch.zeros(n, 1, dtype=torch.bool)
    return {
        "batch_prob": torch.ones(n),
        "donor": torch.arange(n),
        "quarter_turns": torch.zeros(n, dtype=torch.long),
        "swap": torch.zeros(n, 2),
        "jitter": torch.tensor([[1.0, 1.0, 1.0, 0.0]]).repeat(n, 1),
        "present": ~no,
        "source": torch.full((n, 1, 2), side / 2),
        "target": torch.full((n, 1, 2), 0.5),
        "structured": no,
        "half_size": torch.full((n, 1, 2), 8.0),
        "angle": torch.zeros(n, 1),
        "scale": torch.ones(n, 1),
        "blob": no,
        "ellipses": torch.ones(n, 1, 1, 4),
        "opacity": torch.ones(n, 1),
        "border": torch.zeros(n, 1),
        "painted": no,
        "colour": torch.zeros(n, 1, 3),
    } | changed


def paste(images: Tensor, min_difference: float = 0.0, **changed: Any) -> list[Tensor]:
    generator = AnomalyGenerator(replace(PAPER, min_difference=min_difference))
    params = neutral(len(images), images.shape[-1], **changed)
    return generator(images, torch.zeros_like(images[:, :1]), params=params)


YES = torch.ones(1, 1, dtype=torch.bool)


def test_a_patch_moves_pixels_exactly() -> None:
    """Oracle: slicing. A patch moved by whole pixels copies them."""
    images = photographs(2, 3, 64, 64)
    synthetic, masks = paste(images, target=torch.full((2, 1, 2), 20 / 64))
    expected = images.clone()
    expected[:, :, 12:28, 12:28] = images[:, :, 24:40, 24:40]
    torch.testing.assert_close(synthetic, expected, atol=1e-5, rtol=0)
    assert masks.sum() == 2 * 16 * 16


def test_a_patch_is_turned_and_enlarged_as_kornia_warps() -> None:
    """Oracle: kornia's augmentation of the whole image about the patch, whatever its own angle."""
    images = photographs(1, 3, 64, 64)
    affine = RandomAffine((30, 30), scale=(1.5, 1.5), p=1.0, align_corners=False)
    expected = affine(images)
    angle, scale = torch.full((1, 1), 30.0), torch.full((1, 1), 1.5)
    half_size = torch.full((1, 1, 2), 12.0)
    synthetic, masks = paste(images, angle=angle, scale=scale, half_size=half_size)
    here = masks.expand_as(images) > 0
    assert 500 < masks.sum() < 640  # 24 x 24, turned
    # RandomAffine turns about the middle of the corner pixels' centres, as this patch is.
    torch.testing.assert_close(synthetic[here], expected[here], atol=2e-3, rtol=0)


def test_a_painted_patch_has_one_colour() -> None:
    images = photographs(1, 3, 64, 64)
    colour = torch.tensor([[[0.1, 0.2, 0.3]]])
    synthetic, masks = paste(images, painted=YES, colour=colour)
    expected = images.clone()
    expected[:, :, 24:40, 24:40] = colour.view(1, 3, 1, 1)
    assert torch.equal(synthetic, expected)
    assert masks.sum() == 16 * 16


def test_grey_images_are_painted_in_grey() -> None:
    images = photographs(2, 1, 64, 64).repeat(1, 3, 1, 1)
    images[1, 0, 4, 4] += 0.01  # a single coloured pixel: this one is a colour image
    colour = torch.tensor([[[0.1, 0.2, 0.9]]]).repeat(2, 1, 1)
    synthetic, _ = paste(images, painted=YES.expand(2, 1), colour=colour)
    grey, coloured = synthetic[:, :, 32, 32]
    luma = 0.299 * 0.1 + 0.587 * 0.2 + 0.114 * 0.9
    torch.testing.assert_close(grey, torch.full((3,), luma))
    assert torch.equal(coloured, colour[0, 0])


def test_a_soft_patch_fades_in() -> None:
    """Oracle: opacity times the distance to the nearest edge over the border's width."""
    images = photographs(1, 3, 64, 64)
    opacity, border = torch.full((1, 1), 0.8), torch.full((1, 1), 4.0)
    synthetic, masks = paste(images, painted=YES, opacity=opacity, border=border)  # black
    depth = 8 - (torch.arange(64) + 0.5 - 32).abs()
    alpha = 0.8 * (torch.minimum(depth[:, None], depth) / 4).clamp(0, 1)
    torch.testing.assert_close(synthetic, images * (1 - alpha))
    assert torch.equal(masks[0, 0] > 0, alpha > 0)


def test_change_is_measured_inside_the_patch_alone() -> None:
    """A patch in its own place changes nothing but one pixel, whatever lies around it."""
    images = photographs(2, 3, 64, 64)
    images[1, :, 24:40, 24:40] = images[0, :, 24:40, 24:40]  # around it the source is another image
    images[1, :, 32, 32] = (images[0, :, 32, 32] + 0.5) % 1
    _, masks = paste(images, min_difference=0.01, donor=torch.tensor([1, 1]))
    rows, columns = masks[0, 0].nonzero().unbind(1)
    assert masks[0, 0, 32, 32] == 1
    assert (rows - 32).abs().max() <= 2  # half a window around the pixel
    assert (columns - 32).abs().max() <= 2


def test_a_blob_is_a_union_of_ellipses() -> None:
    ellipses = torch.tensor([[[[0.0, 0.0, 0.5, 0.5], [0.5, 0.0, 0.25, 0.5]]]])
    images = photographs(1, 3, 64, 64)
    _, masks = paste(images, blob=YES, ellipses=ellipses, source=torch.full((1, 1, 2), 16.0))
    y, x = torch.meshgrid(*2 * [(torch.arange(64) + 0.5 - 32) / 8], indexing="ij")
    first = y.square() + x.square() <= 0.25
    second = ((x - 0.5) / 0.25).square() + (y / 0.5).square() <= 1
    assert torch.equal(masks[0, 0].bool(), first | second)


def test_a_patch_comes_from_its_donor() -> None:
    images = photographs(2, 3, 64, 64)
    synthetic, _ = paste(images, donor=torch.tensor([1, 0]))
    inside = (..., slice(24, 40), slice(24, 40))
    torch.testing.assert_close(synthetic[inside], images.flip(0)[inside], atol=1e-5, rtol=0)


def test_a_patch_is_clipped_by_the_border() -> None:
    _, masks = paste(photographs(1, 3, 64, 64), target=torch.zeros(1, 1, 2))
    assert masks.sum() == 8 * 8  # a quarter of it is inside
    assert masks[0, 0, :8, :8].all()


def test_later_patches_lie_on_earlier_ones() -> None:
    two = {name: value.repeat(1, 2, *[1] * (value.ndim - 2)) for name, value in neutral(1).items()
           if value.ndim > 1 and name not in {"jitter", "swap"}}  # fmt: skip
    two["painted"][:] = True
    two["colour"] = torch.tensor([[[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]]])
    two["half_size"] = torch.tensor([[[8.0, 8.0], [4.0, 8.0]]])
    synthetic, _ = paste(photographs(1, 3, 64, 64), **two)
    assert torch.equal(synthetic[0, 0, 32, 24:40], torch.tensor([0.0] * 4 + [1.0] * 8 + [0.0] * 4))


@pytest.mark.parametrize("size", [(64, 64), (60, 90)])
def test_look_up_is_kornias(size: tuple[int, int]) -> None:
    """Oracle: transform_points on the grid of pixel centres; warp_affine, what is read there."""
    height, width = size
    images = photographs(2, height=height, width=width)
    matrix = torch.eye(3) + 0.1 * torch.rand(2, 3, 3) * torch.tensor([[1.0], [1.0], [0.0]])
    grid = create_meshgrid(height, width, normalized_coordinates=False) + 0.5
    expected = transform_points(matrix, grid.flatten(1, 2).expand(2, -1, -1))
    found = look_up(matrix[:, :2], height, width)
    torch.testing.assert_close(found.flatten(2).mT, expected, atol=1e-4, rtol=0)
    # Where its pixels go, for pixel indices: half a pixel less before, and again after.
    half = torch.eye(3)
    half[:2, 2] = -0.5
    forward = (half @ matrix @ half.inverse()).inverse()
    warped = warp_affine(images, forward[:, :2], size, padding_mode="border", align_corners=False)
    position = found / torch.tensor([width, height])[:, None, None] * 2 - 1
    torch.testing.assert_close(read(images, position), warped, atol=1e-3, rtol=0)


@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("swap", [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_hard_augmentation_is_rotation_then_permutation(turns: int, swap: tuple[int, int]) -> None:
    """Oracle: torch.rot90 and torch.roll; on a square, where a quarter turn stretches nothing."""
    height, width = (64, 96) if turns % 2 == 0 else (96, 96)
    images = photographs(1, 3, height, width)
    params = {"quarter_turns": torch.tensor([turns]), "swap": torch.tensor([swap])}
    centres = [(torch.arange(side) + 0.5) / side for side in (height, width)]
    y, x = torch.meshgrid(*centres, indexing="ij")
    position = through_hard_augmentation(torch.stack([x, y])[None], params, height, width)
    roll = [swap[1] * height // 2, swap[0] * width // 2]
    expected = images.rot90(turns, (2, 3)).roll(roll, (2, 3))
    torch.testing.assert_close(read(images, position), expected, atol=1e-4, rtol=0)


def test_jitter_is_torchvisions() -> None:
    """Oracle: torchvision's functions, one image after the other."""
    images = photographs(3)
    jitter = torch.tensor([[1.1, 1.0, 1.0, 0.0], [1.0, 0.7, 1.0, 0.0], [0.9, 1.2, 0.6, 0.0]])
    expected = torch.stack(
        [
            tv.adjust_saturation(tv.adjust_contrast(tv.adjust_brightness(i, b), c), s)
            for i, (b, c, s, _) in zip(images, jitter.tolist(), strict=True)
        ]
    )
    # torchvision and kornia round the weights of the luma differently.
    torch.testing.assert_close(jitter_colours(images, jitter), expected, atol=3e-3, rtol=0)


def test_saturation_is_kornias_and_hue_turns_as_kornias_does() -> None:
    pixels = photographs(2) * 0.2 + 0.4

    def jittered(saturation: float, hue: float, images: Tensor = pixels) -> Tensor:
        return jitter_colours(images, torch.tensor([[1.0, 1.0, saturation, hue]]).repeat(2, 1))

    expected = adjust_saturation_with_gray_subtraction(pixels, torch.tensor([0.5, 0.5]))
    torch.testing.assert_close(jittered(0.5, 0.0), expected, atol=2e-3, rtol=0)
    pixels[..., :10] = pixels[:, :1, :, :10]
    luma = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    turned = jittered(1.0, 0.3)
    torch.testing.assert_close(turned[..., :10], pixels[..., :10], atol=2e-3, rtol=0)
    torch.testing.assert_close((turned * luma).sum(1), (pixels * luma).sum(1), atol=2e-3, rtol=0)
    torch.testing.assert_close(jittered(1.0, -0.3, turned), pixels, atol=3e-3, rtol=0)
    # Red goes towards yellow, not towards magenta, as through HSV.
    red = torch.tensor([0.7, 0.3, 0.3]).view(1, 3, 1, 1).repeat(2, 1, 2, 2)
    ours, its = jittered(1.0, 0.08, red), adjust_hue(red, 0.08 * 2 * math.pi)
    assert (ours[:, 1] > ours[:, 2]).all()
    assert (its[:, 1] > its[:, 2]).all()


def draw(laws: Anomalies, batch: int, side: int = 64) -> dict[str, Tensor]:
    return AnomalyParameters(laws)((batch, 3, side, side))


def test_laws_of_the_patches() -> None:
    drawn = draw(replace(PAPER, patches=(1, 3)), 2000, 256)
    width, height = (2 * drawn["half_size"]).unbind(-1)
    inside = (height < 256) & (width < 256)  # a longer side is cut to the image's
    area, aspect = (height * width / 256**2)[inside], (width / height)[inside]
    assert 0.0199 < area.min() < 0.021
    assert 0.148 < area.max() < 0.1501
    assert abs(area.log().mean() - math.log(0.02 * 0.15) / 2) < 0.02  # log-uniform
    assert 0.299 < aspect.min() < 0.31
    assert 3.2 < aspect.max() < 3.301
    assert abs(aspect.log().mean()) < 0.05  # log-uniform about 1
    counts = drawn["present"].sum(1).bincount(minlength=4)
    assert counts[0] == 0
    assert (counts[1:] - 667).abs().max() < 100
    assert 0 <= drawn["target"].min() < drawn["target"].max() < 1
    scaled = draw(replace(PAPER, patch_scale=(0.2, 0.5), patches=(2, 2)), 500, 256)
    for one in (drawn, scaled):  # what is cut out lies inside the image
        reach = (one["half_size"] / one["scale"][..., None]).clamp(max=128)
        assert (one["source"] - reach).min() >= -1e-3
        assert (one["source"] + reach).max() <= 256 + 1e-3


def test_every_law_is_drawn() -> None:
    """Each share as often as it says, and each range from end to end, whatever the others are."""
    laws = replace(
        Anomalies(), other_source_share=0.4, structure_share=0.3, colour_share=0.2, blob_share=0.6,
        patch_rotation=(-70.0, 40.0), border_width=(2.0, 9.0), patches=(2, 2),
    )  # fmt: skip
    drawn = draw(laws, 3000, 128)
    for name, share in (("structured", 0.3), ("painted", 0.2), ("blob", 0.6)):
        assert abs(drawn[name].float().mean() - share) < 0.03, name
    own = drawn["donor"] == torch.arange(3000)
    assert abs((~own).float().mean() - 0.4) < 0.03
    assert len(drawn["donor"][~own].unique()) > 900  # any image of the batch
    for name, low, high in (("angle", -70, 40), ("border", 1, 4.5)):  # of 128 pixels, not of 256
        assert low <= drawn[name].min() < low + 0.1
        assert high - 0.1 < drawn[name].max() <= high


def test_most_patches_are_nearly_opaque() -> None:
    """Oracle: of the cube of an even draw half lies below an eighth, and a quarter is the mean."""
    drawn = draw(replace(PAPER, opacity=(0.2, 1.0)), 4000)["opacity"]
    assert 0.2 <= drawn.min() < 0.22
    assert 0.999 < drawn.max() <= 1.0
    assert abs(drawn.median() - (1 - 0.8 / 8)) < 0.01
    assert abs(drawn.mean() - (1 - 0.8 / 4)) < 0.02


@pytest.mark.parametrize("probability", [0.0, 0.5, 1.0])
def test_hard_augmentation_happens_as_often_as_asked(probability: float) -> None:
    drawn = draw(replace(PAPER, hard_augmentation=probability), 4000)
    turned, swap = drawn["quarter_turns"], drawn["swap"]
    jittered = (drawn["jitter"] != torch.tensor([1.0, 1.0, 1.0, 0.0])).any(1)
    for happened in (turned > 0, swap.any(1), jittered):
        assert abs(happened.float().mean() - probability) < 0.04
    if probability > 0:
        assert turned.unique().tolist()[-3:] == [1, 2, 3]
        assert len(swap.unique(dim=0)) == 3 + (probability < 1)
        low, high = drawn["jitter"].aminmax(dim=0)
        assert torch.allclose(low, torch.tensor([0.6, 0.6, 0.6, -0.1]), atol=0.01)  # CSI
        assert torch.allclose(high, torch.tensor([1.4, 1.4, 1.4, 0.1]), atol=0.01)


def test_structure_is_where_patches_land() -> None:
    """Oracle: stripes in one quarter of a flat image; all land there, evenly within."""
    images = torch.full((500, 3, 64, 96), 0.5)
    images[:, :, 32:, 48:] += 0.4 * (torch.arange(48) // 4 % 2)
    x, y = on_structure(images, torch.rand(500, 2, 2)).unbind(-1)
    inside = (x > 0.49) & (y > 0.49)
    assert inside.float().mean() > 0.95
    assert abs(x[inside].mean() - 0.75) < 0.02
    assert abs(y[inside].mean() - 0.75) < 0.02


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_flat_image_has_structure_nowhere(value: float) -> None:
    """Oracle: the identity."""
    quantiles = torch.rand(5, 3, 2)
    places = on_structure(torch.full((5, 3, 64, 64), value), quantiles)
    torch.testing.assert_close(places, quantiles, atol=1e-3, rtol=0)
