"""Pinhole camera above a flat ground, and the view it has from one pose.

World: x forward along the road, y to the left, z up, metres; the ground is z = 0.
Camera axes: x right, y down, z forward. Pixel (column, row) centres have integer coordinates, as in
sensor_msgs/CameraInfo. All arithmetic is element-wise in float64, so that results do not depend on a BLAS.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

NEAR = 0.4  # m; polygons are cut at this depth


@dataclass(frozen=True)
class SynthCamera:
    """Intrinsics in pixels, image size in pixels, mounting in metres and radians.

    `pitch` is positive when the camera looks down; roll is zero. The camera sits above the ego position.
    """

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    height_above_ground: float
    pitch: float

    @property
    def horizon_row(self) -> float:
        """Row (fractional pixels) where the flat ground ends."""
        return self.cy - self.fy * math.tan(self.pitch)


@dataclass(frozen=True)
class EgoPose:
    """Ground point below the camera (m), heading (rad, positive to the left) and speed along x (m/s)."""

    x: float
    y: float
    yaw: float
    speed: float


class View:
    """Projection of world points for one camera at one pose."""

    def __init__(self, camera: SynthCamera, pose: EgoPose) -> None:
        self.camera = camera
        self.pose = pose
        # Rounded, so that the last bit of a maths library cannot move a pixel.
        self._cos_yaw, self._sin_yaw = round(math.cos(pose.yaw), 10), round(math.sin(pose.yaw), 10)
        self._cos_pitch = round(math.cos(camera.pitch), 10)
        self._sin_pitch = round(math.sin(camera.pitch), 10)
        self.position = np.array([pose.x, pose.y, camera.height_above_ground])
        self.right = np.array([self._sin_yaw, -self._cos_yaw, 0.0])

    def directions(self, vectors: np.ndarray) -> np.ndarray:
        """Rotate world vectors (..., 3) into camera axes (..., 3)."""
        x, y, z = vectors[..., 0], vectors[..., 1], vectors[..., 2]
        ahead = x * self._cos_yaw + y * self._sin_yaw
        right = x * self._sin_yaw - y * self._cos_yaw
        forward = ahead * self._cos_pitch - z * self._sin_pitch
        down = -ahead * self._sin_pitch - z * self._cos_pitch
        turned = np.empty(vectors.shape)
        turned[..., 0], turned[..., 1], turned[..., 2] = right, down, forward
        return turned

    def to_camera(self, points: np.ndarray) -> np.ndarray:
        """World points (..., 3) in metres -> camera coordinates (..., 3) in metres."""
        return self.directions(points - self.position)

    def to_pixels(self, points_camera: np.ndarray) -> np.ndarray:
        """Camera coordinates (..., 3) with positive depth -> pixel (column, row) (..., 2), float64."""
        inverse = 1.0 / points_camera[..., 2]
        column = points_camera[..., 0] * inverse * self.camera.fx + self.camera.cx
        row = points_camera[..., 1] * inverse * self.camera.fy + self.camera.cy
        pixels = np.empty((*column.shape, 2))
        pixels[..., 0], pixels[..., 1] = column, row
        return pixels

    @cached_property
    def first_ground_row(self) -> int:
        """First image row whose pixel centres see the ground (may equal the height: none do)."""
        first = math.floor(self.camera.horizon_row) + 1
        return min(max(first, 0), self.camera.height)

    def sees_box(self, corners: np.ndarray, margin: float) -> np.ndarray:
        """Which upright boxes may be in the picture, bool (n,).

        corners: world x, y of their footprints (n, 4, 2); margin: metres that things reach beyond them.
        """
        x, y = corners[..., 0] - self.pose.x, corners[..., 1] - self.pose.y
        ahead = x * self._cos_yaw + y * self._sin_yaw
        right = x * self._sin_yaw - y * self._cos_yaw
        camera = self.camera
        edge = (camera.width / 2 + 1.0) / camera.fx * np.maximum(ahead, 0.0) + margin
        hidden = (ahead < NEAR - margin).all(axis=1) | (right > edge).all(axis=1) | (right < -edge).all(axis=1)
        return ~hidden

    def ground_rows(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Ground seen by each pixel from `first_ground_row` down.

        Returns world x and y, float64 (rows, width), and the distance ahead in metres, float64 (rows, 1).
        """
        camera = self.camera
        row = (np.arange(self.first_ground_row, camera.height, dtype=np.float64) - camera.cy) / camera.fy
        column = (np.arange(camera.width, dtype=np.float64) - camera.cx) / camera.fx
        down = self._sin_pitch + row * self._cos_pitch
        reach = camera.height_above_ground / down
        ahead = (reach * (self._cos_pitch - row * self._sin_pitch))[:, None]
        right = reach[:, None] * column[None, :]
        x = self.pose.x + ahead * self._cos_yaw + right * self._sin_yaw
        y = self.pose.y + ahead * self._sin_yaw - right * self._cos_yaw
        return x, y, ahead


def clip_near(points: np.ndarray) -> np.ndarray:
    """Cut a polygon (n, 3) in camera coordinates at the near plane; may return fewer than 3 points."""
    depth = points[:, 2]
    if depth.min() >= NEAR:
        return points
    kept = []
    for i in range(len(points)):
        here, after = points[i], points[(i + 1) % len(points)]
        if here[2] >= NEAR:
            kept.append(here)
        if (here[2] >= NEAR) != (after[2] >= NEAR):
            share = (NEAR - here[2]) / (after[2] - here[2])
            kept.append(here + share * (after - here))
    return np.array(kept).reshape(-1, 3)
