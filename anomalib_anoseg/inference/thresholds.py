"""What divides good from defective."""

from typing import NamedTuple


class Thresholds(NamedTuple):
    """Above these an image and a pixel are defective, in the units of the score and the map."""

    image: float
    pixel: float

    def overridden(self, image: float | None, pixel: float | None) -> "Thresholds":
        """Return them with those replaced that are given.

        Raises:
            ValueError: If one that is given is not in [0, 1].
        """
        for name, value in {"image_threshold": image, "pixel_threshold": pixel}.items():
            if value is not None and not 0 <= value <= 1:
                msg = f"{name} must be in [0, 1], as the scores are, got {value}"
                raise ValueError(msg)
        return Thresholds(
            self.image if image is None else image, self.pixel if pixel is None else pixel
        )
