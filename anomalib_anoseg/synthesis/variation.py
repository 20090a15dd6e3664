"""Small changes that leave a good image good, so that the training images are not learned by heart.

AnoSeg says nothing about it; NSA (Schlueter et al. 2022) crops at random and turns by 5 degrees.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import affine_grid, grid_sample

from anomalib_anoseg.synthesis.draws import Draw
from anomalib_anoseg.utils.checks import require_images, require_within
from anomalib_anoseg.utils.shapes import Images


class Variation(nn.Module):
    """Turn, shift, zoom and relight each image a little, all at random; ours.

    Args:
        turn: Largest angle in degrees, either way, [0, 180].
        shift: Largest shift as a share of the height and of the width, [0, 1].
        zoom: Largest change of the size as a share of it, [0, 1].
        lighting: Largest change of brightness and of contrast as a share of them, [0, 1].

    Raises:
        ValueError: If an argument is outside its range.
    """

    def __init__(self, turn: float, shift: float, zoom: float, lighting: float) -> None:
        super().__init__()
        require_within("turn", turn, 0, 180)
        for name, share in {"shift": shift, "zoom": zoom, "lighting": lighting}.items():
            require_within(name, share, 0, 1)
        self.turn = turn
        self.shift = shift
        self.zoom = zoom
        self.lighting = lighting

    @torch.no_grad()
    def forward(self, images: Images, generator: torch.Generator | None = None) -> Images:
        """Return the images in [0, 1] changed; what comes in from outside repeats the border.

        Raises:
            ValueError: If the images are not floating-point numbers (b, 1 or 3, h, w).
        """
        require_images(images)
        # In mixed precision's bfloat16 a position would be half a pixel off at 256.
        with torch.autocast(images.device.type, enabled=False):
            return self._vary(images, generator)

    def _vary(self, images: Images, generator: torch.Generator | None) -> Images:
        draw, n = Draw(images.device, generator), len(images)
        if self.turn or self.shift or self.zoom:
            angle = torch.deg2rad(draw.uniform(-self.turn, self.turn, n))
            scale = draw.uniform(1 - self.zoom, 1 + self.zoom, n)
            # The coordinates of affine_grid run from -1 to 1: a shift by the whole side is 2.
            offset = 2 * draw.uniform(-self.shift, self.shift, n, 2)
            grid = affine_grid(_matrix(angle, scale, offset, images), list(images.shape), False)
            moved = grid_sample(images.float(), grid, padding_mode="border", align_corners=False)
            images = moved.to(images.dtype)
        if self.lighting:
            brightness, contrast = draw.uniform(-1, 1, 2, n, 1, 1, 1) * self.lighting + 1
            mean = images.mean((1, 2, 3), keepdim=True)
            images = (((images - mean) * contrast + mean) * brightness).clamp(0, 1).to(images.dtype)
        return images


def _matrix(angle: Tensor, scale: Tensor, offset: Tensor, images: Images) -> Tensor:
    """Return where affine_grid shall look, (n, 2, 3); a circle stays one if it is not square."""
    height, width = images.shape[-2:]
    cos, sin = angle.cos() / scale, angle.sin() / scale
    across = torch.stack([cos, -sin * (height / width), offset[:, 0]], -1)
    down = torch.stack([sin * (width / height), cos, offset[:, 1]], -1)
    return torch.stack([across, down], 1)
