import pytest
import torch
from conftest import photographs
from torchvision.transforms.v2 import functional as tv

from anomalib_anoseg.synthesis.variation import Variation


def fixed(monkeypatch: pytest.MonkeyPatch, **values: float) -> None:
    """Let every draw be this: angle in degrees, scale, shift as a share of the width and height."""
    made = iter([values["angle"], values["scale"], values["shift"]])
    monkeypatch.setattr(
        "anomalib_anoseg.synthesis.draws.Draw.uniform",
        lambda _self, _low, _high, *shape: torch.full(shape, next(made)),
    )


def test_none_is_the_identity() -> None:
    images = photographs(3)
    assert torch.equal(Variation(0, 0, 0, 0)(images), images)


@pytest.mark.parametrize("size", [(64, 64), (60, 90)])
@pytest.mark.parametrize(("angle", "scale"), [(-20.0, 1.0), (30.0, 0.9), (0.0, 1.2)])
def test_turn_and_zoom_are_torchvisions(
    monkeypatch: pytest.MonkeyPatch, size: tuple[int, int], angle: float, scale: float
) -> None:
    """Oracle: torchvision's affine, in the middle, where nothing comes in from outside."""
    images = photographs(2, height=size[0], width=size[1])
    fixed(monkeypatch, angle=angle, scale=scale, shift=0.0)
    moved = Variation(180, 0.5, 0.5, 0)(images)
    bilinear = tv.InterpolationMode.BILINEAR
    expected = tv.affine(images, -angle, [0, 0], scale, [0.0, 0.0], bilinear)
    middle = (..., slice(20, -20), slice(20, -20))
    torch.testing.assert_close(moved[middle], expected[middle], atol=1e-4, rtol=0)
    assert (moved - images)[middle].abs().max() > 0.05


def test_shift_moves_by_whole_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    images = photographs(1, height=64, width=128)
    fixed(monkeypatch, angle=0.0, scale=1.0, shift=1 / 16)
    moved = Variation(0, 0.5, 0, 0)(images)
    torch.testing.assert_close(moved[..., :-4, :-8], images[..., 4:, 8:], atol=1e-5, rtol=0)
    border = images[..., -1:, 8:].expand(-1, -1, 4, -1)
    torch.testing.assert_close(moved[..., -4:, :-8], border, atol=1e-5, rtol=0)


def test_lighting_keeps_black_images_black_and_stays_within_its_range() -> None:
    images = torch.full((400, 1, 4, 4), 0.5)
    lit = Variation(0, 0, 0, 0.2)(images)
    assert 0.4 - 1e-6 <= lit.min() < 0.41
    assert 0.59 < lit.max() <= 0.6 + 1e-6
    assert not Variation(0, 0, 0, 0.2)(torch.zeros(2, 3, 8, 8)).any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("channels", [1, 3])
def test_images_stay_images(dtype: torch.dtype, channels: int) -> None:
    images = photographs(4, channels, 65, 90).to(dtype)
    changed = Variation(180, 0.3, 0.3, 0.5)(images)
    assert changed.shape == images.shape
    assert changed.dtype == dtype
    assert changed.min() >= 0
    assert changed.max() <= 1
    assert len({tuple(i.flatten().tolist()) for i in changed - images}) == 4  # each by its own


def test_mixed_precision_rounds_nothing() -> None:
    vary, images = Variation(turn=5, shift=0.03, zoom=0.05, lighting=0.1), photographs(4)
    expected = vary(images, torch.Generator().manual_seed(0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = vary(images, torch.Generator().manual_seed(0))
    assert torch.equal(result, expected)


def test_grey_stays_grey() -> None:
    grey = photographs(2, 1).expand(-1, 3, -1, -1)
    changed = Variation(10, 0.1, 0.1, 0.3)(grey)
    assert torch.equal(changed[:, 0], changed[:, 1])


def test_a_generator_repeats_it() -> None:
    images, variation = photographs(2), Variation(5, 0.1, 0.1, 0.1)
    first, again = (variation(images, torch.Generator().manual_seed(2)) for _ in range(2))
    assert torch.equal(first, again)


@pytest.mark.parametrize(
    "arguments", [(181, 0, 0, 0), (0, -0.1, 0, 0), (0, 0, 1.1, 0), (0, 0, 0, float("nan"))]
)
def test_wrong_arguments(arguments: tuple[float, float, float, float]) -> None:
    with pytest.raises(ValueError, match="must satisfy 0 <="):
        Variation(*arguments)
