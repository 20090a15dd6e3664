"""What the demo's camera does to a scene: uneven light, vignetting and sensor noise."""

import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.float64]  # (height, width, 3) in [0, 1]


def smooth_noise(
    rng: np.random.Generator, size: int, sigma: float | tuple[float, float]
) -> Picture:
    """Return a smooth random field (size, size) with mean 0 and deviation 1."""
    from scipy.ndimage import gaussian_filter

    field: Picture = gaussian_filter(rng.standard_normal((size, size)), sigma, mode="wrap")
    return (field - field.mean()) / field.std()


def light_field(rng: np.random.Generator, size: int) -> Picture:
    """Return the brightness of the light over the scene, (size, size, 1), about 1."""
    rows, columns = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    direction = rng.uniform(0, 2 * np.pi)
    slope = rng.uniform(0.03, 0.14) * (np.sin(direction) * rows + np.cos(direction) * columns)
    vignette = -0.06 * (rows**2 + columns**2)
    return (rng.uniform(0.88, 1.06) * (1 + slope + vignette))[..., None]


def expose(rng: np.random.Generator, scene: Picture, light: Picture) -> Picture:
    """Light the scene and add the sensor's noise."""
    noise = rng.normal(0, 0.012, scene.shape[:2])[..., None]  # a grey camera: same in each channel
    return np.clip(scene * light + noise, 0, 1)
