"""Roads out of town, and what stands along one side of one chunk of them.

Highways have a median, shoulders, barriers, gantries and bridges; country roads have two lanes without kerbs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from drive_seg.synth import classes as c
from drive_seg.synth import furniture, things
from drive_seg.synth.road import CHUNK, Bend, Road
from drive_seg.synth.side import Side
from drive_seg.synth.textures import BAY, FLOOR
from drive_seg.synth.things import House, Thing

OUTSIDE = ("wood", "field", "bank")
_SIGNS = ("diamond", "disc", "warning", "panel", "board")
_STEP = 8.0  # m of a barrier or wood drawn as one piece


def out_of_town_road(rng: np.random.Generator, kind: str) -> Road:
    """Draw the road of a "highway" or of the "country"."""
    side = -1 if rng.random() < 0.75 else 1
    if kind == "country":
        radius, length = float(np.exp(rng.uniform(np.log(80), np.log(500)))), float(rng.uniform(120, 320))
        bends = (Bend(min(length / (32 * radius), 0.05) * length, length, float(rng.random())),)
        shoulder = float(rng.choice([0.0, rng.uniform(0.2, 1.5)]))
        return Road(side, 1, float(rng.uniform(2.7, 3.6)), 0.0, bends, False, shoulder=shoulder, kerbs=False)
    lanes, length = int(rng.choice([2, 3, 4], p=[0.45, 0.35, 0.2])), float(rng.uniform(700, 1600))
    bends = (Bend(float(length * length / (32 * rng.uniform(700, 4000))), length, float(rng.random())),)
    green = rng.random() < 0.4
    return Road(
        side=side,
        lanes=lanes,
        lane_width=float(rng.uniform(3.4, 3.8)),
        parking=0.0,
        bends=bends,
        tram_rails=False,
        median=float(rng.uniform(5.0, 16.0) if green else rng.uniform(1.2, 4.0)),
        green_median=bool(green),
        shoulder=float(rng.uniform(0.6, 3.6)),
        kerbs=False,
        ego_lane=int(rng.integers(lanes)),
    )


@dataclass(frozen=True)
class Layout:
    """Habits of one road out of town."""

    median: str  # what stands in the middle: "concrete", "rail" or "none"
    edges: tuple[str, str]  # beside the right and left edge: "rail", "concrete", "noise wall" or "none"
    lamps: bool
    poles: bool  # for wires
    gantries: bool
    bridges: bool

    @classmethod
    def draw(cls, rng: np.random.Generator, kind: str) -> Layout:
        """Draw the layout of a "highway" or of the "country"."""
        if kind == "country":
            edges = tuple(str(rng.choice(["rail", "concrete", "none"], p=[0.25, 0.05, 0.7])) for _ in range(2))
            return cls("none", edges, False, bool(rng.random() < 0.5), False, False)
        choice = ["rail", "concrete", "noise wall", "none"]
        edges = tuple(str(rng.choice(choice, p=[0.3, 0.18, 0.15, 0.37])) for _ in range(2))
        return cls(
            median=str(rng.choice(["concrete", "rail", "none"], p=[0.5, 0.4, 0.1])),
            edges=edges,
            lamps=bool(rng.random() < 0.35),
            poles=bool(rng.random() < 0.2),
            gantries=bool(rng.random() < 0.6),
            bridges=bool(rng.random() < 0.6),
        )


class Countryside(Side):
    """Builds one side of a road out of town."""

    def __init__(self, *side: object, layout: Layout) -> None:
        super().__init__(*side)
        self.road, self.layout, self.edge = self.world.road, layout, self.verge_end

    def things(self) -> list[Thing]:
        """Return all still things of this side."""
        if self.side == -self.road.side:
            self._median()
        self._barrier()
        {"wood": self._wood, "field": self._field, "bank": self._bank}[self.theme]()
        self._posts()
        if self.side == self.road.side:
            self._overhead()
        return self.made

    def _run(self, kind: str, d: float, height: float) -> None:
        """A barrier along the whole chunk."""
        world = self.world
        variant = ("concrete", "rail", "noise wall").index(kind) + 3 * (int(world.phases[4]) % 3)
        label = c.FENCE if kind == "rail" else c.WALL
        texture, thick = world.library.barrier(variant), 0.0 if kind == "rail" else 0.3
        for s in np.arange(self.start, self.end, _STEP):
            piece = things.panel(
                self.road, texture, float(s), float(s) + _STEP, d, height, label, thick, see_through=kind == "rail"
            )
            self.made.append(piece)

    def _median(self) -> None:
        kind = self.layout.median
        if self.road.median > 0.0 and kind != "none":
            self._run(kind, self.side * 0.01, 0.75 if kind == "rail" else 0.7 + 0.5 * (int(self.world.phases[3]) % 2))

    def _barrier(self) -> None:
        kind = self.layout.edges[0 if self.side < 0 else 1]
        if kind == "none" or self.world.due(self.index // 4, 3, 2):
            return
        height = {"rail": 0.75, "concrete": 0.9, "noise wall": 2.5 + int(self.world.phases[5]) % 3}[kind]
        self._run(kind, self.side * (self.road.half + (2.0 if kind == "noise wall" else 0.25)), float(height))

    def _plant(self, s: float, out: float, texture, size: tuple[float, float], base: float = 0.0) -> None:
        tint = tuple((self.rng.uniform(0.75, 1.2) * self.rng.uniform(0.93, 1.07, 3)).tolist())
        self.made.append(things.plant(self.road, texture, s, self.side * out, *size, tint, base))

    def _tree(self, s: float, out: float, low: float, high: float, base: float = 0.0) -> None:
        height = float(self.rng.uniform(low, high))
        size = (height * float(self.rng.uniform(0.6, 0.95)), height)
        self._plant(s, out, self.world.library.tree(int(self.rng.integers(6))), size, base)

    def _bush(self, s: float, out: float, base: float = 0.0) -> None:
        height = float(self.rng.uniform(0.4, 2.2))
        size = (height * float(self.rng.uniform(1.1, 2.2)), height)
        self._plant(s, out, self.world.library.bush(int(self.rng.integers(6))), size, base)

    def _somewhere(self, near: float, far: float) -> tuple[float, float]:
        return float(self.rng.uniform(self.start, self.end)), self.edge + float(self.rng.uniform(near, far))

    def _wood(self) -> None:
        rng = self.rng
        out, height = self.edge + float(rng.uniform(1.0, 9.0)), float(rng.uniform(5.0, 14.0))
        for s in np.arange(self.start, self.end, CHUNK / 3):
            texture, end = self.world.library.thicket(int(rng.integers(5))), float(s) + CHUNK / 3
            high = height * float(rng.uniform(0.85, 1.15))
            self.made.append(things.screen(self.road, texture, float(s), end, self.side * out, high, c.VEGETATION))
        for _ in range(int(rng.integers(0, 5))):
            self._tree(float(rng.uniform(self.start, self.end)), out - float(rng.uniform(0.3, 2.0)), 5.0, 11.0)
        for _ in range(int(rng.integers(0, 9))):
            self._bush(float(rng.uniform(self.start, self.end)), out - float(rng.uniform(0.2, 2.0)))

    def _field(self) -> None:
        rng = self.rng
        for _ in range(int(rng.integers(0, 9))):
            self._tree(*self._somewhere(3.0, 45.0), 4.0, 12.0)
        for _ in range(int(rng.integers(0, 9))):
            self._bush(*self._somewhere(1.0, 20.0))
        if rng.random() < 0.25:
            s = self.start + float(rng.uniform(2.0, 20.0))
            self.made.append(self._house(s, self.edge + float(rng.uniform(10.0, 40.0))))
        if rng.random() < 0.35:
            texture = self.world.library.fence(int(rng.integers(8)))
            out = self.side * (self.edge + float(rng.uniform(1.5, 8.0)))
            for s in np.arange(self.start, self.end, _STEP):
                self.made.append(
                    things.panel(self.road, texture, float(s), float(s) + _STEP, out, 1.3, c.FENCE, see_through=True)
                )

    def _house(self, s: float, out: float) -> Thing:
        rng, library = self.rng, self.world.library
        bays, floors = int(rng.integers(3, 7)), int(rng.integers(1, 4))
        house = House(
            front=library.facade(int(rng.integers(14)), bays, floors, False),
            side=library.side(int(rng.integers(8))),
            roof=library.roof(int(rng.integers(5))) if rng.random() < 0.7 else None,
            height=floors * FLOOR,
            depth=float(rng.uniform(8, 16)),
            rise=2.0,
            tint=tuple((rng.uniform(0.8, 1.15) * np.ones(3)).tolist()),
            chimneys=(),
        )
        return things.building(self.road, house, s, s + bays * BAY, self.side * out)

    def _bank(self) -> None:
        rng, world = self.rng, self.world
        block = np.random.default_rng([int(world.phases[0]), self.index // 5 + 1000, self.side + 1])
        out, reach = self.road.half + float(block.uniform(0.5, 5.0)), float(block.uniform(4.0, 16.0))
        high, variant = reach * float(block.uniform(0.15, 0.6)), int(block.integers(6))
        texture = world.library.bank(variant)
        for s in np.arange(self.start, self.end, _STEP):
            made = things.slope(self.road, texture, float(s), float(s) + _STEP, self.side * out, reach, high)
            self.made.append(made)
        for _ in range(int(rng.integers(0, 7))):
            s, share = float(rng.uniform(self.start, self.end)), float(rng.uniform(0.1, 0.9))
            self._bush(s, out + reach * share, high * share)
        for _ in range(int(rng.integers(0, 8))):
            s = float(rng.uniform(self.start, self.end))
            self._tree(s, out + reach + float(rng.uniform(0.5, 12.0)), 4.0, 11.0, high)

    def _posts(self) -> None:
        rng, world, road = self.rng, self.world, self.road
        if self.layout.lamps:
            made = furniture.street_lamp(
                road, self.start + 20.0, self.side * (road.half + 0.8), float(rng.uniform(8, 11)), world.pole_color
            )
            self.made.append(made)
        if self.layout.poles and self.side == road.side:
            s, d = self.start + 5.0, self.side * (self.edge + 3.0)
            self.made.append(furniture.wire_pole(road, s, d, float(rng.uniform(7, 10))))
        if rng.random() < 0.5:
            s = float(rng.uniform(self.start + 1, self.end - 1))
            facing = -1 if self.side == road.side else 1
            kind = str(rng.choice(_SIGNS))
            out = self.side * (road.half + float(rng.uniform(0.6, 2.5)))
            self.made.append(furniture.traffic_sign(road, s, out, kind, facing, world.pole_color))
        if self.index % 2 and world.due(0, 2, 6):
            self.made.append(furniture.bollard(road, self.start, self.side * (road.half + 0.5), (200, 205, 205)))

    def _overhead(self) -> None:
        world, road = self.world, self.road
        if self.layout.gantries and world.due(self.index, 7, 1):
            self.made.append(furniture.gantry(road, self.start + 8.0, self.rng))
        if self.layout.bridges and world.due(self.index, 17, 2):
            tone = float(self.rng.uniform(95, 185))
            self.made.append(things.bridge(road, self.start + 14.0, float(self.rng.uniform(6, 14)), tone))
