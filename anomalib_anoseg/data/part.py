"""Render the demo's part: a machined plate with four screws, a connector, a bore and a label.

Every part of it has its place. The plate is drawn at twice the size and averaged down, so edges are
as soft as a lens makes them.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from anomalib_anoseg.data.camera import Picture, smooth_noise

SCALE = 2
# Rows and columns as shares of the image.
PLACES = {
    "screw_1": (0.22, 0.22),
    "screw_2": (0.22, 0.78),
    "screw_3": (0.78, 0.22),
    "screw_4": (0.78, 0.78),
    "connector": (0.42, 0.5),
    "label": (0.68, 0.52),
}


@dataclass
class Assembly:
    """Which fittings sit on the plate, and by how much (rows, columns) each is out of place."""

    missing: frozenset[str] = frozenset()
    displaced: dict[str, tuple[float, float]] = field(default_factory=dict)


def render(seed: int, size: int, assembly: Assembly) -> Picture:
    """Return the scene (size, size, 3); the same seed gives the same plate in the same position."""
    rng = np.random.default_rng(seed)
    canvas = _Canvas(size * SCALE, offset=rng.uniform(-0.008, 0.008, 2))
    scene = _mat(rng, canvas)
    scene = _plate(rng, canvas, scene)
    recess_angles = rng.uniform(0, np.pi / 2, 4)
    for name, place in PLACES.items():
        shift = assembly.displaced.get(name, (0.0, 0.0))
        seat = canvas.at(place)
        centre = canvas.at((place[0] + shift[0], place[1] + shift[1]))
        if name.startswith("screw"):
            scene = _threaded_hole(canvas, scene, seat)
            if name not in assembly.missing:
                scene = _screw(canvas, scene, centre, recess_angles[int(name[-1]) - 1])
        elif name not in assembly.missing:
            scene = (_connector if name == "connector" else _label)(canvas, scene, centre)
    return scene.reshape(size, SCALE, size, SCALE, 3).mean((1, 3))


class _Canvas:
    """Positions and covers on the enlarged image, in shares of its side."""

    def __init__(self, size: int, offset: NDArray[np.float64]) -> None:
        self.size = size
        self.offset = offset
        self.rows, self.columns = (np.indices((size, size)) + 0.5) / size

    def at(self, place: tuple[float, float]) -> tuple[float, float]:
        return place[0] + self.offset[0], place[1] + self.offset[1]

    def disc(self, centre: tuple[float, float], radius: float, softness: float = 0.004) -> Picture:
        return self._cover(centre, (radius, radius), radius, softness)

    def box(
        self,
        centre: tuple[float, float],
        half: tuple[float, float],
        corner: float = 0.006,
        softness: float = 0.004,
    ) -> Picture:
        return self._cover(centre, half, corner, softness)

    def _cover(
        self,
        centre: tuple[float, float],
        half: tuple[float, float],
        corner: float,
        softness: float,
    ) -> Picture:
        """Return how much of each pixel a box with round corners covers."""
        window = tuple(
            slice(
                max(0, int((middle - extent - softness) * self.size)),
                max(0, int((middle + extent + softness) * self.size) + 2),
            )
            for middle, extent in zip(centre, half, strict=True)
        )
        beyond_row = np.abs(self.rows[window] - centre[0]) - half[0] + corner
        beyond_column = np.abs(self.columns[window] - centre[1]) - half[1] + corner
        distance = np.hypot(np.maximum(beyond_row, 0), np.maximum(beyond_column, 0)) - corner
        cover = np.zeros((self.size, self.size))
        cover[window] = np.clip(-distance / softness + 0.5, 0, 1)
        return cover


def _mix(scene: Picture, cover: Picture, colour: object) -> Picture:
    """Paint colour over the scene, only where something is covered: a plate takes 50 strokes."""
    rows, columns = np.flatnonzero(cover.any(1)), np.flatnonzero(cover.any(0))
    if rows.size == 0:
        return scene
    window = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    colours = np.asarray(colour, dtype=np.float64)
    if colours.ndim == 3:
        colours = colours[window]
    painted = scene.copy()
    painted[window] += cover[window][..., None] * (colours - scene[window])
    return painted


def _mat(rng: np.random.Generator, canvas: _Canvas) -> Picture:
    rubber = 0.13 + 0.012 * smooth_noise(rng, canvas.size, 1.5)
    return np.clip(rubber[..., None] * np.array([0.95, 1.0, 1.08]), 0, 1)


def _plate(rng: np.random.Generator, canvas: _Canvas, scene: Picture) -> Picture:
    centre = canvas.at((0.5, 0.5))
    scene = _mix(
        scene,
        0.7 * canvas.box((centre[0] + 0.015, centre[1] + 0.012), (0.4, 0.4), 0.04, 0.04),
        0.02,
    )
    brushed = 0.025 * smooth_noise(rng, canvas.size, (0.6, 24)) + 0.01 * smooth_noise(
        rng, canvas.size, 6
    )
    sheen = 0.07 * np.cos(3 * (canvas.columns - 0.3)) - 0.05 * (canvas.rows - 0.5)
    metal = (0.6 + brushed + sheen)[..., None] * np.array([1.0, 1.0, 1.03])
    plate = canvas.box(centre, (0.4, 0.4), 0.04)
    bevel = plate - canvas.box((centre[0] + 0.008, centre[1] + 0.006), (0.397, 0.397), 0.04)
    scene = _mix(_mix(scene, plate, metal), np.clip(bevel, 0, 1) * 0.5, 0.95)
    bore = canvas.at((0.5, 0.22))
    scene = _mix(scene, canvas.disc((bore[0] + 0.004, bore[1] + 0.004), 0.062), 0.85)
    return _mix(scene, canvas.disc(bore, 0.06), 0.05)


def _threaded_hole(canvas: _Canvas, scene: Picture, centre: tuple[float, float]) -> Picture:
    scene = _mix(scene, canvas.disc(centre, 0.036), 0.4)
    return _mix(scene, canvas.disc(centre, 0.028), 0.07)


def _screw(canvas: _Canvas, scene: Picture, centre: tuple[float, float], angle: float) -> Picture:
    shadow = canvas.disc((centre[0] + 0.012, centre[1] + 0.01), 0.066, softness=0.025)
    scene = _mix(scene, 0.6 * shadow, 0.05)
    scene = _mix(scene, canvas.disc(centre, 0.066), 0.5)  # washer
    row, column = (canvas.rows - centre[0]) / 0.05, (canvas.columns - centre[1]) / 0.05
    dome = 0.62 - 0.22 * row - 0.16 * column - 0.12 * (row**2 + column**2)
    scene = _mix(scene, canvas.disc(centre, 0.05), np.clip(dome, 0, 1)[..., None])
    turned_row = row * np.cos(angle) - column * np.sin(angle)
    turned_column = row * np.sin(angle) + column * np.cos(angle)
    bar = np.clip((0.17 - np.abs(turned_row)) * 8 + 0.5, 0, 1) * (np.abs(turned_column) < 0.6)
    cross = np.clip((0.17 - np.abs(turned_column)) * 8 + 0.5, 0, 1) * (np.abs(turned_row) < 0.6)
    return _mix(scene, np.maximum(bar, cross) * 0.85, 0.12)


def _connector(canvas: _Canvas, scene: Picture, centre: tuple[float, float]) -> Picture:
    scene = _mix(
        scene,
        0.6 * canvas.box((centre[0] + 0.014, centre[1] + 0.012), (0.065, 0.16), 0.01, 0.025),
        0.03,
    )
    scene = _mix(scene, canvas.box(centre, (0.065, 0.16)), 0.16)
    scene = _mix(scene, canvas.box(centre, (0.045, 0.145)), 0.08)
    for pin in np.linspace(-0.12, 0.12, 8):
        place = (centre[0], centre[1] + pin)
        scene = _mix(scene, canvas.box(place, (0.028, 0.007), 0.002), [0.85, 0.66, 0.3])
    return scene


def _label(canvas: _Canvas, scene: Picture, centre: tuple[float, float]) -> Picture:
    scene = _mix(scene, canvas.box(centre, (0.07, 0.13), 0.008), [0.93, 0.93, 0.9])
    widths = (2, 1, 3, 1, 1, 2, 1, 3, 2, 1, 1, 3, 1, 2)
    left = centre[1] - 0.11
    for index, width in enumerate(widths):
        if index % 2 == 0:
            place = (centre[0] - 0.015, left + width * 0.005)
            scene = _mix(scene, canvas.box(place, (0.035, width * 0.005), 0.001, 0.002), 0.08)
        left += width * 0.01
    return _mix(
        scene, canvas.box((centre[0] + 0.045, centre[1] - 0.02), (0.009, 0.085), 0.001), 0.2
    )
