"""What synthesis does on a GPU: nothing waits for it, and its memory stays small.

Most of it without one. Fake tensors have a device, shapes and storages, but no values: they raise
where a value is asked for, and a dispatch mode sees each operation that a GPU would be given.
"""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from conftest import photographs
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from anomalib_anoseg import AnomalyGenerator
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


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_nothing_waits_for_a_gpu() -> None:
    images, generator, vary = photographs(8).cuda(), AnomalyGenerator().cuda(), RandomVariation()
    masks = torch.zeros_like(images[:, :1])
    generator(vary(images), masks)
    torch.cuda.set_sync_debug_mode("error")
    try:
        generator(vary(images), masks)
    finally:
        torch.cuda.set_sync_debug_mode("default")
