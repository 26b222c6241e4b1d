"""What is drawn on: one 4-channel buffer (blue, green, red, label).

Colour and label share the array, so every filled pixel gets both from one and the same mask.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np

from drive_seg.synth.camera import View, clip_near

SHIFT = 4  # fractional bits of polygon vertices
_LIMIT = 15000.0  # px; keeps the fixed-point vertices well inside int32


class Texture:
    """BGRA picture, uint8, with successively halved copies for distant surfaces."""

    def __init__(self, bgra: np.ndarray) -> None:
        self.levels = [np.ascontiguousarray(bgra)]
        self.mean = bgra[..., :3].reshape(-1, 3).mean(axis=0)  # BGR
        while min(self.levels[-1].shape[:2]) >= 8 and len(self.levels) < 6:
            height, width = self.levels[-1].shape[:2]
            half = cv2.resize(self.levels[-1], (width // 2, height // 2), interpolation=cv2.INTER_AREA)
            self.levels.append(half)

    def level_for(self, area_px: float) -> np.ndarray:
        """Return the copy with about one texel per pixel when drawn over `area_px` pixels."""
        full = self.levels[0]
        ratio = math.sqrt(full.shape[0] * full.shape[1] / max(area_px, 1.0))
        return self.levels[min(max(int(math.log2(max(ratio, 1.0)) + 0.3), 0), len(self.levels) - 1)]


@dataclass(frozen=True)
class Light:
    """Sun, ambient light and haze of a scene; colours are BGR."""

    sun_direction: np.ndarray  # unit vector towards the sun, world axes
    sun: float
    ambient: float
    tint: np.ndarray  # BGR factors
    haze_color: np.ndarray  # BGR 0..255
    haze_length: float  # m after which 63 % is haze
    headlights: float = 0.0  # of the ego car on what is close, 0 by day
    street_lamps: float = 0.0  # brightness of their pools, 0 by day

    @property
    def dark(self) -> bool:
        """Whether lamps are on."""
        return self.headlights > 0.0

    def beam(self, distance: np.ndarray | float) -> np.ndarray | float:
        """Brightness that the ego car's headlights add over `distance` metres."""
        return self.headlights / (1.0 + (distance / 16.0) ** 2)

    def facing(self, normals: np.ndarray) -> np.ndarray:
        """Brightness of surfaces with unit normals (..., 3); those that look up also see more of the sky."""
        sun = self.sun_direction
        cosine = normals[..., 0] * sun[0] + normals[..., 1] * sun[1] + normals[..., 2] * sun[2]
        sky = 0.88 + 0.12 * normals[..., 2]
        return self.ambient * sky + self.sun * np.maximum(cosine, 0.0)

    def haze(self, distance: float) -> float:
        """Share of haze in what is seen over `distance` metres."""
        return 1.0 - math.exp(-max(distance, 0.0) / self.haze_length)

    def shade(self, colors: np.ndarray, brightness: np.ndarray | float, distance: float) -> np.ndarray:
        """Lit and hazed colours, float64 (..., 3), of albedos (..., 3)."""
        haze = self.haze(distance)
        if self.dark:
            brightness = np.asarray(brightness) + self.beam(distance)
        lit = np.minimum(colors * np.asarray(brightness)[..., None] * self.tint, 255.0)
        return lit * (1.0 - haze) + self.haze_color * haze


class Canvas:
    """Draws polygons, sticks and textured quads of the world as one view sees them."""

    def __init__(self, view: View, light: Light) -> None:
        self.view = view
        self.light = light
        self._sun_right = float(view.directions(light.sun_direction)[0])
        self.buffer = np.zeros((view.camera.height, view.camera.width, 4), np.uint8)

    @property
    def image(self) -> np.ndarray:
        """BGR, a view of the buffer."""
        return self.buffer[..., :3]

    @property
    def label(self) -> np.ndarray:
        """Class ids, a view of the buffer."""
        return self.buffer[..., 3]

    def fill(self, pixels: np.ndarray, color: np.ndarray | tuple, label: int) -> None:
        """Fill the polygon with vertices `pixels` (n, 2) (column, row) with a final colour and a label."""
        blue, green, red = color
        cv2.fillPoly(self.buffer, [fixed_point(pixels)], (blue, green, red, label), cv2.LINE_8, SHIFT)

    def polygon(self, points: np.ndarray, color: tuple, label: int, brightness: float = 1.0) -> None:
        """Fill a planar world polygon (n, 3) with an albedo, lit by `brightness` and hazed."""
        camera_points = clip_near(self.view.to_camera(np.asarray(points, np.float64)))
        if len(camera_points) >= 3:
            distance = float(camera_points[:, 2].sum()) / len(camera_points)
            shaded = self.light.shade(np.asarray(color, np.float64), brightness, distance)
            self.fill(self.view.to_pixels(camera_points), shaded.tolist(), label)

    def sticks(self, start, end, radius, colors, labels, brightness=1.0) -> None:
        """Draw tapered sticks in the order given.

        start, end: (n, 3) world; radius: (n, 2) metres at either end; colors: (n, 3) BGR albedo;
        labels: n ids; brightness: factor or n factors.
        """
        ends = self.view.to_camera(np.stack([np.asarray(start, np.float64), np.asarray(end, np.float64)], 1))
        depth = ends[..., 2]
        if depth.min() < 0.3:
            return
        pixels = self.view.to_pixels(ends)
        along = pixels[:, 1] - pixels[:, 0]
        length = np.sqrt(along[:, 0] ** 2 + along[:, 1] ** 2)
        along = np.where(length[:, None] > 1e-6, along / np.maximum(length, 1e-6)[:, None], [[0.0, 1.0]])
        across = np.stack([-along[:, 1], along[:, 0]], 1)
        half = np.maximum(np.asarray(radius, np.float64) * self.view.camera.fx / depth, 0.25)
        cap = 0.4 * half
        first, last = pixels[:, 0], pixels[:, 1]
        shapes = np.stack(
            [
                first + across * half[:, :1],
                first - along * cap[:, :1],
                first - across * half[:, :1],
                last - across * half[:, 1:],
                last + along * cap[:, 1:],
                last + across * half[:, 1:],
            ],
            1,
        )
        brightness = np.broadcast_to(np.asarray(brightness, np.float64), (len(shapes),))
        shaded = self.light.shade(np.asarray(colors, np.float64), brightness, float(depth.mean()))
        # The side away from the sun is darker on sticks wide enough to show it.
        side = np.where(across[:, :1] * self._sun_right > 0.0, -1.0, 1.0) * across
        dark = np.stack(
            [
                first + side * half[:, :1] * 0.25,
                last + side * half[:, 1:] * 0.25,
                last + side * (half[:, 1:] - 0.5),
                first + side * (half[:, :1] - 0.5),
            ],
            1,
        )
        wide = half.max(axis=1) > 2.5
        dark, shapes = fixed_point(dark), fixed_point(shapes)
        for i, (color, label) in enumerate(zip(shaded.tolist(), labels, strict=True)):
            cv2.fillPoly(self.buffer, [shapes[i]], (*color, label), cv2.LINE_8, SHIFT)
            if wide[i]:
                cv2.fillPoly(self.buffer, [dark[i]], (*(0.74 * x for x in color), label), cv2.LINE_8, SHIFT)

    def ball(self, centre: np.ndarray, radius: float, color: tuple, label: int, squash: float = 1.0) -> None:
        """Draw a ball (or an upright ellipsoid with `squash` = height / width)."""
        point = self.view.to_camera(np.asarray(centre, np.float64))
        if point[2] < 0.3:
            return
        middle = self.view.to_pixels(point)
        size = max(radius * self.view.camera.fx / float(point[2]), 0.4)
        shape = middle + _CIRCLE * np.array([size, size * squash])
        self.fill(shape, self.light.shade(np.asarray(color, np.float64), 1.0, float(point[2])).tolist(), label)

    def textured_quad(
        self,
        corner,
        across,
        down,
        texture: Texture,
        label: int,
        brightness=1.0,
        tint=(1.0, 1.0, 1.0),
        see_through: str = "none",
    ) -> None:
        """Draw a flat texture whose top-left corner, width and height vectors are world (3,) arrays.

        see_through: "none" ignores alpha; "cut" draws and labels only where alpha is over a half;
        "blend" mixes the colours by alpha and labels the whole quad (as Cityscapes does with fences).
        """
        frame = self.view.directions(np.array([across, down, corner - self.view.position]))
        camera_points = clip_near(frame[2] + _UNIT_SQUARE[:, :1] * frame[0] + _UNIT_SQUARE[:, 1:] * frame[1])
        if len(camera_points) < 3:
            return
        pixels = self.view.to_pixels(camera_points)
        box = self._box(pixels)
        if box is None:
            return
        left, top, right, bottom = box
        vertices = fixed_point(pixels - [left, top])
        source = texture.level_for(cv2.contourArea(np.clip(pixels, -2000, 4000).astype(np.float32)))
        matrix = self._homography(frame, source.shape, left, top)
        patch = cv2.warpPerspective(
            source,
            matrix,
            (right - left, bottom - top),
            flags=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REPLICATE,
        )
        mask = np.zeros(patch.shape[:2], np.uint8)
        cv2.fillPoly(mask, [vertices], 1, cv2.LINE_8, SHIFT)
        alpha = patch[..., 3].copy() if see_through != "none" else None
        if see_through == "cut":
            mask &= alpha >> 7
        shaded = cv2.transform(
            patch,
            self._grading(float(camera_points[:, 2].sum()) / len(camera_points), brightness, tint, label),
        )
        region = self.buffer[top:bottom, left:right]
        if see_through == "blend":
            weight = (alpha.astype(np.float32) / 255.0)[..., None]
            mixed = shaded[..., :3] * weight + region[..., :3] * (1.0 - weight)
            shaded[..., :3] = mixed.astype(np.uint8)
        cv2.copyTo(shaded, mask, region)

    def sprite(
        self,
        base: np.ndarray,
        width: float,
        height: float,
        texture: Texture,
        label: int,
        brightness=1.0,
        tint=(1.0, 1.0, 1.0),
    ) -> None:
        """Draw an upright cut-out picture that turns to the camera and stands on `base` (3,)."""
        right = self.view.right
        corner = base - right * (width / 2) + np.array([0.0, 0.0, height])
        self.textured_quad(
            corner, right * width, np.array([0.0, 0.0, -height]), texture, label, brightness, tint, "cut"
        )

    def _homography(self, frame: np.ndarray, shape, left: int, top: int) -> np.ndarray:
        """Texels -> pixels of the patch; `frame` rows are width, height and corner in camera axes."""
        camera = self.view.camera
        columns = frame / np.array([[shape[1]], [shape[0]], [1.0]])
        # Texel centres are at half-integers of the quad's scale.
        columns[2] += 0.5 * (columns[0] + columns[1])
        matrix = np.empty((3, 3))
        matrix[0] = camera.fx * columns[:, 0] + (camera.cx - left) * columns[:, 2]
        matrix[1] = camera.fy * columns[:, 1] + (camera.cy - top) * columns[:, 2]
        matrix[2] = columns[:, 2]
        return matrix

    def _grading(self, distance: float, brightness: float, tint, label: int) -> np.ndarray:
        haze = self.light.haze(distance)
        if self.light.dark:
            brightness = brightness + self.light.beam(distance)
        grading = np.zeros((4, 5))
        for channel in range(3):
            grading[channel, channel] = brightness * self.light.tint[channel] * tint[channel] * (1.0 - haze)
            grading[channel, 4] = self.light.haze_color[channel] * haze
        grading[3, 4] = label
        return grading

    def _box(self, pixels: np.ndarray) -> tuple[int, int, int, int] | None:
        height, width = self.buffer.shape[:2]
        x, y = pixels[:, 0].tolist(), pixels[:, 1].tolist()
        left, top = max(math.floor(min(x)) - 1, 0), max(math.floor(min(y)) - 1, 0)
        right, bottom = min(math.ceil(max(x)) + 2, width), min(math.ceil(max(y)) + 2, height)
        return (left, top, right, bottom) if left < right and top < bottom else None


def fixed_point(pixels: np.ndarray) -> np.ndarray:
    """Pixel coordinates as int32 with `SHIFT` fractional bits, for OpenCV."""
    return np.rint(np.minimum(np.maximum(pixels, -_LIMIT), _LIMIT) * (1 << SHIFT)).astype(np.int32)


_UNIT_SQUARE = np.array([(0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0)])
_CIRCLE = np.array([[round(math.cos(a), 6), round(math.sin(a), 6)] for a in np.arange(12) * (math.pi / 6)])
