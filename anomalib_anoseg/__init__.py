"""AnoSeg for anomalib: segment defects after training on good images only.

Importing this package loads nothing; its names load what they need when they are first used. The
start-up hook of the package runs in every Python process and relies on that.
"""

TYPE_CHECKING = False  # typing's own costs every Python process of the environment 10 ms
if TYPE_CHECKING:
    from anomalib_anoseg.anomaly_generator import AnomalyGenerator
    from anomalib_anoseg.data import SurfaceDemo
    from anomalib_anoseg.evaluation.evaluator import Evaluator
    from anomalib_anoseg.evaluation.metrics import IoU, IoUMax, IoUPerImage
    from anomalib_anoseg.lightning_model import AnoSeg
    from anomalib_anoseg.networks.discriminator import Discriminator
    from anomalib_anoseg.post_processor import PostProcessor
    from anomalib_anoseg.pre_processor import PreProcessor
    from anomalib_anoseg.synthesis.laws import Anomalies, Variation
    from anomalib_anoseg.torch_model import AnoSegModel

__version__ = "0.2.0"

_HOME = {
    "AnoSeg": "lightning_model",
    "AnoSegModel": "torch_model",
    "Anomalies": "synthesis.laws",
    "AnomalyGenerator": "anomaly_generator",
    "Discriminator": "networks.discriminator",
    "Evaluator": "evaluation.evaluator",
    "IoU": "evaluation.metrics",
    "IoUMax": "evaluation.metrics",
    "IoUPerImage": "evaluation.metrics",
    "PostProcessor": "post_processor",
    "PreProcessor": "pre_processor",
    "SurfaceDemo": "data",
    "Variation": "synthesis.laws",
}

__all__ = [
    "AnoSeg",
    "AnoSegModel",
    "Anomalies",
    "AnomalyGenerator",
    "Discriminator",
    "Evaluator",
    "IoU",
    "IoUMax",
    "IoUPerImage",
    "PostProcessor",
    "PreProcessor",
    "SurfaceDemo",
    "Variation",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
