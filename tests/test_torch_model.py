import shutil
from itertools import pairwise
from typing import Literal

import pytest
import torch
from anomalib.data import InferenceBatch
from conftest import photographs
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from anomalib_anoseg import AnoSegModel, Discriminator
from anomalib_anoseg.networks.decoders import PaperDecoder, SkipDecoder
from anomalib_anoseg.networks.encoder import coordinates
from anomalib_anoseg.torch_model import Segmentation, image_score

# Table 6 at 256 x 256, from the code of 8 x 8 x 512: convolutions keep the size, T doubles it.
TABLE_6 = [
    ("conv", 512, 8), ("T", 512, 16), ("conv", 256, 16), ("T", 256, 32), ("conv", 128, 32),
    ("T", 128, 64), ("conv", 128, 64), ("T", 128, 128), ("conv", 128, 128), ("T", 128, 256),
    ("conv", 128, 256),
]  # fmt: skip


@pytest.mark.parametrize("out_channels", [1, 3])
def test_paper_decoder_is_table_6(out_channels: int) -> None:
    decoder = PaperDecoder([64, 64, 128, 256, 512], out_channels).eval()
    features, width, parameters = torch.rand(1, 512, 8, 8), 512, 0
    for layer, (kind, channels, size) in zip(decoder.layers, TABLE_6, strict=True):
        features = layer(features)
        assert features.shape == (1, channels, size, size)
        convolution, norm, activation = layer
        assert isinstance(convolution, nn.Conv2d if kind == "conv" else nn.ConvTranspose2d)
        assert convolution.kernel_size == ((3, 3) if kind == "conv" else (4, 4))
        assert isinstance(norm, nn.BatchNorm2d)
        assert isinstance(activation, nn.ReLU)
        kernel = 9 if kind == "conv" else 16
        parameters += width * channels * kernel + 2 * channels  # and the two of its batch norm
        width = channels
    assert decoder.head(features).shape == (1, out_channels, 256, 256)
    parameters += 128 * out_channels * 9 + out_channels
    assert sum(p.numel() for p in decoder.parameters()) == parameters


@pytest.mark.parametrize(
    ("channels", "stride"), [([5, 24, 32, 64], 1), ([16, 24, 40], 2), ([8, 8], 4)]
)
@pytest.mark.parametrize("depth", [1, 2])
def test_skip_decoder_ends_at_the_size_of_the_image(
    channels: list[int], stride: int, depth: int
) -> None:
    strides = [stride * 2**k for k in range(len(channels))]
    decoder = SkipDecoder(channels, strides, 3, depth)
    features = [torch.rand(2, c, 96 // 2**k, 64 // 2**k) for k, c in enumerate(channels)]
    assert decoder(features).shape == (2, 3, 96 * stride, 64 * stride)
    blocks = [len(stage) for stage in decoder.stages]
    assert blocks == [depth] * (len(channels) - 2) + [1]


def test_the_map_is_drawn_with_the_pixels_and_the_image_without() -> None:
    """What sees the image at its own size could copy it."""
    model = AnoSegModel().eval()
    features = model.encoder(photographs(1))
    other = [features[0].flip(-1), *features[1:]]
    assert not torch.equal(model.map_decoder(features), model.map_decoder(other))
    assert model.image_decoder(features[1:]).shape == (1, 3, 96, 96)
    assert len(model.image_decoder.stages) == len(model.map_decoder.stages) - 1


def test_discriminator_is_table_6_at_256() -> None:
    critic = Discriminator().eval()
    widths, sizes = (64, 128, 256, 512, 512, 512, 128), (128, 64, 32, 16, 8, 4, 2)
    features = torch.rand(1, 4, 256, 256)
    for index, (block, width, size) in enumerate(zip(critic.blocks, widths, sizes, strict=True)):
        features = block(features)
        assert features.shape == (1, width, size, size)
        convolution, norm, activation = block
        assert (convolution.kernel_size, convolution.stride) == ((4, 4), (2, 2))
        assert isinstance(norm, nn.BatchNorm2d) == (index > 0)
        assert isinstance(activation, nn.LeakyReLU)
    assert critic.head(features).shape == (1, 1, 1, 1)
    pairs = (4, *widths, 1)
    weights = sum(a * b * 16 for a, b in pairwise(pairs))
    biases_and_norms = 64 + 1 + 2 * sum(widths[1:])
    assert sum(p.numel() for p in critic.parameters()) == weights + biases_and_norms
    images, masks = torch.rand(2, 3, 256, 256), torch.rand(2, 1, 256, 256)
    whole = critic(images, masks)
    stepwise = critic.head(nn.Sequential(*critic.blocks)(torch.cat([images, masks], 1)))
    assert torch.equal(whole, stepwise.flatten())


@pytest.mark.parametrize("size", [(64, 64), (100, 77), (96, 320), (512, 300)], ids=str)
def test_discriminator_works_at_other_sizes_even_with_one_image(size: tuple[int, int]) -> None:
    critic = Discriminator().train()
    logits = critic(torch.rand(1, 3, *size), torch.rand(1, 1, *size))
    assert logits.shape == (1,)
    assert logits.isfinite().all()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
@pytest.mark.filterwarnings("ignore")  # torch's own, from inside the compiler
def test_a_compiled_discriminator_has_the_same_gradients() -> None:
    """Inductor fails in the gradient of replicate padding if images are channels_last."""
    critic = Discriminator()
    images, mask = torch.rand(3, 3, 64, 64), torch.rand(3, 1, 64, 64)
    images = images.to(memory_format=torch.channels_last).requires_grad_()
    gradients = [
        torch.autograd.grad(network(images, mask).square().sum(), images)[0]
        for network in (critic, torch.compile(critic))
    ]
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("decoder", ["paper", "skip"])
@pytest.mark.parametrize("size", [(64, 64), (65, 97), (100, 224)], ids=str)
def test_any_size_in_training_and_evaluation(decoder: str, size: tuple[int, int]) -> None:
    model = AnoSegModel(decoder=decoder)
    images = photographs(2, 3, *size)
    output = model.train()(images)
    assert isinstance(output, Segmentation)
    assert output.anomaly_logits.shape == output.anomaly_map.shape == (2, 1, *size)
    assert output.reconstruction.shape == images.shape
    assert output.reconstruction.min() >= 0
    assert output.reconstruction.max() <= 1
    prediction = model.eval()(images)
    assert isinstance(prediction, InferenceBatch)
    assert prediction.anomaly_map.shape == (2, 1, *size)
    assert prediction.pred_score.shape == (2,)
    assert not prediction.anomaly_map.requires_grad
    assert 0 <= prediction.anomaly_map.min() <= prediction.anomaly_map.max() <= 1


@pytest.mark.parametrize(
    ("backbone", "decoder", "low", "high"),
    [("resnet18", "paper", 43.5, 45.0), ("thin_resnet", "skip", 0.0, 2.0)],
    ids=["paper", "default"],
)
def test_cost_of_inference_in_gflop(
    backbone: str, decoder: Literal["paper", "skip"], low: float, high: float
) -> None:
    """Two operations per multiply-add; METHOD's count of the paper's network is 44."""
    # Its image decoder must not run.
    model = AnoSegModel(backbone, decoder, reconstruct=True).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(photographs(1, 3, 256, 256))
    assert low < counter.get_total_flops() / 1e9 < high


def test_training_and_evaluation_give_the_same_map() -> None:
    model = AnoSegModel().train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    images = photographs(2)
    trained = model(images).anomaly_map
    torch.testing.assert_close(model.eval()(images).anomaly_map, trained.detach())


def test_coordinates_span_the_image() -> None:
    rows, columns = coordinates(torch.empty(2, 3, 5, 9))[1]
    assert torch.equal(rows[:, 3], torch.linspace(-1, 1, 5))
    assert torch.equal(columns[2], torch.linspace(-1, 1, 9))


def test_coordinates_can_be_left_out() -> None:
    model = AnoSegModel(coordinate_channels=False).eval()
    assert model.encoder.backbone.stem.conv.in_channels == 3
    assert model(photographs(1)).anomaly_map.shape == (1, 1, 96, 96)


def test_nothing_is_built_for_a_reconstruction_that_is_off() -> None:
    assert AnoSegModel(reconstruct=False).image_decoder is None
    assert AnoSegModel(reconstruct=False).train()(photographs(2)).reconstruction is None


@pytest.mark.parametrize("decoder", ["paper", "skip"])
def test_smallest_images(decoder: str) -> None:
    """Even one at a time, where batch normalisation has the fewest values."""
    model = AnoSegModel(decoder=decoder, detect=True).train()
    trained = model(photographs(1, height=33, width=33))
    assert trained.anomaly_logits.shape == trained.anomaly_map.shape == (1, 1, 33, 33)
    assert trained.reconstruction.shape == (1, 3, 33, 33)
    assert model.eval()(photographs(1, height=33, width=33)).pred_score.isfinite()


@pytest.mark.parametrize("backbone", ["mobilenetv3_small_050", "convnext_atto", "efficientnet_b0"])
@pytest.mark.parametrize("decoder", ["paper", "skip"])
def test_other_backbones_by_name(backbone: str, decoder: str) -> None:
    """With four feature maps or five."""
    model = AnoSegModel(backbone=backbone, decoder=decoder).eval()
    assert model(photographs(1, height=70)).anomaly_map.shape == (1, 1, 70, 96)


def test_score_is_the_highest_window_mean() -> None:
    anomaly_map = torch.zeros(2, 1, 64, 64)
    anomaly_map[0, 0, 5, 5] = 1.0  # a single pixel is noise
    anomaly_map[1, 0, 20:40, 20:40] = 0.9
    assert image_score(anomaly_map).tolist() == pytest.approx([1 / 25, 0.9], rel=1e-5)


def test_clear_errors() -> None:
    with pytest.raises(ValueError, match="decoder must be one of 'paper', 'skip', got 'unet'"):
        AnoSegModel(decoder="unet")
    with pytest.raises(ValueError, match="vit_tiny_patch16_224"):
        AnoSegModel(backbone="vit_tiny_patch16_224")
    model = AnoSegModel().eval()
    with pytest.raises(ValueError, match="at least 33 x 33, got 32 x 80"):
        model(torch.rand(1, 3, 32, 80))
    with pytest.raises(
        ValueError, match=r"values in \[0, 1\], got -2.1 to 1: is there a Normalize"
    ):
        model(torch.rand(1, 3, 64, 64).index_fill(0, torch.tensor([0]), 1.0) - torch.eye(64) * 3.1)
    with pytest.raises(ValueError, match="finite values"):
        model(torch.full((1, 3, 64, 64), float("nan")))
