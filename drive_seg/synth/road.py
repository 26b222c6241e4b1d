"""The road as a curve and its cross-section: which class the flat ground has at each metric point.

Road coordinates are (s, d): s is the world x, d the distance to the left of the centre line along y.
Only sums, products and floors are used, so that labels come out alike on every machine.
"""

from dataclasses import dataclass

import numpy as np

from drive_seg.synth import classes as c

CHUNK = 40.0  # m of road that share one cross-section
KERB = 0.18  # m, width of the kerb stone (sidewalk)


def wave(phase: np.ndarray | float) -> np.ndarray | float:
    """Smooth wave of period 1 and amplitude 1 made of parabolic arcs (sum and product only)."""
    part = phase - np.floor(phase) - 0.5
    return 16.0 * part * (np.abs(part) - 0.5)


def wave_slope(phase: np.ndarray | float) -> np.ndarray | float:
    """Derivative of `wave`."""
    part = phase - np.floor(phase) - 0.5
    return 32.0 * np.abs(part) - 8.0


@dataclass(frozen=True)
class Bend:
    """One wave of the centre line: amplitude and length in metres, phase in periods."""

    amplitude: float
    length: float
    phase: float


@dataclass(frozen=True)
class Section:
    """Cross-section of one side of one chunk, widths in metres from the road's edge outwards."""

    verge: float  # grass between road and pavement
    walk: float  # pavement
    lot: int  # class of the ground beyond
    park: bool = False  # a green gap between houses


@dataclass(frozen=True)
class Road:
    """Centre line and lanes. `side` is -1 where one drives on the right (d < 0), +1 on the left."""

    side: int
    lanes: int  # per direction
    lane_width: float
    parking: float  # width of the parking strip on both sides, 0 for none
    bends: tuple[Bend, ...]
    tram_rails: bool
    median: float = 0.0  # width between the inner edge lines of two carriageways
    green_median: bool = False  # terrain in the middle, 0.8 m from either edge line
    shoulder: float = 0.0  # paved, beyond the outer edge line
    kerbs: bool = True
    ego_lane: int = 0

    @property
    def inner(self) -> float:
        """|d| at which the driven lanes begin, m."""
        return self.median / 2

    @property
    def drive_half(self) -> float:
        """|d| at which the driven lanes end, m."""
        return self.inner + self.lanes * self.lane_width

    @property
    def half(self) -> float:
        """Half width of everything paved: lanes, parking strips, shoulders, m."""
        return self.drive_half + self.parking + self.shoulder

    def lane_centre(self, lane: int, oncoming: bool = False) -> float:
        """d of the centre of a lane; lane 0 is the one next to the centre line."""
        return (self.inner + (lane + 0.5) * self.lane_width) * self.side * (-1 if oncoming else 1)

    def centre(self, s: np.ndarray | float) -> np.ndarray | float:
        """World y of the centre line at s."""
        return sum(bend.amplitude * wave(s / bend.length + bend.phase) for bend in self.bends) + 0.0 * s

    def slope(self, s: np.ndarray | float) -> np.ndarray | float:
        """dy/dx of the centre line at s."""
        total = 0.0 * s
        for bend in self.bends:
            total = total + bend.amplitude / bend.length * wave_slope(s / bend.length + bend.phase)
        return total

    def point(self, s: float, d: float, z: float = 0.0) -> np.ndarray:
        """World point (3,) of road coordinates."""
        return np.array([s, float(self.centre(s)) + d, z])

    def axes(self, s: float, turn: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """Unit vectors (3,) along the road and to its left at s; `turn` -1 turns both around."""
        slope = float(self.slope(s))
        norm = float(np.sqrt(1.0 + slope * slope))
        return turn * np.array([1.0, slope, 0.0]) / norm, turn * np.array([-slope, 1.0, 0.0]) / norm


@dataclass(frozen=True)
class Junction:
    """A cross street at s = `centre`, `half` metres to either side."""

    centre: float
    half: float
    signals: bool
    tram: bool


@dataclass(frozen=True)
class GroundTable:
    """Cross-sections of consecutive chunks as arrays, for whole images at once."""

    road: Road
    first_chunk: int
    verge_end: np.ndarray  # (chunks, 2): right (d < 0), left
    walk_end: np.ndarray  # (chunks, 2)
    lot: np.ndarray  # (chunks, 2) class ids
    junction: np.ndarray  # (chunks,) s of the cross street, far away where there is none
    junction_half: np.ndarray  # (chunks,)

    def rows(self, s: np.ndarray) -> np.ndarray:
        """Index of the chunk that holds each s."""
        chunk = np.floor(s / CHUNK).astype(np.int64) - self.first_chunk
        return np.clip(chunk, 0, len(self.lot) - 1)

    def labels(self, s: np.ndarray, d: np.ndarray) -> np.ndarray:
        """Class ids, uint8, of the ground at road coordinates (arrays of one shape)."""
        chunk = self.rows(s)
        cell = chunk * 2 + (d > 0)
        out = np.abs(d)
        half = self.road.half
        label = np.where(out < self.walk_end.ravel()[cell], c.SIDEWALK, self.lot.ravel()[cell]).astype(np.uint8)
        label[out < self.verge_end.ravel()[cell]] = c.TERRAIN
        cross = np.abs(s - self.junction[chunk]) - self.junction_half[chunk]
        beside = (cross < 3.0) & (out < 70.0)
        if beside.any():
            label[beside] = c.SIDEWALK
            label[beside & (cross < 0.0)] = c.ROAD
            # The pavement's corners are cut off as a kerb's curve would.
            label[beside & (cross + (out - half) < 2.0) & (cross < 2.0)] = c.ROAD
        label[out < half] = c.ROAD
        if self.road.green_median:
            label[out < self.road.inner - 0.8] = c.TERRAIN
        return label
