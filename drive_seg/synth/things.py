"""Things that stand or move in the world: footprint for depth order, shadow, and how to draw them.

Each thing has a footprint (s0, s1, d0, d1) in road coordinates, `draw(canvas)` and `shadow(road, light)`,
which returns ground polygons. Builders in world.py and traffic.py place them.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import cv2
import numpy as np

from drive_seg.synth import classes as c
from drive_seg.synth.canvas import Canvas, Light, Texture
from drive_seg.synth.road import Road

_UP = np.array([0.0, 0.0, 1.0])


@dataclass(frozen=True)
class Thing:
    """Something drawn by a callable; `outline` (n, 2) and `height` in metres make its shadow."""

    s0: float
    s1: float
    d0: float
    d1: float
    draw: Callable[[Canvas], None]
    outline: np.ndarray | None = field(default=None, compare=False)
    height: float = 0.0
    relief: float = 0.0  # how uneven the light on it may be, 0 to 1

    def shadow(self, light: Light) -> np.ndarray | None:
        """Ground polygon (n, 3) that the thing darkens, or None."""
        if self.outline is None:
            return None
        sun = light.sun_direction
        reach = min(self.height / max(float(sun[2]), 0.2), 2.5 * self.height) if light.sun > 0.15 else 0.0
        shifted = self.outline - reach * sun[:2]
        points = np.concatenate([self.outline, shifted]).astype(np.float32)
        hull = cv2.convexHull(points)[:, 0].astype(np.float64)
        return np.concatenate([hull, np.zeros((len(hull), 1))], axis=1)


def outline(origin: np.ndarray, forward: np.ndarray, left: np.ndarray, length: float, width: float) -> np.ndarray:
    """World x, y corners (4, 2) of a rectangle centred on `origin`."""
    corners = [(1, 1), (1, -1), (-1, -1), (-1, 1)]
    return np.array([(origin + forward * a * length / 2 + left * b * width / 2)[:2] for a, b in corners])


def placed(
    s: float,
    d: float,
    size: tuple[float, float],
    height: float,
    road: Road,
    turn: int,
    draw: Callable[[Canvas, np.ndarray, np.ndarray, np.ndarray], None],
) -> Thing:
    """Thing along the road at (s, d) that draws itself from a ground point and unit axes forward and left.

    size: length and width in metres; height: of its shadow; turn: 1 heads for growing s, -1 comes back.
    """
    origin, (forward, left) = road.point(s, d), road.axes(s, turn)
    length, width = size
    return Thing(
        s - length / 2,
        s + length / 2,
        d - width / 2,
        d + width / 2,
        lambda canvas: draw(canvas, origin, forward, left),
        outline(origin, forward, left, length, width),
        height,
        1.0,
    )


@dataclass(frozen=True)
class House:
    """Textures and measures of one building."""

    front: Texture
    side: Texture
    roof: Texture | None
    height: float
    depth: float
    rise: float  # of the roof's ridge above the eaves, m
    tint: tuple
    chimneys: tuple[float, ...]  # places along the ridge, 0..1


def building(road: Road, house: House, s0: float, s1: float, d: float) -> Thing:
    """Building whose front stands at lateral `d` (its sign says which side) from s0 to s1."""
    sign = 1.0 if d > 0 else -1.0
    back = d + sign * house.depth
    a, b = road.point(s0, d), road.point(s1, d)
    e, f = road.point(s0, back), road.point(s1, back)

    def draw(canvas: Canvas) -> None:
        light, eye = canvas.light, canvas.view.position
        up = _UP * house.height
        if house.roof is not None:
            _gable_roof(canvas, house, a, b, e, f)
        for start, end, near in ((a, e, eye[0] < a[0]), (b, f, eye[0] > b[0])):
            if near:
                normal = np.array([-1.0 if start is a else 1.0, 0.0, 0.0])
                bright = float(light.facing(normal))
                if house.rise > 0:
                    ridge = (start + end) / 2 + up + _UP * house.rise
                    canvas.polygon(
                        np.stack([start + up, end + up, ridge]),
                        house.side.mean * np.asarray(house.tint),
                        c.BUILDING,
                        bright,
                    )
                canvas.textured_quad(start + up, end - start, -up, house.side, c.BUILDING, bright, house.tint)
        normal = _horizontal_normal(a, b, -sign)
        canvas.textured_quad(a + up, b - a, -up, house.front, c.BUILDING, float(light.facing(normal)), house.tint)

    return Thing(s0, s1, min(d, back), max(d, back), draw, np.stack([a, b, e, f])[:, :2], house.height)


def _gable_roof(canvas: Canvas, house: House, a, b, e, f) -> None:
    """Roof plane towards the road, and chimneys on the ridge; a, b are the front's corners, e, f behind."""
    eaves, ridge = _UP * house.height, _UP * (house.height + house.rise)
    top_a, top_b = (a + e) / 2 + ridge, (b + f) / 2 + ridge
    to_road = (a - e) / house.depth
    tilt = math.hypot(house.depth / 2, house.rise)
    normal = (_UP * house.depth / 2 + to_road * house.rise) / tilt
    low = a + eaves + to_road * 0.4
    bright = float(canvas.light.facing(normal))
    for share in house.chimneys:
        _chimney(canvas, top_a + (top_b - top_a) * share, (b - a) / np.sqrt(((b - a) ** 2).sum()), to_road, house)
    canvas.textured_quad(top_a, top_b - top_a, low - top_a, house.roof, c.BUILDING, bright)


def _chimney(canvas: Canvas, foot: np.ndarray, along: np.ndarray, to_road: np.ndarray, house: House) -> None:
    tone = house.side.mean * np.asarray(house.tint) * 0.8
    low, high = foot - _UP * 0.5, foot + _UP * 1.1
    near, side = to_road * 0.3, along * 0.45
    for normal, p, q in ((-along, near - side, -near - side), (to_road, near - side, near + side)):
        face = np.stack([low + p, low + q, high + q, high + p])
        canvas.polygon(face, tone, c.BUILDING, float(canvas.light.facing(normal)))


def _horizontal_normal(a: np.ndarray, b: np.ndarray, sign: float) -> np.ndarray:
    along = b - a
    length = math.hypot(along[0], along[1])
    return sign * np.array([-along[1], along[0], 0.0]) / length


def panel(
    road: Road,
    texture: Texture,
    s0: float,
    s1: float,
    d: float,
    height: float,
    label: int,
    thick: float = 0.0,
    see_through: bool = False,
) -> Thing:
    """Upright panel along the road (wall, fence, hedge) at lateral d; `thick` gives it a top and an end."""
    a, b = road.point(s0, d), road.point(s1, d)
    sign = 1.0 if d > 0 else -1.0
    up = _UP * height
    outward = road.axes(s0)[1] * sign * thick

    def draw(canvas: Canvas) -> None:
        bright = float(canvas.light.facing(_horizontal_normal(a, b, -sign)))
        tone = texture.mean
        if thick > 0:
            canvas.polygon(
                np.stack([a + up, b + up, b + up + outward, a + up + outward]),
                tone * 1.1,
                label,
                float(canvas.light.facing(_UP)),
            )
            canvas.polygon(
                np.stack([a, a + outward, a + outward + up, a + up]),
                tone,
                label,
                float(canvas.light.facing(np.array([-1.0, 0.0, 0.0]))),
            )
        canvas.textured_quad(a + up, b - a, -up, texture, label, bright, see_through="blend" if see_through else "none")

    base = np.stack([a, b, b + outward, a + outward])[:, :2]
    return Thing(s0, s1, min(d, d + sign * thick), max(d, d + sign * thick), draw, base, 0.0 if see_through else height)


def screen(road: Road, texture: Texture, s0: float, s1: float, d: float, height: float, label: int) -> Thing:
    """Upright cut-out picture along the road, such as the edge of a wood; labelled where it is opaque."""
    a, b, up = road.point(s0, d), road.point(s1, d), _UP * height

    def draw(canvas: Canvas) -> None:
        bright = canvas.light.ambient + 0.6 * canvas.light.sun
        canvas.textured_quad(a + up, b - a, -up, texture, label, bright, see_through="cut")

    return Thing(s0, s1, d - 0.05, d + 0.05, draw, np.stack([a, b])[:, :2], height)


def slope(road: Road, texture: Texture, s0: float, s1: float, d: float, reach: float, height: float) -> Thing:
    """Bank (terrain) that rises from lateral d over `reach` metres outwards to `height`."""
    sign = 1.0 if d > 0 else -1.0
    a = road.point(s0, d)
    e, f = road.point(s0, d + sign * reach, height), road.point(s1, d + sign * reach, height)
    to_road = road.axes(s0)[1] * -sign
    normal = (_UP * reach + to_road * height) / math.hypot(reach, height)

    def draw(canvas: Canvas) -> None:
        bright = float(canvas.light.facing(normal))
        canvas.textured_quad(e, f - e, a - e, texture, c.TERRAIN, bright)

    return Thing(s0, s1, min(d, d + sign * reach), max(d, d + sign * reach), draw)


def bridge(road: Road, s: float, length: float, tone: float) -> Thing:
    """Bridge over the road (building), `length` metres along it: deck, railing, piers beside the carriageways."""
    low, high, reach = 5.2, 6.8, road.half + 35.0

    def draw(canvas: Canvas) -> None:
        light = canvas.light
        bright = float(light.facing(np.array([-1.0, 0.0, 0.0])))
        if canvas.view.pose.x > s - 1.5:
            return
        for side in (-1.0, 1.0):
            for depth in (s + length, s):
                d = side * (road.half + 3.0)
                abutment = [(d, 0.0), (side * reach, 0.0), (side * reach, low), (d + side * 4.0, low)]
                points = np.stack([road.point(depth, at, up) for at, up in abutment])
                canvas.polygon(points, (tone * 0.8,) * 3, c.BUILDING, bright)
        under = [(s, -reach), (s + length, -reach), (s + length, reach), (s, reach)]
        canvas.polygon(
            np.stack([road.point(s, d, low) + [at - s, 0, 0] for at, d in under]), (tone * 0.4,) * 3, c.BUILDING, bright
        )
        for bottom, top, shade in ((low, high, 1.0), (high - 0.25, high, 1.15)):
            face = [
                road.point(s, -reach, bottom),
                road.point(s, reach, bottom),
                road.point(s, reach, top),
                road.point(s, -reach, top),
            ]
            canvas.polygon(np.stack(face), (tone * shade,) * 3, c.BUILDING, bright)

    base = np.stack(
        [road.point(s, -reach), road.point(s, reach), road.point(s + length, reach), road.point(s + length, -reach)]
    )
    return Thing(s, s + length, -reach, reach, draw, base[:, :2], 0.5)


def plant(
    road: Road,
    texture: Texture,
    s: float,
    d: float,
    width: float,
    height: float,
    tint: tuple,
    base_height: float = 0.0,
) -> Thing:
    """Tree, bush or shrub as a picture that turns to the camera, `base_height` metres above the road."""
    base = road.point(s, d, base_height)
    angles = [i * math.pi / 4 for i in range(8)]
    ring = np.array([[round(math.cos(t), 9), round(math.sin(t), 9)] for t in angles]) * width * 0.36 + base[:2]

    def draw(canvas: Canvas) -> None:
        bright = canvas.light.ambient + 0.75 * canvas.light.sun
        canvas.sprite(base, width, height, texture, c.VEGETATION, bright, tint)

    return Thing(s - 0.2, s + 0.2, d - 0.2, d + 0.2, draw, ring, height * 0.45)
