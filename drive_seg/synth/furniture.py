"""Street furniture on thin poles: lamp posts, bollards, traffic signs and signals."""

import math
from collections.abc import Callable

import numpy as np

from drive_seg.synth import classes as c
from drive_seg.synth.canvas import Canvas
from drive_seg.synth.road import Road
from drive_seg.synth.things import Thing

_UP = np.array([0.0, 0.0, 1.0])


def _thin(s: float, d: float, draw: Callable[[Canvas], None], reach: float = 0.15) -> Thing:
    return Thing(s - reach, s + reach, d - reach, d + reach, draw)


def _mast(canvas: Canvas, base, height: float, r0: float, r1: float, color) -> None:
    bright = canvas.light.ambient + 0.5 * canvas.light.sun
    canvas.sticks([base], [base + _UP * height], [(r0, r1)], [color], [c.POLE], bright)


def street_lamp(road: Road, s: float, d: float, height: float, color) -> Thing:
    """Lamp post with an arm over the road (pole)."""
    base, over = road.point(s, d), road.axes(s)[1] * (-1.0 if d > 0 else 1.0)

    def draw(canvas: Canvas) -> None:
        top = base + _UP * height
        _mast(canvas, base, height, 0.10, 0.06, color)
        tip = top + over * 1.6 + _UP * 0.25
        canvas.sticks(
            [top, tip - over * 0.5],
            [tip, tip + over * 0.2],
            [(0.05, 0.05), (0.10, 0.12)],
            [color, (190, 195, 200)],
            [c.POLE, c.POLE],
        )
        if canvas.light.street_lamps:
            canvas.ball(tip, 0.22, (200, 235, 255), c.POLE, 0.6)

    return _thin(s, d, draw)


def bollard(road: Road, s: float, d: float, color) -> Thing:
    """Knee-high post (pole)."""
    base = road.point(s, d)
    return _thin(s, d, lambda canvas: _mast(canvas, base, 0.95, 0.08, 0.07, color))


def traffic_sign(road: Road, s: float, d: float, kind: str, facing: int, color) -> Thing:
    """Sign on a pole; `facing` -1 looks back along the road.

    kind: "disc", "ban", "warning", "yield", "priority", "blue", "diamond", "panel" or "board".
    """
    base = road.point(s, d)
    forward, left = road.axes(s, facing)

    def draw(canvas: Canvas) -> None:
        high = 3.0 if kind == "board" else 2.5
        _mast(canvas, base, high, 0.045, 0.04, color)
        seen = ((canvas.view.position - base) * forward).sum() > 0
        centre = base + forward * 0.06 + _UP * (high - 0.25)
        bright = canvas.light.ambient + 0.6 * canvas.light.sun
        for shape, tone in _sign_shapes(kind) if seen else _sign_shapes(kind)[:1]:
            points = centre + shape[:, :1] * left + shape[:, 1:] * _UP
            canvas.polygon(points, tone if seen else (125, 127, 128), c.TRAFFIC_SIGN, bright)

    return _thin(s, d, draw)


def _ring(radius: float, count: int, turn: float = 0.0) -> np.ndarray:
    angles = [turn + i * 2 * math.pi / count for i in range(count)]
    return np.array([[radius * round(math.sin(t), 9), radius * round(math.cos(t), 9)] for t in angles])


def _rectangle(width: float, height: float, x: float = 0.0, y: float = 0.0) -> np.ndarray:
    return np.array(
        [(x - width, y - height), (x + width, y - height), (x + width, y + height), (x - width, y + height)]
    )


def _sign_shapes(kind: str) -> list[tuple[np.ndarray, tuple]]:
    red, white, black, blue = (40, 36, 185), (225, 228, 230), (35, 35, 38), (165, 85, 25)
    if kind == "disc":
        return [
            (_ring(0.36, 14), red),
            (_ring(0.27, 14), white),
            (_rectangle(0.05, 0.11, -0.08), black),
            (_rectangle(0.05, 0.11, 0.08), black),
        ]
    if kind == "ban":
        return [(_ring(0.36, 14), red), (_rectangle(0.26, 0.06), white)]
    if kind == "warning":
        return [(_ring(0.48, 3), red), (_ring(0.34, 3), white), (_rectangle(0.03, 0.10, 0.0, 0.02), black)]
    if kind == "yield":
        return [(_ring(0.48, 3, math.pi), red), (_ring(0.32, 3, math.pi), white)]
    if kind == "priority":
        return [(_ring(0.42, 4), white), (_ring(0.30, 4), (50, 190, 235))]
    if kind == "diamond":
        return [(_ring(0.55, 4), (30, 180, 235)), (_rectangle(0.05, 0.2), black), (_ring(0.14, 6), black)]
    if kind == "panel":
        return [
            (_rectangle(0.30, 0.38), white),
            (_rectangle(0.2, 0.03, 0, 0.2), black),
            (_rectangle(0.15, 0.15, 0, -0.08), black),
        ]
    if kind == "blue":
        return [
            (_ring(0.36, 14), blue),
            (_rectangle(0.05, 0.18), white),
            (_rectangle(0.14, 0.05, 0.0, 0.12), white),
        ]
    return [
        (_rectangle(0.85, 0.50), blue),
        (_rectangle(0.70, 0.05, 0.0, 0.22), white),
        (_rectangle(0.55, 0.05, 0.1, 0.0), white),
        (_rectangle(0.62, 0.05, 0.0, -0.22), white),
    ]


def wire_pole(road: Road, s: float, d: float, height: float) -> Thing:
    """Wooden pole with a cross-arm (pole)."""
    base, (_, left) = road.point(s, d), road.axes(s)
    wood = (58, 72, 86)

    def draw(canvas: Canvas) -> None:
        _mast(canvas, base, height, 0.14, 0.10, wood)
        arm = base + _UP * (height - 0.5)
        canvas.sticks([arm - left * 1.1], [arm + left * 1.1], [(0.07, 0.07)], [wood], [c.POLE])

    return _thin(s, d, draw)


def gantry(road: Road, s: float, rng: np.random.Generator) -> Thing:
    """Beam over the own carriageway with one to three large signs facing back along the road."""
    inner, outer = road.side * max(road.inner - 0.5, 0.0), road.side * (road.half + 1.0)
    steel = tuple((rng.uniform(90, 170) * np.ones(3)).tolist())
    back = [(95, 125, 20), (150, 85, 20), (60, 120, 30), (40, 38, 36)][rng.integers(4)]
    signs = [
        (float(at), float(rng.uniform(1.2, 2.4)), float(rng.uniform(0.8, 1.4)))
        for at in np.linspace(inner, outer, int(rng.integers(1, 4)) + 2)[1:-1]
    ]
    width = float(rng.uniform(0.1, 0.25))

    def draw(canvas: Canvas) -> None:
        high = 6.6
        for d in (inner, outer):
            _mast(canvas, road.point(s, d), high, width, width, steel)
        for z in (5.9, high):
            canvas.sticks(
                [road.point(s, inner, z)], [road.point(s, outer, z)], [(width * 0.7, width * 0.7)], [steel], [c.POLE]
            )
        seen = canvas.view.pose.x < s
        bright = canvas.light.ambient + 0.6 * canvas.light.sun
        for d, half_width, half_height in signs:
            centre = road.point(s - 0.3, d, 6.2)
            shapes = [(_rectangle(half_width, half_height), back if seen else (125, 127, 128))]
            if seen:
                for row, share in ((0.45, 0.75), (0.0, 0.5), (-0.45, 0.65)):
                    shapes.append((_rectangle(half_width * share, 0.1, 0.0, row * half_height), (225, 228, 230)))
            for shape, tone in shapes:
                points = centre + shape[:, :1] * np.array([0.0, 1.0, 0.0]) + shape[:, 1:] * _UP
                canvas.polygon(points, tone, c.TRAFFIC_SIGN, bright)

    return Thing(s - 0.2, s + 0.2, min(inner, outer), max(inner, outer), draw)


def traffic_light(road: Road, s: float, d: float, lamp: int, facing: int, arm: float = 0.0) -> Thing:
    """Signal on a pole, with a second head on an arm of `arm` metres. lamp: 0 red, 1 amber, 2 green."""
    base = road.point(s, d)
    forward, left = road.axes(s, facing)
    inward = road.axes(s)[1] * (-1.0 if d > 0 else 1.0)

    def draw(canvas: Canvas) -> None:
        high = 5.4 if arm else 3.1
        _mast(canvas, base, high, 0.08, 0.07, (70, 72, 74))
        if arm:
            tip = base + _UP * high
            canvas.sticks([tip], [tip + inward * arm], [(0.06, 0.05)], [(70, 72, 74)], [c.POLE])
            _signal_head(canvas, tip + inward * arm - _UP * 0.5, forward, left, lamp)
        _signal_head(canvas, base + _UP * 2.75, forward, left, lamp)

    return _thin(s, d, draw)


def _signal_head(canvas: Canvas, centre: np.ndarray, forward, left, lamp: int) -> None:
    """Box with three lamps, one lit; drawn with its back plate from behind."""
    eye = canvas.view.position - centre
    front = (eye * forward).sum() > 0
    near = centre + (forward * 0.14 if front else -forward * 0.14)

    def rectangle(middle: np.ndarray, half_width: float, half_height: float) -> np.ndarray:
        across, up = left * half_width, _UP * half_height
        return np.stack([middle - across - up, middle + across - up, middle + across + up, middle - across + up])

    side = left * (0.17 if (eye * left).sum() > 0 else -0.17)
    depth = np.stack(
        [
            centre + side - _UP * 0.48 - forward * 0.14,
            centre + side - _UP * 0.48 + forward * 0.14,
            centre + side + _UP * 0.48 + forward * 0.14,
            centre + side + _UP * 0.48 - forward * 0.14,
        ]
    )
    canvas.polygon(depth, (30, 32, 32), c.TRAFFIC_LIGHT)
    canvas.polygon(rectangle(near, 0.19, 0.50), (42, 44, 44) if front else (58, 60, 60), c.TRAFFIC_LIGHT)
    if front:
        lit = [(60, 50, 255), (60, 190, 255), (150, 235, 60)]
        for i, height in enumerate((0.31, 0.0, -0.31)):
            disc = near + forward * 0.02 + _ring(0.12, 10)[:, :1] * left + _ring(0.12, 10)[:, 1:] * _UP + _UP * height
            tone = np.array(lit[i]) if i == lamp else np.array(lit[i]) * 0.16
            canvas.polygon(disc, tone, c.TRAFFIC_LIGHT, 1.1)
