"""Places where an image has structure or is inspected, as images of uniform random numbers."""

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, interpolate

from anomalib_anoseg.utils.shapes import Images, Insides, Points

CELLS = 32  # along each side


def on_structure(images: Images, quantiles: Points, inside: Insides | None = None) -> Points:
    """Return positions as shares of the sides (x, y), at the density of the local contrast.

    Uniform quantiles give positions that are as dense as the image is rich in contrast: the
    inverse of its distribution over y, then of the one over x at that height. A flat image leaves
    them as they are.

    Args:
        images: To look at.
        quantiles: In [0, 1), (b, p, 2) as (x, y).
        inside: Where positions may be; anywhere by default.
    """
    # A part of the pixels tells it as well: all of them took a tenth of the generator's time.
    step = max(1, min(images.shape[-2:]) // (4 * CELLS))
    grey = images[..., ::step, ::step].float().mean(1, keepdim=True)
    mean, square = (adaptive_avg_pool2d(v, CELLS)[:, 0] for v in (grey, grey.square()))
    contrast = (square - mean.square()).clamp(min=0).sqrt()  # standard deviation in each cell
    # Not zero: a flat image has no structure, everywhere is as good.
    density = contrast + 1e-3
    if inside is not None:
        density = interpolate(density[:, None], inside.shape[-2:])[:, 0] * inside[:, 0]
    return _positions(density, quantiles)


def within(inside: Insides, quantiles: Points) -> Points:
    """Return positions as shares of the sides (x, y) that are evenly spread over what is inside."""
    density = inside[:, 0].float()
    return _positions(density.expand(len(quantiles), -1, -1), quantiles)


def _positions(density: Tensor, quantiles: Points) -> Points:
    """Return positions of a density, (b, h, w): those of y, then those of x at that height."""
    patches = quantiles.shape[1]
    row, y = _inverse(density.sum(2)[:, None].expand(-1, patches, -1), quantiles[..., 1])
    along = density.gather(1, row[..., None].expand(-1, -1, density.shape[2]))
    _, x = _inverse(along, quantiles[..., 0])
    return torch.stack([x, y], -1)


def _inverse(density: Tensor, quantiles: Tensor) -> tuple[Tensor, Tensor]:
    """Return the cell that each quantile lies in, and where along all of them, in [0, 1].

    Args:
        density: Of the cells, (b, p, cells), not negative; none is found where it is 0.
        quantiles: (b, p) in [0, 1).
    """
    upto = density.cumsum(-1)
    # The last quantile rounds to 1, which no cell holds.
    sought = (quantiles[..., None] * upto[..., -1:]).clamp(max=upto[..., -1:] * (1 - 1e-6))
    cell = torch.searchsorted(upto, sought, right=True).clamp(max=density.shape[-1] - 1)
    mass = density.gather(-1, cell).clamp(min=1e-30)
    share = ((sought - upto.gather(-1, cell) + mass) / mass).clamp(0, 1)
    return cell[..., 0], ((cell + share) / density.shape[-1])[..., 0]
