"""What synthesis does on a GPU: nothing waits for it, and its memory stays small.

Most of it without one. Fake tensors have a device, shapes and storages, but no values: they raise
where a value is asked for, and a dispatch mode sees each operation that a GPU would be given.
"""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import photographs
from lightning.pytorch.trainer.connectors.logger_connector.result import _ResultCollection
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from anomalib_anoseg import AnomalyGenerator, AnoSeg
from anomalib_anoseg.synthesis.laws import Anomalies
from anomalib_anoseg.synthesis.variation import RandomVariation


class Watch(TorchDispatchMode):
    """Notes copies that the host would wait for, and how much of a GPU's memory is held."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []
        self.peak = 0  # bytes
        self._held: dict[int, int] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        tensors = [value for value in (*args, result) if isinstance(value, Tensor)]
        copies = func in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)
        if copies and len({t.device for t in tensors}) > 1 and not kwargs.get("non_blocking"):
            self.waits.append(f"{func} of {list(tensors[0].shape)}")
        if isinstance(result, Tensor) and result.is_cuda:
            storage = result.untyped_storage()
            self._held[storage._cdata] = storage.nbytes()
            weakref.finalize(storage, self._held.pop, storage._cdata, None)
            self.peak = max(self.peak, sum(self._held.values()))
        return result


@contextmanager
def fake_gpu() -> Iterator[Watch]:
    with FakeTensorMode(allow_non_fake_inputs=True), Watch() as watch:
        yield watch


@pytest.mark.parametrize("channels", [1, 3])
def test_nothing_would_wait_for_a_gpu(channels: int) -> None:
    with fake_gpu() as watch:
        images = torch.rand(8, channels, 64, 64, device="cuda")
        drawing_there, drawing_here = AnomalyGenerator().to("cuda"), AnomalyGenerator()
        watch.waits.clear()
        images = RandomVariation()(images)
        for generator in (drawing_there, drawing_here):
            generator(images, torch.zeros_like(images[:, :1]))
        assert watch.waits == []
        if not torch.cuda.is_available():  # where there is one, torch makes a tensor on it at once
            images.new_tensor([64, 64])  # this would
            assert len(watch.waits) == 1
        with pytest.raises(Exception, match="_local_scalar_dense"):
            images.max().item()  # and this


def test_memory_on_a_gpu() -> None:
    """Fewer than ten temporaries of the batch's size, every image being synthetic."""
    with fake_gpu() as watch:
        images = torch.rand(16, 3, 64, 64, device="cuda")
        assert watch.peak == images.nbytes
        masks = torch.zeros_like(images[:, :1])
        result = AnomalyGenerator(Anomalies(synthetic_share=1.0)).to("cuda")(images, masks)
        kept = sum(tensor.nbytes for tensor in (images, *result))
        assert 2 < (watch.peak - kept) / images.nbytes < 10


def to_gpu(model: AnoSeg) -> None:
    """Replace weights by fake ones: Module.to would have to swap them, which torch refuses."""
    for module in model.modules():
        for name, weight in module._parameters.items():
            if weight is not None:
                module._parameters[name] = nn.Parameter(torch.empty_like(weight, device="cuda"))
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty_like(buffer, device="cuda")
    model._device = torch.device("cuda", 0)


def test_a_training_step_and_its_log_would_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AnoSeg, "global_step", 1)  # every fiftieth looks at its losses
    model = AnoSeg(backbone="resnet10t", image_score="detector")
    logged: dict[str, Tensor] = {}

    def log_dict(values: dict[str, Tensor], prog_bar: bool = False) -> None:
        assert not prog_bar  # see the next test
        logged.update(values)

    monkeypatch.setattr(model, "log_dict", log_dict)
    with fake_gpu() as watch:
        to_gpu(model)
        batch: Any = SimpleNamespace(
            image=torch.rand(4, 3, 64, 64, device="cuda"), image_path=["a", "b", "c", "d"]
        )
        loss = model.training_step(batch, batch_idx=1)
        assert isinstance(loss, Tensor)
        assert watch.waits == []
    assert set(logged) > {"train_loss", "train_segmentation", "train_detector", "train_memory"}
    assert all(value.is_cuda for value in logged.values())


def test_lightning_asks_for_what_a_progress_bar_may_show() -> None:
    """Each step, and also where there is no progress bar: each value would be a wait."""
    results = _ResultCollection(training=True)
    for shown in (True, False):
        options = {"prog_bar": shown, "on_step": True, "on_epoch": False}
        results.log("training_step", f"shown {shown}", torch.ones(()), **options)
    metrics = results.metrics(on_step=True)
    assert metrics["pbar"] == {"shown True": 1.0}
    assert isinstance(metrics["pbar"]["shown True"], float)
    assert all(isinstance(value, Tensor) for value in metrics["callback"].values())


@contextmanager
def refused_waits() -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_nothing_waits_for_a_gpu() -> None:
    images, generator, vary = photographs(8).cuda(), AnomalyGenerator().cuda(), RandomVariation()
    masks = torch.zeros_like(images[:, :1])
    generator(vary(images), masks)
    with refused_waits():
        generator(vary(images), masks)
        with pytest.raises(RuntimeError, match="synchroniz"):
            images.max().item()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_training_step_does_not_wait_for_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AnoSeg, "global_step", 1)  # every fiftieth looks at its losses
    monkeypatch.setattr(AnoSeg, "log_dict", lambda *_, **__: None)
    model = AnoSeg(image_score="detector").cuda()
    images = photographs(4)
    assert model.model.memory is not None
    model.model.memory.fill([(images, torch.arange(4))], 4)
    batch: Any = SimpleNamespace(image=images.cuda(), image_path=["a", "b", "c", "d"])
    model.training_step(batch, batch_idx=1).backward()
    with refused_waits():
        model.training_step(batch, batch_idx=1).backward()
