"""What several tests need: random images that look like something, small models, the demo data."""

import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from anomalib.data import ImageBatch
from anomalib.engine import Engine
from torch import Tensor
from torch.nn.functional import interpolate

from anomalib_anoseg import AnoSeg, PreProcessor
from anomalib_anoseg.data import surface_demo
from anomalib_anoseg.utils.signal_stack import kept_signal_stack

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _kept_signal_stack() -> Iterator[None]:
    """Tests make cores of OpenVINO too, and so does anomalib."""
    with kept_signal_stack():
        yield


@pytest.fixture
def _interruptible() -> Iterator[None]:
    """Undo what a shell does to commands in the background: they ignore Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def photographs(batch: int, channels: int = 3, height: int = 96, width: int = 96) -> Tensor:
    """Smooth random images in [0, 1] with a little noise; no two pixels are alike."""
    coarse = torch.rand(batch, channels, 8, 8)
    smooth = interpolate(coarse, (height, width), mode="bicubic").clamp(0.05, 0.95)
    return (smooth + 0.02 * torch.randn_like(smooth)).clamp(0, 1)


def noisy_batch() -> ImageBatch:
    """A judged image whose map is as noisy as a photograph, as a page gets it."""
    return ImageBatch(
        image=photographs(1, height=256, width=256),
        image_path=["hole/000.png"],
        gt_label=torch.ones(1, dtype=torch.bool),
        anomaly_map=photographs(1, 1, 256, 256)[:, 0],
        pred_score=torch.ones(1),
        pred_label=torch.ones(1, dtype=torch.bool),
    )


def small_model(**arguments: Any) -> AnoSeg:
    """Small images, a small encoder without a memory, and all of the paper's losses."""
    small: dict[str, Any] = {
        "backbone": "mobilenetv3_small_050", "visualizer": False, "pre_trained": False,
        "reconstruction_weight": 1.0, "adversarial_weight": 0.01,
        "pre_processor": PreProcessor((64, 64)),
    }  # fmt: skip
    return AnoSeg(**small | arguments)


def segmenter(**arguments: Any) -> AnoSeg:
    """The same with the segmentation's loss alone."""
    return small_model(adversarial_weight=0, reconstruction_weight=0, **arguments)


def remembering_model(**arguments: Any) -> AnoSeg:
    """The same with a small memory of good images."""
    return segmenter(**{"pre_trained": True, "memory_rows": 100} | arguments)


def quiet_engine(root: Path, **arguments: Any) -> Engine:
    """One epoch on the CPU, and nothing on the screen."""
    quiet: dict[str, Any] = {
        "default_root_dir": root, "accelerator": "cpu", "max_epochs": 1, "logger": False,
        "enable_progress_bar": False, "enable_model_summary": False,
    }  # fmt: skip
    return Engine(**quiet | arguments)


@pytest.fixture(scope="session")
def demo_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the root of a small SurfaceDemo: fewer images, drawn as in the real one."""
    root = tmp_path_factory.mktemp("demo")
    surface_demo.write_part(root / "part", counts=surface_demo.Counts(12, 4, 2))
    return root


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """Start a browser that asks for nothing by itself."""
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine")
    from playwright.sync_api import sync_playwright

    options = ["--no-sandbox", "--disable-background-networking"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        yield browser
        browser.close()


@contextmanager
def opened(
    chromium: Any, path: Path, ready: str = "body.ready", **options: Any
) -> Iterator[tuple[Any, list[str]]]:
    """Open a page, and listen to its console and for requests."""
    tab = chromium.new_page(**options)
    said: list[str] = []
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.on("request", lambda request: said.append(request.url) if "http" in request.url else 0)
    tab.goto(path.as_uri())
    tab.wait_for_selector(ready)
    yield tab, said
    tab.close()
