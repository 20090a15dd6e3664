"""Names for the tensors that travel through the package.

Images and masks are floating point. In a mask, 1 marks an anomalous pixel: the paper writes 0, and
its convention ends at the output of the network (see ``torch_model``).
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

# Pixels; the coarsest map then has 2 x 2, which batch normalisation needs.
SMALLEST_SIDE = 33

Images = Float[Tensor, "b c h w"]
Masks = Float[Tensor, "b 1 h w"]
Logits = Float[Tensor, "b 1 h w"]
Verdicts = Float[Tensor, "b"]
Indices = Int[Tensor, "n"]
# Where crops lie: top and left, then height and width of the whole image, in pixels.
Places = Float[Tensor, "b 4"]
# Which pixels of images are inspected; of all alike where there is one.
Insides = Bool[Tensor, "n 1 h w"]
Points = Float[Tensor, "n p 2"]


def sides(height: int, width: int, device: torch.device) -> Tensor:
    """Return both as a tensor, (2,), without waiting for a GPU as ``new_tensor`` does."""
    return torch.tensor([height, width]).to(device, non_blocking=True)
