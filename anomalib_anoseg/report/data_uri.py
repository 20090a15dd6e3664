"""Pictures within a page; apart, because this needs no torch."""

import base64
import io

from PIL import Image

SIDE = 256  # pixels of the longer side of a picture, at most
QUALITY = 75  # of photographs; maps and masks keep every value


def data_uri(picture: Image.Image, **options: int) -> str:
    """Return a picture as an address that holds it."""
    data = io.BytesIO()
    picture.save(data, "WEBP", **options)  # a third of JPEG and PNG together
    return f"data:image/webp;base64,{base64.b64encode(data.getvalue()).decode()}"
