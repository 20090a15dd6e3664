"""Which of many features are kept, so that none of the others is far from all of them."""

import math

import torch
from torch import Tensor

PROJECTIONS = 32  # random directions in which the coreset is chosen (Johnson-Lindenstrauss)


def coreset(rows: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Return the indices of rows that leave no other far away: greedy k-centre selection.

    Args:
        rows: (n, c).
        count: How many; all are returned where there are not more.
        generator: Of the random directions.
    """
    if len(rows) <= count:
        return torch.arange(len(rows))
    directions = torch.randn(rows.shape[1], PROJECTIONS, generator=generator)
    points = rows @ directions / math.sqrt(PROJECTIONS)
    points -= points.mean(0)
    squares = points.square().sum(1)

    def to(centre: Tensor) -> Tensor:
        return torch.addmv(squares + squares[centre], points, points[centre], alpha=-2)

    kept = [squares.argmax()]
    distance = to(kept[0])
    while len(kept) < count:
        kept.append(distance.argmax())
        distance = torch.minimum(distance, to(kept[-1]))
    return torch.stack(kept)


class Candidates:
    """Rows among which a coreset is chosen, with owner and place of each.

    In one block of memory: small ones, between those that the encoder takes and frees again for
    each batch, would keep these from the system, half a megabyte for each image.

    Args:
        channels: Of a row.
        most: Rows that there is room for.
    """

    def __init__(self, channels: int, most: int) -> None:
        self._held = (
            torch.empty(most, channels),
            torch.empty(most, dtype=torch.long),
            torch.empty(most, 2, dtype=torch.long),
        )
        self._count = 0

    def add(self, rows: Tensor, owner: Tensor, place: Tensor) -> None:
        """Take rows, (n, c), of one owner, (), from places in its map, (n, 2)."""
        after = self._count + len(rows)
        for held, values in zip(self._held, (rows, owner, place), strict=True):
            held[self._count : after] = values
        self._count = after

    def all(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return rows, owners and places of all that were taken."""
        rows, owner, place = self._held
        return rows[: self._count], owner[: self._count], place[: self._count]
