import math
from inspect import signature
from typing import Any

import pytest
import torch
from conftest import photographs
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from anomalib_anoseg import AnomalyGenerator
from anomalib_anoseg.synthesis.colours import jitter_colours, jitter_matrix
from anomalib_anoseg.synthesis.geometry import AnomalyParameters, hard_augmentation_lookup, windows

# One opaque rectangle of the same image, labelled as a whole: the paper's anomalies.
PLAIN: dict[str, Any] = {
    "synthetic_share": 0.5, "patches": (1, 1), "patch_area": (0.02, 0.15), "scar_share": 0.0,
    "blob_share": 0.0, "colour_share": 0.0, "opacity": (1.0, 1.0), "border_width": (0.0, 0.0),
    "patch_scale": (1.0, 1.0), "other_source_share": 0.0, "structure_share": 0.0,
    "min_difference": 0.0,
}  # fmt: skip


def plain(**arguments: Any) -> AnomalyGenerator:
    return AnomalyGenerator(**PLAIN | arguments)


GENERATORS: dict[str, dict[str, Any]] = {
    "the paper": {},
    "several": {"patches": (1, 4), "scar_share": 0.5},
    "coloured": {"patches": (1, 3), "colour_share": 0.5},
    "scars": {"scar_share": 1.0},
    "labelled by change": {"min_difference": 0.1},
    "blobs": {"patches": (1, 3), "blob_share": 0.7, "scar_share": 0.3, "patch_area": (1e-4, 0.1)},
    "soft": {"border_width": (0.0, 40.0), "opacity": (0.1, 1.0), "colour_share": 0.5},
    "from others": {"other_source_share": 1.0, "patch_scale": (0.5, 2.0)},
    "on structure": {"structure_share": 1.0, "patches": (2, 2)},
    "everything": {
        name: parameter.default
        for name, parameter in signature(AnomalyGenerator).parameters.items()
        if name != "synthetic_share"
    }
    | {"scar_share": 0.3},
}


def neutral(n: int) -> AnomalyParameters:
    """Parameters that change nothing: no hard augmentation, one patch in its own place."""
    middle = torch.full((n, 1, 2), 32.0)
    return AnomalyParameters(
        chosen=torch.arange(n),
        source_image=torch.arange(n),
        quarter_turns=torch.zeros(n, dtype=torch.long),
        shift=torch.zeros(n, 2),
        jitter=torch.tensor([[1.0, 1.0, 1.0, 0.0]]).repeat(n, 1),
        present=torch.ones(n, 1, dtype=torch.bool),
        source=middle,
        target=middle,
        half_size=torch.full((n, 1, 2), 8.0),
        angle=torch.zeros(n, 1),
        scale=torch.ones(n, 1),
        blob=torch.zeros(n, 1, dtype=torch.bool),
        ellipses=torch.empty(n, 1, 0, 4),
        opacity=torch.ones(n, 1),
        border=torch.zeros(n, 1),
        painted=torch.zeros(n, 1, dtype=torch.bool),
        colour=torch.zeros(n, 1, 3),
    )


@pytest.mark.parametrize("arguments", GENERATORS.values(), ids=GENERATORS.keys())
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(96, 96), (65, 131), (200, 64)], ids=str)
def test_guarantees(
    arguments: dict[str, Any], dtype: torch.dtype, channels: int, size: tuple[int, int]
) -> None:
    images = photographs(12, channels, *size).to(dtype)
    synthetic, masks = plain(**arguments | {"synthetic_share": 0.75})(images)

    assert synthetic.shape == images.shape
    assert masks.shape == (12, 1, *size)
    assert synthetic.dtype == masks.dtype == dtype
    assert set(masks.unique().tolist()) == {0.0, 1.0}
    assert (masks.flatten(1).any(1)).sum() == 9  # as many masks as synthetic images, none is empty
    changed = (synthetic != images).any(1, keepdim=True)
    assert torch.equal(changed, masks.bool())  # differs inside, and is bit-equal outside
    assert synthetic.min() >= 0
    assert synthetic.max() <= 1


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_masks_are_not_empty_where_pasting_changes_nothing(value: float) -> None:
    images = torch.full((6, 3, 64, 64), value)
    # White on white, black on black: only brightness can differ, and half the time it does not.
    synthetic, masks = plain(synthetic_share=1.0, min_difference=0.3)(images)
    assert masks.flatten(1).any(1).all()
    assert torch.equal((synthetic != images).any(1, keepdim=True), masks.bool())


@pytest.mark.parametrize(
    ("share", "batch", "expected"),
    [(0.8, 8, 6), (0.8, 4, 3), (0.8, 2, 1), (0.8, 1, 1), (0.1, 4, 1), (1.0, 4, 4), (0.5, 5, 2)],
)
def test_a_batch_has_both_kinds(share: float, batch: int, expected: int) -> None:
    _, masks = plain(synthetic_share=share)(photographs(batch))
    assert masks.flatten(1).any(1).sum() == expected


@pytest.mark.parametrize("arguments", GENERATORS.values(), ids=GENERATORS.keys())
def test_windows_of_a_cpu_give_what_a_gpu_gets(
    arguments: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: the whole batch at once, as on a GPU."""
    images = photographs(24, 3, 65, 131)
    generator = plain(**arguments | {"synthetic_share": 1.0, "patches": (1, 3)})
    draws = generator.sample(images)
    areas = windows(draws, 65, 131)
    assert len(areas) == 24
    assert areas[0].rows.stop - areas[0].rows.start <= 65
    synthetic, masks = generator.apply_parameters(images, draws)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert len(windows(draws, 65, 131)) == 1
    expected, expected_masks = generator.apply_parameters(images, draws)
    torch.testing.assert_close(synthetic, expected, atol=1e-5, rtol=0)
    assert torch.equal(masks, expected_masks)


def test_share_zero_is_the_identity() -> None:
    images = photographs(4)
    synthetic, masks = plain(synthetic_share=0.0)(images)
    assert torch.equal(synthetic, images)
    assert not masks.any()


def test_same_seed_same_batch_and_parameters_replay() -> None:
    images, generator = photographs(6), AnomalyGenerator(patches=(1, 3), scar_share=0.3)

    def run(seed: int) -> tuple[Tensor, Tensor]:
        return generator(images, torch.Generator().manual_seed(seed))

    first, again, other = run(3), run(3), run(4)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])
    parameters = generator.sample(images, torch.Generator().manual_seed(3))
    for _ in range(2):
        replayed = generator.apply_parameters(images, parameters)
        assert all(torch.equal(a, b) for a, b in zip(first, replayed, strict=True))


def test_global_seed_is_enough() -> None:
    images, generator = photographs(4), AnomalyGenerator()
    torch.manual_seed(5)
    first = generator(images)[0]
    torch.manual_seed(5)
    assert torch.equal(generator(images)[0], first)


@pytest.mark.parametrize("name", GENERATORS)
def test_mixed_precision_rounds_nothing(name: str) -> None:
    generator, images = plain(**GENERATORS[name]), photographs(4)
    expected = generator(images, torch.Generator().manual_seed(0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = generator(images, torch.Generator().manual_seed(0))
    for got, wanted in zip(result, expected, strict=True):
        assert torch.equal(got, wanted)


def test_no_gradients_are_recorded() -> None:
    images = photographs(4).requires_grad_()
    synthetic, masks = plain()(images)
    assert not synthetic.requires_grad
    assert not masks.requires_grad


def test_patch_moves_pixels_exactly() -> None:
    """Oracle: slicing. A patch moved by whole pixels copies them."""
    images = photographs(2, 3, 64, 64)
    target = torch.full((2, 1, 2), 20.0)
    parameters = neutral(2)._replace(target=target)
    synthetic, masks = plain().apply_parameters(images, parameters)
    expected = images.clone()
    expected[:, :, 12:28, 12:28] = images[:, :, 24:40, 24:40]
    torch.testing.assert_close(synthetic, expected, atol=1e-6, rtol=0)
    assert masks.sum() == 2 * 16 * 16


def test_painted_patch_has_one_colour() -> None:
    images = photographs(1, 3, 64, 64)
    colour = torch.tensor([[[0.1, 0.2, 0.3]]])
    parameters = neutral(1)._replace(painted=torch.ones(1, 1, dtype=torch.bool), colour=colour)
    synthetic, masks = plain().apply_parameters(images, parameters)
    expected = images.clone()
    expected[:, :, 24:40, 24:40] = colour.view(1, 3, 1, 1)
    assert torch.equal(synthetic, expected)
    assert masks.sum() == 16 * 16


def test_grey_images_are_painted_in_grey() -> None:
    images = photographs(2, 1, 64, 64).repeat(1, 3, 1, 1)
    images[1, 0, 4, 4] += 0.01  # a single coloured pixel: this one is a colour image
    colour = torch.tensor([[[0.1, 0.2, 0.9]]]).repeat(2, 1, 1)
    parameters = neutral(2)._replace(painted=torch.ones(2, 1, dtype=torch.bool), colour=colour)
    grey, coloured = plain().apply_parameters(images, parameters)[0][:, :, 32, 32]
    luma = 0.299 * 0.1 + 0.587 * 0.2 + 0.114 * 0.9
    torch.testing.assert_close(grey, torch.full((3,), luma))
    assert torch.equal(coloured, colour[0, 0])


def test_soft_patch_fades_in() -> None:
    """Oracle: opacity times the distance to the nearest edge over the border's width."""
    images = photographs(1, 3, 64, 64)
    parameters = neutral(1)._replace(
        painted=torch.ones(1, 1, dtype=torch.bool),
        opacity=torch.full((1, 1), 0.8),
        border=torch.full((1, 1), 4.0),
    )  # painted black
    synthetic, masks = plain().apply_parameters(images, parameters)
    depth = 8 - (torch.arange(64) + 0.5 - 32).abs()
    alpha = 0.8 * (torch.minimum(depth[:, None], depth) / 4).clamp(0, 1)
    torch.testing.assert_close(synthetic, images * (1 - alpha))
    assert torch.equal(masks[0, 0] > 0, alpha > 0)


def test_change_is_measured_inside_the_patch_alone() -> None:
    """A patch in its own place changes nothing but one pixel, whatever lies around it."""
    images = photographs(2, 3, 64, 64)
    images[1, :, 24:40, 24:40] = images[0, :, 24:40, 24:40]  # around it the source is another image
    images[1, :, 32, 32] = (images[0, :, 32, 32] + 0.5) % 1
    parameters = neutral(1)._replace(source_image=torch.tensor([1]))
    _, masks = plain(min_difference=0.01).apply_parameters(images, parameters)
    rows, columns = masks[0, 0].nonzero().unbind(1)
    assert masks[0, 0, 32, 32] == 1
    assert (rows - 32).abs().max() <= 2  # half a window around the pixel
    assert (columns - 32).abs().max() <= 2


def test_blob_is_a_union_of_ellipses() -> None:
    ellipses = torch.tensor([[[[0.0, 0.0, 0.5, 0.5], [0.5, 0.0, 0.5, 0.25]]]])
    parameters = neutral(1)._replace(
        blob=torch.ones(1, 1, dtype=torch.bool), ellipses=ellipses, source=torch.full((1, 1, 2), 16)
    )
    _, masks = plain().apply_parameters(photographs(1, 3, 64, 64), parameters)
    rows, columns = torch.meshgrid(*2 * [(torch.arange(64) + 0.5 - 32) / 8], indexing="ij")
    first = rows.square() + columns.square() <= 0.25
    second = ((rows - 0.5) / 0.5).square() + (columns / 0.25).square() <= 1
    assert torch.equal(masks[0, 0].bool(), first | second)


def test_patch_comes_from_the_source_image_at_its_scale() -> None:
    """Oracle: nearest-neighbour enlargement of the source by repeating each pixel."""
    images = photographs(2, 3, 64, 64)
    images[1] = images[1].unflatten(1, (16, 4)).unflatten(3, (16, 4))[:, :, :1, :, :1].expand(
        3, 16, 4, 16, 4
    ).reshape(3, 64, 64)  # blocks of 4 x 4: their inner pixels do not mix with others  # fmt: skip
    parameters = neutral(1)._replace(
        chosen=torch.tensor([0]), source_image=torch.tensor([1]), scale=torch.full((1, 1), 2.0)
    )
    synthetic, masks = plain().apply_parameters(images, parameters)
    assert torch.equal(masks[0, 0, 24:40, 24:40], torch.ones(16, 16))
    enlarged = images[1, :, 28:36, 28:36].repeat_interleave(2, 1).repeat_interleave(2, 2)
    inner = torch.tensor([i for i in range(16) if i % 8 not in (0, 7)])
    torch.testing.assert_close(
        synthetic[0, :, 24:40, 24:40][:, inner][:, :, inner], enlarged[:, inner][:, :, inner]
    )


def test_patch_is_clipped_by_the_border() -> None:
    images = photographs(1, 3, 64, 64)
    parameters = neutral(1)._replace(target=torch.zeros(1, 1, 2))
    _, masks = plain().apply_parameters(images, parameters)
    assert masks.sum() == 8 * 8  # a quarter of it is inside
    assert masks[0, 0, :8, :8].all()


def test_patch_is_turned() -> None:
    """Oracle: a square turned by 45 degrees is a diamond, |row| + |column| <= its half diagonal."""
    images = photographs(1, 3, 64, 64)
    parameters = neutral(1)._replace(
        angle=torch.full((1, 1), math.pi / 4), source=torch.full((1, 1, 2), 24.0)
    )
    _, masks = plain().apply_parameters(images, parameters)
    rows, columns = torch.meshgrid(*2 * [torch.arange(64) + 0.5 - 32], indexing="ij")
    assert torch.equal(masks[0, 0].bool(), rows.abs() + columns.abs() <= 8 * math.sqrt(2))


@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("swap", [(0, 0), (32, 0), (0, 48), (32, 48)])
def test_hard_augmentation_is_rotation_then_permutation(turns: int, swap: tuple[int, int]) -> None:
    """Oracle: torch.rot90 and torch.roll; on a square, where a quarter turn stretches nothing."""
    height, width = 64, 96
    shape = (height, width) if turns % 2 == 0 else (96, 96)
    swap = swap if turns % 2 == 0 else (swap[0] and 48, swap[1])
    images = photographs(1, 3, *shape)
    parameters = neutral(1)._replace(
        quarter_turns=torch.tensor([turns]), shift=torch.tensor([swap], dtype=torch.float)
    )
    centres = [(torch.arange(side) + 0.5) / side for side in shape]
    position = torch.stack(torch.meshgrid(*centres, indexing="ij"))[None]
    grid = hard_augmentation_lookup(position, parameters, *shape)
    columns, rows = ((grid + 1) / 2 * torch.tensor(shape[::-1])).floor().long().unbind(-1)
    looked_up = images[0, :, rows[0], columns[0]]
    assert torch.equal(looked_up, images.rot90(turns, (2, 3)).roll(swap, (2, 3))[0])


def test_jitter_is_torchvisions() -> None:
    """Oracle: torchvision's functions, which clamp after each: stay inside the range."""
    images = 0.3 + 0.3 * photographs(3)
    jitter = torch.tensor([[1.1, 1.0, 1.0, 0.0], [1.0, 0.7, 1.0, 0.0], [0.9, 1.2, 0.6, 0.0]])
    expected = torch.stack(
        [
            tv.adjust_saturation(tv.adjust_contrast(tv.adjust_brightness(i, b), c), s)
            for i, (b, c, s, _) in zip(images, jitter.tolist(), strict=True)
        ]
    )
    # torchvision and kornia round the weights of the luma differently.
    jittered = jitter_colours(images, jitter_matrix(images.mean((2, 3)), jitter))
    torch.testing.assert_close(jittered, expected, atol=1e-3, rtol=0)


def test_hue_turns_colours_and_keeps_grey_and_luma() -> None:
    pixels = photographs(1) * 0.2 + 0.4
    pixels[..., :10] = pixels[:, :1, :, :10]
    luma = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    mean = pixels.mean((2, 3))
    turned = jitter_colours(pixels, jitter_matrix(mean, torch.tensor([[1.0, 1.0, 1.0, 0.3]])))
    torch.testing.assert_close(turned[..., :10], pixels[..., :10], atol=1e-5, rtol=0)
    torch.testing.assert_close((turned * luma).sum(1), (pixels * luma).sum(1), atol=1e-5, rtol=0)
    back = jitter_colours(turned, jitter_matrix(mean, torch.tensor([[1.0, 1.0, 1.0, -0.3]])))
    torch.testing.assert_close(back, pixels, atol=1e-5, rtol=0)


def test_laws_of_the_patches() -> None:
    generator = plain(synthetic_share=1.0, patches=(1, 3), scar_share=0.0)
    draws = generator.sample(torch.empty(1).expand(2000, 3, 256, 256))  # only the shape is read
    height, width = (2 * draws.half_size).unbind(-1)
    inside = (height < 256) & (width < 256)  # a longer side is cut to the image's
    area, aspect = (height * width / 256**2)[inside], (width / height)[inside]
    assert 0.0199 < area.min() < 0.021
    assert 0.148 < area.max() < 0.1501
    assert abs(area.log().mean() - math.log(0.02 * 0.15) / 2) < 0.02  # log-uniform
    assert 0.299 < aspect.min() < 0.31
    assert 3.2 < aspect.max() < 3.301
    assert abs(aspect.log().mean()) < 0.05  # log-uniform about 1
    counts = draws.present.sum(1).bincount(minlength=4)
    assert counts[0] == 0
    assert (counts[1:] - 667).abs().max() < 100
    for coordinate in draws.target.unbind(-1):
        assert coordinate.min() >= 0
        assert coordinate.max() <= 256
    scaled = plain(synthetic_share=1.0, patch_scale=(0.2, 0.5), patches=(2, 2))
    enlarged = scaled.sample(torch.empty(1).expand(500, 3, 256, 256))
    reach = (enlarged.half_size / enlarged.scale[..., None]).clamp(max=128)
    assert (enlarged.source - reach).min() >= -1e-3
    assert (enlarged.source + reach).max() <= 256 + 1e-3
    edge = torch.cat([draws.source - draws.half_size, 256 - draws.source - draws.half_size])
    assert edge.min() >= -1e-3  # what is cut out lies inside the image


def test_most_patches_are_nearly_opaque() -> None:
    """Oracle: of the cube of an even draw half lies below an eighth, and a quarter is the mean."""
    generator = plain(synthetic_share=1.0, opacity=(0.2, 1.0))
    drawn = generator.sample(torch.empty(1).expand(4000, 3, 64, 64)).opacity
    assert 0.2 <= drawn.min() < 0.22
    assert 0.999 < drawn.max() <= 1.0
    assert abs(drawn.median() - (1 - 0.8 / 8)) < 0.01
    assert abs(drawn.mean() - (1 - 0.8 / 4)) < 0.02


def test_patches_are_pasted_where_the_structure_is() -> None:
    """Oracle: stripes in one quarter of a flat image; a share of the patches must land there."""
    images = torch.full((500, 3, 64, 96), 0.5)
    images[:, :, 32:, 48:] += 0.4 * (torch.arange(48) // 4 % 2)
    generator = plain(synthetic_share=1.0, structure_share=0.6, patches=(2, 2))
    row, column = generator.sample(images).target.unbind(-1)
    hit = ((row > 30) & (column > 46)).float().mean()
    assert abs(hit - (0.6 + 0.4 * 34 / 64 * 50 / 96)) < 0.04
    rows, columns = row[row > 32].mean(), column[column > 48].mean()
    assert abs(rows - 48) < 2  # evenly within the stripes
    assert abs(columns - 72) < 2


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_flat_images_have_structure_nowhere(value: float) -> None:
    images = torch.full((500, 3, 64, 64), value)
    generator = plain(synthetic_share=1.0, structure_share=1.0)
    target = generator.sample(images).target
    assert target.amin() >= 0
    assert target.amax() <= 64
    assert (target.mean((0, 1)) - 32).abs().max() < 3


@pytest.mark.parametrize("probability", [0.0, 0.5, 1.0])
def test_hard_augmentation_happens_as_often_as_asked(probability: float) -> None:
    generator = plain(synthetic_share=1.0, hard_augmentation=probability)
    draws = generator.sample(torch.empty(1).expand(4000, 3, 64, 64))
    for happened in (
        draws.quarter_turns > 0,
        draws.shift.any(1),
        (draws.jitter != draws.jitter.new_tensor([1, 1, 1, 0])).any(1),
    ):
        assert abs(happened.float().mean() - probability) < 0.04
    if probability > 0:
        assert draws.quarter_turns.unique().tolist()[-3:] == [1, 2, 3]
        assert len(draws.shift.unique(dim=0)) == 3 + (probability < 1)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("synthetic_share", 1.5),
        ("synthetic_share", -0.1),
        ("hard_augmentation", 1.5),
        ("patch_area", (0.2, 0.1)),
        ("patch_area", (0.0, 0.1)),
        ("patch_area", (0.1, 1.1)),
        ("patch_aspect", (0.0, 1.0)),
        ("patch_rotation", (-400.0, 0.0)),
        ("patches", (0, 1)),
        ("patches", (3, 2)),
        ("scar_share", 2.0),
        ("colour_share", -1.0),
        ("blob_share", 1.1),
        ("other_source_share", -0.5),
        ("structure_share", 1.5),
        ("opacity", (0.0, 1.0)),
        ("border_width", (-1.0, 1.0)),
        ("patch_scale", (0.0, 1.0)),
        ("scar_width", (0.0, 1.0)),
        ("scar_length", (10.0, 300.0)),
        ("colour_jitter", (0.4, 0.4, 0.4, 0.6)),
        ("colour_jitter", (0.4, 0.4)),
        ("min_difference", 1.0),
        ("min_difference", float("nan")),
    ],
)
def test_wrong_argument_is_named_with_its_range(argument: str, value: object) -> None:
    with pytest.raises(ValueError, match=argument) as caught:
        AnomalyGenerator(**{argument: value})
    assert str(value) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_other_channel_counts_are_refused() -> None:
    with pytest.raises(ValueError, match=r"1 or 3 channels, got \[2, 4, 64, 64\]"):
        plain()(torch.rand(2, 4, 64, 64))
