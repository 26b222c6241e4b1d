"""Pedestrians, bicycles, motorcycles and their riders, built of tapered sticks."""

import math
from dataclasses import dataclass, replace

import cv2
import numpy as np

from drive_seg.synth import classes as c
from drive_seg.synth.canvas import Canvas

_SKIN = [(120, 150, 205), (95, 125, 185), (60, 85, 130), (40, 55, 85)]
_CLOTH = [
    (40, 38, 36),
    (70, 50, 35),
    (130, 80, 45),
    (45, 42, 140),
    (150, 150, 155),
    (60, 95, 70),
    (85, 85, 90),
    (190, 195, 200),
    (50, 110, 170),
    (110, 60, 100),
    (60, 170, 205),
    (28, 28, 32),
]
_HAIR = [(25, 28, 34), (40, 60, 90), (120, 170, 200), (140, 140, 145), (30, 40, 60)]


@dataclass(frozen=True)
class Clothes:
    """Colours (BGR) and build of one person."""

    skin: tuple
    top: tuple
    legs: tuple
    hair: tuple
    height: float  # m
    bag: bool
    stout: float = 1.0  # factor on widths
    hem: float = 0.0  # of a coat or skirt, m below the hip, 0 for none
    hat: bool = False


def clothes(rng: np.random.Generator) -> Clothes:
    """Draw what a person looks like; most wear dark things."""
    dark = float(rng.choice([0.4, 0.55, 0.8, 1.0]))
    return Clothes(
        skin=_SKIN[rng.integers(len(_SKIN))],
        top=tuple(channel * dark for channel in _CLOTH[rng.integers(len(_CLOTH))]),
        legs=tuple(channel * 0.7 for channel in _CLOTH[rng.integers(7)]),
        hair=_HAIR[rng.integers(len(_HAIR))],
        height=float(rng.uniform(1.5, 1.9) if rng.random() < 0.88 else rng.uniform(1.0, 1.35)),
        bag=bool(rng.random() < 0.3),
    )


def varied_clothes(rng: np.random.Generator) -> Clothes:
    """Draw as `clothes` does, but of any colour, with coats, skirts, hats, and people of any build."""
    look = clothes(rng)
    colors = {}
    for part, share in (("top", 0.5), ("legs", 0.3)):
        if rng.random() < share:
            colors[part] = tuple(np.clip(rng.uniform(15, 215) + rng.normal(0, 40, 3), 8, 245).tolist())
    return replace(
        look,
        **colors,
        stout=float(rng.uniform(0.85, 1.35)),
        hem=float(rng.choice([0.0, rng.uniform(0.1, 0.5)])),
        hat=bool(rng.random() < 0.2),
    )


class _Frame:
    """Local axes at a world point: (forward, left, up) -> world."""

    def __init__(self, origin: np.ndarray, forward: np.ndarray, left: np.ndarray) -> None:
        self.origin, self.forward, self.left = origin, forward, left

    def __call__(self, forward: float, left: float, up: float) -> np.ndarray:
        point = self.origin + forward * self.forward + left * self.left
        return np.array([point[0], point[1], point[2] + up])


class _Sticks:
    def __init__(self) -> None:
        self.start, self.end, self.radius, self.colors, self.labels = [], [], [], [], []

    def add(self, start, end, r0: float, r1: float, color, label: int) -> None:
        self.start.append(start)
        self.end.append(end)
        self.radius.append((r0, r1))
        self.colors.append(color)
        self.labels.append(label)

    def draw(self, canvas: Canvas, brightness: float) -> None:
        canvas.sticks(self.start, self.end, self.radius, self.colors, self.labels, brightness)


def _side_brightness(canvas: Canvas) -> float:
    light = canvas.light
    return light.ambient + 0.5 * light.sun


def _dim(color, factor: float) -> tuple:
    return tuple(channel * factor for channel in color)


def draw_person(canvas: Canvas, origin, forward, left, look: Clothes, phase: float, walking: bool) -> None:
    """Draw a pedestrian standing on `origin` (3,); `phase` is the walk in periods."""
    at, k, broad = _Frame(origin, forward, left), look.height / 1.75, look.stout * look.height / 1.75
    swing = 0.0 if not walking else round(math.sin(2 * math.pi * phase), 9)
    sticks = _Sticks()
    hip, neck = 0.90 * k, 1.45 * k
    far, near = (1, -1) if (left * canvas.view.right).sum() > 0 else (-1, 1)
    for side in (far, near):
        step = swing * side
        lift = max(0.0, -step) * 0.10
        knee = at(0.20 * step + 0.05, 0.09 * side * k, 0.48 * k + lift * 0.5)
        foot = at(0.34 * step, 0.09 * side * k, 0.05 + lift)
        tone = _dim(look.legs, 0.8 if side == far else 1.0)
        sticks.add(at(0, 0.09 * side * k, hip), knee, 0.10 * k, 0.075 * k, tone, c.PERSON)
        sticks.add(knee, foot, 0.075 * k, 0.055 * k, tone, c.PERSON)
        sticks.add(foot, at(0.34 * step + 0.16, 0.09 * side * k, 0.04 + lift), 0.05, 0.04, (30, 30, 34), c.PERSON)
        if side == far:
            _arm(sticks, at, side, -step, k, look, 0.8)
            sticks.add(
                at(0, 0, hip - 0.04), at(0.02, 0, neck - 0.12 * k), 0.15 * broad, 0.20 * broad, look.top, c.PERSON
            )
            sticks.add(at(0.02, 0, neck - 0.14 * k), at(0.02, 0, neck), 0.20 * broad, 0.08 * k, look.top, c.PERSON)
            if look.hem:
                hem = at(0.0, 0, hip - look.hem * k)
                sticks.add(at(0.02, 0, neck - 0.3 * k), hem, 0.17 * broad, 0.22 * broad, look.top, c.PERSON)
            if look.bag:
                sticks.add(at(-0.18, 0, 1.02 * k), at(-0.18, 0, 1.35 * k), 0.12, 0.11, _dim(look.legs, 0.7), c.PERSON)
            sticks.add(at(0.02, 0, neck - 0.03), at(0.03, 0, neck + 0.1 * k), 0.055, 0.055, look.skin, c.PERSON)
    _arm(sticks, at, near, -swing * near, k, look, 1.05)
    sticks.draw(canvas, _side_brightness(canvas))
    canvas.ball(at(0.04, 0, neck + 0.17 * k), 0.10 * k, look.skin, c.PERSON, 1.25)
    canvas.ball(at(0.0, 0, neck + 0.215 * k), 0.105 * k, look.hair, c.PERSON, 0.85)
    if look.hat:
        canvas.ball(at(0.02, 0, neck + 0.25 * k), 0.14 * k, look.legs, c.PERSON, 0.55)


def _arm(sticks: _Sticks, at: _Frame, side: int, step: float, k: float, look: Clothes, tone: float) -> None:
    shoulder = at(0.0, 0.20 * side * k, 1.38 * k)
    elbow = at(0.16 * step, 0.24 * side * k, 1.10 * k)
    hand = at(0.30 * step + 0.06, 0.23 * side * k, 0.86 * k)
    sticks.add(shoulder, elbow, 0.062 * k, 0.05 * k, _dim(look.top, tone), c.PERSON)
    sticks.add(elbow, hand, 0.05 * k, 0.035 * k, _dim(look.top, tone), c.PERSON)
    sticks.add(hand, at(0.32 * step + 0.07, 0.23 * side * k, 0.80 * k), 0.035, 0.03, look.skin, c.PERSON)


def _wheel(canvas: Canvas, at: _Frame, along: float, radius: float, thick: float, label: int, solid: bool) -> None:
    """A wheel in the plane of travel; the label fills the disc, as in Cityscapes, spokes and all."""
    angles = [i * math.pi / 6 for i in range(12)]
    rim = np.array(
        [at(along + radius * round(math.cos(a), 9), 0, radius + radius * round(math.sin(a), 9)) for a in angles]
    )
    cam = canvas.view.to_camera(rim)
    if cam[:, 2].min() < 0.3:
        return
    pixels = canvas.view.to_pixels(cam)
    # Seen end-on a disc has no width, a tyre has.
    half = thick * canvas.view.camera.fx / float(cam[:, 2].mean())
    middle = pixels.mean(axis=0)
    pixels[:, 0] += np.sign(pixels[:, 0] - middle[0]) * half
    tone = canvas.light.shade(np.array([30.0, 30.0, 32.0]), 1.0, float(cam[:, 2].mean()))
    inner = middle + (pixels - middle) * np.array([0.80, 0.80])
    size = float(np.ptp(pixels[:, 0]))
    before = None
    if not solid and size > 8.0:
        before = _patch(canvas, pixels)
    canvas.fill(pixels, tone.tolist(), label)
    if before is not None:
        _see_through(canvas, inner, before)
    elif size > 3.0:
        canvas.fill(middle + (pixels - middle) * 0.55, (tone * 1.3 + 25).tolist(), label)


def _patch(canvas: Canvas, pixels: np.ndarray):
    height, width = canvas.buffer.shape[:2]
    low, high = np.floor(pixels.min(axis=0)).astype(int) - 1, np.ceil(pixels.max(axis=0)).astype(int) + 2
    left, top, right, bottom = max(low[0], 0), max(low[1], 0), min(high[0], width), min(high[1], height)
    if left >= right or top >= bottom:
        return None
    return left, top, canvas.image[top:bottom, left:right].copy()


def _see_through(canvas: Canvas, inner: np.ndarray, before) -> None:
    """Bring back most of the background inside the rim; the label stays."""
    left, top, picture = before
    mask = np.zeros(picture.shape[:2], np.uint8)
    cv2.fillPoly(mask, [np.rint((inner - [left, top]) * 16).astype(np.int32)], 1, cv2.LINE_8, 4)
    region = canvas.image[top : top + picture.shape[0], left : left + picture.shape[1]]
    mixed = (picture.astype(np.uint16) * 3 + region) // 4
    np.copyto(region, mixed.astype(np.uint8), where=(mask > 0)[..., None])


def draw_bicycle(canvas: Canvas, origin, forward, left, color, rider: Clothes | None, phase: float = 0.0) -> None:
    """Draw a bicycle on `origin` (3,), with a rider unless None; `phase` turns the pedals."""
    at = _Frame(origin, forward, left)
    away = (forward * canvas.view.right).sum() ** 2 < 0.9 and (forward * (origin - canvas.view.position)).sum() > 0
    wheels = (0.52, -0.52) if away else (-0.52, 0.52)
    sticks = _Sticks()
    seat, crank, head = at(-0.16, 0, 0.88), at(-0.02, 0, 0.32), at(0.36, 0, 0.86)
    _wheel(canvas, at, wheels[0], 0.34, 0.025, c.BICYCLE, False)
    _wheel(canvas, at, wheels[1], 0.34, 0.025, c.BICYCLE, False)
    for start, end in (
        (seat, crank),
        (crank, head),
        (at(-0.13, 0, 0.74), at(0.35, 0, 0.8)),
        (seat, at(-0.52, 0, 0.34)),
        (crank, at(-0.52, 0, 0.34)),
        (head, at(0.52, 0, 0.34)),
    ):
        sticks.add(start, end, 0.024, 0.024, color, c.BICYCLE)
    sticks.add(at(-0.28, 0, 0.92), at(-0.06, 0, 0.91), 0.06, 0.04, (25, 25, 28), c.BICYCLE)
    sticks.add(at(0.36, 0.26, 0.98), at(0.36, -0.26, 0.98), 0.025, 0.025, (30, 30, 32), c.BICYCLE)
    sticks.add(head, at(0.34, 0, 1.0), 0.022, 0.022, color, c.BICYCLE)
    sticks.draw(canvas, _side_brightness(canvas))
    if rider:
        _rider(
            canvas,
            at,
            left,
            rider,
            phase,
            hip=(-0.18, 0.98),
            lean=0.32,
            hands=(0.36, 1.02),
            feet=(-0.02, 0.32),
        )


def draw_motorcycle(canvas: Canvas, origin, forward, left, color, rider: Clothes | None) -> None:
    """Draw a motorcycle or scooter on `origin` (3,), with a rider unless None."""
    at = _Frame(origin, forward, left)
    away = (forward * (origin - canvas.view.position)).sum() > 0
    ends = (0.70, -0.66) if away else (-0.66, 0.70)
    label = c.MOTORCYCLE
    _wheel(canvas, at, ends[0], 0.31, 0.07, label, True)
    sticks = _Sticks()
    sticks.add(at(0.70, 0, 0.31), at(0.45, 0, 0.95), 0.05, 0.06, (90, 90, 95), label)
    sticks.add(at(-0.35, 0, 0.38), at(0.35, 0, 0.40), 0.17, 0.17, (48, 48, 52), label)
    sticks.add(at(0.02, 0, 0.78), at(0.45, 0, 0.82), 0.16, 0.14, color, label)
    sticks.add(at(-0.80, 0, 0.86), at(0.0, 0, 0.76), 0.10, 0.15, (28, 28, 30), label)
    sticks.add(at(-0.86, 0, 0.66), at(-0.45, 0, 0.70), 0.09, 0.13, color, label)
    sticks.add(at(0.42, 0.36, 1.03), at(0.42, -0.36, 1.03), 0.03, 0.03, (35, 35, 38), label)
    sticks.add(at(0.52, 0, 0.88), at(0.50, 0, 1.10), 0.14, 0.09, color, label)
    sticks.draw(canvas, _side_brightness(canvas))
    _wheel(canvas, at, ends[1], 0.31, 0.07, label, True)
    lamp = (at(-0.90, 0, 0.74), 0.06, (45, 40, 200)) if away else (at(0.66, 0, 0.88), 0.09, (220, 230, 235))
    canvas.ball(*lamp, label)
    if rider:
        _rider(canvas, at, left, rider, 0.0, hip=(-0.22, 0.92), lean=0.22, hands=(0.42, 1.05), feet=(0.02, 0.38))


def _rider(canvas: Canvas, at: _Frame, left, look: Clothes, phase: float, hip, lean: float, hands, feet) -> None:
    sticks, label = _Sticks(), c.RIDER
    far, near = (1, -1) if (left * canvas.view.right).sum() > 0 else (-1, 1)
    shoulder = (hip[0] + lean, hip[1] + 0.50)
    for side in (far, near):
        turn = 2 * math.pi * phase + (0.0 if side > 0 else math.pi)
        foot = at(feet[0] + 0.16 * round(math.cos(turn), 9), 0.10 * side, feet[1] + 0.16 * round(math.sin(turn), 9))
        knee = at((hip[0] + feet[0]) / 2 + 0.30, 0.12 * side, (hip[1] + feet[1]) / 2 + 0.16 + 0.08 * math.sin(turn))
        tone = _dim(look.legs, 0.8 if side == far else 1.0)
        sticks.add(at(hip[0], 0.10 * side, hip[1]), knee, 0.105, 0.08, tone, label)
        sticks.add(knee, foot, 0.08, 0.055, tone, label)
        sticks.add(foot, at(feet[0] + 0.3, 0.10 * side, feet[1] - 0.02), 0.05, 0.04, (30, 30, 34), label)
        if side == far:
            sticks.add(at(*hip[:1], 0, hip[1]), at(shoulder[0], 0, shoulder[1] - 0.08), 0.16, 0.20, look.top, label)
            sticks.add(
                at(shoulder[0], 0, shoulder[1] - 0.1),
                at(shoulder[0] + 0.04, 0, shoulder[1] + 0.04),
                0.20,
                0.09,
                look.top,
                label,
            )
        elbow = at((shoulder[0] + hands[0]) / 2 - 0.04, 0.27 * side, (shoulder[1] + hands[1]) / 2 - 0.06)
        sticks.add(at(shoulder[0], 0.20 * side, shoulder[1] - 0.04), elbow, 0.06, 0.05, look.top, label)
        sticks.add(elbow, at(hands[0], 0.24 * side, hands[1]), 0.05, 0.035, look.top, label)
    sticks.draw(canvas, _side_brightness(canvas))
    head = at(shoulder[0] + 0.10, 0, shoulder[1] + 0.17)
    canvas.ball(head, 0.105, look.skin, label, 1.25)
    canvas.ball(at(shoulder[0] + 0.08, 0, shoulder[1] + 0.23), 0.13, look.hair if look.bag else look.top, label, 0.85)
