"""Draw procedural scenes with exact masks: the data set of the demonstration network is a seed and a count.

The subject is a group of smooth bodies: blobs of limbs, lit from one side so that each limb looks round. Everything else is not
subject: a cluttered background, flat boards and boxes, flat cut-outs with the outline of a body, folds of cloth that look round but
have no body's outline, and objects in front. All share one palette and one set of textures, so neither colour nor local texture
identifies the subject, only roundness together with outline. One scene in 25 has no subject.

Usage::

    python -m engine.scenes --seed 7 --count 100 --out DIR      # DIR/images/*.jpg and DIR/masks/*.png

A scene depends on its seed, index and size alone. Its pixels before JPEG are the same on every machine (see engine/drawing.py); its
JPEG bytes depend on the version of Pillow.
"""

from __future__ import annotations

import dataclasses
import io
import math
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray

from . import drawing
from .drawing import Canvas, Colour, Dice, Limb, Plane

SIZE = 256
EMPTY_ONE_IN = 25
EDGE = 0.7  # half the width of a soft edge, in pixels
Box = tuple[slice, slice]


@dataclasses.dataclass(frozen=True)
class Scene:
    """A scene before JPEG compression.

    Attributes:
        image: uint8 [H, W, 3], RGB.
        mask: uint8 [H, W], 255 on the visible subject, else 0.
        jpeg_quality: the quality to compress it with, 45..95.
    """

    image: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    jpeg_quality: int

    def jpeg(self) -> bytes:
        """Encode the image as JPEG (4:2:0) with Pillow."""
        from PIL import Image

        out = io.BytesIO()
        Image.fromarray(self.image).save(out, "JPEG", quality=self.jpeg_quality)
        return out.getvalue()

    def after_jpeg(self) -> NDArray[np.uint8]:
        """Encode the image as JPEG and decode it again; uint8 [H, W, 3]."""
        from PIL import Image

        with Image.open(io.BytesIO(self.jpeg())) as image:
            return np.array(image.convert("RGB"), np.uint8)


def draw_scene(seed: int, index: int, width: int = SIZE, height: int = SIZE) -> Scene:
    """Draw a scene.

    Args:
        seed: which data set, 0 or more.
        index: which scene of it, 0 or more.
        width, height: in pixels, 16 at least.

    Raises:
        ValueError: the size is too small.
    """
    if min(width, height) < 16:
        raise ValueError(f"a scene of {width} x {height} is too small to draw; 16 is the least")
    painter = _Painter(Dice(seed, index), Canvas(height, width))
    painter.paint_background()
    for _ in range(painter.dice.whole(2, 5)):
        painter.paint_distractor()
    if painter.dice.whole(1, EMPTY_ONE_IN) > 1:
        painter.paint_group()
    for _ in range(painter.dice.whole(0, 2)):
        painter.paint_board(large=False)
    return painter.finish()


class _Painter:
    """A picture in the making: its colours, float32 [3, H, W], 0..1, and the subject's share of each pixel, float32 [H, W], 0..1."""

    def __init__(self, dice: Dice, canvas: Canvas) -> None:
        self.dice, self.canvas = dice, canvas
        self.palette: list[Colour] = [
            (dice.between(0.2, 1.0), dice.between(0.2, 1.0), dice.between(0.2, 1.0)) for _ in range(dice.whole(4, 6))
        ]
        self.textures = [self._texture() for _ in range(4)]
        self.folds = [drawing.stripes(dice, canvas, dice.between(18, 60), dice.between(0, 50)) for _ in range(2)]
        x, y = dice.direction()
        z = dice.between(0.4, 0.75)
        length = math.sqrt(1 + z * z)
        self.light = (x / length, y / length, z / length)
        self.ambient = dice.between(0.1, 0.28)
        self.image = np.zeros((3, canvas.height, canvas.width), np.float32)
        self.subject = np.zeros((canvas.height, canvas.width), np.float32)

    # -- surfaces ------------------------------------------------------------------------------------------------------------

    def _texture(self) -> Plane:
        dice, kind = self.dice, self.dice.whole(0, 3)
        if kind == 0:
            return drawing.stripes(dice, self.canvas, dice.between(7, 22), dice.between(0, 40))
        noise = drawing.fractal_noise(dice, self.canvas, dice.between(10, 60), dice.whole(2, 4), dice.between(0.4, 0.8))
        if kind == 1:  # spots
            return np.asarray(np.clip((noise - 0.5) * 5 + 0.5, 0, 1), np.float32)
        return noise

    def _turned(self, planes: list[Plane]) -> Plane:
        """Pick one of the planes and mirror it at random, so that objects with the same texture show different parts of it."""
        return self.dice.pick(planes)[:: self.dice.pick((1, -1)), :: self.dice.pick((1, -1))]

    def _colour(self) -> Colour:
        r, g, b = self.dice.pick(self.palette)
        return (
            r + self.dice.between(-0.06, 0.06),
            g + self.dice.between(-0.06, 0.06),
            b + self.dice.between(-0.06, 0.06),
        )

    def _surface(self, where: Box) -> Plane:
        """Make a texture of two colours for the pixels of a box; float32 [3, h, w]."""
        texture = self._turned(self.textures)[where]
        strength = self.dice.between(0.15, 0.5)
        first, second = self._colour(), self._colour()
        return np.stack([a + texture * ((b - a) * strength) for a, b in zip(first, second, strict=True)])

    def _folds(self, where: Box) -> Plane:
        """Make the shading of hanging cloth, which is as round as a limb but lacks its outline; float32 [h, w]."""
        return self.ambient + (1.05 - self.ambient) * self._turned(self.folds)[where]

    def _flat_light(self, where: Box) -> Plane:
        """Make the shading of a flat board: a linear gradient, often a slight one; float32 [h, w]."""
        x, y = self.canvas.grid(where)
        along, across = self.dice.direction()
        run = (x - float(x[0, 0])) * along + (y - float(y[0, 0])) * across
        return np.clip(self.dice.between(0.5, 1.0) + run * self.dice.between(-0.004, 0.004), self.ambient, 1.1)

    def _stamp(self, where: Box, distance: Plane, colours: Plane, subject: bool) -> None:
        alpha = np.clip(0.5 - distance * (self.canvas.unit * 0.5 / EDGE), 0, 1)
        image = self.image[:, where[0], where[1]]
        image += (colours - image) * alpha
        self.subject[where] += ((1.0 if subject else 0.0) - self.subject[where]) * alpha

    def _shadow(self, where: Box, distance: Plane, reach: float) -> None:
        """Darken the pixels beside an object, on the side away from the light."""
        strength = self.dice.between(0.0, 0.6)
        unit = self.canvas.unit
        down, right = (int(-self.light[1] * reach * unit), int(-self.light[0] * reach * unit))
        (rows, columns), dark = where, np.clip(0.5 - distance * (1 / max(reach, 1.0)), 0, 1) * strength
        top, left = max(rows.start + down, 0), max(columns.start + right, 0)
        bottom, end = min(rows.stop + down, self.canvas.height), min(columns.stop + right, self.canvas.width)
        if top >= bottom or left >= end:
            return
        part = dark[
            top - rows.start - down : bottom - rows.start - down,
            left - columns.start - right : end - columns.start - right,
        ]
        self.image[:, top:bottom, left:end] *= 1 - part

    # -- objects -------------------------------------------------------------------------------------------------------------

    def paint_background(self) -> None:
        """Paint a textured wall, sometimes in folds, and boards all over it."""
        whole = (slice(0, self.canvas.height), slice(0, self.canvas.width))
        self.image[:] = self._surface(whole)
        light = self._folds(whole) if self.dice.chance(0.2) else self._flat_light(whole)
        self.image *= light
        for _ in range(self.dice.whole(3, 10)):
            self.paint_board(large=True)

    def paint_board(self, large: bool) -> None:
        """Paint a convex polygon: flat, with two flat faces, or in folds."""
        dice = self.dice
        wide, high = self.canvas.extent
        centre = dice.between(0, wide), dice.between(0, high)
        reach = dice.between(18, 75) if large else dice.between(6, 22)
        longest = 4.0 if dice.chance(0.4) else 1.3
        sides = []
        x, y = dice.direction()
        for nx, ny, stretch in ((x, y, 1.0), (-x, -y, 1.0), (-y, x, longest), (y, -x, longest)):
            sides.append((nx, ny, reach * stretch * dice.between(0.6, 1.0)))
        for _ in range(dice.whole(0, 2)):
            nx, ny = dice.direction()
            sides.append((nx, ny, reach * dice.between(0.7, 1.2)))
        around = math.sqrt(max(sides[0][2], sides[1][2]) ** 2 + max(sides[2][2], sides[3][2]) ** 2) + 2
        where = self.canvas.box(centre[0] - around, centre[1] - around, centre[0] + around, centre[1] + around)
        distance = drawing.polygon_distance(self.canvas, where, centre, sides)
        light = self._folds(where) if dice.chance(0.06) else self._flat_light(where)
        if dice.chance(0.5):  # the edge between two faces of a box
            px, py = self.canvas.grid(where)
            nx, ny = dice.direction()
            light = np.where((px - centre[0]) * nx + (py - centre[1]) * ny > 0, light, light * dice.between(0.4, 0.8))
        self._shadow(where, distance, dice.between(2, 12))
        self._stamp(where, distance, self._surface(where) * light, subject=False)

    def paint_distractor(self) -> None:
        """Paint a cut-out with the outline of a body and flat shading, or folds that do not follow the outline; or a small board."""
        if self.dice.chance(0.35):
            self.paint_board(large=False)
            return
        wide, high = self.canvas.extent
        limbs = grow_body(self.dice, self.dice.between(0, wide), self.dice.between(0, high), self.dice.between(0.6, 1.5))
        where = drawing.box_around(self.canvas, limbs, 20.0)
        distance, _ = drawing.body_fields(self.canvas, where, limbs, self.dice.between(3, 9))
        light = self._folds(where) if self.dice.chance(0.06) else self._flat_light(where)
        self._shadow(where, distance, self.dice.between(1, 6))
        self._stamp(where, distance, self._surface(where) * light, subject=False)

    def paint_group(self) -> None:
        """Paint the subject: one to four bodies near each other, each in its own colours, all in the same light."""
        dice = self.dice
        wide, high = self.canvas.extent
        x, y = wide * dice.between(0.3, 0.7), high * dice.between(0.3, 0.7)
        count = dice.whole(1, 4)
        for _ in range(count):
            size = dice.between(1.2, 2.0) * (1.15 if count == 1 else 1.0)
            limbs = grow_body(dice, x + dice.between(-55, 55), y + dice.between(-55, 55), size)
            where = drawing.box_around(self.canvas, limbs, 20.0)
            distance, radius = drawing.body_fields(self.canvas, where, limbs, dice.between(3, 9))
            cosine = drawing.lambert(drawing.round_height(distance, radius), self.light, self.canvas.unit)
            light = self.ambient + (1.1 - self.ambient) * cosine
            self._shadow(where, distance, dice.between(3, 14))
            self._stamp(where, distance, self._surface(where) * light, subject=True)

    # -- the camera ----------------------------------------------------------------------------------------------------------

    def finish(self) -> Scene:
        """Apply the camera's effects (uneven light, a colour cast, blur, noise) and quantise to 8 bits."""
        dice, canvas = self.dice, self.canvas
        light = 1 + (drawing.smooth_noise(dice, canvas, dice.between(90, 200)) - 0.5) * dice.between(0.1, 0.6)
        gain = np.array([dice.between(0.85, 1.1) for _ in range(3)], np.float32)
        image = self.image * light * gain[:, None, None]
        for _ in range(dice.whole(0, 2)):
            image = drawing.blur(image, 0.22)
        shape = image.shape
        grain = dice.generator.random(shape, np.float32) + dice.generator.random(shape, np.float32) - 1
        image += grain * dice.between(0.0, 0.07)
        return Scene(
            image=np.ascontiguousarray((np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8).transpose(1, 2, 0)),
            mask=np.where(self.subject > 0.5, 255, 0).astype(np.uint8),
            jpeg_quality=dice.whole(45, 95),
        )


def grow_body(dice: Dice, x: float, y: float, size: float) -> list[Limb]:
    """Make a body at (x, y), about 90 units across at size 1: a thick bent trunk and three to six bent arms."""
    limbs = []
    dx, dy = dice.direction()
    girth = dice.between(11, 17) * size
    joints = [(x, y, girth)]
    for _ in range(2):
        reach = dice.between(12, 24) * size
        end = (x + dx * reach, y + dy * reach, girth * dice.between(0.75, 1.1))
        limbs.append(Limb(x, y, joints[-1][2], *end))
        joints.append(end)
        x, y = end[0], end[1]
        dx, dy = _bend(dice, dx, dy, 0.6)
    for _ in range(dice.whole(3, 6)):
        px, py, _girth = dice.pick(joints)
        ax, ay = dice.direction()
        r = girth * dice.between(0.55, 0.85)
        for _ in range(2):
            reach = dice.between(16, 32) * size
            qx, qy, thinner = px + ax * reach, py + ay * reach, r * dice.between(0.65, 1.0)
            limbs.append(Limb(px, py, r, qx, qy, thinner))
            px, py, r = qx, qy, thinner
            ax, ay = _bend(dice, ax, ay, 1.2)
    return limbs


def _bend(dice: Dice, x: float, y: float, most: float) -> tuple[float, float]:
    """Rotate a unit vector by a random angle whose tangent is at most `most`, to either side."""
    side = dice.between(-most, most)
    x, y = x - y * side, y + x * side
    length = math.sqrt(x * x + y * y)
    return x / length, y / length


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="The seed of the data set.")
@click.option("--count", type=click.IntRange(min=1), default=100, show_default=True, help="How many scenes.")
@click.option("--first", type=click.IntRange(min=0), default=0, show_default=True, help="The first scene's index.")
@click.option("--width", type=click.IntRange(16, 8192), default=SIZE, show_default=True)
@click.option("--height", type=click.IntRange(16, 8192), default=SIZE, show_default=True)
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="The folder to write into.")
def main(seed: int, count: int, first: int, width: int, height: int, out: Path) -> None:
    """Write procedural scenes: OUT/images/*.jpg and OUT/masks/*.png (255 on the subject, else 0), paired by name."""
    from PIL import Image
    from tqdm import tqdm

    (out / "images").mkdir(parents=True, exist_ok=True)
    (out / "masks").mkdir(parents=True, exist_ok=True)
    for index in tqdm(range(first, first + count), unit="scene", disable=None):
        scene = draw_scene(seed, index, width, height)
        name = f"scene_{seed}_{index:06d}"
        (out / "images" / f"{name}.jpg").write_bytes(scene.jpeg())
        Image.fromarray(scene.mask).save(out / "masks" / f"{name}.png")
    click.echo(f"{count} scenes in {out}")


if __name__ == "__main__":
    main()
