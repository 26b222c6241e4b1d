"""Small solid shapes made of flat polygons: building them, and drawing them from any side."""

import math
from dataclasses import dataclass

import cv2
import numpy as np

from drive_seg.synth.camera import clip_near
from drive_seg.synth.canvas import SHIFT, Canvas, fixed_point


@dataclass(frozen=True)
class Mesh:
    """Polygons in local axes (forward, left, up), metres, in drawing order for a convex body.

    `owner[i]` is the part of polygon i; parts are drawn from the farthest to the nearest.
    """

    points: np.ndarray  # (total, 3)
    starts: np.ndarray  # (polygons + 1,)
    colors: np.ndarray  # (polygons, 3) BGR albedo
    normals: np.ndarray  # (polygons, 3)
    glow: np.ndarray  # (polygons,) 1 for lamps that are on, which need no light, 0.5 for those that are on in the dark
    detail: np.ndarray  # (polygons,) bool: left out when small
    owner: np.ndarray  # (polygons,)
    centres: np.ndarray  # (parts, 3)
    label: int

    def draw(self, canvas: Canvas, origin: np.ndarray, forward: np.ndarray, left: np.ndarray) -> None:
        """Draw at a world point with unit axes `forward` and `left` (3,)."""
        view = canvas.view
        p = self.points
        world = origin + p[:, :1] * forward + p[:, 1:2] * left + p[:, 2:] * np.array([0.0, 0.0, 1.0])
        cam = view.to_camera(world)
        if cam[:, 2].max() < 0.5:
            return
        to_eye = view.position - origin
        eye = np.array([(to_eye * forward).sum(), (to_eye * left).sum(), to_eye[2]])
        offset = eye - p[self.starts[:-1]]
        visible = (offset * self.normals).sum(axis=1) > 0.0
        distance = math.sqrt(float((to_eye**2).sum()))
        if distance > 45.0:
            visible &= ~self.detail
        normals = self.normals[:, :1] * forward + self.normals[:, 1:2] * left
        normals[:, 2] += self.normals[:, 2]
        brightness = np.where(self.glow > (0.25 if canvas.light.dark else 0.75), 1.0, canvas.light.facing(normals))
        colors = canvas.light.shade(self.colors, brightness, distance)
        safe = cam[:, 2].min() > 0.5
        pixels = fixed_point(view.to_pixels(cam)) if safe else None
        fills = [(*color, self.label) for color in colors.tolist()]
        order = np.argsort(-((self.centres - eye) ** 2).sum(axis=1), kind="stable")
        for part in order:
            for i in np.flatnonzero(visible & (self.owner == part)):
                a, b = self.starts[i], self.starts[i + 1]
                if safe:
                    cv2.fillPoly(canvas.buffer, [pixels[a:b]], fills[i], cv2.LINE_8, SHIFT)
                else:
                    cut = clip_near(cam[a:b])
                    if len(cut) >= 3:
                        canvas.fill(view.to_pixels(cut), fills[i][:3], self.label)


class MeshBuilder:
    """Collects polygons of convex parts; normals are turned outwards from the part's centre."""

    def __init__(self, label: int) -> None:
        self.label = label
        self._polygons: list[np.ndarray] = []
        self._colors: list[np.ndarray] = []
        self._normals: list[np.ndarray] = []
        self._glow: list[float] = []
        self._detail: list[bool] = []
        self._owner: list[int] = []
        self._centres: list[np.ndarray] = []

    def part(self, centre) -> None:
        """Start a part; later polygons belong to it."""
        self._centres.append(np.asarray(centre, np.float64))

    def face(self, points, color, glow: float = 0.0, detail: bool = False) -> np.ndarray:
        """Add a polygon (n, 3); returns its points."""
        points = np.asarray(points, np.float64)
        normal = _normal(points.tolist(), self._centres[-1].tolist())
        self._polygons.append(points)
        self._colors.append(np.asarray(color, np.float64))
        self._normals.append(np.array(normal))
        self._glow.append(float(glow))
        self._detail.append(detail)
        self._owner.append(len(self._centres) - 1)
        return points

    def inset(self, quad, u0: float, u1: float, v0: float, v1: float, color, glow=False, detail=True) -> np.ndarray:
        """Add the part u0..u1, v0..v1 of a quad given as (origin, u end, both ends, v end)."""
        a, b, d = quad[0], quad[1], quad[3]
        far = quad[2]

        u, v = np.array([[u0], [u1], [u1], [u0]]), np.array([[v0], [v0], [v1], [v1]])
        points = a * (1 - u) * (1 - v) + b * u * (1 - v) + far * u * v + d * (1 - u) * v
        return self.face(points, color, glow, detail)

    def box(self, l0, l1, width, z0, z1, color) -> dict[str, np.ndarray]:
        """Add a box l0..l1 long, centred sideways; returns its faces, each (bottom edge, top edge)."""
        w = width / 2
        corner = lambda length, side, z: (length, side * w, z)  # noqa: E731
        faces = {
            "left": [corner(l0, 1, z0), corner(l1, 1, z0), corner(l1, 1, z1), corner(l0, 1, z1)],
            "right": [corner(l0, -1, z0), corner(l1, -1, z0), corner(l1, -1, z1), corner(l0, -1, z1)],
            "front": [corner(l1, 1, z0), corner(l1, -1, z0), corner(l1, -1, z1), corner(l1, 1, z1)],
            "back": [corner(l0, 1, z0), corner(l0, -1, z0), corner(l0, -1, z1), corner(l0, 1, z1)],
            "top": [corner(l0, 1, z1), corner(l1, 1, z1), corner(l1, -1, z1), corner(l0, -1, z1)],
        }
        return {name: self.face(points, color) for name, points in faces.items()}

    def wheel(self, at: float, side: float, radius: float, hub=(120, 122, 124)) -> None:
        """Add a wheel seen from the side: `side` is its signed distance from the middle."""
        angles = np.arange(14) * (2 * math.pi / 14)
        ring = np.stack([np.round(np.cos(angles), 9), np.zeros(14), np.round(np.sin(angles), 9)], 1)
        centre = np.array([at, side, radius])
        self.face(centre + ring * radius, (26, 26, 28))
        self.face(centre + ring * radius * 0.6 + [0, 0.002 * np.sign(side), 0], hub, detail=True)
        self.face(centre + ring * radius * 0.2 + [0, 0.004 * np.sign(side), 0], (50, 50, 52), detail=True)

    def build(self) -> Mesh:
        """Return the finished mesh."""
        sizes = [len(points) for points in self._polygons]
        return Mesh(
            points=np.concatenate(self._polygons),
            starts=np.concatenate([[0], np.cumsum(sizes)]),
            colors=np.stack(self._colors),
            normals=np.stack(self._normals),
            glow=np.array(self._glow),
            detail=np.array(self._detail),
            owner=np.array(self._owner),
            centres=np.stack(self._centres),
            label=self.label,
        )


def _normal(points: list[list[float]], centre: list[float]) -> list[float]:
    """Unit normal of a flat polygon, away from `centre`; plain floats, since arrays of three are slow."""
    (x0, y0, z0), (x1, y1, z1), (x2, y2, z2) = points[:3]
    ax, ay, az, bx, by, bz = x1 - x0, y1 - y0, z1 - z0, x2 - x0, y2 - y0, z2 - z0
    nx, ny, nz = ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx
    length = max(math.sqrt(nx * nx + ny * ny + nz * nz), 1e-9)
    normal = [nx / length, ny / length, nz / length]
    mean = [sum(axis) / len(points) for axis in zip(*points, strict=True)]
    outwards = sum((m - c) * n for m, c, n in zip(mean, centre, normal, strict=True))
    return normal if outwards >= 0 else [-n for n in normal]
