"""Random numbers of one's own."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def own_seed(seed: int) -> Iterator[None]:
    """Let torch draw from a seed on the CPU, and leave the caller's random numbers as they were.

    For augmentations of kornia, which take no generator. One that was not moved to another device
    draws on the CPU, whatever device its images are on, so that no other state is touched.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed every device
        yield
