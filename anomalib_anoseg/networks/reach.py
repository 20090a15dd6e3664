"""Whether an encoder sees a place by what is near it, which tiles of an image take for granted."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from anomalib_anoseg.utils.shapes import Images

FAR = 256  # pixels; a tile's margin is less, and what leaks from there to it is not seen in a map
CHANGED = 1e-3  # in deviations; squeeze-and-excitation changes features by 0.005 to 0.2


@torch.compiler.disable  # type: ignore[untyped-decorator]  # asked once, not a part of any graph
@torch.no_grad()
def sees_far(encoder: nn.Module, encode: Callable[[Images], list[Tensor]]) -> bool:
    """Return whether features change when the image changes far from them.

    Those of plain convolutions do not; those with squeeze-and-excitation or attention do.

    Args:
        encoder: Is asked as it is in evaluation: batch statistics see everything.
        encode: From images, (b, 3, h, w) in [0, 1], to feature maps, with that encoder.
    """
    device = next(encoder.parameters()).device
    one = torch.full((1, 3, 2 * FAR, 2 * FAR), 0.5, device=device)
    other = one.clone()
    other[..., FAR:, :] = torch.linspace(0, 1, 3 * FAR * 2 * FAR, device=device).view(3, FAR, -1)
    other[..., FAR:, ::2] *= 0.5
    training = encoder.training
    encoder.eval()
    try:
        with torch.autocast(device.type, enabled=False):
            pairs = zip(encode(one), encode(other), strict=True)
            return any(
                bool((seen - changed)[..., 0, :].abs().max() > CHANGED * changed.std())
                for seen, changed in pairs
            )
    finally:
        encoder.train(training)
