"""Meshes of trucks, buses and trams."""

import numpy as np

from drive_seg.synth import classes as c
from drive_seg.synth.cars import GLASS, PAINTS, PLATES, RED_LAMP, WHITE_LAMP
from drive_seg.synth.mesh import Mesh, MeshBuilder


def _glazed(m: MeshBuilder, quad, count: int, u0: float, u1: float, v0: float, v1: float, gap: float = 0.1) -> None:
    step = (u1 - u0) / count
    for i in range(count):
        a, b = u0 + i * step, u0 + (i + 1 - gap) * step
        m.inset(quad, a, b, v0, v1, GLASS, detail=False)
        m.inset(quad, a, b, v0 + 0.62 * (v1 - v0), v1, (112, 106, 98))


def _big_ends(m: MeshBuilder, faces, glass_low: float, plate: bool = True) -> None:
    front, back = faces["front"], faces["back"]
    m.inset(front, 0.06, 0.94, glass_low, 0.90, GLASS, detail=False)
    m.inset(front, 0.08, 0.92, 0.72, 0.88, (130, 122, 112))
    for u in (0.04, 0.80):
        m.inset(front, u, u + 0.16, 0.08, 0.15, WHITE_LAMP, glow=0.5)
        m.inset(back, u, u + 0.16, 0.08, 0.16, RED_LAMP, glow=0.5)
    if plate:
        m.inset(back, 0.38, 0.62, 0.06, 0.10, PLATES[0])


def truck(rng: np.random.Generator) -> tuple[Mesh, float, float]:
    """Return (mesh, length, width) of a lorry: cab and box, tarpaulin, tank or tipper."""
    m = MeshBuilder(c.TRUCK)
    small = rng.random() < 0.4
    length, width, high = (6.2, 2.1, 2.9) if small else (rng.uniform(8.5, 11.5), 2.5, rng.uniform(3.3, 3.9))
    h, cab = length / 2, 1.7 if small else 2.0
    paint = np.clip(np.array(PAINTS[rng.integers(len(PAINTS))]) * 1.1, 25, 230)
    cargo = [(215, 217, 220), (45, 40, 150), (150, 90, 40), (80, 120, 60), (60, 150, 205), (175, 178, 180)]
    load = np.array(cargo[rng.integers(len(cargo))]) * rng.uniform(0.8, 1.05)
    m.part((0, 0, 0.6))
    frame = m.box(-h, h, width * 0.86, 0.35, 0.95, (42, 42, 44))
    for u in (0.02, 0.84):
        m.inset(frame["back"], u, u + 0.14, 0.3, 0.7, RED_LAMP, glow=0.5)
    m.inset(frame["back"], 0.2, 0.8, 0.1, 0.35, (60, 150, 200))
    for side in (1, -1):
        for at in (h - 1.1, -h + 1.1, -h + 2.3)[: 2 if small else 3]:
            m.wheel(at, side * (width / 2 - 0.02), 0.48)
        for end in (-h + 0.6, h - 0.7):
            m.face(
                [
                    (end, side * width / 2, 0),
                    (end, side * (width / 2 - 0.4), 0),
                    (end, side * (width / 2 - 0.4), 0.8),
                    (end, side * width / 2, 0.8),
                ],
                (20, 20, 21),
            )
    m.part((h - cab / 2, 0, 1.6))
    faces = m.box(h - cab, h, width, 0.55, 2.5 if small else 2.9, paint)
    _big_ends(m, faces, 0.48, plate=False)
    m.inset(faces["front"], 0.15, 0.85, 0.14, 0.40, paint * 0.4)
    for side in ("left", "right"):
        m.inset(faces[side], 0.30, 0.90, 0.50, 0.85, GLASS, detail=False)
    m.part((-cab / 2, 0, 2.2))
    low_bed = rng.random() < 0.2
    faces = m.box(-h, h - cab - 0.2, width, 0.95, 1.7 if low_bed else high, load)
    for side in ("left", "right"):
        for i in range(6):
            m.inset(faces[side], i / 6, i / 6 + 0.008, 0.02, 0.98, load * 0.7)
        m.inset(faces[side], 0.2, 0.7, 0.40, 0.62, np.clip(255 - load, 30, 225) * 0.8)
    m.inset(faces["back"], 0.49, 0.51, 0.03, 0.97, load * 0.5)
    for u in (0.02, 0.94):
        m.inset(faces["back"], u, u + 0.04, 0.02, 0.98, load * 0.72)
    m.inset(faces["back"], 0.04, 0.96, 0.0, 0.06, (50, 80, 190))
    return m.build(), length, width


def lorry(rng: np.random.Generator) -> tuple[Mesh, float, float]:
    """Return (mesh, length, width) of a tanker or a lorry with a marked tail, as one stands behind in a jam."""
    m = MeshBuilder(c.TRUCK)
    length, width, high = float(rng.uniform(8.0, 12.5)), float(rng.uniform(2.2, 2.55)), float(rng.uniform(2.8, 4.0))
    h, cab = length / 2, 2.1
    paint = np.clip(np.array(PAINTS[rng.integers(len(PAINTS))]) * 1.1, 25, 230)
    load = np.clip(rng.uniform(40, 225) + rng.normal(0, 35, 3) * rng.choice([0.3, 1.0]), 15, 235)
    m.part((0, 0, 0.6))
    frame = m.box(-h, h, width * 0.9, 0.40, 1.05, (44, 44, 46))
    for u in (0.02, 0.80):
        m.inset(frame["back"], u, u + 0.18, 0.25, 0.75, RED_LAMP, glow=0.5)
    m.inset(frame["back"], 0.38, 0.62, 0.30, 0.70, PLATES[0])
    for side in (1, -1):
        for at in (h - 1.2, -h + 1.0, -h + 2.2):
            m.wheel(at, side * (width / 2 - 0.02), 0.5)
        for at in (-h + 0.5, -h + 1.5):
            flap = [(at, side * width * q, z) for q, z in ((0.5, 0.0), (0.28, 0.0), (0.28, 0.95), (0.5, 0.95))]
            m.face(flap, (20, 20, 22))
    m.part((h - cab / 2, 0, 1.7))
    faces = m.box(h - cab, h, width, 0.55, min(high, 3.2), paint)
    _big_ends(m, faces, 0.48, plate=False)
    for side in ("left", "right"):
        m.inset(faces[side], 0.30, 0.90, 0.50, 0.85, GLASS, detail=False)
    m.part((-cab / 2, 0, 2.2))
    if rng.random() < 0.4:
        _tank(m, -h, h - cab - 0.3, width / 2, load)
        return m.build(), length, width
    faces = m.box(-h, h - cab - 0.2, width, 1.0, high, load)
    _tail(m, rng, faces["back"], load)
    for side in ("left", "right"):
        u, v = rng.uniform(0.05, 0.5), rng.uniform(0.3, 0.7)
        m.inset(faces[side], u, u + 0.4, v - 0.15, v + 0.15, np.clip(255 - load, 25, 230))
    return m.build(), length, width


def _tank(m: MeshBuilder, l0: float, l1: float, radius: float, paint) -> None:
    """A lying drum from l0 to l1."""
    angles = np.arange(14) * (2 * np.pi / 14)
    ring = np.stack(
        [np.round(np.cos(angles), 9) * radius, np.round(np.sin(angles), 9) * radius * 0.9 + 1.0 + radius * 0.9], 1
    )
    for i in range(14):
        (a, z0), (b, z1) = ring[i], ring[(i + 1) % 14]
        m.face([(l0, a, z0), (l0, b, z1), (l1, b, z1), (l1, a, z0)], paint)
    for end in (l0, l1):
        m.face([(end, y, z) for y, z in ring], paint * 0.9)
    low, high = ring[:, 1].min(), ring[:, 1].max()
    for y in (-0.25, 0.25):
        ladder = [(l0 - 0.05, y + dy, z) for dy, z in ((-0.03, low), (0.03, low), (0.03, high), (-0.03, high))]
        m.face(ladder, (70, 70, 72), detail=True)


def _tail(m: MeshBuilder, rng: np.random.Generator, back, load) -> None:
    """Doors, a tarpaulin or a shutter, chevrons and lamps on the back of a box."""
    kind = rng.integers(3)
    if kind == 0:
        for u in (0.12, 0.36, 0.60, 0.84):
            m.inset(back, u, u + 0.025, 0.02, 0.98, load * 0.6)
        m.inset(back, 0.49, 0.51, 0.0, 1.0, load * 0.4)
    elif kind == 1:
        for v in np.arange(0.08, 0.95, 0.08):
            m.inset(back, 0.04, 0.96, float(v), float(v) + 0.015, load * 0.65)
    if rng.random() < 0.5:
        tones = [(40, 190, 225), (45, 40, 190)] if rng.random() < 0.6 else [(225, 228, 230), (45, 40, 190)]
        for i in range(8):
            m.inset(back, i / 8, (i + 1) / 8, 0.0, 0.13, tones[i % 2])
    if rng.random() < 0.4:
        m.inset(back, 0.2, 0.8, 0.45, 0.62, np.clip(255 - load, 25, 230))
    for u in (0.02, 0.90):
        m.inset(back, u, u + 0.08, 0.94, 0.98, RED_LAMP, glow=0.5)


def bus(rng: np.random.Generator) -> tuple[Mesh, float, float]:
    """Return (mesh, length, width) of a city bus, sometimes a double-decker."""
    m = MeshBuilder(c.BUS)
    double = rng.random() < 0.3
    length, width, high = (10.5, 2.5, 4.2) if double else (12.0, 2.55, 3.05)
    paints = [(40, 36, 165), (60, 150, 60), (170, 110, 50), (60, 185, 225), (215, 218, 220), (120, 60, 30)]
    paint = np.array(paints[rng.integers(len(paints))]) * rng.uniform(0.8, 1.05)
    h = length / 2
    m.part((0, 0, high / 2))
    m.face([(-h, 1.1, 0.1), (-h, -1.1, 0.1), (-h, -1.1, 0.4), (-h, 1.1, 0.4)], (22, 22, 24))
    m.face([(h, 1.1, 0.1), (h, -1.1, 0.1), (h, -1.1, 0.4), (h, 1.1, 0.4)], (22, 22, 24))
    faces = m.box(-h, h, width, 0.32, high, paint)
    decks = [(0.24, 0.44), (0.60, 0.80)] if double else [(0.34, 0.80)]
    for side in ("left", "right"):
        for v0, v1 in decks:
            _glazed(m, faces[side], 8, 0.03, 0.98, v0, v1)
        m.inset(faces[side], 0.0, 1.0, 0.0, 0.12, paint * 0.55)
        for u in (0.28, 0.86):
            m.inset(faces[side], u, u + 0.09, 0.05, decks[0][1], (52, 48, 44))
    for side in (1, -1):
        for at in (-h + 2.8, h - 2.6):
            m.wheel(at, side * (width / 2 + 0.01), 0.48)
    _big_ends(m, faces, 0.28 if double else 0.36)
    m.inset(faces["front"], 0.2, 0.8, 0.50 if double else 0.90, 0.58 if double else 0.98, (30, 30, 30))
    m.inset(
        faces["front"],
        0.3,
        0.7,
        0.52 if double else 0.92,
        0.56 if double else 0.96,
        (60, 190, 240),
        glow=1.0,
    )
    m.inset(faces["back"], 0.12, 0.88, decks[-1][0] + 0.08, decks[-1][1], GLASS, detail=False)
    m.inset(faces["back"], 0.2, 0.8, 0.18, 0.34, paint * 0.5)
    return m.build(), length, width


def tram(rng: np.random.Generator) -> tuple[Mesh, float, float]:
    """Return (mesh, length, width) of a tram with three cars."""
    m = MeshBuilder(c.TRAIN)
    paints = [(60, 190, 225), (45, 40, 170), (220, 222, 224), (90, 140, 60), (165, 100, 45)]
    paint = np.array(paints[rng.integers(len(paints))]) * rng.uniform(0.85, 1.05)
    stripe = np.array(paints[rng.integers(len(paints))]) * 0.7
    each, width, high = 8.6, 2.4, 3.4
    for i in (-1, 0, 1):
        middle = i * (each + 0.5)
        m.part((middle, 0, high / 2))
        m.box(middle - each / 2 - 0.25, middle + each / 2 + 0.25, width * 0.85, 0.3, high - 0.3, (46, 46, 48))
        faces = m.box(middle - each / 2, middle + each / 2, width, 0.25, high, paint)
        for side in ("left", "right"):
            _glazed(m, faces[side], 5, 0.04, 0.98, 0.40, 0.80)
            m.inset(faces[side], 0.0, 1.0, 0.0, 0.10, (60, 60, 62))
            m.inset(faces[side], 0.0, 1.0, 0.22, 0.32, stripe, detail=False)
            m.inset(faces[side], 0.40, 0.56, 0.08, 0.80, (70, 64, 58))
        if i:
            _big_ends(m, faces, 0.40, plate=False)
            end = faces["front" if i > 0 else "back"]
            m.inset(end, 0.08, 0.92, 0.42, 0.88, GLASS, detail=False)
            m.inset(end, 0.28, 0.72, 0.90, 0.97, (50, 180, 235), glow=1.0)
    return m.build(), 3 * each + 1.0, width
