"""The thin encoder: what it gives, what it costs, how far it looks."""

import timm
import torch
from conftest import photographs
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from anomalib_anoseg.networks.thin import THIN, WIDTHS


def encoder(name: str = THIN) -> nn.Module:
    network: nn.Module = timm.create_model(name, features_only=True, in_chans=5).eval()
    return network


def operations(name: str) -> int:
    with FlopCounterMode(display=False) as counter:
        encoder(name)(torch.rand(1, 5, 256, 256))
    return counter.get_total_flops()


def test_feature_maps() -> None:
    features: list[Tensor] = encoder()(torch.rand(2, 5, 96, 64))
    assert [tuple(one.shape[2:]) for one in features] == [
        (48, 32), (24, 16), (12, 8), (6, 4), (3, 2)
    ]  # fmt: skip
    assert tuple(one.shape[1] for one in features[1:]) == WIDTHS


def test_a_tenth_of_resnet_18() -> None:
    assert operations(THIN) < operations("resnet18") / 10


def test_a_pixel_does_not_depend_on_the_whole_image() -> None:
    """What squeeze and excitation would make of it."""
    network = encoder()
    image = photographs(1, 5, 64, 512)
    changed = image.clone()
    changed[..., :32] = 1 - changed[..., :32]
    with torch.no_grad():
        maps = zip(network(image), network(changed), strict=True)
    for before, after in maps:
        half = before.shape[-1] // 2
        assert after[..., half:].equal(before[..., half:])
        assert not after.equal(before)
