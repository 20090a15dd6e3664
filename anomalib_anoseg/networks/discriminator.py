"""A critic of pairs of image and mask (Song et al. 2021, table 6)."""

import torch
from torch import Tensor, nn

from anomalib_anoseg.utils.shapes import Images, Masks


class Discriminator(nn.Module):
    """Table 6: a global critic of pairs of image and mask.

    At 256 x 256 it is exactly the paper's. A smaller image is padded where a feature map would
    vanish, the patches of a larger one are averaged.
    """

    WIDTHS = (64, 128, 256, 512, 512, 512, 128)
    SLOPE = 0.2  # of LeakyReLU, as in DCGAN; the paper does not say

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList()
        width = 4
        for index, next_width in enumerate(self.WIDTHS):
            # No batch normalisation after the first convolution, as in the table.
            norm = nn.Identity() if index == 0 else nn.BatchNorm2d(next_width)
            convolution = nn.Conv2d(width, next_width, 4, 2, 1, bias=index == 0)
            self.blocks.append(nn.Sequential(convolution, norm, nn.LeakyReLU(self.SLOPE)))
            width = next_width
        self.head = nn.Conv2d(width, 1, 4, stride=2, padding=1)

    def forward(self, images: Images, masks: Masks) -> Tensor:
        """Return the logit of being real, (b,)."""
        logits: Tensor = self.head(self.features(images, masks)).mean((1, 2, 3))
        return logits

    def features(self, images: Images, masks: Masks) -> Tensor:
        """Return what the last layer decides by, (b, 128, rows, columns)."""
        features = torch.cat([images, masks], dim=1)
        for block in self.blocks:
            # A side of 4 becomes 2: batch normalisation sees several values even of one image. By
            # concatenation, because inductor fails in the gradient of replicate padding.
            for side in (2, 3):
                last = features.narrow(side, features.shape[side] - 1, 1)
                missing = max(0, 4 - features.shape[side])
                features = torch.cat([features, *missing * [last]], side)
            features = block(features)
        return features
