"""Picture and labels of the ground: inverse projection of every pixel, then materials, markings, shadows."""

import cv2
import numpy as np

from drive_seg.synth import classes as c
from drive_seg.synth.camera import View, clip_near
from drive_seg.synth.canvas import SHIFT, Canvas
from drive_seg.synth.road import KERB, GroundTable

_FAR = 260.0  # m; beyond, no detail is drawn


class GroundLook:
    """Materials of one drive: base colours and tileable noise."""

    def __init__(self, rng: np.random.Generator, noise: np.ndarray, dry: bool) -> None:
        grey = rng.uniform(80, 128)
        asphalt = grey * np.array([1.02, 1.0, 0.99]) + rng.uniform(-2, 2, 3)
        paving = rng.choice(np.array([[128, 132, 136], [110, 118, 126], [98, 102, 106], [98, 108, 128]]))
        grass = np.array([58, 98, 84]) if not dry else np.array([85, 135, 155])
        self.base = np.zeros((19, 3), np.float32)
        self.base[c.ROAD] = asphalt
        self.base[c.SIDEWALK] = paving + rng.uniform(-12, 12)
        self.base[c.TERRAIN] = grass * rng.uniform(0.8, 1.15)
        self.fine = np.zeros(19, np.float32)
        self.fine[[c.ROAD, c.SIDEWALK, c.TERRAIN]] = 0.10, 0.08, 0.30
        self.coarse = np.zeros(19, np.float32)
        self.coarse[[c.ROAD, c.SIDEWALK, c.TERRAIN]] = rng.uniform(0.05, 0.14), 0.08, 0.22
        self.noise = noise
        self.detail = _asphalt(rng, noise)
        self.paint = np.array([205, 212, 215], np.float32) * rng.uniform(0.8, 1.05)
        self.edge_line = bool(rng.random() < 0.7)
        self.wear = float(rng.uniform(0.0, 0.12))
        self.slab = float(rng.choice([0.6, 0.9, 1.2]))
        self.dash = (3.0, 9.0) if rng.random() < 0.6 else (4.0, 6.0)


def draw_ground(canvas: Canvas, table: GroundTable, look: GroundLook, shadows: list[np.ndarray]) -> None:
    """Fill everything below the horizon. `shadows` are ground polygons (n, 3) in world coordinates."""
    view = canvas.view
    first = view.first_ground_row
    if first >= view.camera.height:
        return
    x, y, ahead = view.ground_rows()
    d = y - table.road.centre(x)
    label = table.labels(x, d)
    near = int(np.searchsorted(-ahead[:, 0], -_FAR))  # first row closer than _FAR
    color = look.base[label]
    x32, d32, ahead32 = (a.astype(np.float32) for a in (x[near:], d[near:], ahead[near:]))
    light = canvas.light
    full = float(light.facing(np.array([0.0, 0.0, 1.0])))
    brightness = full - _shadow_mask(view, shadows, first) * np.float32(full - 0.92 * light.ambient)
    if near < len(x):
        part = label[near:]
        brightness[near:] *= _markings(color[near:], x32, d32, ahead32 / view.camera.fx, table, look, part)
        brightness[near:] *= _texture(x32, d32, ahead32, part, look)
    haze = np.array([light.haze(float(a)) for a in ahead[:, 0]], np.float32)[:, None]
    brightness *= 1.0 - haze
    color *= brightness[..., None]
    color *= light.tint.astype(np.float32)
    color += haze[..., None] * light.haze_color.astype(np.float32)
    np.minimum(color, 255.0, out=color)
    canvas.buffer[first:, :, :3] = color
    canvas.buffer[first:, :, 3] = label


def _asphalt(rng: np.random.Generator, noise: np.ndarray) -> np.ndarray:
    """Tile (512, 512, 2), float32, of 60 m x 25 m: coarse noise, and mended patches, cracks and manholes."""
    size = 512
    tile = np.zeros((size, size, 2), np.float32)
    tile[..., 0] = cv2.resize(noise, (size, size), interpolation=cv2.INTER_CUBIC)
    marks = np.zeros((size, size), np.float32)
    for _ in range(int(rng.integers(2, 12))):
        x, y = rng.integers(0, size, 2)
        length, width = rng.integers(15, 130), rng.integers(12, 70)
        cv2.rectangle(marks, (int(x), int(y)), (int(x + length), int(y + width)), float(rng.uniform(-0.2, 0.12)), -1)
    for _ in range(int(rng.integers(3, 16))):
        path = np.cumsum(rng.normal([[6.0, 0.0]] if rng.random() < 0.5 else [[0.0, 9.0]], 5.0, (22, 2)), axis=0)
        path += rng.integers(0, size, 2)
        cv2.polylines(marks, [path.astype(np.int32)], False, float(rng.uniform(-0.3, -0.12)), 1)
    for _ in range(int(rng.integers(1, 6))):
        x, y = rng.integers(20, size - 20, 2)
        cv2.ellipse(marks, (int(x), int(y)), (3, 7), 0, 0, 360, -0.28, -1)
    tile[..., 1] = marks
    return tile


def _texture(x, d, ahead, label, look: GroundLook) -> np.ndarray:
    """Brightness factors of the materials, float32; fine grain fades with distance instead of flickering."""
    size = look.noise.shape[0]
    # OpenCV keeps map coordinates in 16 bits: count from a whole number of periods nearby.
    near = x - np.float32(60.0 * np.floor(float(x[-1, 0]) / 60.0))
    fine = cv2.remap(look.noise, near * (size / 5.0), d * (size / 5.0), cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
    size = look.detail.shape[0]
    both = cv2.remap(look.detail, near * (size / 60.0), d * (size / 25.0), cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
    factor = 1.0 + look.fine[label] * fine * np.minimum(9.0 / ahead, 1.0)
    far = np.minimum(60.0 / ahead, 1.0)
    factor += look.coarse[label] * both[..., 0] * far
    factor += (label == c.ROAD) * both[..., 1] * far
    return np.maximum(factor, 0.2)


def _modulo(values: np.ndarray, period: float) -> np.ndarray:
    return values - np.float32(period) * np.floor(values * np.float32(1.0 / period))


def _stripe(offset: np.ndarray, width: float, pixel: np.ndarray) -> np.ndarray:
    """Coverage 0..1 of a stripe `width` wide around offset 0, for pixels `pixel` metres wide."""
    return np.clip((width / 2 - np.abs(offset)) / pixel + 0.5, 0.0, 1.0) * np.minimum(width / pixel, 1.0)


def _mix(color: np.ndarray, cover: np.ndarray, target: np.ndarray) -> None:
    color += cover[..., None] * (target - color)


def _markings(color, x, d, pixel, table: GroundTable, look: GroundLook, label) -> np.ndarray:
    """Paint lines, crosswalks, kerbs and rails into `color` (rows, width, 3).

    Returns brightness factors (rows, width) of slab joints, gutters and wheel tracks.
    """
    road, out = table.road, np.abs(d)
    chunk = table.rows(x)
    cross = np.abs(x - table.junction[chunk].astype(np.float32)) - table.junction_half[chunk].astype(np.float32)
    open_road = (cross > 6.0) & (out < road.half)
    dash = ((_modulo(x, look.dash[1]) < look.dash[0]) & open_road).astype(np.float32)
    cover = _stripe(d, 0.14, pixel) * (dash if road.lanes == 1 else open_road)
    for lane in range(1, road.lanes):
        cover = np.maximum(cover, _stripe(out - lane * road.lane_width, 0.13, pixel) * dash)
    if look.edge_line:
        cover = np.maximum(cover, _stripe(out - (road.drive_half - 0.12), 0.12, pixel) * open_road)
    along = pixel * 4.0
    stop = _stripe(cross - 5.4, 0.45, along) * (
        (d * road.side * np.sign(x - table.junction[chunk]) < 0) & (out < road.drive_half)
    )
    zebra = ((cross > 1.2) & (cross < 4.2) & (out < road.half - 0.2)) * _stripe(_modulo(d, 1.0) - 0.5, 0.5, pixel)
    cover = np.maximum(cover, np.maximum(stop, zebra))
    track = np.abs(_modulo(out, road.lane_width) - road.lane_width / 2)
    worn = look.wear * _stripe(track - 0.8, 0.7, pixel + 0.35) * (out < road.drive_half)
    _mix(color, 0.85 * cover, look.paint)
    if road.tram_rails:
        rail = _stripe(np.abs(d - road.lane_centre(0, True)) - 0.72, 0.09, pixel)
        _mix(color, rail * 0.8 * (out < road.half), np.array([60, 58, 56], np.float32))
    kerb = (label != c.ROAD) & (out < road.half + KERB) & (cross > 0)
    color[kerb] = 0.2 * color[kerb] + np.array([132, 134, 136], np.float32)
    gutter = _stripe(out - (road.half - 0.15), 0.3, pixel) * (cross > 2.0)
    joints = np.maximum(
        _stripe(_modulo(x, look.slab) - look.slab / 2, 0.03, along),
        _stripe(_modulo(d, look.slab) - look.slab / 2, 0.03, pixel),
    )
    return (1.0 - worn) * (1.0 - 0.22 * gutter) * (1.0 - 0.35 * joints * (label == c.SIDEWALK))


def _shadow_mask(view: View, shadows: list[np.ndarray], first: int) -> np.ndarray:
    """Soft mask 0..1, float32 (rows below the horizon, width), of shadow polygons."""
    mask = np.zeros((view.camera.height - first, view.camera.width), np.uint8)
    for polygon in shadows:
        points = clip_near(view.to_camera(polygon))
        if len(points) < 3:
            continue
        pixels = np.clip(view.to_pixels(points) - [0.0, first], -15000, 15000)
        cv2.fillPoly(mask, [np.rint(pixels * (1 << SHIFT)).astype(np.int32)], 255, cv2.LINE_8, SHIFT)
    return cv2.GaussianBlur(mask, (5, 5), 1.2).astype(np.float32) / 255.0
