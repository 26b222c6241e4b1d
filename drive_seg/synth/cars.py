"""Meshes of cars: a body profile drawn across the width, and a tapered cabin with glass."""

import numpy as np

from drive_seg.synth import classes as c
from drive_seg.synth.mesh import Mesh, MeshBuilder

PAINTS = [
    (38, 38, 40),
    (60, 58, 56),
    (120, 122, 124),
    (172, 174, 176),
    (214, 216, 218),
    (96, 60, 36),
    (120, 76, 48),
    (36, 36, 130),
    (32, 30, 96),
    (70, 90, 60),
    (130, 150, 165),
    (150, 120, 70),
    (60, 120, 180),
    (90, 92, 96),
]
GLASS = (66, 60, 54)
RED_LAMP = (50, 44, 190)
WHITE_LAMP = (225, 230, 232)
PLATES = [(210, 214, 214), (60, 190, 215)]
_BLACK = (30, 30, 32)


def car(rng: np.random.Generator) -> tuple[Mesh, float, float]:
    """Return (mesh, length, width) of a hatchback, saloon, estate, van or tall car."""
    kind = rng.choice(["hatch", "saloon", "estate", "suv", "van"], p=[0.34, 0.26, 0.16, 0.16, 0.08])
    length, width, belt, roof = {
        "hatch": (3.9, 1.70, 0.92, 1.46),
        "saloon": (4.6, 1.78, 0.94, 1.44),
        "estate": (4.6, 1.78, 0.94, 1.47),
        "suv": (4.5, 1.86, 1.06, 1.70),
        "van": (4.9, 1.92, 1.15, 1.98),
    }[kind]
    scale = rng.uniform(0.95, 1.05)
    length, belt, roof = length * scale, belt * rng.uniform(0.97, 1.03), roof * rng.uniform(0.97, 1.03)
    paint = np.array(PAINTS[rng.integers(len(PAINTS))]) * rng.uniform(0.85, 1.15) + rng.uniform(-8, 8, 3)
    paint = np.clip(paint, 18, 235)
    m, h, w = MeshBuilder(c.CAR), length / 2, width / 2
    hood = {"hatch": 0.74, "saloon": 0.72, "estate": 0.73, "suv": 0.80, "van": 0.86}[kind] * belt / 0.92
    trunk = belt if kind != "saloon" else belt * 1.02
    nose = 0.6 if kind == "van" else 0.95
    profile = [
        (-h, 0.30),
        (-h - 0.03, 0.62),
        (-h + 0.06, trunk),
        (h - nose - 0.25, belt),
        (h - 0.22, hood),
        (h, 0.60),
        (h - 0.02, 0.26),
    ]
    m.part((0, 0, 0.6))
    _under(m, h, w)
    for (l0, z0), (l1, z1) in zip(profile, profile[1:], strict=False):
        m.face([(l0, w, z0), (l0, -w, z0), (l1, -w, z1), (l1, w, z1)], paint)
    for side in (1, -1):
        m.face([(l, side * w, z) for l, z in profile], paint)  # noqa: E741
        m.face(
            [
                (-h, side * (w + 0.004), 0.27),
                (h, side * (w + 0.004), 0.27),
                (h, side * (w + 0.004), 0.40),
                (-h, side * (w + 0.004), 0.36),
            ],
            paint * 0.45,
            detail=True,
        )
        m.face(
            [
                (-h + 0.1, side * (w + 0.003), belt - 0.16),
                (h - nose - 0.2, side * (w + 0.003), belt - 0.16),
                (h - nose - 0.3, side * (w + 0.003), belt - 0.05),
                (-h + 0.1, side * (w + 0.003), belt - 0.05),
            ],
            np.minimum(paint * 1.3 + 12, 245),
            detail=True,
        )
        for door in (-0.12, 0.2):
            m.face(
                [
                    (length * door, side * (w + 0.004), 0.42),
                    (length * door + 0.03, side * (w + 0.004), 0.42),
                    (length * door + 0.03, side * (w + 0.004), belt),
                    (length * door, side * (w + 0.004), belt),
                ],
                paint * 0.6,
                detail=True,
            )
        for at in (-h * 0.60, h * 0.62):
            m.wheel(at, side * (w + 0.01), 0.31)
    _car_ends(m, rng, h, w, belt, paint)
    _cabin(m, kind, h, w, belt, roof, paint)
    return m.build(), length, width


def _under(m: MeshBuilder, h: float, w: float) -> None:
    for end in (-h, h):
        m.face(
            [(end * 0.9, w * 0.9, 0.12), (end * 0.9, -w * 0.9, 0.12), (end, -w, 0.34), (end, w, 0.34)],
            (22, 22, 24),
        )
        for side in (1, -1):
            m.face(
                [
                    (end * 0.92, side * w, 0.0),
                    (end * 0.92, side * (w - 0.22), 0.0),
                    (end * 0.94, side * (w - 0.22), 0.36),
                    (end * 0.94, side * w, 0.36),
                ],
                (18, 18, 19),
            )


def _car_ends(m: MeshBuilder, rng, h: float, w: float, belt: float, paint) -> None:
    brake = bool(rng.random() < 0.3)
    back, front = -h - 0.045, h + 0.012
    for side in (1, -1):
        lamp = (60, 60, 250) if brake else RED_LAMP
        m.face(
            [
                (back, side * w, 0.60),
                (back, side * (w - 0.26), 0.60),
                (back + 0.05, side * (w - 0.22), belt * 0.95),
                (back + 0.05, side * w, belt * 0.95),
            ],
            lamp,
            glow=1.0 if brake else 0.5,
        )
        m.face(
            [
                (front, side * w, 0.52),
                (front, side * (w - 0.40), 0.54),
                (front - 0.08, side * (w - 0.36), 0.69),
                (front - 0.12, side * w, 0.70),
            ],
            WHITE_LAMP,
            glow=1.0 if rng.random() < 0.3 else 0.5,
        )
    m.face(
        [(back, w, 0.30), (back, -w, 0.30), (back, -w, 0.46), (back, w, 0.46)],
        np.array(paint) * 0.55,
        detail=True,
    )
    plate = PLATES[rng.integers(2)]
    m.face(
        [
            (back - 0.01, 0.26, 0.55),
            (back - 0.01, -0.26, 0.55),
            (back - 0.01, -0.26, 0.66),
            (back - 0.01, 0.26, 0.66),
        ],
        plate,
        detail=True,
    )
    m.face(
        [(front, 0.45, 0.50), (front, -0.45, 0.50), (front - 0.04, -0.45, 0.66), (front - 0.04, 0.45, 0.66)],
        _BLACK,
        detail=True,
    )
    m.face(
        [
            (front + 0.01, 0.26, 0.36),
            (front + 0.01, -0.26, 0.36),
            (front + 0.01, -0.26, 0.46),
            (front + 0.01, 0.26, 0.46),
        ],
        PLATES[0],
        detail=True,
    )


def _cabin(m: MeshBuilder, kind: str, h: float, w: float, belt: float, roof: float, paint) -> None:
    back_low, back_high, front_high, front_low = {
        "hatch": (-h + 0.10, -h + 0.55, h - 2.05, h - 1.15),
        "saloon": (-h + 0.75, -h + 1.45, h - 2.25, h - 1.35),
        "estate": (-h + 0.08, -h + 0.40, h - 2.25, h - 1.35),
        "suv": (-h + 0.08, -h + 0.35, h - 2.0, h - 1.2),
        "van": (-h + 0.04, -h + 0.12, h - 1.55, h - 0.85),
    }[kind]
    top, low = w - 0.20, w - 0.03
    m.part((0, 0, (belt + roof) / 2))
    m.face(
        [(back_high, top, roof), (back_high, -top, roof), (front_high, -top, roof), (front_high, top, roof)],
        paint,
    )
    ends = {"back": (back_low, back_high), "front": (front_low, front_high)}
    for end, (at_low, at_high) in ends.items():
        quad = m.face([(at_low, low, belt), (at_low, -low, belt), (at_high, -top, roof), (at_high, top, roof)], paint)
        m.inset(quad, 0.06, 0.94, 0.08, 0.88, GLASS, detail=False)
        m.inset(quad, 0.08, 0.92, 0.62, 0.86, (112, 104, 94) if end == "back" else (140, 130, 116))
    for side in (1, -1):
        quad = m.face(
            [
                (back_low, side * low, belt),
                (front_low, side * low, belt),
                (front_high, side * top, roof),
                (back_high, side * top, roof),
            ],
            paint,
        )
        windows = [(0.58, 0.95)] if kind == "van" else [(0.06, 0.30), (0.33, 0.61), (0.64, 0.95)]
        for u0, u1 in windows:
            m.inset(quad, u0, u1, 0.08, 0.86, GLASS, detail=False)
            m.inset(quad, u0 + 0.01, u1 - 0.02, 0.60, 0.84, (104, 98, 90))
