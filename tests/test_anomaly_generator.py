"""The generator's promises, and its form: an augmentation of kornia."""

from dataclasses import asdict, replace
from typing import Any

import kornia.augmentation as K
import pytest
import torch
from conftest import photographs
from torch import Tensor

from anomalib_anoseg import AnomalyGenerator
from anomalib_anoseg.synthesis.laws import Anomalies
from anomalib_anoseg.utils.seeds import own_seed

ALL = {"synthetic_share": 1.0}
LAWS: dict[str, Anomalies] = {
    name: replace(Anomalies.paper(), **laws)
    for name, laws in {
        "the paper": {},
        "several": {"patches": (1, 4)},
        "coloured": {"patches": (1, 3), "colour_share": 0.5},
        "labelled by change": {"min_difference": 0.1},
        "blobs": {"patches": (1, 3), "blob_share": 0.7, "patch_area": (1e-4, 0.1)},
        "soft": {"border_width": (0.0, 40.0), "opacity": (0.1, 1.0), "colour_share": 0.5},
        "from others": {"other_source_share": 1.0, "patch_scale": (0.5, 2.0)},
        "on structure": {"structure_share": 1.0, "patches": (2, 2)},
        "ours": asdict(Anomalies()),
    }.items()
}


def nothing(images: Tensor) -> Tensor:
    return torch.zeros_like(images[:, :1])


def make(images: Tensor, laws: Anomalies = Anomalies(), seed: int = 0) -> list[Tensor]:  # noqa: B008
    with own_seed(seed):
        return AnomalyGenerator(laws)(images, nothing(images))


@pytest.mark.parametrize("laws", LAWS.values(), ids=LAWS.keys())
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(96, 96), (65, 131), (200, 64)], ids=str)
def test_guarantees(
    laws: Anomalies, dtype: torch.dtype, channels: int, size: tuple[int, int]
) -> None:
    images = photographs(12, channels, *size).to(dtype)
    synthetic, masks = make(images, replace(laws, synthetic_share=0.75))

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
    synthetic, masks = make(images, replace(LAWS["the paper"], **ALL, min_difference=0.3))
    assert masks.flatten(1).any(1).all()
    assert torch.equal((synthetic != images).any(1, keepdim=True), masks.bool())


@pytest.mark.parametrize(
    ("share", "batch", "expected"),
    [
        (0.8, 8, 6), (0.8, 4, 3), (0.8, 2, 1), (0.8, 1, 1), (0.1, 4, 1), (1.0, 4, 4), (0.5, 5, 2),
        (0.0, 4, 0),
    ],
)  # fmt: skip
def test_a_batch_has_an_exact_share(share: float, batch: int, expected: int) -> None:
    images = photographs(batch)
    synthetic, masks = make(images, Anomalies(synthetic_share=share))
    assert masks.flatten(1).any(1).sum() == expected
    assert share or torch.equal(synthetic, images)


def test_a_seed_repeats_a_batch() -> None:
    images = photographs(6)
    first, again, other = make(images, seed=3), make(images, seed=3), make(images, seed=4)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])


def test_own_seed_leaves_the_callers_numbers_alone() -> None:
    state = torch.get_rng_state()
    make(photographs(2))
    torch.set_rng_state(state)
    expected = torch.rand(3)
    torch.set_rng_state(state)
    images = torch.rand(2, 3, 32, 32)
    torch.set_rng_state(state)
    make(images)
    assert torch.equal(torch.rand(3), expected)


def test_params_replay_a_draw() -> None:
    """On the same images, and on others: the same patches of other pixels."""
    images, generator = photographs(6), AnomalyGenerator(replace(LAWS["the paper"], **ALL))
    first = generator(images, nothing(images))
    params = generator._params
    for _ in range(2):
        replayed = generator(images, nothing(images), params=params)
        assert all(torch.equal(a, b) for a, b in zip(first, replayed, strict=True))
    drawn = generator.forward_parameters(images.shape)
    assert set(params) == {*drawn, "changed"}  # an image can be replayed before it was looked at
    _, masks = generator(1 - images, nothing(images), params=drawn)
    alone = generator(nothing(images), params=drawn, data_keys=["mask"])
    assert torch.equal(masks, alone)


def test_order_and_choice_of_inputs() -> None:
    images = photographs(3)
    with own_seed(0):
        masks, synthetic = AnomalyGenerator(data_keys=["mask", "input"])(nothing(images), images)
    expected = make(images)
    assert torch.equal(synthetic, expected[0])
    assert torch.equal(masks, expected[1])
    with own_seed(0):
        assert torch.equal(AnomalyGenerator()(images), expected[0])
    with pytest.raises(NotImplementedError):
        AnomalyGenerator(data_keys=["input", "keypoints"])(images, torch.zeros(3, 1, 2))


def test_masks_keep_what_was_marked_before() -> None:
    images, marked = photographs(4), torch.zeros(4, 1, 96, 96)
    marked[:, :, :5] = 1
    with own_seed(0):
        _, masks = AnomalyGenerator()(images, marked)
    assert torch.equal(masks, make(images)[1].maximum(marked))


def test_inside_a_container_between_other_augmentations() -> None:
    """Oracle: the flips undone, images are the input outside of the mask, and differ inside."""
    images = photographs(5, height=64, width=90)
    container = K.AugmentationSequential(
        K.RandomHorizontalFlip(p=1.0),
        AnomalyGenerator(),
        K.RandomVerticalFlip(p=1.0),
        data_keys=["input", "mask"],
    )
    synthetic, masks = container(images, nothing(images))
    changed = (synthetic.flip(2, 3) != images).any(1, keepdim=True)
    assert torch.equal(changed, masks.flip(2, 3) > 0)
    assert masks.flatten(1).any(1).sum() == 4
    again = container(images, nothing(images), params=container._params)
    assert torch.equal(again[0], synthetic)
    assert torch.equal(again[1], masks)


@pytest.mark.parametrize("name", LAWS)
def test_mixed_precision_rounds_nothing(name: str) -> None:
    images = photographs(4)
    expected = make(images, LAWS[name])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = make(images, LAWS[name])
    for got, wanted in zip(result, expected, strict=True):
        assert torch.equal(got, wanted)


def test_a_model_in_half_precision_draws_in_full() -> None:
    generator = AnomalyGenerator().to(torch.bfloat16)
    drawn: Any = generator.forward_parameters((4, 3, 64, 64))
    assert drawn["source"].dtype == torch.float32


def test_no_gradients_are_recorded() -> None:
    images = photographs(4).requires_grad_()
    synthetic, masks = make(images)
    assert not synthetic.requires_grad
    assert not masks.requires_grad


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.rand(2, 4, 64, 64), r"1 or 3 channels, got \[2, 4, 64, 64\]"),
        (torch.zeros(2, 3, 64, 64, dtype=torch.uint8), "floating-point"),
        (torch.rand(3, 64, 64), "be a batch"),
    ],
)
def test_what_is_no_image_is_refused(images: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AnomalyGenerator()(images)
