"""A thin encoder for what only the pixels tell, which timm then builds by its name.

Beside a memory that knows what good parts look like, little is left to learn: on the pixels it
draws about as well as ResNet-18, with less than a tenth of its operations. No squeeze and
excitation, which would make each pixel depend on the whole image.
"""

from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.byobnet import ByoBlockCfg, ByobNet, ByoModelCfg

THIN = "thin_resnet"
STEM, WIDTHS = 24, (32, 64, 96, 128)  # channels at stride 2, and at 4, 8, 16 and 32

# timm's registry reads this name; of its values the encoder's mean and deviation are used.
default_cfgs = generate_default_cfgs({THIN: {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}})


@register_model
def thin_resnet(pretrained: bool = False, **kwargs: Any) -> ByobNet:
    """Return one residual block of two convolutions 3 x 3 (He et al. 2016) at each stride."""
    blocks = [ByoBlockCfg(type="basic", d=1, c=width, s=2, gs=0, br=1.0) for width in WIDTHS]
    config = ByoModelCfg(blocks=tuple(blocks), stem_chs=STEM, stem_type="3x3", stem_pool="")
    features = {"flatten_sequential": True}
    return build_model_with_cfg(
        ByobNet, THIN, pretrained, model_cfg=config, feature_cfg=features, **kwargs
    )
