"""timm's networks as torch's exporter to ONNX takes them in seconds, sides left open."""

from timm.layers.conv2d_same import Conv2dSame
from torch import Tensor, nn
from torch.nn import functional as F


class Clamp(nn.Module):
    """ReLU6, which the exporter takes apart by itself: a third of an export's time."""

    def forward(self, features: Tensor) -> Tensor:
        """Return the features within 0 and 6."""
        return features.clamp(0, 6)


class EvenConv2d(nn.Conv2d):
    """timm's Conv2dSame for sides that the stride divides: the padding is then always the same.

    Where it depends on open sides the exporter reckons with it for a quarter of an hour.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        """Return the convolution, each side divided by the stride."""
        # Horizontally and vertically, before and after: F.pad begins with the last dimension.
        padding: list[int] = []
        for kernel, stride, dilation in zip(
            self.kernel_size[::-1], self.stride[::-1], self.dilation[::-1], strict=True
        ):
            both = max(dilation * (kernel - 1) + 1 - stride, 0)
            padding += [both // 2, both - both // 2]
        return super().forward(F.pad(input, padding))


def make_exportable(network: nn.Module) -> None:
    """Replace what the exporter is slow with; names and values of the weights stay.

    The network then needs images whose sides all of its strides divide.
    """
    for name, module in [*network.named_modules()]:
        if isinstance(module, nn.ReLU6):
            network.set_submodule(name, Clamp())
        elif isinstance(module, Conv2dSame):
            module.__class__ = EvenConv2d  # type: ignore[assignment]  # the same weights
