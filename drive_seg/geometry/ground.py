"""Free space on the ground: the pixels of a mask, laid flat around the vehicle.

Frames as in REP 103: the vehicle's x points forward, y to the left, z up, and the ground is its plane z = 0. A camera's
optical frame has x to the right of the image, y down and z into the picture.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from drive_seg.geometry.lens import Lens
from drive_seg.labels import VOID

FREE, OCCUPIED, UNSEEN = 0, 100, -1
"""The values of an occupancy grid."""
DRIVABLE_GROUND, VOID_PIXEL, OTHER_GROUND, STANDING = 0, 1, 2, 3
"""What a pixel can be: ground to drive on; not known; other ground; something that stands on the ground."""

MAX_CELLS = 4_000_000
LEAST_DIP = 1e-6
"""A ray that goes down by less is parallel to the ground."""
_BODY_TO_OPTICAL = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
"""Columns: the optical axes in the camera's body frame."""


class GroundError(ValueError):
    """The ground cannot be seen like that; the message is one sentence."""


@dataclass(frozen=True)
class Mounting:
    """Where a camera is in the vehicle frame.

    Attributes:
        rotation: rows of the matrix that turns vectors of the optical frame into the vehicle frame.
        position: x, y, z of the optical centre in the vehicle frame, metres.
    """

    rotation: tuple[tuple[float, float, float], ...]
    position: tuple[float, float, float]

    @classmethod
    def from_pose(cls, x: float, y: float, z: float, roll: float, pitch: float, yaw: float) -> Mounting:
        """From the pose of the camera's body: metres, and radians about the fixed axes x, then y, then z (as in URDF).

        The body frame of a camera has x along its view, y to the left, z up. So all angles are 0 for a camera that
        looks straight ahead; a positive pitch looks down, a positive yaw to the left, a positive roll leans right.
        """
        turn = _about(2, yaw) @ _about(1, pitch) @ _about(0, roll)
        return cls._of(turn @ _BODY_TO_OPTICAL, (x, y, z))

    @classmethod
    def from_transform(cls, translation: Sequence[float], quaternion: Sequence[float]) -> Mounting:
        """From the transform of the optical frame in the vehicle frame: metres, and a quaternion x, y, z, w.

        Raises:
            GroundError: if the quaternion has no length.
        """
        x, y, z, w = quaternion
        norm = math.sqrt(x * x + y * y + z * z + w * w)
        if not norm > 1e-6:
            raise GroundError("the transform from the camera to the vehicle has a quaternion of length 0")
        x, y, z, w = x / norm, y / norm, z / norm, w / norm
        rotation = np.array(
            [
                [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
                [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
                [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
            ]
        )
        return cls._of(rotation, translation)

    def is_near(self, other: Mounting, metres: float = 1e-3, radians: float = 5e-4) -> bool:
        """Whether the two are the same for all that a grid can show."""
        moved = np.abs(np.subtract(self.position, other.position)).max()
        turned = np.abs(np.subtract(self.rotation, other.rotation)).max()
        return bool(moved <= metres and turned <= radians)

    @classmethod
    def _of(cls, rotation: np.ndarray, position: Sequence[float]) -> Mounting:
        x, y, z = (float(value) for value in position)
        if not (np.isfinite(rotation).all() and all(map(math.isfinite, (x, y, z)))):
            raise GroundError("the camera's mounting holds numbers that are not finite")
        return cls(tuple(tuple(float(value) for value in row) for row in rotation), (x, y, z))


@dataclass(frozen=True)
class GridSpec:
    """Extent of a grid in the vehicle frame, metres: x from -backward to forward, y from -sideways to sideways.

    Where an extent is no multiple of the cell, it is rounded up to one.

    Raises:
        GroundError: if there are no cells or too many.
    """

    cell: float
    forward: float
    sideways: float
    backward: float = 0.0

    def __post_init__(self) -> None:
        extents = (self.forward, self.sideways, self.backward)
        if not (self.cell > 0 and min(extents) >= 0 and self.sideways > 0 and self.forward + self.backward > 0):
            raise GroundError(f"a grid needs a cell and a range over 0, not {self.cell} and {list(extents)}")
        if self.columns * self.rows > MAX_CELLS:
            raise GroundError(
                f"a grid of {self.columns} x {self.rows} cells is too large, {MAX_CELLS} are possible: "
                "take larger cells or a shorter range"
            )

    @property
    def columns(self) -> int:
        """Number of cells along x."""
        return self._cells(self.forward) + self._cells(self.backward)

    @property
    def rows(self) -> int:
        """Number of cells along y."""
        return 2 * self._cells(self.sideways)

    @property
    def origin(self) -> tuple[float, float]:
        """x and y of the outer corner of the first cell, that with the least x and y."""
        return -self._cells(self.backward) * self.cell, -self._cells(self.sideways) * self.cell

    def centres(self) -> np.ndarray:
        """x and y of the middles of the cells, float64 [rows, columns, 2]."""
        x = self.origin[0] + (np.arange(self.columns) + 0.5) * self.cell
        y = self.origin[1] + (np.arange(self.rows) + 0.5) * self.cell
        return np.stack(np.meshgrid(x, y), axis=-1)

    def _cells(self, extent: float) -> int:
        return math.ceil(extent / self.cell - 1e-6)


class Ground:
    """Which cells of the ground each pixel shows; worked out once for a lens, a mounting and a grid.

    Each cell is judged by all pixels whose centres see ground within it, and where there are none (far away a pixel
    covers many cells) by the pixel at the middle of the cell.

    What stands on the ground is seen only where it touches the ground: its upper parts would be laid far behind it.
    So along each direction from the camera everything beyond the first standing thing is unseen.

    Raises:
        GroundError: if the camera is not above the ground.
    """

    def __init__(self, lens: Lens, mounting: Mounting, grid: GridSpec) -> None:
        self.lens, self.mounting, self.grid = lens, mounting, grid
        check_height(mounting)
        points = self._ground_points()
        away = points - mounting.position[:2]
        distance = np.hypot(away[:, 0], away[:, 1])
        pixel, cell = self._samples(points, distance)
        # From far to near, so that of what is written for one direction the nearest stays.
        order = np.argsort(-distance[pixel], kind="stable")
        self._pixel, self._cell = pixel[order].astype(np.int32), cell[order].astype(np.int32)
        self._distance = distance[self._pixel].astype(np.float32)
        # As wide as a pixel column in the middle of the picture.
        bearing = np.arctan2(away[self._pixel, 1], away[self._pixel, 0]) * lens.fx
        self._bearing = np.floor(bearing - bearing.min(initial=0.0)).astype(np.int32)
        self._bearings = int(self._bearing.max(initial=0)) + 1
        self._seen = np.full(grid.rows * grid.columns + 1, UNSEEN, np.int8)
        self._seen[self._cell] = FREE

    @property
    def is_seen(self) -> bool:
        """Whether the camera looks at any cell of the grid."""
        return bool((self._seen[:-1] == FREE).any())

    def occupancy(self, kinds: np.ndarray) -> np.ndarray:
        """The grid of one mask.

        Args:
            kinds: uint8 [H, W] of the lens's size, see :func:`ground_kinds`.

        Returns:
            int8 [rows, columns], the first cell at ``grid.origin``, y over rows and x over columns: 0 where all that is
            seen of a cell is ground to drive on, 100 where anything of it is other ground or something standing, -1
            where neither is sure: out of the picture, hidden, or void.
        """
        seen = kinds.reshape(-1)[self._pixel]
        standing = seen == STANDING
        nearest = np.full(self._bearings, np.inf, np.float32)
        nearest[self._bearing[standing]] = self._distance[standing]
        hidden = self._distance > nearest[self._bearing]
        # A pixel column may change over to the next direction halfway up a thing.
        beside = np.minimum(nearest, np.minimum(np.append(nearest[1:], np.inf), np.append(np.inf, nearest[:-1])))
        hidden |= standing & (self._distance > beside[self._bearing] + self.grid.cell)
        cells = self._seen.copy()
        cells[self._cell[hidden | (seen == VOID_PIXEL)]] = UNSEEN
        cells[self._cell[~hidden & (seen >= OTHER_GROUND)]] = OCCUPIED
        return cells[:-1].reshape(self.grid.rows, self.grid.columns)

    def _ground_points(self) -> np.ndarray:
        """x and y in the vehicle frame of what each pixel sees of the ground, float64 [H * W, 2]; NaN for none."""
        x, y, z = self.mounting.position
        rays = self.lens.rays().reshape(-1, 3) @ self._rotation.T
        down = -rays[:, 2]
        reach = np.divide(z, down, out=np.full(len(down), np.nan), where=down > LEAST_DIP)
        return rays[:, :2] * reach[:, None] + (x, y)

    def _samples(self, points: np.ndarray, distance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Which pixel speaks for which cell; a cell has as many as there are in it, or one.

        The number after the last cell stands for what is not in the grid, but may hide what is.
        """
        grid, count = self.grid, self.grid.rows * self.grid.columns
        column, row = (np.floor((points - grid.origin) / grid.cell)).T
        inside = (column >= 0) & (column < grid.columns) & (row >= 0) & (row < grid.rows)
        cell = np.full(len(points), count)
        cell[inside] = (row[inside] * grid.columns + column[inside]).astype(np.int64)
        centres = grid.centres().reshape(-1, 2)
        farthest = np.hypot(*(centres - self.mounting.position[:2]).T).max() + grid.cell
        pixel = np.flatnonzero(distance <= farthest)
        bare = np.setdiff1d(np.arange(count), cell[pixel])
        middle = self._pixels_of(centres[bare], points)
        found = middle >= 0
        return np.concatenate([pixel, middle[found]]), np.concatenate([cell[pixel], bare[found]])

    def _pixels_of(self, places: np.ndarray, points: np.ndarray) -> np.ndarray:
        """The pixel that shows each place on the ground, int64 [N]; -1 for those out of the picture.

        Args:
            places: x and y, float64 [N, 2].
            points: what each pixel sees of the ground, see ``_ground_points``.
        """
        x, y, z = self.mounting.position
        away = np.concatenate([places - (x, y), np.full((len(places), 1), -z)], axis=1)
        pixels = np.full(len(places), -1)
        at = self.lens.project(away @ self._rotation)
        inside = ((at >= -0.5) & (at < (self.lens.width - 0.5, self.lens.height - 0.5))).all(axis=1)
        column, row = np.rint(at[inside]).astype(np.int64).T
        pixels[inside] = row * self.lens.width + column
        # The pixel must look there, too: a distortion may fold what is far out of the picture back into it.
        seen = np.concatenate([points[pixels] - (x, y), np.full((len(places), 1), -z)], axis=1)
        seen /= np.linalg.norm(seen, axis=1, keepdims=True)
        away /= np.linalg.norm(away, axis=1, keepdims=True)
        apart = np.linalg.norm(seen - away, axis=1)
        return np.where(inside & (apart < 2.0 / min(self.lens.fx, self.lens.fy)), pixels, -1)

    @property
    def _rotation(self) -> np.ndarray:
        return np.array(self.mounting.rotation)


def check_height(mounting: Mounting) -> None:
    """GroundError unless the camera is above the ground."""
    if not mounting.position[2] > 0:
        raise GroundError(
            f"the camera is {mounting.position[2]:.2f} m above the plane z = 0 of the vehicle frame, which is the "
            "ground here: it must be above it"
        )


def ground_kinds(label: np.ndarray, drivable: np.ndarray, flat: Sequence[int]) -> np.ndarray:
    """What each pixel is for the grid.

    Args:
        label: uint8 [H, W], class ids, 255 = void.
        drivable: uint8 [H, W], not 0 = drivable.
        flat: ids of the classes that lie on the ground: they hide nothing behind them.

    Returns:
        uint8 [H, W] for :meth:`Ground.occupancy`.
    """
    table = np.full(256, STANDING, np.uint8)
    table[list(flat)] = OTHER_GROUND
    table[VOID] = VOID_PIXEL
    kinds = cv2.LUT(label, table)
    kinds[drivable > 0] = DRIVABLE_GROUND
    return kinds


def _about(axis: int, angle: float) -> np.ndarray:
    """The rotation about a coordinate axis."""
    first, second = (axis + 1) % 3, (axis + 2) % 3
    matrix = np.eye(3)
    matrix[first, first] = matrix[second, second] = math.cos(angle)
    matrix[first, second], matrix[second, first] = -math.sin(angle), math.sin(angle)
    return matrix
