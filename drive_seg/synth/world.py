"""Layout of one drive: the road, and what stands beside it, chunk by chunk, from the seed."""

from dataclasses import dataclass

import numpy as np

from drive_seg.synth import classes as c
from drive_seg.synth import furniture, things
from drive_seg.synth.classes import derived_rng
from drive_seg.synth.countryside import OUTSIDE, Countryside, Layout, out_of_town_road
from drive_seg.synth.library import Library
from drive_seg.synth.road import CHUNK, Bend, GroundTable, Junction, Road, Section
from drive_seg.synth.roadside import Roadside
from drive_seg.synth.scene import Scene
from drive_seg.synth.side import Place
from drive_seg.synth.things import Thing

THEMES = ("canyon", "suburb", "avenue", "open")
_JUNCTION_EVERY = 4
_PARK_EVERY = 4
_KEPT_CHUNKS = 40
_KEPT_PLANS = 400


@dataclass(frozen=True)
class Chunk:
    """Ground and still things of `CHUNK` metres of road. sections[0] is the right side (d < 0)."""

    index: int
    theme: str
    sections: tuple[Section, Section]
    junction: Junction | None
    things: tuple[Thing, ...]


class World(Place):
    """Everything that does not move, endless along the road in both directions."""

    def __init__(self, seed: int, library: Library, scene: Scene) -> None:
        rng = derived_rng(seed, 1)
        self._seed = seed
        self.wide = scene.wide
        self.in_town = scene.road == "street"
        self.base_theme = THEMES[int(rng.choice(4, p=[0.36, 0.24, 0.22, 0.18]))] if self.in_town else scene.road
        road = _road(rng, self.base_theme) if self.in_town else out_of_town_road(rng, scene.road)
        self.layout = None if self.in_town else Layout.draw(rng, scene.road)
        phases = rng.integers(0, 1 << 16, 8)
        super().__init__(road, library, phases, tuple((rng.uniform(70, 150) * np.array([1.0, 1.01, 1.0])).tolist()))
        self._chunks: dict[int, Chunk] = {}
        self._plans: dict[int, tuple] = {}

    def chunk(self, index: int) -> Chunk:
        """Return the chunk that starts at s = index * CHUNK."""
        if index not in self._chunks:
            if len(self._chunks) >= _KEPT_CHUNKS:
                self._chunks.pop(next(iter(self._chunks)))
            self._chunks[index] = self._make(index)
        return self._chunks[index]

    def chunks(self, s0: float, s1: float) -> list[Chunk]:
        """Chunks that overlap s0..s1."""
        return [self.chunk(i) for i in range(int(s0 // CHUNK), int(s1 // CHUNK) + 1)]

    def table(self, s0: float, s1: float) -> GroundTable:
        """Ground of the chunks that overlap s0..s1."""
        first, last = int(s0 // CHUNK), int(s1 // CHUNK)
        plans = [self._plan(i) for i in range(first, last + 1)]
        half = self.road.half
        return GroundTable(
            road=self.road,
            first_chunk=first,
            verge_end=np.array([[half + side.verge for side in sections] for _, sections, _ in plans]),
            walk_end=np.array([[half + side.verge + side.walk for side in sections] for _, sections, _ in plans]),
            lot=np.array([[side.lot for side in sections] for _, sections, _ in plans], np.uint8),
            junction=np.array([junction.centre if junction else 1e7 for _, _, junction in plans]),
            junction_half=np.array([junction.half if junction else 0.0 for _, _, junction in plans]),
        )

    def _theme(self, index: int) -> str:
        rng = derived_rng(self._seed, 2, index // 3)
        if not self.in_town:
            return OUTSIDE[int(rng.choice(3, p=[0.34, 0.33, 0.33]))]
        return self.base_theme if rng.random() < 0.62 else THEMES[int(rng.integers(4))]

    def _plan(self, index: int) -> tuple[str, tuple[Section, Section], Junction | None]:
        if index not in self._plans:
            if len(self._plans) >= _KEPT_PLANS:
                self._plans.pop(next(iter(self._plans)))
            self._plans[index] = self._new_plan(index)
        return self._plans[index]

    def _new_plan(self, index: int) -> tuple[str, tuple[Section, Section], Junction | None]:
        rng = derived_rng(self._seed, 3, index)
        theme = self._theme(index)
        if not self.in_town:
            right, left = (Section(float(rng.uniform(0.5, 4.0)), 0.0, c.TERRAIN) for _ in range(2))
            return theme, (right, left), None
        right, left = (_section(derived_rng(self._seed, 4, index // 3, side), theme, self.wide) for side in (0, 1))
        if theme == "canyon" and self.due(index, _PARK_EVERY, 1):
            park = Section(0.0, right.walk, c.TERRAIN, park=True)
            right, left = (park, left) if rng.random() < 0.5 else (right, park)
        junction = None
        if self.due(index, _JUNCTION_EVERY, 0):
            junction = Junction(
                (index + 0.5) * CHUNK,
                float(rng.uniform(3.4, 4.6)),
                not self.due(index // _JUNCTION_EVERY, 3, 2),
                True,
            )
        return theme, (right, left), junction

    def _make(self, index: int) -> Chunk:
        theme, sections, junction = self._plan(index)
        made: list[Thing] = []
        for side, section in zip((-1, 1), sections, strict=True):
            rng = derived_rng(self._seed, 5, index, side)
            if self.in_town:
                made += Roadside(self, rng, index, theme, side, section, junction).things()
            else:
                made += Countryside(self, rng, index, theme, side, section, layout=self.layout).things()
        if junction:
            made += self._signals(derived_rng(self._seed, 6, index), junction, sections)
        return Chunk(index, theme, sections, junction, tuple(made))

    def _signals(self, rng: np.random.Generator, junction: Junction, sections) -> list[Thing]:
        road, made = self.road, []
        lamp = int(rng.choice([0, 2, 2, 1]))
        arm = float(rng.choice([0.0, 2.5, 4.0]))
        before = junction.centre - junction.half - 5.0
        after = junction.centre + junction.half + 5.0
        for side, s, facing in ((road.side, before, -1), (-road.side, after, 1), (-road.side, before, -1)):
            section = sections[0 if side < 0 else 1]
            d = side * (road.half + 0.55)
            if junction.signals:
                made.append(furniture.traffic_light(road, s, d, lamp, facing, arm if side == road.side else 0.0))
            elif section.walk or section.verge:
                made.append(
                    furniture.traffic_sign(road, s, d, str(rng.choice(["yield", "priority"])), facing, self.pole_color)
                )
        if junction.tram:
            made.append(self._tram(rng, junction))
        return made

    def _tram(self, rng: np.random.Generator, junction: Junction) -> Thing:
        mesh, length, width = self.library.vehicle("train", int(rng.integers(3)))
        side = 1 if rng.random() < 0.5 else -1
        d = side * (self.road.half + 2.5 + length / 2 + rng.uniform(0, 5))
        origin = self.road.point(junction.centre, 0.0) + np.array([0.0, d, 0.0])
        forward, left = np.array([0.0, 1.0, 0.0]), np.array([-1.0, 0.0, 0.0])
        return Thing(
            junction.centre - width / 2,
            junction.centre + width / 2,
            d - length / 2,
            d + length / 2,
            lambda canvas: mesh.draw(canvas, origin, forward, left),
            things.outline(origin, forward, left, length, width),
            2.0,
        )


def _road(rng: np.random.Generator, theme: str) -> Road:
    lanes = 2 if rng.random() < {"canyon": 0.3, "suburb": 0.1, "avenue": 0.35, "open": 0.35}[theme] else 1
    parking = 2.1 if rng.random() < {"canyon": 0.6, "suburb": 0.5, "avenue": 0.45, "open": 0.2}[theme] else 0.0
    length = rng.uniform(220, 420)
    bends = (
        Bend(float(rng.uniform(0.5, 1.0) * length * length / (32 * 330)), float(length), float(rng.random())),
        Bend(float(rng.uniform(0, 1.2)), float(rng.uniform(110, 170)), float(rng.random())),
    )
    return Road(
        side=-1 if rng.random() < 0.6 else 1,
        lanes=lanes,
        lane_width=float(rng.uniform(3.0, 3.7)),
        parking=parking,
        bends=bends,
        tram_rails=bool(rng.random() < 0.2),
    )


def _section(rng: np.random.Generator, theme: str, wide: bool) -> Section:
    if wide and theme != "canyon" and rng.random() < 0.35:  # no pavement
        return Section(float(rng.uniform(0.0, 3.0)), 0.0, int(rng.choice([c.TERRAIN, c.TERRAIN, c.SIDEWALK])))
    if theme == "canyon":
        return Section(0.0, float(rng.uniform(3.2, 5.5)), c.SIDEWALK)
    if theme == "suburb":
        return Section(float(rng.choice([0.0, 1.3])), float(rng.uniform(2.2, 3.4)), c.TERRAIN)
    if theme == "avenue":
        return Section(
            float(rng.uniform(1.4, 2.4)),
            float(rng.uniform(2.6, 4.0)),
            int(rng.choice([c.TERRAIN, c.SIDEWALK])),
        )
    return Section(float(rng.uniform(1.5, 5.0)), float(rng.choice([0.0, 1.9, 2.4])), c.TERRAIN)
