"""One map of several witnesses: what was drawn from pixels, read from the memory, and measured."""

import torch
from torch import Tensor, nn

from anomalib_anoseg.utils.shapes import Masks

# Of deviations: the network on pixels, the one on the memory's differences, the memory's distance.
WEIGHTS = (1.0, 1.0, 0.5)
TYPICAL = 16.0  # sum of deviations that becomes a map of 0.5


class Decision(nn.Module):
    """Adds deviations from good images.

    Each witness is standardised by what it says of good images. None can take away what another
    has found: less than usual counts as usual. So a place that is far from everything remembered
    is anomalous, whatever the networks think of it.

    Attributes:
        mean: Of each witness on good images, (n,).
        std: Its deviation.
    """

    mean: Tensor
    std: Tensor
    weights: Tensor

    def __init__(self) -> None:
        super().__init__()
        # Networks are about this sure of good images before they are measured; a memory's distance
        # comes in deviations.
        self.register_buffer("mean", torch.tensor([-7.5, -7.5, 0.0]))
        self.register_buffer("std", torch.tensor([0.6, 0.6, 1.0]))
        self.register_buffer("weights", torch.tensor(WEIGHTS), persistent=False)

    def forward(self, witnesses: Tensor) -> Masks:
        """Return the anomaly map in [0, 1) from what each witness says, (b, n, h, w)."""
        mean, std, weights = (v.view(1, -1, 1, 1) for v in (self.mean, self.std, self.weights))
        deviations = ((witnesses.float() - mean) / std).clamp(min=0)
        # Unlike a sigmoid this tells large sums from larger ones.
        total = (deviations * weights).sum(1, keepdim=True)
        return total / (total + TYPICAL)

    def fit(self, witnesses: list[Tensor]) -> None:
        """Standardise by what was said of good images, (b, n, h, w) each."""
        values = torch.cat([w.float().transpose(0, 1).flatten(1) for w in witnesses], dim=1)
        self.mean.copy_(values.mean(1))
        # A witness that says the same of all good pixels is no surer than most.
        self.std.copy_(values.std(1).clamp(min=0.1))
