"""Draw defects into a scene: scratches, fibres, stains and holes.

None of them is cut out of an image: what the model is tested on is drawn by other means than
the anomalies it is trained on. Scratches, fibres and holes have sizes in pixels, whatever the size
of the scene: in a large one they are small.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from anomalib_anoseg.data.camera import Picture, smooth_noise

Curve = NDArray[np.float64]  # (points, 2) rows and columns
USUAL = 192  # pixels of a side of the demo, which these sizes are shares of


def scratch(rng: np.random.Generator, scene: Picture) -> Picture:
    """Draw a thin curved scratch that fades at both ends: bright metal beside a dark edge."""
    size = len(scene)
    curve = _bend(rng, size, length=rng.uniform(0.3, 0.7) * USUAL, curl=0.6)
    width = rng.uniform(2.2, 3.6)
    # A light surface is scratched dark, a dark one light, or it would not be seen.
    tone = 0.06 if scene.mean() > 0.5 else 0.92
    groove = _stroke(curve, size, width)
    edge = _stroke(curve + width / 2, size, width)
    return _mix(
        _mix(scene, edge * 0.5, np.full(3, 0.5 - 0.8 * (tone - 0.5))), groove, np.full(3, tone)
    )


def fibre(rng: np.random.Generator, scene: Picture) -> Picture:
    """Lay a long curly fibre on the surface, with its soft shadow."""
    size = len(scene)
    curve = _bend(rng, size, length=rng.uniform(0.5, 1.0) * USUAL, curl=2.5)
    colour = rng.choice(
        [[0.05, 0.05, 0.07], [0.93, 0.92, 0.88], [0.75, 0.12, 0.12], [0.12, 0.25, 0.7]]
    )
    shadow = _stroke(curve + 2.5, size, 4.0, softness=2.5)
    return _mix(_mix(scene, 0.45 * shadow, np.zeros(3)), _stroke(curve, size, 3.0), colour)


def stain(rng: np.random.Generator, scene: Picture) -> Picture:
    """Let a smooth stain darken the surface."""
    size = len(scene)
    distance = _distance_to(rng.uniform(0.2, 0.8, 2) * size, size)
    radius = rng.uniform(0.1, 0.18) * size
    field = radius - distance + 0.25 * radius * smooth_noise(rng, size, size / 24)
    density = np.clip(field / (0.3 * radius), 0, 1)
    density = density**2 * (3 - 2 * density)
    liquid = rng.choice([[0.45, 0.33, 0.2], [0.2, 0.2, 0.22], [0.5, 0.42, 0.5]])
    return scene * (1 - density[..., None] * (1 - liquid) * rng.uniform(0.8, 1.0))


def hole(rng: np.random.Generator, scene: Picture) -> Picture:
    """Break an irregular hole into the surface: black inside, a lit rim below."""
    size = len(scene)
    centre = rng.uniform(0.2, 0.8, 2) * size
    radius = rng.uniform(0.045, 0.09) * USUAL
    rough = 0.2 * radius * smooth_noise(rng, size, USUAL / 40)
    inside = np.clip(radius - _distance_to(centre, size) + rough, 0, 1)
    rim = np.clip(radius + 2 - _distance_to(centre + 1.5, size) + rough, 0, 1)
    depth = 0.04 + 0.04 * smooth_noise(rng, size, 1.5)[..., None]
    lit = _mix(scene, 0.6 * rim, np.full(3, 0.95))
    return _mix(lit, inside, np.clip(depth, 0, 1))


DEFECTS: dict[str, Callable[[np.random.Generator, Picture], Picture]] = {
    "scratch": scratch,
    "fibre": fibre,
    "stain": stain,
    "hole": hole,
}


def _bend(rng: np.random.Generator, size: int, length: float, curl: float) -> Curve:
    """Walk through the scene with a direction that changes smoothly."""
    steps = int(length)
    turning = np.cumsum(rng.normal(0, curl / np.sqrt(steps), steps))
    direction = rng.uniform(0, 2 * np.pi) + turning
    walk = np.cumsum(np.stack([np.sin(direction), np.cos(direction)], 1), axis=0)
    return walk - walk.mean(0) + rng.uniform(0.3, 0.7, 2) * size


def _stroke(curve: Curve, size: int, width: float, softness: float = 1.0) -> Picture:
    """Return how much of each pixel a stroke covers, (size, size), fading at both ends."""
    from scipy.spatial import cKDTree

    reach = (width + softness) / 2 + 1  # farther away nothing is covered
    low = np.clip(np.floor(curve.min(0) - reach), 0, size).astype(int)
    high = np.clip(np.ceil(curve.max(0) + reach), 0, size).astype(int)
    window = high - low
    pixels = np.indices(window).reshape(2, -1).T + low + 0.5
    distance, nearest = cKDTree(curve).query(pixels)
    along = nearest / (len(curve) - 1)
    taper = np.minimum(1, 8 * np.minimum(along, 1 - along) + 0.3)
    cover = np.zeros((size, size))
    inside = np.clip((width * taper / 2 - distance) / softness + 0.5, 0, 1)
    cover[low[0] : high[0], low[1] : high[1]] = inside.reshape(window)
    return cover


def _distance_to(centre: NDArray[np.float64], size: int) -> Picture:
    rows, columns = np.indices((size, size)) + 0.5
    return np.hypot(rows - centre[0], columns - centre[1])


def _mix(scene: Picture, cover: Picture, colour: NDArray[np.float64]) -> Picture:
    return scene + cover[..., None] * (colour - scene)
