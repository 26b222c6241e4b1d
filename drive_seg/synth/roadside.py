"""What stands along one side of one chunk: houses, boundaries, plants, posts, parked vehicles."""

import numpy as np

from drive_seg.synth import classes as c
from drive_seg.synth import furniture, things
from drive_seg.synth.parked import parked_cycles, parked_vehicles
from drive_seg.synth.side import Side
from drive_seg.synth.textures import BAY, FLOOR
from drive_seg.synth.things import House, Thing

_SIGNS = ("disc", "ban", "warning", "yield", "priority", "blue", "board")


class Roadside(Side):
    """Builds one side of a street in town."""

    def __init__(self, *side: object) -> None:
        super().__init__(*side)
        self.kerb = self.world.road.half
        self.walk_end = self.verge_end + self.section.walk

    def things(self) -> list[Thing]:
        """Return all still things of this side."""
        houses = {"canyon": 1.0, "suburb": 0.85, "avenue": 0.8, "open": 0.22}[self.theme]
        if not self.section.park:
            self._houses(houses)
        self._boundary()
        self._plants()
        self._posts()
        if self.world.road.parking > 0:
            self.made += parked_vehicles(self)
        self.made += parked_cycles(self)
        return self.made

    def _spans(self, margin: float) -> list[tuple[float, float]]:
        """Stretches of s that keep `margin` metres from a cross street."""
        if self.junction is None:
            return [(self.start, self.end)]
        gap = self.junction.half + margin
        return [(self.start, self.junction.centre - gap), (self.junction.centre + gap, self.end)]

    def _houses(self, chance: float) -> None:
        rng, theme = self.rng, self.theme
        setback = {
            "canyon": 0.0,
            "suburb": rng.uniform(3.0, 6.0),
            "avenue": rng.uniform(1.0, 4.0),
            "open": rng.uniform(8, 16),
        }
        for start, end in self._spans(3.2):
            at = start + (0.05 if theme == "canyon" else rng.uniform(0.3, 2.5))
            while True:
                bays = int(rng.integers(3, 7) if theme in ("canyon", "avenue") else rng.integers(2, 5))
                width = bays * BAY * rng.uniform(0.9, 1.15)
                if at + width > end:
                    width = end - at - 0.05
                    if width < 4.5:
                        break
                    bays = max(int(width / BAY), 2)
                if rng.random() < chance:
                    front = (
                        self.walk_end
                        + setback[theme]
                        + (rng.uniform(0, 0.5) if theme == "canyon" else rng.uniform(0, 2))
                    )
                    self.made.append(
                        things.building(self.world.road, self._house(bays), at, at + width, self.side * front)
                    )
                at += width + (0.05 if theme == "canyon" else rng.uniform(1.5, 6.0))

    def _house(self, bays: int) -> House:
        rng, library = self.rng, self.world.library
        floors = int(
            {
                "canyon": rng.integers(3, 7),
                "suburb": rng.integers(2, 3),
                "avenue": rng.integers(2, 5),
                "open": rng.integers(1, 4),
            }[self.theme]
        )
        shop = bool(rng.random() < {"canyon": 0.6, "suburb": 0.05, "avenue": 0.25, "open": 0.3}[self.theme])
        pitched = rng.random() < {"canyon": 0.35, "suburb": 0.95, "avenue": 0.6, "open": 0.6}[self.theme]
        tone = rng.uniform(0.82, 1.12)
        return House(
            front=library.facade(int(rng.integers(14)), bays, floors, shop),
            side=library.side(int(rng.integers(8))),
            roof=library.roof(int(rng.integers(5))) if pitched else None,
            height=floors * FLOOR * float(rng.uniform(0.92, 1.1)),
            depth=float(rng.uniform(8, 12)),
            rise=float(rng.uniform(1.6, 3.2)) if pitched else 0.0,
            tint=tuple((tone * rng.uniform(0.94, 1.06, 3)).tolist()),
            chimneys=tuple(rng.uniform(0.1, 0.9, int(rng.integers(0, 3))).tolist()) if pitched else (),
        )

    def _boundary(self) -> None:
        rng, world = self.rng, self.world
        kind = rng.choice(
            ["none", "hedge", "fence", "wall"],
            p={
                "canyon": [0.92, 0.0, 0.06, 0.02],
                "suburb": [0.25, 0.33, 0.22, 0.20],
                "avenue": [0.5, 0.2, 0.2, 0.1],
                "open": [0.45, 0.2, 0.2, 0.15],
            }[self.theme],
        )
        turn = 1 if world.due(self.index, 2, 6) else -1
        if self.theme != "canyon" and self.side == turn:
            kind = "wall" if world.due(self.index, 4, 1) else "fence" if world.due(self.index, 4, 2) else kind
        d = self.side * (self.walk_end + 0.25)
        if self.theme == "canyon" and (kind == "fence" or (self.side == turn and world.due(self.index, 3, 2))):
            kind, d = "fence", self.side * (self.kerb + 0.35)
        if self.section.park:
            kind, d = "wall", self.side * (self.walk_end + 0.25)
        if kind == "none":
            return
        variant = int(rng.integers(8))
        height = {
            "hedge": rng.uniform(0.9, 2.0),
            "fence": rng.uniform(0.95, 1.7),
            "wall": rng.uniform(0.9, 2.4),
        }[kind]
        if self.section.park:
            height = float(rng.uniform(0.45, 0.9))
        elif self.theme == "canyon":
            variant, height = 4 * (variant // 4), 1.05
        library = world.library
        texture = {"hedge": library.hedge, "fence": library.fence, "wall": library.wall}[kind](variant)
        label = {"hedge": c.VEGETATION, "fence": c.FENCE, "wall": c.WALL}[kind]
        thick = {"hedge": 0.8, "fence": 0.0, "wall": 0.3}[kind]
        for start, end in self._spans(4.5):
            at = start
            gap = rng.uniform(0, 1) < 0.5
            while at < end - 0.5:
                step = min(4.0, end - at)
                if not (gap and abs(at - start - 12.0) < 2.1):
                    self.made.append(
                        things.panel(
                            world.road,
                            texture,
                            at,
                            at + step,
                            d,
                            float(height),
                            label,
                            thick,
                            kind == "fence" and variant % 4 != 1,
                        )
                    )
                at += step

    def _plant(self, s: float, out: float, low: float, high: float) -> None:
        rng = self.rng
        height = float(rng.uniform(low, high))
        tint = tuple((rng.uniform(0.8, 1.15) * rng.uniform(0.93, 1.07, 3)).tolist())
        texture = self.world.library.tree(int(rng.integers(12)))
        self.made.append(
            things.plant(
                self.world.road,
                texture,
                s,
                self.side * out,
                height * float(rng.uniform(0.68, 0.9)),
                height,
                tint,
            )
        )

    def _plants(self) -> None:
        rng, theme = self.rng, self.theme
        row = {"canyon": 0.25, "suburb": 0.25, "avenue": 0.95, "open": 0.3}[theme]
        if rng.random() < row:
            out = self.kerb + (self.section.verge / 2 if self.section.verge > 1.0 else 0.8)
            step, offset = rng.uniform(7.5, 11.0), rng.uniform(0, 5)
            for s in np.arange(self.start + offset, self.end - 1.0, step):
                if self.free(s, 7.0):
                    self._plant(float(s), out, *((6.5, 9.5) if theme == "avenue" else (4.5, 7.0)))
        behind = 6 if self.section.park else {"canyon": 0, "suburb": 5, "avenue": 4, "open": 8}[theme]
        for _ in range(behind):
            s, out = (
                rng.uniform(self.start, self.end),
                self.walk_end + rng.uniform(12, 24 if theme != "open" else 40),
            )
            if theme == "open" and rng.random() < 0.5:
                out = self.walk_end + rng.uniform(2.0, 7.5)
            if self.free(s, 6.0):
                self._plant(float(s), float(out), 6.0, 12.0)
        for _ in range({"canyon": 0, "suburb": 4, "avenue": 3, "open": 6}[theme]):
            s, out = (
                rng.uniform(self.start, self.end),
                self.walk_end + rng.uniform(1.4, 3.0 if theme != "open" else 8.0),
            )
            if self.free(s, 6.0):
                size = rng.uniform(0.8, 2.0)
                texture = self.world.library.bush(int(rng.integers(6)))
                tint = tuple((rng.uniform(0.8, 1.15) * np.ones(3)).tolist())
                self.made.append(
                    things.plant(
                        self.world.road,
                        texture,
                        float(s),
                        self.side * float(out),
                        float(size * rng.uniform(1.2, 1.9)),
                        float(size),
                        tint,
                    )
                )

    def _posts(self) -> None:
        rng, world, out = self.rng, self.world, self.side * (self.kerb + 0.5)
        lamp = self.start + (10.0 if self.side > 0 else 30.0)
        if self.free(lamp):
            made = furniture.street_lamp(world.road, lamp, out, float(rng.uniform(6.5, 8.5)), world.pole_color)
            self.made.append(made)
        for _ in range(int(rng.integers(1, 3))):
            s = float(rng.uniform(self.start + 1, self.end - 1))
            if self.free(s):
                facing = -1 if self.side == world.road.side else 1
                kind = _SIGNS[int(rng.integers(len(_SIGNS)))]
                out_here = out if kind != "board" else self.side * (self.verge_end + 0.9)
                self.made.append(furniture.traffic_sign(world.road, s, out_here, kind, facing, world.pole_color))
        if self.theme == "canyon" and rng.random() < 0.35:
            for s in np.arange(self.start + 1.0, self.end, 2.2):
                if self.free(float(s)):
                    self.made.append(
                        furniture.bollard(world.road, float(s), self.side * (self.kerb + 0.3), world.pole_color)
                    )
