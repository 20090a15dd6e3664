"""Oracles: values computed by hand, or a reduction to a simpler loss."""

import math

import pytest
import torch

from anomalib_anoseg import loss


def logit(probability: float) -> float:
    return math.log(probability / (1 - probability))


MAP = torch.tensor([[[[logit(0.9), logit(0.2)], [logit(0.4), logit(0.1)]]]])
MASK = torch.tensor([[[[1.0, 0.0], [1.0, 0.0]]]])


def test_l1_is_the_mean_absolute_error() -> None:
    torch.testing.assert_close(loss.l1_loss(MAP, MASK).item(), (0.1 + 0.2 + 0.6 + 0.1) / 4)


def test_dice_by_hand() -> None:
    # overlap 0.9 + 0.4, sums 1.6 and 2, one added on both sides
    expected = 1 - (2 * 1.3 + 1) / (1.6 + 2 + 1)
    torch.testing.assert_close(loss.dice_loss(MAP, MASK).item(), expected)


def test_dice_of_normal_images_is_zero_for_a_black_map() -> None:
    black = torch.full((2, 1, 8, 8), -40.0)
    assert loss.dice_loss(black, torch.zeros_like(black)).item() == pytest.approx(0, abs=1e-6)


def test_l1_bce_dice_is_their_sum() -> None:
    cross_entropy = -(math.log(0.9) + math.log(0.8) + math.log(0.4) + math.log(0.9)) / 4
    expected = loss.l1_loss(MAP, MASK) + cross_entropy + loss.dice_loss(MAP, MASK)
    torch.testing.assert_close(loss.l1_bce_dice_loss(MAP, MASK), expected)


def test_reconstruction_counts_normal_pixels_only() -> None:
    image = torch.tensor([[[[0.0, 0.5], [1.0, 0.25]]]]).expand(1, 3, 2, 2)
    reconstruction = torch.tensor([[[[0.9, 0.4], [0.1, 0.55]]]]).expand(1, 3, 2, 2)
    # The left column is anomalous; the right one is off by 0.1 and 0.3.
    value = loss.reconstruction_loss(reconstruction, image, MASK).item()
    assert value == pytest.approx((0.1 + 0.3) / 2)


def test_reconstruction_of_nothing_normal_is_zero() -> None:
    images = torch.rand(1, 3, 4, 4)
    assert loss.reconstruction_loss(1 - images, images, torch.ones(1, 1, 4, 4)) == 0


def test_reconstruction_without_mask_is_the_l1_distance() -> None:
    images, other = torch.rand(2, 3, 8, 8), torch.rand(2, 3, 8, 8)
    value = loss.reconstruction_loss(other, images, torch.zeros(2, 1, 8, 8))
    torch.testing.assert_close(value, torch.nn.functional.l1_loss(other, images))


def test_adversarial_losses_by_hand() -> None:
    real, fake = torch.tensor([logit(0.8)]), torch.tensor([logit(0.3)])
    discriminator = loss.discriminator_loss(real, fake).item()
    assert discriminator == pytest.approx(-math.log(0.8) - math.log(0.7), rel=1e-5)
    assert loss.generator_loss(fake).item() == pytest.approx(-math.log(0.3), rel=1e-5)


def test_all_losses_survive_bfloat16_and_extreme_logits() -> None:
    logits = torch.tensor([-1e4, 1e4]).view(1, 1, 1, 2).bfloat16().requires_grad_()
    masks, images = torch.tensor([1.0, 0.0]).view(1, 1, 1, 2), torch.rand(1, 3, 1, 2)
    with torch.autocast("cpu", torch.bfloat16):
        values = [
            loss.l1_bce_dice_loss(logits, masks),
            loss.reconstruction_loss(images.bfloat16(), images, masks),
            loss.discriminator_loss(logits, logits),
            loss.generator_loss(logits),
        ]
    total = torch.stack(values).sum()
    total.backward()  # type: ignore[no-untyped-call]
    assert total.isfinite()
    assert all(value.dtype == torch.float32 for value in values)
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
