"""One resize for training, test and export: the same pixels reach the network everywhere."""

from typing import Any, Literal

import torch
from anomalib.pre_processing import PreProcessor as AnomalibPreProcessor
from anomalib.pre_processing.utils.spec import transform_to_spec
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import Resize

NATIVE: Literal["native"] = "native"


class PreProcessor(AnomalibPreProcessor):
    """Resize images in [0, 1]; nothing is normalised, because the network reconstructs them.

    anomalib's own resize is antialiased in the engine but not in an exported model. This one is in
    both, and is restored from checkpoints.

    Args:
        image_size: Height and width in pixels of what the network sees; AnoSeg's needs 33 or more.
            "native" leaves every image at its own size.

    Raises:
        ValueError: If a side is not positive.
    """

    def __init__(self, image_size: tuple[int, int] | Literal["native"] = (256, 256)) -> None:
        if image_size == NATIVE:
            super().__init__()
            return
        height, width = image_size
        # Not the network's own limit: anomalib's tiled ensemble asks for 10 x 10 as a stand-in.
        if min(height, width) < 1:
            msg = f"image_size must be positive, got {(height, width)}"
            raise ValueError(msg)
        super().__init__()
        self._resize_to((height, width))

    def on_train_batch_start(self, trainer: Any, pl_module: Any, *batch: Any) -> None:
        """Resize, but not crops of images that were resized before they were cut."""
        if getattr(pl_module, "train_crop", None) is None:
            super().on_train_batch_start(trainer, pl_module, *batch)

    def checkpoint_config(self) -> dict[str, Any]:
        """Return the size as plain data, and torchvision's nearest equivalent beside it.

        The equivalent is what anomalib's own PreProcessor restores from the checkpoint.
        """
        if self.transform is None:
            return {"image_size": NATIVE, "transform": None}
        if not isinstance(self.transform, MatrixResize):
            return super().checkpoint_config()
        size = list(self.transform.size)
        return {"image_size": size, "transform": transform_to_spec(Resize(size, antialias=True))}

    def load_checkpoint_config(self, config: dict[str, Any]) -> None:
        """Restore what either this class or anomalib's PreProcessor has saved."""
        size = config.get("image_size")
        if size in (None, NATIVE):
            super().load_checkpoint_config(config)
        else:
            self._resize_to(tuple(size))

    def _resize_to(self, size: tuple[int, int]) -> None:
        """Set what the engine and what ``forward`` uses; anomalib's own copy has no antialias.

        Two modules: torch.export makes classes of the same name from one that has two names, after
        which a bare ``--model AnoSeg`` is ambiguous until they are collected.
        """
        self.transform, self.export_transform = MatrixResize(size), MatrixResize(size)


BLOCK = 16  # rows; of 4, 8, 16 and 32 the fastest in OpenVINO


class MatrixResize(Resize):
    """torchvision's antialiased bilinear Resize, exported as products with matrices.

    torchvision's own cannot be exported, and OpenVINO ignores the antialias flag of ONNX; matrix
    products survive every route, also with the size of the input left open. They differ from it by
    4e-7 at most, but take two to four times as long from 1024 to 256 pixels on a CPU: outside of an
    export it is torchvision's. anomalib recognises a Resize and already applies it per image in the
    data loader, which makes the sizes of a batch equal.
    """

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Resize an image (..., h, w), or what else torchvision resizes."""
        if not torch.compiler.is_compiling() or isinstance(inpt, tv_tensors.TVTensor):
            return super().transform(inpt, params)
        height, width = self.size
        return _resize_rows(_resize_rows(inpt, height).mT, width).mT


def _resize_rows(image: Tensor, new: int) -> Tensor:
    """Resize (..., h, w) to (..., new, w).

    A row of the result is a weighted mean of a few neighbouring rows. One product per block of rows
    with the rows it needs is a tenth of the work of one product with all, and from 1024 to 256
    pixels three times as fast in OpenVINO.
    """
    old = image.shape[-2]
    scale = old / new
    # Enlarging interpolates between neighbours, reducing averages over all pixels that are covered.
    support: Any = torch.sym_max(scale, 1.0)
    blocks = -(-new // BLOCK)
    reach = torch.sym_max(old, new) // new + 1  # whole rows that hold the support
    needed = BLOCK * old // new + 2 * reach + 2
    # The last block repeats the last row until it is full.
    centres = (torch.arange(blocks * BLOCK, device=image.device).clamp(max=new - 1) + 0.5) * scale
    centres = centres.view(blocks, BLOCK, 1)
    first = centres[:, 0].floor().long() - reach
    rows = first + torch.arange(needed, device=image.device)  # of the image, per block
    weights = (1 - (rows[:, None] + 0.5 - centres).abs() / support).clamp(min=0)
    weights = weights * ((rows >= 0) & (rows < old))[:, None]
    weights = weights / weights.sum(-1, keepdim=True)
    # index_select becomes a plain copy of rows in an exported graph, image[..., rows, :] does not.
    neighbours = image.index_select(-2, rows.clamp(min=0).clamp(max=old - 1).flatten())
    resized = weights.to(image.dtype) @ torch.unflatten(neighbours, -2, (blocks, needed))
    return resized.flatten(-3, -2)[..., :new, :]
