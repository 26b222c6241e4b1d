"""Meshes of cars of today: bodies with shoulders, wheel arches and rounded roofs, in many proportions."""

from dataclasses import dataclass

import numpy as np

from drive_seg.synth import classes as c
from drive_seg.synth.cars import GLASS, PLATES, RED_LAMP, WHITE_LAMP
from drive_seg.synth.mesh import Mesh, MeshBuilder

_PAINTS = np.array(
    [(225, 226, 228), (228, 228, 226), (24, 24, 26), (34, 32, 32), (78, 78, 80), (110, 112, 114), (160, 162, 164)]
    + [(186, 188, 188), (110, 60, 34), (140, 90, 60), (32, 30, 140), (44, 40, 105), (90, 110, 120), (60, 80, 62)],
    np.float64,
)
_BLACK = np.array([28.0, 28.0, 30.0])


@dataclass(frozen=True)
class _Shape:
    """Side view of a car, metres; x counts forwards from the middle."""

    length: float
    width: float
    belt: float
    roof: float
    bonnet: float  # length of the bonnet
    rake: float  # length of the windscreen
    deck: float  # length behind the rear window
    back: float  # length of the rear window
    side_glass: bool = True


_SHAPES = {
    "hatch": _Shape(4.1, 1.78, 0.98, 1.48, 0.95, 0.95, 0.05, 0.55),
    "saloon": _Shape(4.75, 1.84, 0.98, 1.45, 1.20, 1.00, 0.60, 0.85),
    "coupe": _Shape(4.5, 1.85, 0.92, 1.32, 1.40, 1.00, 0.35, 1.20),
    "estate": _Shape(4.75, 1.83, 0.98, 1.48, 1.20, 0.95, 0.05, 0.45),
    "suv": _Shape(4.6, 1.90, 1.12, 1.70, 1.10, 0.80, 0.05, 0.40),
    "large suv": _Shape(5.1, 2.00, 1.22, 1.88, 1.25, 0.75, 0.05, 0.30),
    "minivan": _Shape(4.8, 1.92, 1.05, 1.78, 0.80, 1.10, 0.05, 0.30),
    "pickup": _Shape(5.5, 1.98, 1.20, 1.88, 1.25, 0.80, 1.95, 0.15),
    "van": _Shape(5.4, 2.00, 1.25, 2.35, 0.75, 0.90, 0.03, 0.06, side_glass=False),
}
_SHARES = [0.17, 0.19, 0.05, 0.10, 0.20, 0.09, 0.06, 0.07, 0.07]


def modern_car(rng: np.random.Generator) -> tuple[Mesh, float, float]:
    """Return (mesh, length, width) of a car, sport utility vehicle, pickup or van."""
    kind = str(rng.choice(list(_SHAPES), p=_SHARES))
    shape = _SHAPES[kind]
    scale = rng.uniform(0.94, 1.05)
    h, w = shape.length * scale / 2, shape.width * rng.uniform(0.97, 1.03) / 2
    belt, roof = shape.belt * rng.uniform(0.96, 1.04), shape.roof * rng.uniform(0.96, 1.04)
    paint = np.clip(_PAINTS[rng.integers(len(_PAINTS))] * rng.uniform(0.85, 1.1) + rng.uniform(-8, 8, 3), 14, 240)
    if rng.random() < 0.06:
        paint = rng.uniform(20, 220, 3)
    m = MeshBuilder(c.CAR)
    _body(m, rng, shape, h, w, belt, paint)
    _ends(m, rng, h, w, belt, paint)
    _cabin(m, shape, h, w, belt, roof, paint)
    return m.build(), 2 * h, 2 * w


def _body(m: MeshBuilder, rng, shape: _Shape, h: float, w: float, belt: float, paint) -> None:
    """Sill, doors and shoulder on both sides, and the surfaces on top from the tail to the nose."""
    cowl = h - shape.bonnet
    clear = 0.22 if belt < 1.05 else 0.30
    stations = np.array([-h, -h + 0.12, -h + 0.55, -0.2, cowl - 0.1, cowl + 0.5 * shape.bonnet, h - 0.22, h])
    top = np.array([belt * 0.80, belt * 0.99, belt * 1.01, belt, belt, belt * 0.97, belt * 0.86, belt * 0.66])
    waist = np.array([w - 0.12, w - 0.03, w, w, w, w - 0.02, w - 0.06, w - 0.16])
    sill = paint * 0.8 if rng.random() < 0.6 else _BLACK * 1.3
    m.part((0, 0, 0.55))
    for end in (-h, h):
        for side in (1, -1):
            tyre = [(end * 0.78, side * w * q, z) for q, z in ((0.98, 0.0), (0.80, 0.0), (0.80, 0.4), (0.98, 0.4))]
            m.face(tyre, (18, 18, 19))
        m.face(
            [(end * 0.95, w * 0.85, 0.2), (end * 0.95, -w * 0.85, 0.2), (end, -w * 0.85, 0.4), (end, w * 0.85, 0.4)],
            (20, 20, 22),
        )
    for i in range(len(stations) - 1):
        (x0, x1), (z0, z1), (w0, w1) = stations[i : i + 2], top[i : i + 2], waist[i : i + 2]
        m.face([(x0, w0 - 0.07, z0), (x0, 0.07 - w0, z0), (x1, 0.07 - w1, z1), (x1, w1 - 0.07, z1)], paint)
        for side in (1, -1):
            low = [(x0, side * (w0 - 0.05), clear), (x1, side * (w1 - 0.05), clear)]
            middle = [(x0, side * w0, 0.45), (x1, side * w1, 0.45)]
            high = [(x0, side * w0, z0 - 0.12), (x1, side * w1, z1 - 0.12)]
            edge = [(x0, side * (w0 - 0.07), z0), (x1, side * (w1 - 0.07), z1)]
            for below, above, tone in ((low, middle, sill), (middle, high, paint), (high, edge, paint)):
                m.face([below[0], below[1], above[1], above[0]], tone)
    radius = 0.31 + 0.05 * (belt > 1.05)
    for side in (1, -1):
        for at in (-h * 0.60, h * 0.62):
            angles = np.linspace(0.0, np.pi, 9)
            arch = [
                (at + (radius + 0.07) * np.cos(a), side * (w + 0.004), radius + (radius + 0.07) * np.sin(a))
                for a in angles
            ]
            m.face(
                arch + [(at - radius, side * (w + 0.004), 0.1), (at + radius, side * (w + 0.004), 0.1)], _BLACK * 0.8
            )
            m.wheel(at, side * (w + 0.01), radius, hub=tuple((rng.uniform(60, 190) * np.ones(3)).tolist()))
        for at in (-0.28 * h, 0.2 * h):
            m.face(
                [
                    (at + dx, side * (w + 0.003), z)
                    for dx, z in ((0, 0.45), (0.02, 0.45), (0.02, belt - 0.12), (0, belt - 0.12))
                ],
                paint * 0.55,
                detail=True,
            )
        mirror = h - shape.bonnet - 0.5
        m.face(
            [
                (mirror, side * (w - 0.02), belt),
                (mirror, side * (w + 0.16), belt + 0.02),
                (mirror, side * (w + 0.16), belt + 0.16),
                (mirror, side * (w - 0.02), belt + 0.12),
            ],
            paint * 0.8,
            detail=True,
        )


def _ends(m: MeshBuilder, rng, h: float, w: float, belt: float, paint) -> None:
    """Tail and nose: bumpers, lamps, plates, grille."""
    back, front, inner = -h - 0.012, h + 0.012, w - 0.12
    bumper = _BLACK if rng.random() < 0.4 else paint * 0.85
    for x, high in ((-h, belt * 0.80), (h, belt * 0.66)):
        m.face([(x, inner, 0.26), (x, -inner, 0.26), (x, -inner, high), (x, inner, high)], paint)
    m.face([(back, inner, 0.28), (back, -inner, 0.28), (back, -inner, 0.50), (back, inner, 0.50)], bumper)
    m.face([(front, inner, 0.26), (front, -inner, 0.26), (front, -inner, 0.42), (front, inner, 0.42)], bumper)
    brake, beam = bool(rng.random() < 0.3), bool(rng.random() < 0.3)
    tall, size = bool(rng.random() < 0.4), float(rng.uniform(0.18, 0.42))
    lamp_low, lamp_high = (0.60, belt * 0.97) if tall else (belt * 0.62, belt * 0.80)
    lean = 0.11 if tall else 0.0
    nose = [belt * rng.uniform(0.48, 0.55), belt * rng.uniform(0.60, 0.66)]
    for side in (1, -1):
        u = side * inner
        tail = [
            (back, u * 1.04, lamp_low),
            (back, u - side * size, lamp_low),
            (back + lean, u - side * size, lamp_high),
            (back + lean, u * 1.04, lamp_high),
        ]
        m.face(tail, (60, 60, 250) if brake else RED_LAMP, glow=1.0 if brake else 0.5)
        head = [
            (front, u, nose[0]),
            (front, u - side * size, nose[0] + 0.02),
            (front - 0.04, u - side * size, nose[1]),
            (front - 0.08, u, nose[1] + 0.03),
        ]
        m.face(head, WHITE_LAMP if beam else (170, 176, 180), glow=1.0 if beam else 0.5)
    low = 0.55 if rng.random() < 0.5 else 0.36
    for x, z, plate in ((back - 0.004, low + 0.12, PLATES[rng.integers(2)]), (front + 0.004, 0.34, PLATES[0])):
        m.face([(x, 0.25, z), (x, -0.25, z), (x, -0.25, z + 0.12), (x, 0.25, z + 0.12)], plate, detail=True)
    grille = float(rng.uniform(0.25, 0.6))
    m.face(
        [
            (front + 0.002, grille, 0.46),
            (front + 0.002, -grille, 0.46),
            (front, -grille, nose[1]),
            (front, grille, nose[1]),
        ],
        _BLACK,
        detail=True,
    )


def _cabin(m: MeshBuilder, shape: _Shape, h: float, w: float, belt: float, roof: float, paint) -> None:
    """Windows and a roof that is rounded lengthwise and at its sides."""
    tail, cowl = -h + shape.deck, h - shape.bonnet
    rear, front = tail + shape.back, cowl - shape.rake
    low, top = w - 0.06, w - (0.26 if shape.side_glass else 0.12)
    edge = top + 0.05
    m.part(((tail + cowl) / 2, 0, (belt + roof) / 2))
    for bottom, at in ((tail, rear), (cowl, front)):
        quad = m.face(
            [(bottom, low, belt), (bottom, -low, belt), (at, -top, roof - 0.04), (at, top, roof - 0.04)], paint
        )
        if shape.side_glass or bottom == cowl:
            m.inset(quad, 0.06, 0.94, 0.06, 0.92, GLASS, detail=False)
            m.inset(quad, 0.07, 0.93, 0.55, 0.90, (124, 116, 106))
    middle = (rear + front) / 2
    for x0, z0, x1, z1 in ((rear, roof - 0.04, middle, roof), (middle, roof, front, roof - 0.04)):
        m.face([(x0, top, z0), (x0, -top, z0), (x1, -top, z1), (x1, top, z1)], paint)
    for side in (1, -1):
        high = roof - 0.10
        m.face(
            [
                (rear, side * edge, high),
                (front, side * edge, high),
                (front, side * top, roof - 0.03),
                (rear, side * top, roof - 0.03),
            ],
            paint,
        )
        quad = m.face(
            [(tail, side * low, belt), (cowl, side * low, belt), (front, side * edge, high), (rear, side * edge, high)],
            paint,
        )
        windows = [(0.05, 0.30), (0.33, 0.60), (0.63, 0.95)] if shape.side_glass else [(0.72, 0.95)]
        for u0, u1 in windows:
            m.inset(quad, u0, u1, 0.06, 0.94, GLASS, detail=False)
            m.inset(quad, u0 + 0.01, u1 - 0.01, 0.55, 0.92, (110, 104, 96))
