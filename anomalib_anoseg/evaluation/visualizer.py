"""anomalib's pictures of a test or a prediction, on images as the network saw them."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from anomalib.visualization import ImageVisualizer as AnomalibImageVisualizer
from anomalib.visualization import visualize_image_item
from PIL import Image

from anomalib_anoseg.utils.images import read_image, to_8_bits
from anomalib_anoseg.utils.rebinding import rebound


def _open(path: str | Path) -> Image.Image:
    return Image.fromarray(to_8_bits(read_image(Path(path))))


def _with_our_reader(method: str) -> Any:
    theirs: Any = getattr(AnomalibImageVisualizer, method)
    drawing = rebound(cast("Any", visualize_image_item), Image=SimpleNamespace(open=_open))
    return rebound(theirs, visualize_image_item=drawing)


class ImageVisualizer(AnomalibImageVisualizer):
    """anomalib's, whose own reader shows more than 8 bits as white and ignores EXIF's orientation.

    The map would lie on a picture that is turned otherwise.
    """

    visualize = _with_our_reader("visualize")
    on_test_batch_end = _with_our_reader("on_test_batch_end")  # on_predict_batch_end calls it
