"""Render the demo's part: a machined plate with four screws, a connector, a bore and a label.

Every part of it has its place. The plate is drawn at twice the size and averaged down, so edges are
as soft as a lens makes them; a large one at its own size, at which they are soft enough.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from anomalib_anoseg.data.camera import Picture, smooth_noise

LARGE = 1024  # pixels of a side
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
    scale = 1 if size >= LARGE else 2
    canvas = _Canvas(size * scale, offset=rng.uniform(-0.008, 0.008, 2))
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
    return scene.reshape(size, scale, size, scale, 3).mean((1, 3))


class _Canvas:
    """Positions and covers on the enlarged image, in shares of its side."""

    def __init__(self, size: int, offset: NDArray[np.float64]) -> None:
        self.size = size
        self.offset = offset
        self.rows, self.columns = (np.indices((size, size)) + 0.5) / size

    def at(self, place: tuple[float, float]) -> tuple[float, float]:
        return place[0] + self.offset[0], place[1] + self.offset[1]

    def disc(self, centre: tuple[float, float], radius: float, softness: float = 0.004) -> "_Cover":
        return self._cover(centre, (radius, radius), radius, softness)

    def box(
        self,
        centre: tuple[float, float],
        half: tuple[float, float],
        corner: float = 0.006,
        softness: float = 0.004,
    ) -> "_Cover":
        return self._cover(centre, half, corner, softness)

    def _cover(
        self,
        centre: tuple[float, float],
        half: tuple[float, float],
        corner: float,
        softness: float,
    ) -> "_Cover":
        """Return how much of each pixel a box with round corners covers."""
        window = self.window(centre, (half[0] + softness, half[1] + softness))
        beyond_row = np.abs(self.rows[window] - centre[0]) - half[0] + corner
        beyond_column = np.abs(self.columns[window] - centre[1]) - half[1] + corner
        distance = np.hypot(np.maximum(beyond_row, 0), np.maximum(beyond_column, 0)) - corner
        return _Cover(window, np.clip(-distance / softness + 0.5, 0, 1))

    def window(self, centre: tuple[float, float], half: tuple[float, float]) -> tuple[slice, slice]:
        """Return the pixels of a rectangle."""
        rows, columns = (
            slice(
                max(0, int((middle - extent) * self.size)),
                max(0, int((middle + extent) * self.size) + 2),
            )
            for middle, extent in zip(centre, half, strict=True)
        )
        return rows, columns


class _Cover(NamedTuple):
    """How much of each pixel of a window is covered, in [0, 1]; nothing around it is."""

    window: tuple[slice, slice]
    values: NDArray[np.float64]

    def thinned(self, factor: float) -> "_Cover":
        return self._replace(values=factor * self.values)

    def on(self, canvas: _Canvas) -> NDArray[np.float64]:
        """Return the cover of each pixel of the canvas."""
        whole = np.zeros((canvas.size, canvas.size))
        whole[self.window] = self.values
        return whole


def _mix(scene: Picture, cover: _Cover, colour: object) -> Picture:
    """Paint colour over a window of the scene; of the size of the scene, or of the window."""
    colours = np.asarray(colour, dtype=np.float64)
    if colours.shape[:2] == scene.shape[:2]:
        colours = colours[cover.window]
    part = scene[cover.window]
    part += cover.values[..., None] * (colours - part)
    return scene


def _mat(rng: np.random.Generator, canvas: _Canvas) -> Picture:
    rubber = 0.13 + 0.012 * smooth_noise(rng, canvas.size, 1.5)
    return np.clip(rubber[..., None] * np.array([0.95, 1.0, 1.08]), 0, 1)


def _plate(rng: np.random.Generator, canvas: _Canvas, scene: Picture) -> Picture:
    centre = canvas.at((0.5, 0.5))
    scene = _mix(
        scene,
        canvas.box((centre[0] + 0.015, centre[1] + 0.012), (0.4, 0.4), 0.04, 0.04).thinned(0.7),
        0.02,
    )
    brushed = 0.025 * smooth_noise(rng, canvas.size, (0.6, 24)) + 0.01 * smooth_noise(
        rng, canvas.size, 6
    )
    sheen = 0.07 * np.cos(3 * (canvas.columns - 0.3)) - 0.05 * (canvas.rows - 0.5)
    metal = (0.6 + brushed + sheen)[..., None] * np.array([1.0, 1.0, 1.03])
    plate = canvas.box(centre, (0.4, 0.4), 0.04)
    inner = canvas.box((centre[0] + 0.008, centre[1] + 0.006), (0.397, 0.397), 0.04)
    bevel = np.clip(plate.on(canvas) - inner.on(canvas), 0, 1) * 0.5
    scene = _mix(scene, plate, metal)
    scene = _mix(scene, _Cover(np.s_[:, :], bevel), 0.95)
    bore = canvas.at((0.5, 0.22))
    scene = _mix(scene, canvas.disc((bore[0] + 0.004, bore[1] + 0.004), 0.062), 0.85)
    return _mix(scene, canvas.disc(bore, 0.06), 0.05)


def _threaded_hole(canvas: _Canvas, scene: Picture, centre: tuple[float, float]) -> Picture:
    scene = _mix(scene, canvas.disc(centre, 0.036), 0.4)
    return _mix(scene, canvas.disc(centre, 0.028), 0.07)


def _screw(canvas: _Canvas, scene: Picture, centre: tuple[float, float], angle: float) -> Picture:
    shadow = canvas.disc((centre[0] + 0.012, centre[1] + 0.01), 0.066, softness=0.025)
    scene = _mix(scene, shadow.thinned(0.6), 0.05)
    scene = _mix(scene, canvas.disc(centre, 0.066), 0.5)  # washer
    head = canvas.disc(centre, 0.05)
    row = (canvas.rows[head.window] - centre[0]) / 0.05
    column = (canvas.columns[head.window] - centre[1]) / 0.05
    dome = 0.62 - 0.22 * row - 0.16 * column - 0.12 * (row**2 + column**2)
    scene = _mix(scene, head, np.clip(dome, 0, 1)[..., None])
    turned_row = row * np.cos(angle) - column * np.sin(angle)
    turned_column = row * np.sin(angle) + column * np.cos(angle)
    bar = np.clip((0.17 - np.abs(turned_row)) * 8 + 0.5, 0, 1) * (np.abs(turned_column) < 0.6)
    cross = np.clip((0.17 - np.abs(turned_column)) * 8 + 0.5, 0, 1) * (np.abs(turned_row) < 0.6)
    return _mix(scene, _Cover(head.window, np.maximum(bar, cross) * 0.85), 0.12)


def _connector(canvas: _Canvas, scene: Picture, centre: tuple[float, float]) -> Picture:
    scene = _mix(
        scene,
        canvas.box((centre[0] + 0.014, centre[1] + 0.012), (0.065, 0.16), 0.01, 0.025).thinned(0.6),
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
