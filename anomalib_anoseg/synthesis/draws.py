"""Random tensors on one device, from one source."""

import math

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from anomalib_anoseg.utils.shapes import Images, Indices, Points, sides

STRUCTURE_CELLS = 32  # along each side


class Draw:
    """What torch draws from, with the device and the source said once."""

    def __init__(self, device: torch.device, generator: torch.Generator | None) -> None:
        self.device = device
        self.generator = generator

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """Return values in [low, high)."""
        empty = torch.empty(*shape, device=self.device)
        return empty.uniform_(low, high, generator=self.generator)

    def log_uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """Return values in [low, high), as many between 1 and 2 as between 2 and 4."""
        return self.uniform(math.log(low), math.log(high), *shape).exp()

    def integers(self, low: int, high: int, *shape: int) -> Tensor:
        """Return whole numbers in [low, high)."""
        return torch.randint(low, high, shape, device=self.device, generator=self.generator)

    def happens(self, probability: float, *shape: int) -> Tensor:
        """Return booleans that are true with a probability."""
        return torch.rand(shape, device=self.device, generator=self.generator) < probability


def on_structure(draw: Draw, images: Images, chosen: Indices, p: int) -> Points:
    """Draw p positions per chosen image, (n, p, 2) in pixels, at its local contrast's density."""
    n, (height, width) = len(chosen), images.shape[-2:]
    # A part of the pixels tells it as well: all of them took a tenth of the generator's time.
    step = max(1, min(height, width) // (4 * STRUCTURE_CELLS))
    grey = images[..., ::step, ::step].float().mean(1, keepdim=True)
    mean, square = (adaptive_avg_pool2d(v, STRUCTURE_CELLS) for v in (grey, grey.square()))
    contrast = (square - mean.square()).clamp(min=0).sqrt()  # standard deviation in each cell
    # A flat image has no structure: everywhere is as good.
    density = contrast.flatten(1)[chosen] + 1e-3
    upto = density.cumsum(1)
    cell = torch.searchsorted(upto, draw.uniform(0, 1, n, p) * upto[:, -1:])
    cell = cell.clamp(max=STRUCTURE_CELLS**2 - 1)
    corner = torch.stack([cell // STRUCTURE_CELLS, cell % STRUCTURE_CELLS], -1)
    position = (corner + draw.uniform(0, 1, n, p, 2)) / STRUCTURE_CELLS
    return position * sides(height, width, images.device)
