import pytest
import torch
from conftest import photographs
from kornia.enhance import adjust_contrast_with_mean_subtraction
from torchvision.transforms.v2 import functional as tv

from anomalib_anoseg.synthesis import variation as module
from anomalib_anoseg.synthesis.laws import Variation
from anomalib_anoseg.synthesis.variation import RandomVariation
from anomalib_anoseg.utils.seeds import own_seed

NONE = {"turn": 0.0, "shift": 0.0, "zoom": 0.0, "lighting": 0.0, "white_balance": 0.0}


def vary(**laws: float) -> RandomVariation:
    return RandomVariation(Variation(**NONE | laws))


@pytest.fixture
def _most(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every draw be the largest there can be."""
    monkeypatch.setattr(
        module, "_around", lambda middle, most, _, *shape: torch.full(shape, float(middle + most))
    )


def test_none_is_the_identity() -> None:
    images = photographs(3)
    assert torch.equal(vary()(images), images)


@pytest.mark.usefixtures("_most")
@pytest.mark.parametrize("size", [(64, 64), (60, 90)])
@pytest.mark.parametrize(("angle", "zoom"), [(20.0, 0.0), (30.0, 0.1), (0.0, 0.2)])
def test_turn_and_zoom_are_torchvisions(size: tuple[int, int], angle: float, zoom: float) -> None:
    """Oracle: torchvision's affine, in the middle, where nothing comes in from outside."""
    images = photographs(2, height=size[0], width=size[1])
    moved = vary(turn=angle, zoom=zoom)(images)
    bilinear = tv.InterpolationMode.BILINEAR
    expected = tv.affine(images, -angle, [0, 0], 1 + zoom, [0.0, 0.0], bilinear)
    middle = (..., slice(20, -20), slice(20, -20))
    torch.testing.assert_close(moved[middle], expected[middle], atol=1e-4, rtol=0)
    assert (moved - images)[middle].abs().max() > 0.05


@pytest.mark.usefixtures("_most")
def test_shift_moves_by_whole_pixels() -> None:
    images = photographs(1, height=64, width=128)
    moved = vary(shift=1 / 16)(images)
    torch.testing.assert_close(moved[..., :-4, :-8], images[..., 4:, 8:], atol=1e-5, rtol=0)
    border = images[..., -1:, 8:].expand(-1, -1, 4, -1)
    torch.testing.assert_close(moved[..., -4:, :-8], border, atol=1e-5, rtol=0)


def test_lighting_keeps_black_images_black_and_stays_within_its_range() -> None:
    images = torch.full((400, 1, 4, 4), 0.5)
    lit = vary(lighting=0.2)(images)
    assert 0.4 - 1e-6 <= lit.min() < 0.41
    assert 0.59 < lit.max() <= 0.6 + 1e-6
    assert not vary(lighting=0.2)(torch.zeros(2, 3, 8, 8)).any()


@pytest.mark.usefixtures("_most")
def test_lighting_is_contrast_then_brightness() -> None:
    """Oracle: kornia's contrast, of each image about its own mean."""
    images = photographs(3, 1) * 0.5
    expected = adjust_contrast_with_mean_subtraction(images, torch.full((3,), 1.2)) * 1.2
    torch.testing.assert_close(vary(lighting=0.2)(images), expected.clamp(0, 1))


def test_white_balance_is_a_gain_per_channel() -> None:
    images = 0.2 + 0.5 * photographs(200, height=8, width=8)
    gains = vary(white_balance=0.1)(images) / images
    assert torch.allclose(gains.amin((2, 3)), gains.amax((2, 3)))  # one for all pixels
    channels = gains.mean((2, 3))
    assert 0.9 - 1e-5 <= channels.min() < 0.91
    assert 1.09 < channels.max() <= 1.1 + 1e-5
    assert (channels[:, 0] / channels[:, 2]).max() > 1.15  # red against blue


@pytest.mark.parametrize("channels", [1, 3])
def test_grey_stays_grey(channels: int) -> None:
    grey = photographs(2, 1)
    images = torch.cat([grey.expand(-1, channels, -1, -1), photographs(1, channels)])
    changed = vary(turn=10, shift=0.1, zoom=0.1, lighting=0.3, white_balance=0.3)(images)
    assert (changed[:2] - changed[:2, :1]).abs().max() < 1e-6
    if channels == 1:  # which have no white balance
        assert torch.equal(vary(white_balance=0.3)(images), images)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("channels", [1, 3])
def test_images_stay_images(dtype: torch.dtype, channels: int) -> None:
    images = photographs(4, channels, 65, 90).to(dtype)
    changed = vary(turn=180, shift=0.3, zoom=0.3, lighting=0.5, white_balance=0.5)(images)
    assert changed.shape == images.shape
    assert changed.dtype == dtype
    assert changed.min() >= 0
    assert changed.max() <= 1
    assert len({tuple(i.flatten().tolist()) for i in changed - images}) == 4  # each by its own


def test_mixed_precision_rounds_nothing_and_a_seed_repeats_it() -> None:
    images = photographs(4)
    with own_seed(0):
        expected = RandomVariation()(images)
    with own_seed(0), torch.autocast("cpu", dtype=torch.bfloat16):
        result = RandomVariation()(images)
    assert torch.equal(result, expected)
    assert not torch.equal(RandomVariation()(images), expected)
