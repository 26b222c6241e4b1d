"""The rays of a camera's pixels: pinhole with distortion, and fisheye, as sensor_msgs/CameraInfo describes them."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np

_OPENCV = (4, 5, 8, 12, 14)
"""k1, k2, p1, p2, k3, then k4 to k6 of the rational model, s1 to s4 of thin prisms, tau_x, tau_y of a tilted sensor."""
MODELS = {"plumb_bob": _OPENCV, "rational_polynomial": _OPENCV, "equidistant": (4,)}
"""Distortion models, and how many coefficients each has: OpenCV's by whichever of its two names. Zeros may follow."""
ALIASES = {
    "fisheye": "equidistant",
    "kannalabrandt": "equidistant",
    "kannalabrandt4": "equidistant",
    "radtan": "plumb_bob",
    "brownconrady": "plumb_bob",
}
"""What drivers and calibrators call these models, in small letters and without what is between words."""
OTHER_SIZE = 1.33
"""A principal point that is so much farther, or less far, down and across the picture than the middle is of another
picture."""
REPROJECTION_PX = 0.1
"""A ray that does not come back to its pixel within this is not known: distortions may have no inverse out there."""
NEWTON_STEPS, NODES = 8, 240
_FISHEYE_STEPS = 20_001


class LensError(ValueError):
    """A calibration that cannot be used; the message is one sentence."""


@dataclass(frozen=True)
class Lens:
    """Intrinsics of a camera, in pixels; the centre of the first pixel is (0, 0).

    Attributes:
        model: one of :data:`MODELS`.
        distortion: the model's coefficients; none of them for an ideal lens.
    """

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    model: str = "plumb_bob"
    distortion: tuple[float, ...] = ()

    @classmethod
    def from_calibration(
        cls,
        size: tuple[int, int],
        k: Sequence[float],
        d: Sequence[float],
        model: str,
        p: Sequence[float],
        rectified: bool,
    ) -> Lens:
        """From the fields of a CameraInfo, for its full resolution; see :meth:`window`.

        Args:
            size: (height, width).
            k, d, model, p: camera matrix (9), coefficients, distortion model, projection matrix (12).
            rectified: the images are rectified, so ``p`` is what describes them, and there is no distortion.

        Raises:
            LensError: if the camera is not calibrated, or for images of another size, or the model is not known.
        """
        fx, cx, fy, cy = (float(m) for m in ((p[0], p[2], p[5], p[6]) if rectified else (k[0], k[2], k[4], k[5])))
        matrix = "P" if rectified else "K"
        if not (all(map(math.isfinite, (fx, fy, cx, cy))) and fx > 0 and fy > 0):
            raise LensError(
                f"camera_info holds no calibration: {matrix} has the focal lengths {fx:g} and {fy:g} and the principal "
                f"point ({cx:g}, {cy:g})"
            )
        across, down = 2 * cx / max(size[1], 1), 2 * cy / max(size[0], 1)
        aside = min(across, down) > OTHER_SIZE or max(across, down) < 1 / OTHER_SIZE
        if aside and min(across, down) > 0 and abs(across - down) < 0.15 * across:
            raise LensError(
                f"camera_info has a {matrix} of images of about {2 * cx:.0f}x{2 * cy:.0f}, by its principal point, and "
                f"says that they are {size[1]}x{size[0]}: calibrate in the size of the images, or scale {matrix}"
            )
        if rectified:
            return cls(size[1], size[0], fx, fy, cx, cy)
        name, coefficients = _distortion(model, d)
        return cls(size[1], size[0], fx, fy, cx, cy, name, coefficients)

    def window(self, offset: tuple[int, int], binning: tuple[int, int], size: tuple[int, int]) -> Lens:
        """The lens for images of a region of the sensor, binned, as image_geometry applies ``roi`` and ``binning_*``.

        Args:
            offset: of the region, (rows, columns) in full resolution.
            binning: pixels that are one pixel of the image, (vertical, horizontal).
            size: (height, width) of the images.
        """
        (top, left), (down, across) = offset, binning
        return replace(
            self,
            width=size[1],
            height=size[0],
            fx=self.fx / across,
            fy=self.fy / down,
            cx=(self.cx - left) / across,
            cy=(self.cy - top) / down,
        )

    def rays(self) -> np.ndarray:
        """Where each pixel looks, float64 [H, W, 3], unit vectors in the optical frame; NaN where that is not known."""
        if self.model == "plumb_bob" and not self.distortion:
            return _units(self._flat(np.arange(self.width), np.arange(self.height)))
        if self.model == "equidistant":
            return self._fisheye_rays(self._flat(np.arange(self.width), np.arange(self.height)))
        # A distortion is smooth: between points this near to each other a straight line is right to a tenth of a pixel.
        stride = max(1, self.width // NODES)
        columns, rows = (math.ceil((side - 1) / stride) + 1 for side in (self.width, self.height))
        coarse = self._undistorted(self._flat(np.arange(columns) * stride, np.arange(rows) * stride).reshape(-1, 2))
        at = np.meshgrid(np.arange(self.width) / stride, np.arange(self.height) / stride)
        column, row = (axis.astype(np.float32) for axis in at)
        return _units(cv2.remap(coarse.reshape(rows, columns, 2), column, row, cv2.INTER_LINEAR))

    def project(self, points: np.ndarray) -> np.ndarray:
        """Where points are in the picture.

        Args:
            points: float64 [N, 3] in the optical frame.

        Returns:
            float64 [N, 2], column and row, also beyond the picture; NaN for what is behind a lens that is no fisheye.
            Far beyond the picture a distortion may fold back into it: compare with the pixel's ray.
        """
        if self.model == "equidistant":
            flat = self._fisheye_flat(points)
        else:
            depth = np.where(points[:, 2] > 1e-6, points[:, 2], np.nan)
            flat = self._distorted(points[:, :2] / depth[:, None])
        return flat * (self.fx, self.fy) + (self.cx, self.cy)

    def _flat(self, columns: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Pixels in the plane at focal length 1, as they are in the picture, float64 [rows, columns, 2]."""
        return np.stack(np.meshgrid((columns - self.cx) / self.fx, (rows - self.cy) / self.fy), axis=-1)

    def _distorted(self, flat: np.ndarray) -> np.ndarray:
        """As sensor_msgs and OpenCV define it, [N, 2] -> [N, 2], in the plane at focal length 1."""
        given = [*self.distortion, *(0.0,) * (14 - len(self.distortion))]
        k1, k2, p1, p2, k3, k4, k5, k6, s1, s2, s3, s4, *tilt = given
        x, y = flat.T
        square, xy = x * x + y * y, x * y
        radial = (1 + square * (k1 + square * (k2 + square * k3))) / (1 + square * (k4 + square * (k5 + square * k6)))
        bent_x = x * radial + 2 * p1 * xy + p2 * (square + 2 * x * x) + square * (s1 + square * s2)
        bent_y = y * radial + p1 * (square + 2 * y * y) + 2 * p2 * xy + square * (s3 + square * s4)
        bent = np.stack([bent_x, bent_y], axis=1)
        return _tilted(bent, *tilt) if any(tilt) else bent

    def _undistorted(self, target: np.ndarray) -> np.ndarray:
        """The inverse, by Newton's method; NaN where there is none.

        OpenCV's fixed-point iteration does not converge towards the border of a wide lens.
        """
        point, tiny = target.copy(), 1e-6
        across, along = np.array([tiny, 0.0]), np.array([0.0, tiny])
        with np.errstate(all="ignore"):
            for _ in range(NEWTON_STEPS):
                here = self._distorted(point)
                (a, c), (b, d) = ((self._distorted(point + step) - here).T / tiny for step in (across, along))
                off, determinant = target - here, a * d - b * c
                point[:, 0] += (d * off[:, 0] - b * off[:, 1]) / determinant
                point[:, 1] += (a * off[:, 1] - c * off[:, 0]) / determinant
            error = np.abs((self._distorted(point) - target) * (self.fx, self.fy)).max(axis=1)
        # Where the distortion turns inside out a point is found, too, but nothing is seen there.
        point[~((error < REPROJECTION_PX) & (determinant > 0) & (a + d > 0))] = np.nan
        return point

    def _fisheye_rays(self, flat: np.ndarray) -> np.ndarray:
        radius = np.linalg.norm(flat, axis=-1)
        angles, bent = self._fisheye_table()
        angle = np.interp(radius, bent, angles, right=np.nan)
        across = flat * (np.sin(angle) / np.maximum(radius, 1e-12))[..., None]
        return np.concatenate([across, np.cos(angle)[..., None]], axis=-1)

    def _fisheye_flat(self, points: np.ndarray) -> np.ndarray:
        across = np.linalg.norm(points[:, :2], axis=1)
        angle = np.arctan2(across, points[:, 2])
        angles, _ = self._fisheye_table()
        bent = np.where(angle <= angles[-1], self._bend(angle), np.nan)
        return points[:, :2] / np.maximum(across, 1e-12)[:, None] * bent[:, None]

    def _bend(self, angle: np.ndarray) -> np.ndarray:
        """Distance from the picture's middle at focal length 1, of what is seen under this angle."""
        k1, k2, k3, k4 = self.distortion or (0.0,) * 4
        square = angle * angle
        return angle * (1 + square * (k1 + square * (k2 + square * (k3 + square * k4))))

    def _fisheye_table(self) -> tuple[np.ndarray, np.ndarray]:
        """Angles from 0 and their distances, as far as these grow."""
        angles = np.linspace(0.0, math.pi, _FISHEYE_STEPS)
        bent = self._bend(angles)
        shrinking = np.flatnonzero(np.diff(bent) <= 0)
        end = shrinking[0] + 1 if len(shrinking) else len(angles)
        return angles[:end], bent[:end]


def image_size(info: Any) -> tuple[int, int]:
    """(height, width) of the images that a CameraInfo is of: its region of interest, binned."""
    (_, _, height, width), (down, across) = _region(info), binning(info)
    return height // down, width // across


def binning(info: Any) -> tuple[int, int]:
    """(vertical, horizontal) of a CameraInfo; 0 stands for 1 there."""
    return max(info.binning_y, 1), max(info.binning_x, 1)


def offset(info: Any) -> tuple[int, int]:
    """(rows, columns) of a CameraInfo's region of interest."""
    return _region(info)[:2]


def _region(info: Any) -> tuple[int, int, int, int]:
    """Top, left, height, width; a region whose size is 0 goes up to the border."""
    roi = info.roi
    return roi.y_offset, roi.x_offset, roi.height or info.height - roi.y_offset, roi.width or info.width - roi.x_offset


def _distortion(model: str, d: Sequence[float]) -> tuple[str, tuple[float, ...]]:
    """Model and coefficients as :class:`Lens` has them."""
    name = ALIASES.get(re.sub(r"[\W_]", "", model).lower(), model)
    given = [float(value) for value in d]
    if not all(map(math.isfinite, given)):
        raise LensError(f"camera_info has coefficients of distortion that are not finite: {given}")
    if not any(given) and name != "equidistant":
        return "plumb_bob", ()
    if name not in MODELS:
        raise LensError(f"camera_info has the distortion model '{model}'; known are {', '.join(MODELS)}")
    used = max((place for place, value in enumerate(given, 1) if value), default=0)
    counts = (len(given), *MODELS[name]) if len(given) in MODELS[name] else MODELS[name]
    count = next((count for count in counts if count >= used), None)
    if count is None or 0 < len(given) < MODELS[name][0]:
        raise LensError(
            f"camera_info has {len(given)} coefficients of distortion, and {name} has "
            f"{' or '.join(map(str, MODELS[name]))}"
        )
    coefficients = (*given, *(0.0,) * count)[:count]
    return name, coefficients if used else ()


def _tilted(flat: np.ndarray, tau_x: float, tau_y: float) -> np.ndarray:
    """Points [N, 2] as they fall on a sensor that is tilted about x and then y, in radians."""
    (cx, sx), (cy, sy) = ((math.cos(angle), math.sin(angle)) for angle in (tau_x, tau_y))
    turn = np.array([[cy, 0, -sy], [0, 1, 0], [sy, 0, cy]]) @ np.array([[1, 0, 0], [0, cx, sx], [0, -sx, cx]])
    onto = np.array([[turn[2, 2], 0, -turn[0, 2]], [0, turn[2, 2], -turn[1, 2]], [0, 0, 1]])
    points = np.concatenate([flat, np.ones((len(flat), 1))], axis=1) @ (onto @ turn).T
    return points[:, :2] / points[:, 2:]


def _units(flat: np.ndarray) -> np.ndarray:
    """Points in the plane at focal length 1, [..., 2], as unit vectors [..., 3]."""
    x, y = flat[..., 0], flat[..., 1]
    scale = 1.0 / np.sqrt(x * x + y * y + 1.0)
    return np.stack([x * scale, y * scale, scale], axis=-1)
