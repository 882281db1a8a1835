"""Provide the primitives of procedural scenes: random draws, textures, distance fields of shapes, shading.

The same seed gives the same pixels on every machine. So every number is computed element by element in float32, with the operations
that IEEE 754 defines to the last bit: sums, products, quotients, square roots and comparisons. Sines, exponentials and long sums are
avoided, because their last bits depend on the processor.

Lengths are in units: the short side of an image is 256 units long.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")
Plane = NDArray[np.float32]
Colour = tuple[float, float, float]

SHORT_SIDE = 256.0
FAR = 1e4


class Dice:
    """A random stream with a key as its seed; draws are Python floats, since NumPy's float64 scalars would widen float32 arrays."""

    def __init__(self, *key: int) -> None:
        self.generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))

    def between(self, low: float, high: float) -> float:
        """Draw a float, uniform from low to high."""
        return low + (high - low) * float(self.generator.random())

    def whole(self, low: int, high: int) -> int:
        """Draw an integer, uniform from low to high, both included."""
        return int(self.generator.integers(low, high + 1))

    def chance(self, probability: float) -> bool:
        """Draw True with this probability, else False."""
        return float(self.generator.random()) < probability

    def pick(self, options: Sequence[T]) -> T:
        """Draw one of the options."""
        return options[self.whole(0, len(options) - 1)]

    def direction(self) -> tuple[float, float]:
        """Draw a unit vector, uniform on the circle, by rejection sampling (which needs no sine)."""
        while True:
            x, y = self.between(-1, 1), self.between(-1, 1)
            square = x * x + y * y
            if 0.01 < square <= 1:
                length = math.sqrt(square)
                return x / length, y / length


@dataclasses.dataclass(frozen=True)
class Canvas:
    """The pixel grid of an image, height x width pixels, and its mapping to units."""

    height: int
    width: int

    @property
    def unit(self) -> float:
        """The number of pixels in a unit."""
        return min(self.height, self.width) / SHORT_SIDE

    @property
    def extent(self) -> tuple[float, float]:
        """The width and the height in units."""
        return self.width / self.unit, self.height / self.unit

    def box(self, left: float, top: float, right: float, bottom: float) -> tuple[slice, slice]:
        """Return the pixels (rows, columns) that a rectangle in units touches, clipped to the canvas; at least one pixel."""

        def span(low: float, high: float, count: int) -> slice:
            start = min(max(int(low * self.unit), 0), count - 1)
            return slice(start, min(max(int(high * self.unit) + 2, start + 1), count))

        return span(top, bottom, self.height), span(left, right, self.width)

    def grid(self, where: tuple[slice, slice]) -> tuple[Plane, Plane]:
        """Return the coordinates of the pixel centres in a box: x [1, w] and y [h, 1], float32, in units."""
        rows, columns = where
        x = (np.arange(columns.start, columns.stop, dtype=np.float32) + np.float32(0.5)) / np.float32(self.unit)
        y = (np.arange(rows.start, rows.stop, dtype=np.float32) + np.float32(0.5)) / np.float32(self.unit)
        return x[None, :], y[:, None]


def smooth_noise(dice: Dice, canvas: Canvas, cell: float) -> Plane:
    """Draw value noise: random numbers on a lattice of `cell` units, interpolated by smoothsteps; 0..1, float32 [H, W]."""
    step = cell * canvas.unit
    shift_y, shift_x = dice.between(0, 1), dice.between(0, 1)
    grid = dice.generator.random((int(canvas.height / step) + 3, int(canvas.width / step) + 3), dtype=np.float32)

    def lattice(count: int, shift: float) -> tuple[NDArray[np.intp], Plane]:
        place = np.arange(count, dtype=np.float32) / np.float32(step) + np.float32(shift)
        whole = place.astype(np.intp)
        part = place - whole.astype(np.float32)
        return whole, part * part * (3 - 2 * part)

    row, fy = lattice(canvas.height, shift_y)
    column, fx = lattice(canvas.width, shift_x)
    lines = grid[row] + (grid[row + 1] - grid[row]) * fy[:, None]
    left = lines[:, column]
    return np.asarray(left + (lines[:, column + 1] - left) * fx[None, :], np.float32)


def fractal_noise(dice: Dice, canvas: Canvas, cell: float, octaves: int, roughness: float) -> Plane:
    """Sum octaves of value noise, each with half the cell and `roughness` times the amplitude; rescaled to 0..1, float32 [H, W]."""
    total = np.zeros((canvas.height, canvas.width), np.float32)
    weight, weights = 1.0, 0.0
    for _ in range(octaves):
        total += smooth_noise(dice, canvas, cell) * weight
        weights += weight
        weight *= roughness
        cell = max(cell / 2, 1.5)
    return np.asarray(np.clip((total * (1 / weights) - 0.5) * 1.7 + 0.5, 0, 1), np.float32)


def wave(place: Plane) -> Plane:
    """Return a smooth wave of period 1 at the places given, 0..1; made of parabolas, since a sine would not be exact."""
    part = place - np.floor(place)
    half = 4 * np.abs(part - 0.5) - 1
    return np.asarray(0.5 + half * (2 - np.abs(half)) * 0.5, np.float32)


def stripes(dice: Dice, canvas: Canvas, period: float, warp: float) -> Plane:
    """Draw parallel waves in a random direction, bent by noise; 0..1, float32 [H, W]. Period and warp are in units."""
    x, y = canvas.grid((slice(0, canvas.height), slice(0, canvas.width)))
    along, across = dice.direction()
    bend = smooth_noise(dice, canvas, 50.0) * warp
    return wave((x * along + y * across + bend) * (1 / period))


@dataclasses.dataclass(frozen=True)
class Limb:
    """A capsule from (x0, y0) to (x1, y1) whose radius goes linearly from r0 to r1; in units."""

    x0: float
    y0: float
    r0: float
    x1: float
    y1: float
    r1: float

    def bounds(self, margin: float) -> tuple[float, float, float, float]:
        """Return left, top, right and bottom of the bounding box, widened by a margin; in units."""
        r = max(self.r0, self.r1) + margin
        return (
            min(self.x0, self.x1) - r,
            min(self.y0, self.y1) - r,
            max(self.x0, self.x1) + r,
            max(self.y0, self.y1) + r,
        )


def box_around(canvas: Canvas, limbs: Sequence[Limb], margin: float) -> tuple[slice, slice]:
    """Return the pixels (rows, columns) that a body of limbs may touch, with a margin in units."""
    bounds = [limb.bounds(margin) for limb in limbs]
    return canvas.box(min(b[0] for b in bounds), min(b[1] for b in bounds), max(b[2] for b in bounds), max(b[3] for b in bounds))


def body_fields(canvas: Canvas, where: tuple[slice, slice], limbs: Sequence[Limb], blend: float) -> tuple[Plane, Plane]:
    """Compute the signed distance to a smooth union of capsules, and the local radius.

    The union is the polynomial smooth minimum of Inigo Quilez ("smooth min", 2013, https://iquilezles.org/articles/smin/): the joints
    get fillets of about `blend` units.

    Returns:
        The distance, negative inside, and the radius; float32 [h, w] each, in units.
    """
    x, y = canvas.grid(where)
    distance = np.full((y.shape[0], x.shape[1]), FAR, np.float32)
    radius = np.ones_like(distance)
    for limb in limbs:
        rows, columns = canvas.box(*limb.bounds(2 * blend))
        top, left = max(rows.start - where[0].start, 0), max(columns.start - where[1].start, 0)
        part = (slice(top, max(rows.stop - where[0].start, top)), slice(left, max(columns.stop - where[1].start, left)))
        px, py = x[:, part[1]] - limb.x0, y[part[0]] - limb.y0
        ax, ay = limb.x1 - limb.x0, limb.y1 - limb.y0
        t = np.clip((px * ax + py * ay) * (1 / max(ax * ax + ay * ay, 1e-3)), 0, 1)
        dx, dy = px - t * ax, py - t * ay
        r = limb.r0 + t * (limb.r1 - limb.r0)
        new, old = np.sqrt(dx * dx + dy * dy) - r, distance[part]
        share = np.clip(0.5 + (old - new) * (0.5 / blend), 0, 1)
        distance[part] = old + (new - old) * share - blend * share * (1 - share)
        radius[part] += (r - radius[part]) * share
    return distance, radius


def round_height(distance: Plane, radius: Plane) -> Plane:
    """Return the height of a body above its plane, as if each limb had a circular cross-section; float32 [h, w], in units."""
    inward = np.clip(radius + distance, 0, None)
    return np.asarray(np.sqrt(np.clip(radius * radius - inward * inward, 0, None)), np.float32)


def lambert(height: Plane, light: tuple[float, float, float], unit: float) -> Plane:
    """Shade a height field by Lambert's cosine law.

    Args:
        height: float32 [h, w], in units.
        light: the direction to a distant light, a unit vector (x, y, z) with z to the viewer.
        unit: pixels in a unit.

    Returns:
        The brightness, 0..1, float32 [h, w].
    """
    slope_x, slope_y = np.zeros_like(height), np.zeros_like(height)
    slope_x[:, 1:-1] = (height[:, 2:] - height[:, :-2]) * (0.5 * unit)
    slope_y[1:-1] = (height[2:] - height[:-2]) * (0.5 * unit)
    cosine = (light[2] - slope_x * light[0] - slope_y * light[1]) / np.sqrt(1 + slope_x * slope_x + slope_y * slope_y)
    return np.clip(cosine, 0, 1)


def polygon_distance(
    canvas: Canvas, where: tuple[slice, slice], centre: tuple[float, float], sides: Sequence[tuple[float, float, float]]
) -> Plane:
    """Compute the distance to a convex polygon, negative inside; float32 [h, w], in units.

    Outside, next to a corner, the result is less than the true distance.

    Args:
        canvas: the pixel grid.
        where: the pixels (rows, columns).
        centre: (x, y), in units.
        sides: half planes (nx, ny, reach): a unit normal, and the distance of the side from the centre.
    """
    x, y = canvas.grid(where)
    distance = np.full((y.shape[0], x.shape[1]), -FAR, np.float32)
    for nx, ny, reach in sides:
        np.maximum(distance, (x - centre[0]) * nx + (y - centre[1]) * ny - reach, out=distance)
    return distance


def blur(image: Plane, strength: float) -> Plane:
    """Blur by the kernel (s, 1 - 2s, s) along each axis, edges repeated; float32 [C, H, W]. The strength s is 0..0.33."""
    wide = np.pad(image, ((0, 0), (1, 1), (0, 0)), mode="edge")
    image = image * (1 - 2 * strength) + (wide[:, :-2] + wide[:, 2:]) * strength
    wide = np.pad(image, ((0, 0), (0, 0), (1, 1)), mode="edge")
    return np.asarray(image * (1 - 2 * strength) + (wide[:, :, :-2] + wide[:, :, 2:]) * strength, np.float32)
