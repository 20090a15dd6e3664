"""Large images at an exported model of one tile, several tiles at once."""

from collections.abc import Callable
from typing import Any

import numpy as np
import openvino as ov
from numpy.typing import NDArray

from anomalib_anoseg.utils.images import Pixels
from anomalib_anoseg.utils.tiles import Tile, tiles_of


class TiledModel:
    """A compiled model of one tile, that judges images of any size.

    Args:
        compiled: Takes "input", a tile (1, side, side, 3), and "place", (1, 4).
    """

    def __init__(self, compiled: ov.CompiledModel) -> None:
        self._side = compiled.input("input").partial_shape[1].get_length()
        count = compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")
        self._queue = ov.AsyncInferQueue(compiled, count)

    def __call__(self, image: Pixels) -> tuple[float, NDArray[np.float32]]:
        """Return the score and the map, (h, w), of an image, (h, w, 3)."""
        height, width = image.shape[:2]
        anomaly_map = np.empty((height, width), np.float32)
        scores: list[float] = []

        def keep(request: ov.InferRequest, tile: Tile) -> None:
            scores.append(float(request.get_tensor("pred_score").data.flat[0]))
            seen = request.get_tensor("anomaly_map").data[0, 0]
            rows, columns = tile
            anomaly_map[rows.first : rows.last, columns.first : columns.last] = seen[
                rows.first - rows.start : rows.last - rows.start,
                columns.first - columns.start : columns.last - columns.start,
            ]

        self._run(image, keep)
        return max(scores), anomaly_map

    def _run(self, image: Pixels, keep: Callable[[ov.InferRequest, Tile], None]) -> None:
        height, width = image.shape[:2]
        self._queue.set_callback(keep)
        try:
            for tile in tiles_of(height, width, self._side):
                at = tile.rows.start, tile.columns.start
                place = np.array([[*at, height, width]], np.float32)
                inputs: dict[str, Any] = {"input": self._cut(image, *at)[None], "place": place}
                self._queue.start_async(inputs, tile)
        finally:
            self._queue.wait_all()

    def _cut(self, image: Pixels, top: int, left: int) -> NDArray[Any]:
        part = image[top : top + self._side, left : left + self._side]
        missing = [(0, self._side - length) for length in part.shape[:2]]
        return np.pad(part, [*missing, (0, 0)], mode="edge")
