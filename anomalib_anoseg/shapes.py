"""Names for the tensors that travel through the package.

Images and masks are floating point. In a mask, 1 marks an anomalous pixel: the paper writes 0, and
its convention ends at the output of the network (see ``torch_model``).
"""

from jaxtyping import Bool, Float, Int
from torch import Tensor

Images = Float[Tensor, "b c h w"]
Masks = Float[Tensor, "b 1 h w"]
Logits = Float[Tensor, "b 1 h w"]
Verdicts = Float[Tensor, "b"]
Indices = Int[Tensor, "n"]
Flags = Bool[Tensor, "n p"]
Scalars = Float[Tensor, "n p"]
Points = Float[Tensor, "n p 2"]
