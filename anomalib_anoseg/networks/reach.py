"""Whether an encoder sees a place by what is near it, which tiles of an image take for granted."""

from copy import deepcopy
from typing import Any

import torch
from torch import nn

FAR = 256  # pixels; a tile's margin is less, and what leaks from there to it is not seen in a map
CHANGED = 1e-3  # in deviations; squeeze-and-excitation changes features by 0.005 to 0.2


@torch.compiler.disable  # type: ignore[untyped-decorator]  # asked once, not a part of any graph
@torch.no_grad()
def sees_far(encoder: nn.Module, channels: int) -> bool:
    """Return whether feature maps change where the image does not change nearby.

    Those of plain convolutions do not; those with squeeze-and-excitation or attention do.

    Args:
        encoder: From images to a list of feature maps. A copy of it is asked, in evaluation mode:
            batch statistics see everything.
        channels: Of its images.
    """
    asked: Any = deepcopy(encoder).float().eval()
    for parameter in asked.parameters():
        # timm switches residual branches off until they are trained, and what is in them.
        if parameter.ndim == 1 and not parameter.any():
            parameter.fill_(1)
    device = next(asked.parameters()).device
    one = torch.zeros(1, channels, 2 * FAR, 2 * FAR, device=device)
    other = one.clone()
    other[..., FAR:, ::2] = torch.linspace(-2, 2, FAR, device=device)  # below, and in stripes
    with torch.autocast(device.type, enabled=False):
        return any(
            bool((seen - changed)[..., 0, :].abs().max() > CHANGED * changed.std())
            for seen, changed in zip(asked(one), asked(other), strict=True)
        )
