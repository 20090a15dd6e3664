"""Time the generator beside anomalib's, and beside CutPaste image by image.

Usage: python benchmarks/synthesis.py
Every image of a batch becomes anomalous, for all sides; on a GPU the batch is larger.
"""

import math
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from anomalib.data.utils.generators import PerlinAnomalyGenerator
from PIL import Image, ImageChops
from side_by_side import report, save, side_by_side, wait, where
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.transforms import ColorJitter
from torchvision.transforms.v2.functional import pil_to_tensor, to_dtype, to_pil_image

from anomalib_anoseg import AnomalyGenerator, AnoSeg
from anomalib_anoseg.loss import l1_bce_dice_loss
from anomalib_anoseg.synthesis.laws import Anomalies
from anomalib_anoseg.synthesis.variation import RandomVariation

Call = Callable[..., Any]

SIZE = 256


def photographs(batch: int, device: torch.device, size: int = SIZE) -> Tensor:
    """Return random smooth images with some noise."""
    coarse = torch.rand(batch, 3, size // 8, size // 8, device=device)
    smooth = interpolate(coarse, (size, size), mode="bilinear")
    return (smooth + 0.05 * torch.rand_like(smooth)).clamp(0, 1)


def per_image_cut_paste(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return the paper's anomalies as the literature writes them, with PIL images one by one.

    Hard augmentation of a copy (quarter turn, swapped halves, ColorJitter, each with probability
    0.5), then a patch of it is cut out, turned and pasted.
    """
    jitter = ColorJitter(0.4, 0.4, 0.4, 0.1)
    made, masks = [], []
    for tensor in images:
        image = to_pil_image(tensor)
        copy = image
        if random.random() < 0.5:
            copy = copy.rotate(random.choice((90, 180, 270)))
        if random.random() < 0.5:
            copy = ImageChops.offset(copy, SIZE // 2, random.choice((0, SIZE // 2)))
        if random.random() < 0.5:
            copy = jitter(copy)
        area = random.uniform(0.02, 0.15) * SIZE**2
        aspect = math.exp(random.uniform(math.log(0.3), math.log(3.3)))
        width = min(SIZE, round(math.sqrt(area * aspect)))
        height = min(SIZE, round(math.sqrt(area / aspect)))
        left, top = random.randint(0, SIZE - width), random.randint(0, SIZE - height)
        patch = copy.crop((left, top, left + width, top + height)).convert("RGBA")
        patch = patch.rotate(random.uniform(-45, 45), Image.Resampling.BILINEAR, expand=True)
        at = (random.randint(-width // 2, SIZE), random.randint(-height // 2, SIZE))
        image.paste(patch, at, mask=patch.getchannel("A"))
        mask = Image.new("L", (SIZE, SIZE))
        mask.paste(patch.getchannel("A"), at)
        made.append(to_dtype(pil_to_tensor(image), torch.float32, scale=True))
        masks.append((pil_to_tensor(mask) > 0).float())
    return torch.stack(made), torch.stack(masks)


def check(images: Tensor, masks: Tensor, generator: AnomalyGenerator, compiled: Call) -> None:
    """Compare what is compiled with what is not: at a patch's border rounding may move a pixel."""
    params = generator.forward_parameters(images.shape)
    eager = generator(images, masks, params=params)
    for a, b in zip(compiled(images, masks, params=params), eager, strict=True):
        moved = ((a - b).abs() > 1e-3).float().mean().item()
        print(f"compiled: {100 * moved:.2g} % of the values are not the same")
        assert moved < 1e-3


def training_step(images: Tensor) -> Callable[[], None]:
    """Return a step of the network on pixels, without memory or generator."""
    model = AnoSeg(pre_trained=False).to(images.device)
    masks = (images[:, :1] > 0.7).float()
    optimizer = torch.optim.AdamW(model.model.parameters())

    def step() -> None:
        optimizer.zero_grad()
        l1_bce_dice_loss(model.model(images).anomaly_logits, masks).backward()
        optimizer.step()

    return step


def on_a_gpu(generator: AnomalyGenerator, images: Tensor, masks: Tensor) -> None:
    """Measure the peak memory, in sizes of the batch, and refuse to wait for the GPU; compile."""
    generator(images, masks)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    torch.cuda.set_sync_debug_mode("error")
    generator(images, masks)
    torch.cuda.set_sync_debug_mode("default")
    peak = (torch.cuda.max_memory_allocated() - before) / (images.nbytes)
    print(f"\nPeak memory: {peak:.1f} times the batch")
    save("synthesis memory", where(), {"batches": peak})
    compiled: Call = torch.compile(generator, dynamic=False)  # as --model.torch_compile does it
    check(images, masks, generator, compiled)
    times = side_by_side(
        {
            "default laws": lambda: generator(images, masks),
            "compiled": lambda: compiled(images, masks),
        }
    )
    report("synthesis compiled", where(), times, "default laws", len(images))


def main() -> None:
    """Time, and say where the time goes."""
    cuda = torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    images = photographs(64 if cuda else 16, device)
    masks = torch.zeros_like(images[:, :1])
    ours = AnomalyGenerator(Anomalies(synthetic_share=1)).to(device)
    paper = AnomalyGenerator(replace(Anomalies.paper(), synthetic_share=1)).to(device)
    perlin = PerlinAnomalyGenerator(probability=1.0)
    times = side_by_side(
        {
            "PerlinAnomalyGenerator": lambda: [perlin(image) for image in images],
            "CutPaste per image": lambda: per_image_cut_paste(images.cpu()),
            "ours, the paper's laws": lambda: paper(images, masks),
            "ours, default laws": lambda: ours(images, masks),
        }
    )
    report("synthesis", where(), times, "PerlinAnomalyGenerator", len(images))

    params = ours.forward_parameters(images.shape)
    variation = RandomVariation()
    parts = side_by_side(
        {
            "training step": training_step(images),
            "generator": lambda: ours(images, masks),
            "draws alone": lambda: ours.forward_parameters(images.shape),
            "pasting alone": lambda: ours(images, masks, params=params),
            "variation": lambda: variation(images),
            "one copy of the batch": images.clone,
        }
    )
    report(
        "synthesis in a training step without a memory",
        where(),
        parts,
        "training step",
        len(images),
    )
    if cuda:  # last, because compiling takes a minute
        on_a_gpu(ours, images, masks)
    wait()


if __name__ == "__main__":
    main()
