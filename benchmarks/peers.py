"""Models of anomalib that see with the same ImageNet weights as AnoSeg.

The weights are those of EfficientNet-Lite0, which pip installs. Every model has its own settings
and full length: PatchCore and PaDiM look at each image once, Stfpm trains for 100 epochs,
SuperSimpleNet for 300. Fastflow is not here: anomalib's has no place for another encoder.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import timm
from anomalib.models import Padim, Patchcore, Stfpm, Supersimplenet
from anomalib.models.components import AnomalibModule
from anomalib.pre_processing import PreProcessor
from torchvision.transforms.v2 import Compose, Normalize, Resize

from anomalib_anoseg.networks.pretrained import build_backbone, load_pretrained, normalisation

NAME = "tf_efficientnet_lite0"

# The maps at strides 4, 8 and 16 are what the peers call layer1 to layer3.
ALL: Any = [1, 2, 3]
COARSE: Any = [2, 3]
# Model, and its arguments of the trainer.
PEERS: dict[str, tuple[Callable[..., AnomalibModule], dict[str, Any]]] = {
    "Padim": (lambda **k: Padim(NAME, ALL, n_features=100, **k), {}),  # as of ResNet-18
    "Patchcore": (lambda **k: Patchcore(NAME, COARSE, **k), {}),
    "Stfpm": (lambda **k: Stfpm(NAME, ALL, **k), {"max_epochs": 100}),
    "Supersimplenet": (
        lambda **k: Supersimplenet(backbone=NAME, layers=COARSE, **k), {"max_epochs": 300},
    ),
}  # fmt: skip
BATCH = 32  # training images of all of them


@contextmanager
def installed_weights() -> Iterator[None]:
    """Let timm take pretrained weights from the installed package, not from its hub."""
    create = timm.create_model

    def create_model(name: str, *args: Any, pretrained: bool = False, **kwargs: Any) -> Any:
        network = create(name, *args, **kwargs)
        if pretrained:
            load_pretrained(network, name)
        return network

    timm.create_model = create_model
    try:
        yield
    finally:
        timm.create_model = create


def peer(name: str, size: tuple[int, int]) -> tuple[AnomalibModule, dict[str, Any]]:
    """Return a model for images of a size, and the arguments of its trainer."""
    make, trainer = PEERS[name]
    mean, std = (value.flatten().tolist() for value in normalisation(build_backbone(NAME)))
    transform = Compose([Resize(size, antialias=True), Normalize(mean, std)])
    with installed_weights():
        model = make(pre_processor=PreProcessor(transform=transform), visualizer=False)
    # Nothing is selected by validation.
    return model, trainer | {"check_val_every_n_epoch": 10**6, "enable_model_summary": False}
