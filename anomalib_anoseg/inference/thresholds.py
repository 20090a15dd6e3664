"""What divides good from defective."""

from typing import NamedTuple


class Thresholds(NamedTuple):
    """Above these an image and a pixel are defective, in the units of the score and the map.

    Attributes:
        image: For the score.
        pixel: For the map.
        smallest_defect: Pixels of the image that a connected region needs to count; 0 asks for no
            region at all.
    """

    image: float
    pixel: float
    smallest_defect: int = 0

    def overridden(
        self, image: float | None, pixel: float | None, smallest_defect: int | None = None
    ) -> "Thresholds":
        """Return them with those replaced that are given.

        Raises:
            ValueError: If one that is given is not in [0, 1], or smallest_defect is negative.
        """
        for name, value in {"image_threshold": image, "pixel_threshold": pixel}.items():
            if value is not None and not 0 <= value <= 1:
                msg = f"{name} must be in [0, 1], as the scores are, got {value}"
                raise ValueError(msg)
        if smallest_defect is not None and smallest_defect < 0:
            msg = f"smallest_defect must be at least 0 pixels, got {smallest_defect}"
            raise ValueError(msg)
        return Thresholds(
            self.image if image is None else image,
            self.pixel if pixel is None else pixel,
            self.smallest_defect if smallest_defect is None else smallest_defect,
        )
