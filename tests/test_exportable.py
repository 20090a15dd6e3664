"""Oracle: timm's own layers."""

import pytest
import timm
import torch
from conftest import photographs
from timm.layers.conv2d_same import Conv2dSame
from torch import nn

from anomalib_anoseg.networks.exportable import make_exportable


@pytest.mark.parametrize("kernel", [1, 2, 3, 5, (3, 5)], ids=str)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("dilation", [1, 2])
def test_the_padding_of_even_sides(
    kernel: int | tuple[int, int], stride: int, dilation: int
) -> None:
    layers = nn.Sequential(Conv2dSame(3, 4, kernel, stride, dilation=dilation))
    images = photographs(2, 3, 32, 64)
    expected = layers(images)
    make_exportable(layers)
    assert layers[0].__class__ is not Conv2dSame
    assert layers(images).equal(expected)


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "mobilenetv2_100"])
def test_features_and_weights_stay(name: str) -> None:
    network = timm.create_model(name, features_only=True).eval()
    images, names = photographs(2, 3, 64, 96), [*network.state_dict()]
    with torch.no_grad():
        expected = network(images)
        make_exportable(network)
        found = network(images)
    assert not any(isinstance(module, nn.ReLU6 | Conv2dSame) for module in network.modules())
    assert all(map(torch.equal, found, expected))
    assert [*network.state_dict()] == names
