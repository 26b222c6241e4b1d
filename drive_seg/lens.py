"""The rays of a camera's pixels: pinhole with distortion, and fisheye, as sensor_msgs/CameraInfo describes them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

MODELS = {"plumb_bob": (4, 5), "rational_polynomial": (8,), "equidistant": (4,)}
"""Distortion models, and how many coefficients each has."""
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
        model: ``plumb_bob``, ``rational_polynomial`` or ``equidistant``.
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
        """From the fields of a CameraInfo.

        Args:
            size: (height, width).
            k, d, model, p: camera matrix (9), coefficients, distortion model, projection matrix (12).
            rectified: the images are rectified, so ``p`` is what describes them, and there is no distortion.

        Raises:
            LensError: if the camera is not calibrated, or the model is not known.
        """
        fx, cx, fy, cy = (p[0], p[2], p[5], p[6]) if rectified else (k[0], k[2], k[4], k[5])
        if not (all(map(math.isfinite, (fx, fy, cx, cy, *d))) and fx > 0 and fy > 0):
            raise LensError(f"camera_info holds no calibration: the focal lengths in {'P' if rectified else 'K'} are 0")
        coefficients = () if rectified or not any(d) else tuple(float(value) for value in d)
        if coefficients or model == "equidistant":
            if model not in MODELS:
                raise LensError(f"camera_info has the distortion model '{model}'; known are {', '.join(MODELS)}")
            if coefficients and len(coefficients) not in MODELS[model]:
                raise LensError(
                    f"camera_info has {len(coefficients)} coefficients of distortion, and {model} has "
                    f"{' or '.join(map(str, MODELS[model]))}"
                )
        ideal = rectified or model != "equidistant" and not coefficients
        model = "plumb_bob" if ideal else model
        return cls(size[1], size[0], float(fx), float(fy), float(cx), float(cy), model, coefficients)

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
        k1, k2, p1, p2, k3, k4, k5, k6 = [*self.distortion, *(0.0,) * (8 - len(self.distortion))]
        x, y = flat.T
        square, xy = x * x + y * y, x * y
        radial = (1 + square * (k1 + square * (k2 + square * k3))) / (1 + square * (k4 + square * (k5 + square * k6)))
        bent_x = x * radial + 2 * p1 * xy + p2 * (square + 2 * x * x)
        bent_y = y * radial + p1 * (square + 2 * y * y) + 2 * p2 * xy
        return np.stack([bent_x, bent_y], axis=1)

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


def _units(flat: np.ndarray) -> np.ndarray:
    """Points in the plane at focal length 1, [..., 2], as unit vectors [..., 3]."""
    x, y = flat[..., 0], flat[..., 1]
    scale = 1.0 / np.sqrt(x * x + y * y + 1.0)
    return np.stack([x * scale, y * scale, scale], axis=-1)
