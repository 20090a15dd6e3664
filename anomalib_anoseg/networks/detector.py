"""Image-level detection by a second GAN that is fed with the map (Song et al. 2021, section 3.4).

A generator rebuilds the image from image and anomaly map. A discriminator learns what pairs of a
good image and an empty mask look like. An image is anomalous if its reconstruction with its map
looks different to the discriminator than the image itself with an empty mask.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from anomalib_anoseg.networks.decoders import PaperDecoder
from anomalib_anoseg.networks.discriminator import Discriminator
from anomalib_anoseg.networks.encoder import Encoder, crop
from anomalib_anoseg.utils.shapes import Images, Masks, Verdicts

FEATURE_WEIGHT, IMAGE_WEIGHT = 1.0, 0.1  # of the score; the paper's
# Of the generator's losses; the paper gives none. The adversarial one as in AnoSeg's defaults.
RECONSTRUCTION_WEIGHT, MATCHING_WEIGHT, ADVERSARIAL_WEIGHT = 1.0, 1.0, 0.01
MOMENTUM = 0.1  # of the running mean, as in batch normalisation


class Detector(nn.Module):
    """The paper's detector: encoder, decoder of table 6 without skip connections, discriminator.

    The light decoder would not do: with skip connections the image passes through unchanged.

    Args:
        backbone: As for AnoSegModel; the encoder has weights of its own.
        coordinate_channels: Likewise.
    """

    typical: Tensor

    def __init__(self, backbone: str, coordinate_channels: bool = True) -> None:
        super().__init__()
        self.encoder = Encoder(backbone, coordinate_channels, map_channel=True)
        self.decoder = PaperDecoder(self.encoder.channels, out_channels=3)
        self.discriminator = Discriminator()
        self.register_buffer("typical", torch.ones(()))

    def reconstruct(self, images: Images, anomaly_map: Masks) -> Images:
        """Return x_hat in [0, 1] from the image and its map, 1 is anomalous."""
        features = self.encoder(images, anomaly_map)
        return crop(self.decoder(features), images).sigmoid()

    def forward(self, images: Images, anomaly_map: Masks) -> Verdicts:
        """Return the score of each image in [0, 1), (b,); higher is more anomalous.

        The paper's distance d of the pairs, as d / (d + typical) with the mean of good images in
        training as the typical one. It ranks images as d does, and stays where probabilities are.
        """
        reconstruction = self.reconstruct(images, anomaly_map)
        distance = self._matching(images, reconstruction, anomaly_map) * FEATURE_WEIGHT
        distance = distance + IMAGE_WEIGHT * _mean((images - reconstruction).float().square())
        return distance / (distance + self.typical)

    def discriminator_loss(
        self, images: Images, masks: Masks, reconstruction: Images, anomaly_map: Masks
    ) -> Tensor:
        """Return the discriminator's half of L_adv, and L_cls (Odena 2016).

        Real are good images with empty masks. Fake are their reconstructions with their maps, and
        synthetic images with their masks.
        """
        normal = _is_normal(masks)
        real = self.discriminator(images, masks)
        fake = self.discriminator(reconstruction, anomaly_map)
        # Twice: the good pairs are real in both losses.
        return (
            2 * _mean_over(normal, _is(real, 1.0))
            + _mean_over(1 - normal, _is(real, 0.0))
            + _mean_over(normal, _is(fake, 0.0))
        )

    def generator_loss(
        self, images: Images, masks: Masks, reconstruction: Images, anomaly_map: Masks
    ) -> Tensor:
        """Return the weighted sum of L_adv, L_fea (Salimans et al. 2016) and reconstruction.

        Over the good images of the batch; synthetic ones only teach the discriminator.
        """
        normal = _is_normal(masks)
        matching = self._matching(images, reconstruction, anomaly_map)
        error = images - reconstruction.float()
        with torch.no_grad():
            distance = FEATURE_WEIGHT * matching + IMAGE_WEIGHT * _mean(error.square())
            known = torch.where(normal.any(), _mean_over(normal, distance), self.typical)
            self.typical.lerp_(known, MOMENTUM)
        adversarial = _is(self.discriminator(reconstruction, anomaly_map), 1.0)
        return _mean_over(
            normal,
            ADVERSARIAL_WEIGHT * adversarial
            + MATCHING_WEIGHT * matching
            + RECONSTRUCTION_WEIGHT * _mean(error.abs()),
        )

    def _matching(self, images: Images, reconstruction: Images, anomaly_map: Masks) -> Tensor:
        """Return MSE(f(x, A_nor), f(x_hat, A_hat)) with f the penultimate layer, (b,)."""
        good = self.discriminator.features(images, torch.zeros_like(anomaly_map))
        seen = self.discriminator.features(reconstruction, anomaly_map)
        return _mean((good - seen).float().square())


def _is_normal(masks: Masks) -> Tensor:
    return 1 - masks.amax((1, 2, 3)).float()


def _mean(values: Tensor) -> Tensor:
    return values.mean((1, 2, 3))


def _mean_over(chosen: Tensor, values: Tensor) -> Tensor:
    """Return the mean of the chosen values, 0 without any; no index, so a GPU does not wait."""
    return (chosen * values).sum() / chosen.sum().clamp(min=1)


def _is(logits: Tensor, label: float) -> Tensor:
    logits = logits.float()
    target = torch.full_like(logits, label)
    return binary_cross_entropy_with_logits(logits, target, reduction="none")
