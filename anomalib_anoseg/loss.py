"""The losses of AnoSeg (Song et al. 2021, section 3), as pure functions of logits.

Masks follow anomalib: 1 is anomalous. The paper's A_seg is one minus the mask. Where images are
inspected only in part, inside, (n, 1, h, w), says where: losses of the map do not look at the rest.
"""

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from anomalib_anoseg.utils.shapes import Images, Insides, Logits, Masks


def l1_loss(logits: Logits, masks: Masks, inside: Insides | None = None) -> Tensor:
    """Return the paper's L_seg: the mean absolute error of the anomaly map."""
    return _mean((logits.float().sigmoid() - masks).abs(), inside)


def dice_loss(logits: Logits, masks: Masks, inside: Insides | None = None) -> Tensor:
    """Return one minus the soft Dice coefficient over all pixels of the batch, with masks.

    Taken over the batch, not per image, because a normal image has no pixel to overlap with.
    """
    anomaly_map = logits.float().sigmoid()
    if inside is not None:
        anomaly_map = anomaly_map * inside
    overlap = (anomaly_map * masks).sum()
    total = anomaly_map.sum() + masks.sum()
    return 1 - (2 * overlap + 1) / (total + 1)


def l1_bce_dice_loss(logits: Logits, masks: Masks, inside: Insides | None = None) -> Tensor:
    """Return L_seg plus cross entropy plus Dice; ours.

    The gradient of L1 through a sigmoid vanishes where the map is confidently wrong. Cross entropy
    keeps it there, and Dice stops "all normal" from being a cheap answer to small defects.
    """
    errors = binary_cross_entropy_with_logits(logits.float(), masks.float(), reduction="none")
    cross_entropy = _mean(errors, inside)
    return l1_loss(logits, masks, inside) + cross_entropy + dice_loss(logits, masks, inside)


def _mean(errors: Tensor, inside: Insides | None) -> Tensor:
    """Return the mean over what is inspected, so that a small region has no small gradients."""
    if inside is None:
        return errors.mean()
    inside = inside.expand_as(errors)
    return torch.where(inside, errors, 0).sum() / inside.sum().clamp(min=1)


def reconstruction_loss(reconstruction: Images, images: Images, masks: Masks) -> Tensor:
    """Return the paper's L_re: the mean absolute error over the normal pixels only."""
    normal = (1 - masks).expand_as(images)
    error = (reconstruction.float() - images).abs() * normal
    return error.sum() / normal.sum().clamp(min=1)


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Return the discriminator's half of L_adv, from logits of any shape."""
    return _is(real, 1.0) + _is(fake, 0.0)


def generator_loss(fake: Tensor) -> Tensor:
    """Return the generator's half of L_adv in its non-saturating form (Goodfellow et al. 2014).

    The paper does not say which form it uses.
    """
    return _is(fake, 1.0)


def _is(logits: Tensor, label: float) -> Tensor:
    logits = logits.float()
    return binary_cross_entropy_with_logits(logits, torch.full_like(logits, label))
