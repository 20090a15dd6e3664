"""What several tests need: random images that look like something, and the demo data."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from anomalib_anoseg.data import surface_demo


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def photographs(batch: int, channels: int = 3, height: int = 96, width: int = 96) -> Tensor:
    """Smooth random images in [0, 1] with a little noise; no two pixels are alike."""
    coarse = torch.rand(batch, channels, 8, 8)
    smooth = interpolate(coarse, (height, width), mode="bicubic").clamp(0.05, 0.95)
    return (smooth + 0.02 * torch.randn_like(smooth)).clamp(0, 1)


@pytest.fixture(scope="session")
def demo_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the root of a small SurfaceDemo: fewer images, drawn as in the real one."""
    root = tmp_path_factory.mktemp("demo")
    surface_demo.write_texture(root / "texture", train=4, good=2, each=1)
    surface_demo.write_part(root / "part", train=12, good=4, each=2)
    return root
