"""Pictures for surfaces, made once per drive from a generator: facades, roofs, walls, fences, foliage."""

import cv2
import numpy as np

from drive_seg.synth.canvas import Texture

PIXELS_PER_METRE = 22
FLOOR = 3.1  # m
BAY = 2.7  # m

WALL_COLORS = np.array(
    [
        (72, 88, 140),
        (165, 195, 210),
        (148, 150, 152),
        (205, 214, 218),
        (132, 165, 188),
        (118, 160, 190),
        (60, 70, 100),
        (95, 110, 130),
        (180, 185, 175),
        (95, 120, 165),
        (120, 120, 118),
    ],
    np.float32,
)


def tileable_noise(rng: np.random.Generator, size: int = 256) -> np.ndarray:
    """Float32 (size, size) noise, about -1..1, of several octaves; its edges match."""
    total = np.zeros((size, size), np.float32)
    cells = 4
    while cells <= size:
        grid = rng.standard_normal((cells, cells)).astype(np.float32)
        grid = np.pad(grid, 2, mode="wrap")
        scale = size // cells
        big = cv2.resize(grid, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
        total += big[2 * scale : 2 * scale + size, 2 * scale : 2 * scale + size] * 0.42
        cells *= 2
    return total / max(float(np.abs(total).std()) * 3.2, 1e-6)


def _opaque(bgr: np.ndarray) -> np.ndarray:
    return np.dstack([np.clip(bgr, 0, 255).astype(np.uint8), np.full(bgr.shape[:2], 255, np.uint8)])


def _grain(noise: np.ndarray, shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    top, left = rng.integers(0, noise.shape[0], 2)
    rows = (np.arange(shape[0]) + top) % noise.shape[0]
    columns = (np.arange(shape[1]) + left) % noise.shape[1]
    return noise[rows][:, columns]


def _bricks(height: int, width: int, length: int = 10, course: int = 4) -> np.ndarray:
    """Brightness factors of bricks `length` x `course` texels, every other course shifted by half a brick."""
    rows, columns = np.indices((height, width))
    layer = rows // course
    shifted = columns + (layer % 2) * (length // 2)
    joint = (rows % course == 0) | (shifted % length == 0)
    return np.where(joint, 1.14, 1.0) * (1.0 + 0.07 * np.sin(layer * 12.9 + shifted // length * 78.2))


def facade(rng: np.random.Generator, noise: np.ndarray, bays: int, floors: int, shop: bool) -> Texture:
    """Front of a house: `bays` x `floors` windows, a ground floor with shops or doors, cornices, dirt."""
    bay, floor = int(BAY * PIXELS_PER_METRE), int(FLOOR * PIXELS_PER_METRE)
    height, width = floors * floor, bays * bay
    wall = WALL_COLORS[rng.integers(len(WALL_COLORS))] * rng.uniform(0.75, 1.25)
    wall = wall.mean() + (wall - wall.mean()) * rng.uniform(0.4, 1.0)
    picture = np.empty((height, width, 3), np.float32)
    picture[:] = wall
    if rng.random() < 0.45:
        picture *= _bricks(height, width).astype(np.float32)[..., None]
    picture *= (1.0 + 0.17 * _grain(noise, (height, width), rng))[..., None]
    trim = np.minimum(wall * rng.choice([0.6, 1.35]), 235.0)
    ribbon = rng.random() < 0.2
    share_x = 0.92 if ribbon else rng.uniform(0.38, 0.62)
    share_y = rng.uniform(0.42, 0.66)
    mullions = int(rng.integers(0, 3))
    balcony = rng.random() < 0.2
    for level in range(floors):
        top = (floors - 1 - level) * floor
        for column in range(bays):
            left = column * bay
            if level == 0 and shop:
                continue
            x0, x1 = left + int(bay * (1 - share_x) / 2), left + int(bay * (1 + share_x) / 2)
            y0 = top + int(floor * 0.18)
            y1 = y0 + int(floor * share_y)
            if level == 0 and column == bays // 2:
                _door(picture, rng, left, bay, top, floor)
                continue
            cv2.rectangle(picture, (x0 - 3, y0 - 3), (x1 + 2, y1 + 3), trim.tolist(), -1)
            _window(picture[y0:y1, x0:x1], rng, mullions)
            if balcony and level > 0:
                cv2.rectangle(picture, (x0 - 6, y1 - 16), (x1 + 6, y1 + 4), (trim * 0.8).tolist(), -1)
                picture[y1 - 16 : y1, max(x0 - 6, 0) : x1 + 6 : 3] *= 0.6
        if level > 0 and rng.random() < 0.4:
            cv2.rectangle(picture, (0, top + floor - 4), (width, top + floor), (trim * 0.95).tolist(), -1)
    if shop:
        _shops(picture, rng, bays, bay, floor)
    cv2.rectangle(picture, (0, 0), (width, 6), (trim * 0.9).tolist(), -1)
    picture[7:11] *= 0.7
    fade = 1.0 - 0.16 * np.linspace(0, 1, height, dtype=np.float32) ** 3
    picture *= fade[:, None, None]
    return Texture(_opaque(picture))


def _window(region: np.ndarray, rng: np.random.Generator, mullions: int) -> None:
    height, width = region.shape[:2]
    if height < 4 or width < 4:
        return
    glass = np.array([52, 46, 40]) * rng.uniform(0.3, 1.3)
    sky = np.array([190, 178, 166]) * rng.uniform(0.15, 0.95)
    blend = np.linspace(rng.uniform(0.2, 0.9), 0.0, height)[:, None, None]
    region[:] = glass * (1 - blend) + sky * blend
    kind = rng.random()
    if kind < 0.3:
        region[: int(height * rng.uniform(0.2, 0.9))] = np.array([190, 200, 205]) * rng.uniform(0.5, 1.0)
    elif kind < 0.5:
        edge = max(width // 5, 1)
        region[:, :edge] = region[:, -edge:] = np.array([170, 180, 185]) * rng.uniform(0.5, 1.0)
    frame = 215.0 * rng.uniform(0.75, 1.05)
    for part in range(1, mullions + 1):
        at = part * width // (mullions + 1)
        region[:, at - 1 : at + 1] = frame
    if mullions:
        region[height // 2 - 1 : height // 2 + 1] = frame
    region[:1], region[-2:], region[:, :1], region[:, -1:] = frame * 0.5, frame, frame, frame * 0.8


def _door(picture, rng, left: int, bay: int, top: int, floor: int) -> None:
    x0, x1 = left + int(bay * 0.28), left + int(bay * 0.72)
    y0, y1 = top + int(floor * 0.22), top + floor
    colors = [(40, 50, 80), (60, 40, 30), (45, 60, 45), (50, 50, 120), (150, 150, 150), (35, 35, 38)]
    cv2.rectangle(picture, (x0 - 3, y0 - 4), (x1 + 3, y1), (200, 205, 208), -1)
    cv2.rectangle(picture, (x0, y0), (x1, y1), colors[rng.integers(len(colors))], -1)
    cv2.rectangle(picture, (x0 + 5, y0 + 6), (x1 - 5, y0 + 20), (85, 80, 70), -1)


def _shops(picture, rng, bays: int, bay: int, floor: int) -> None:
    height = picture.shape[0]
    top = height - floor
    column = 0
    while column < bays:
        span = min(int(rng.integers(1, 4)), bays - column)
        x0, x1 = column * bay + 3, (column + span) * bay - 4
        sign = rng.uniform(20, 210) + rng.uniform(-55, 55, 3) * rng.choice([0.3, 1.0])
        sign = np.clip(sign, 10, 235)
        cv2.rectangle(picture, (x0, top + 4), (x1, top + 17), sign.tolist(), -1)
        ink = (235.0, 235.0, 235.0) if sign.mean() < 120 else (30.0, 30.0, 40.0)
        for at in range(x0 + 12, x1 - 12, 6):
            if rng.random() < 0.7:
                cv2.rectangle(picture, (at, top + 8), (at + 3, top + 13), ink, -1)
        glass = np.array([62, 56, 50]) * rng.uniform(0.6, 1.5)
        cv2.rectangle(picture, (x0, top + 19), (x1, height - 6), glass.tolist(), -1)
        for _ in range(span * 6):
            at, low = int(rng.integers(x0, max(x1 - 8, x0 + 1))), int(rng.integers(top + 24, height - 12))
            size = rng.integers(4, 13, 2)
            thing = np.clip(rng.uniform(25, 170) + rng.uniform(-30, 30, 3), 10, 220)
            cv2.rectangle(
                picture,
                (at, low),
                (min(at + int(size[0]), x1), min(low + int(size[1]), height - 8)),
                thing.tolist(),
                -1,
            )
        for at in range(x0, x1, max(bay // 2, 8)):
            cv2.rectangle(picture, (at, top + 19), (at + 1, height - 6), (150, 150, 150), -1)
        column += span


def plain_wall(rng: np.random.Generator, noise: np.ndarray, size: tuple[int, int], brick: bool) -> Texture:
    """Windowless wall, size = (height, width) in texels, with courses, cap and dirt."""
    height, width = size
    wall = WALL_COLORS[rng.integers(len(WALL_COLORS))] * rng.uniform(0.75, 1.05)
    picture = np.empty((height, width, 3), np.float32)
    picture[:] = wall
    if brick:
        picture *= _bricks(height, width, 24, 8).astype(np.float32)[..., None]
    else:
        picture[:, :: max(width // 3, 8)] *= 0.75
    picture *= (1.0 + 0.16 * _grain(noise, size, rng))[..., None]
    picture[: max(height // 12, 2)] *= 1.35
    picture[int(height * 0.8) :] *= 0.88
    return Texture(_opaque(picture))


def roof(rng: np.random.Generator, noise: np.ndarray) -> Texture:
    """Tiles or slate, 160 x 160 texels."""
    colors = np.array([(58, 70, 128), (70, 68, 66), (62, 66, 92), (80, 92, 110), (95, 92, 90)], np.float32)
    picture = np.empty((160, 160, 3), np.float32)
    picture[:] = colors[rng.integers(len(colors))]
    rows = np.arange(160)
    picture *= np.where(rows % 8 == 0, 0.7, 1.0 + 0.02 * (rows % 8)).astype(np.float32)[:, None, None]
    picture *= (1.0 + 0.2 * _grain(noise, (160, 160), rng))[..., None]
    return Texture(_opaque(picture))


def fence(rng: np.random.Generator, noise: np.ndarray, kind: str) -> Texture:
    """Fence panel 96 x 192 texels: "bars", "mesh" or "rail" (see-through) or "boards" (closed)."""
    height, width = 96, 192
    picture = np.zeros((height, width, 4), np.uint8)
    steel = [(60, 62, 60), (140, 142, 140), (55, 75, 50), (175, 180, 182)][rng.integers(4)]
    if kind == "boards":
        wood = np.array([(70, 100, 135), (95, 115, 130), (60, 80, 60)][rng.integers(3)], np.float32)
        boards = np.repeat(rng.uniform(0.8, 1.15, width // 12), 12).astype(np.float32)
        bgr = wood * boards[None, :, None] * (1.0 + 0.2 * _grain(noise, (height, width), rng))[..., None]
        bgr[:, ::12] *= 0.45
        return Texture(_opaque(bgr))
    if kind == "mesh":
        for at in range(-height, width, 10):
            cv2.line(picture, (at, 0), (at + height, height), (*steel, 200), 1)
            cv2.line(picture, (at + height, 0), (at, height), (*steel, 200), 1)
    elif kind == "bars":
        for at in range(3, width, 10):
            cv2.rectangle(picture, (at, 4), (at + 3, height), (*steel, 255), -1)
    else:
        for at in (20, 46, 72):
            cv2.rectangle(picture, (0, at), (width, at + 8), (*steel, 255), -1)
    cv2.rectangle(picture, (0, 3), (width, 8), (*steel, 255), -1)
    cv2.rectangle(picture, (0, height - 12), (width, height - 8), (*steel, 255), -1)
    for at in (0, width // 2, width - 6):
        cv2.rectangle(picture, (at, 0), (at + 5, height), (*steel, 255), -1)
    return Texture(picture)


def barrier(rng: np.random.Generator, noise: np.ndarray, kind: str) -> Texture:
    """Barrier 64 x 256 texels: "concrete" or "noise wall" (closed), or "rail" on posts (see-through)."""
    height, width = 64, 256
    if kind == "rail":
        picture = np.zeros((height, width, 4), np.uint8)
        steel = rng.uniform(95, 185) * np.array([1.02, 1.0, 0.98])
        for at in (12, width // 2 + 12):
            cv2.rectangle(picture, (at, 8), (at + 6, height), (*(steel * 0.6).tolist(), 255), -1)
        rows = np.array([1.0, 1.1, 0.9, 0.6, 0.5, 0.8, 1.1, 1.15, 0.9, 0.55])
        for row, tone in zip(np.repeat(np.arange(10), 3), np.repeat(rows, 3), strict=True):
            top = 2 + int(row) * 3
            cv2.rectangle(picture, (0, top), (width, top + 2), (*(steel * tone).tolist(), 255), -1)
        return Texture(picture)
    tone = rng.uniform(95, 190) * np.array([0.97, 1.0, 1.02]) + rng.uniform(-8, 8, 3)
    if kind == "noise wall":
        tone = WALL_COLORS[rng.integers(len(WALL_COLORS))] * rng.uniform(0.8, 1.1)
    picture = np.empty((height, width, 3), np.float32)
    picture[:] = tone
    picture *= (1.0 + 0.14 * _grain(noise, (height, width), rng))[..., None]
    picture[:, :: int(rng.choice([32, 64, 128]))] *= 0.6
    if kind == "noise wall":
        picture[:: int(rng.choice([4, 8, 64]))] *= 0.8
    else:
        picture *= np.linspace(1.1, 0.8, height, dtype=np.float32)[:, None, None]
        if rng.random() < 0.3:
            picture[20:26] = (40, 180, 225)
    return Texture(_opaque(picture))


def bank(rng: np.random.Generator, noise: np.ndarray) -> Texture:
    """Slope of grass, dry grass or soil, 128 x 256 texels, with tufts and stones."""
    height, width = 128, 256
    tones = np.array([(60, 105, 88), (95, 140, 160), (88, 118, 145), (70, 92, 90), (120, 150, 170)], np.float32)
    picture = np.empty((height, width, 3), np.float32)
    picture[:] = tones[rng.integers(len(tones))] * rng.uniform(0.75, 1.2)
    picture *= (1.0 + rng.uniform(0.1, 0.35) * _grain(noise, (height, width), rng))[..., None]
    for _ in range(int(rng.integers(0, 120))):
        x, y = int(rng.integers(width)), int(rng.integers(height))
        dark = float(rng.uniform(0.4, 0.9))
        picture[y : y + int(rng.integers(2, 7)), x : x + int(rng.integers(2, 9))] *= dark
    return Texture(_opaque(picture))
