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

    def __init__(
        self, rng: np.random.Generator, noise: np.ndarray, dry: bool, wide: bool = False, road: str = "street"
    ) -> None:
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
        self.centre_paint = self.paint
        self.centre = "usual"  # dashes on a street of two lanes, else a line; "double", "solid" or "none"
        self.shade = 0.0  # of trees on the ground where the sun shines
        self.gravel = 0.0  # m beside a road without kerbs
        if wide:
            self._vary(rng, road)

    def _vary(self, rng: np.random.Generator, road: str) -> None:
        """Materials and paint beyond those of one town."""
        grey = np.exp(rng.uniform(np.log(45), np.log(150)))
        self.base[c.ROAD] = np.clip(grey * np.exp(rng.normal(0.0, 0.03, 3)), 30, 215)
        if rng.random() < 0.3:  # paving as grey as the road
            self.base[c.SIDEWALK] = self.base[c.ROAD] * rng.uniform(0.85, 1.3)
        else:
            self.base[c.SIDEWALK] = np.clip(rng.uniform(60, 190) * np.exp(rng.normal(0.0, 0.08, 3)), 30, 215)
        tones = np.array([(58, 98, 84), (85, 135, 155), (75, 105, 130), (120, 150, 170), (50, 75, 70), (105, 115, 125)])
        self.base[c.TERRAIN] = tones[rng.integers(len(tones))] * rng.uniform(0.7, 1.2)
        self.fine[[c.ROAD, c.SIDEWALK]] = rng.uniform(0.02, 0.22, 2)
        self.coarse[[c.ROAD, c.SIDEWALK]] = rng.uniform(0.0, 0.16, 2)
        self.wear = float(rng.uniform(-0.15, 0.25))
        self.edge_line = bool(rng.random() < (0.9 if road == "highway" else 0.5))
        self.paint = self.paint * np.float32(rng.uniform(0.6, 1.15))
        self.centre_paint = self.paint
        if rng.random() < 0.55:
            self.centre_paint = np.array([30, 165, 225], np.float32) * np.float32(rng.uniform(0.7, 1.1))
        self.centre = str(rng.choice(["usual", "double", "solid", "none"], p=[0.4, 0.3, 0.15, 0.15]))
        self.dash = tuple(rng.choice([(3.0, 9.0), (3.0, 12.0), (4.0, 6.0), (6.0, 18.0), (1.5, 4.5)]))
        self.shade = float(rng.choice([0.0, rng.uniform(0.3, 1.0)], p=[0.65, 0.35]))
        self.gravel = float(rng.choice([0.0, rng.uniform(0.2, 2.0)]))
        self.detail = np.dstack([self.detail, _painted(rng, self.detail.shape[0])])
        self.decal = np.float32(max(float(self.paint.mean() / self.base[c.ROAD].mean()) - 1.0, 0.0) * 0.8)


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
    dark = _shadow_mask(view, shadows, first)
    if look.shade and light.sun > 0.25:
        dark[near:] = np.maximum(dark[near:], _tree_shade(x32, d32, ahead32, look))
    brightness = full - dark * np.float32(full - 0.92 * light.ambient)
    if light.dark:
        brightness = brightness + _lamp_light(canvas, x, d, ahead)
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
    if both.shape[2] > 2:
        factor += (label == c.ROAD) * both[..., 2] * far * look.decal
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
    cover = _centre_line(d, out, pixel, dash, open_road, road, look)
    if look.centre_paint is not look.paint:
        _mix(color, 0.85 * cover, look.centre_paint)
        cover = np.zeros_like(cover)
    for lane in range(1, road.lanes):
        cover = np.maximum(cover, _stripe(out - (road.inner + lane * road.lane_width), 0.13, pixel) * dash)
    if look.edge_line:
        cover = np.maximum(cover, _stripe(out - (road.drive_half - 0.12), 0.12, pixel) * open_road)
    along = pixel * 4.0
    stop = _stripe(cross - 5.4, 0.45, along) * (
        (d * road.side * np.sign(x - table.junction[chunk]) < 0) & (out < road.drive_half)
    )
    zebra = ((cross > 1.2) & (cross < 4.2) & (out < road.half - 0.2)) * _stripe(_modulo(d, 1.0) - 0.5, 0.5, pixel)
    cover = np.maximum(cover, np.maximum(stop, zebra))
    track = np.abs(_modulo(out - road.inner, road.lane_width) - road.lane_width / 2)
    worn = look.wear * _stripe(track - 0.8, 0.7, pixel + 0.35) * (out < road.drive_half)
    _mix(color, 0.85 * cover, look.paint)
    if road.tram_rails:
        rail = _stripe(np.abs(d - road.lane_centre(0, True)) - 0.72, 0.09, pixel)
        _mix(color, rail * 0.8 * (out < road.half), np.array([60, 58, 56], np.float32))
    gutter = 0.0
    if road.kerbs:
        kerb = (label != c.ROAD) & (out < road.half + KERB) & (cross > 0)
        color[kerb] = 0.2 * color[kerb] + np.array([132, 134, 136], np.float32)
        gutter = _stripe(out - (road.half - 0.15), 0.3, pixel) * (cross > 2.0)
    elif look.gravel:
        gravel = (label == c.TERRAIN) & (out > road.half) & (out < road.half + look.gravel)
        color[gravel] = 0.35 * color[gravel] + 0.65 * np.array([118, 128, 136], np.float32)
    joints = np.maximum(
        _stripe(_modulo(x, look.slab) - look.slab / 2, 0.03, along),
        _stripe(_modulo(d, look.slab) - look.slab / 2, 0.03, pixel),
    )
    return (1.0 - worn) * (1.0 - 0.22 * gutter) * (1.0 - 0.35 * joints * (label == c.SIDEWALK))


def _centre_line(d, out, pixel, dash, open_road, road, look: GroundLook) -> np.ndarray:
    """Coverage 0..1 of what parts the directions: inner edge lines where there is a median, else one line or two."""
    if road.median > 0.0:
        return _stripe(out - (road.inner - 0.1), 0.15, pixel) * open_road
    if look.centre == "none":
        return np.zeros_like(out)
    if look.centre == "double":
        return _stripe(out - 0.13, 0.12, pixel) * open_road
    usual = look.centre == "usual" and road.lanes == 1
    return _stripe(d, 0.14, pixel) * (dash if usual else open_road)


def _painted(rng: np.random.Generator, size: int) -> np.ndarray:
    """Paint on the asphalt's tile, float32 0..1: arrows, words, diamonds, zigzags, or none."""
    paint = np.zeros((size, size), np.float32)
    for _ in range(int(rng.choice([0, 0, 1, 2, 4]))):
        x, y = (int(v) for v in rng.integers(40, size - 60, 2))
        kind = rng.integers(4)
        if kind == 0:  # arrow
            cv2.line(paint, (x, y), (x + 24, y), 1.0, 3)
            cv2.fillPoly(paint, [np.array([[x + 24, y - 9], [x + 24, y + 9], [x + 38, y]])], 1.0)
        elif kind == 1:  # word
            for letter in range(int(rng.integers(2, 5))):
                top = y + letter * 14
                cv2.rectangle(paint, (x, top), (x + 22, top + 9), 1.0, 2)
        elif kind == 2:  # diamond
            points = np.array([[x - 14, y], [x, y - 9], [x + 14, y], [x, y + 9]])
            cv2.polylines(paint, [points], True, 1.0, 2)
        else:  # zigzag or box
            points = [[x + 16 * i, y + (10 if i % 2 else -10)] for i in range(int(rng.integers(3, 7)))]
            cv2.polylines(paint, [np.array(points)], False, 1.0, 2)
    return paint


def _tree_shade(x, d, ahead, look: GroundLook) -> np.ndarray:
    """Shade of crowns 0..1, float32, in patches of some metres with gaps of light."""
    size = look.noise.shape[0]
    near = x - np.float32(30.0 * np.floor(float(x[-1, 0]) / 30.0))
    map_x, map_y = near * (size / 30.0), d * (size / 14.0)
    leaves = cv2.remap(look.noise, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
    return np.clip(leaves * 2.0 + (look.shade * 2.0 - 1.0), 0.0, 1.0) * np.minimum(90.0 / ahead, 1.0)


def _lamp_light(canvas: Canvas, x: np.ndarray, d: np.ndarray, ahead: np.ndarray) -> np.ndarray:
    """Brightness that headlights and street lamps add to the ground, float32."""
    light, view = canvas.light, canvas.view
    sideways = np.abs(((np.arange(view.camera.width) - view.camera.cx) / view.camera.fx)[None, :])
    near = 1.0 - np.exp(-((ahead / 4.0) ** 2))
    lit = light.beam(ahead) * near * np.exp(-((sideways / 0.42) ** 2))
    if light.street_lamps:
        # They stand every 40 m on either side, 20 m apart from those across the road.
        along = np.mod(x + 10.0 * np.sign(d), 40.0) - 20.0
        lit = lit + light.street_lamps * np.exp(-((along / 9.0) ** 2) - (np.abs(d) / 14.0) ** 2)
    return lit.astype(np.float32)


def draw_reflections(canvas: Canvas, share: float) -> None:
    """Let the wet road mirror what stands above it, the more the lower the angle."""
    first, height = canvas.view.first_ground_row, canvas.view.camera.height
    rows = min(first, height - first)
    if rows < 4:
        return
    above = cv2.blur(canvas.image[first - rows : first], (3, 9))[::-1]
    region = canvas.image[first : first + rows]
    angle = np.linspace(1.0, 0.25, rows, dtype=np.float32)[:, None]
    weight = np.where(canvas.label[first : first + rows] == c.ROAD, share * angle, 0.0).astype(np.float32)
    region[:] = cv2.blendLinear(np.ascontiguousarray(region), np.ascontiguousarray(above), 1.0 - weight, weight)


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
