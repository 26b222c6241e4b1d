"""What moves: the ego car's own motion, vehicles in both directions, cyclists, pedestrians."""

import math

import numpy as np

from drive_seg.synth import people, things
from drive_seg.synth.camera import EgoPose
from drive_seg.synth.classes import derived_rng
from drive_seg.synth.road import CHUNK, wave, wave_slope
from drive_seg.synth.things import Thing, placed
from drive_seg.synth.world import Chunk, World

_SPACING = 31.0  # m between oncoming vehicles
_SLOTS = 7
_BEHIND = 25.0
_START = 15.0
_COLORS = [(40, 40, 170), (160, 90, 30), (45, 45, 48), (165, 168, 170), (60, 130, 60), (40, 120, 210)]


class Traffic:
    """Everything that moves, as a function of time in seconds."""

    def __init__(self, seed: int, world: World, jam: bool = False) -> None:
        rng = derived_rng(seed, 10)
        self._seed, self._world, self._road = seed, world, world.road
        self.speed = float(rng.uniform(6.5, 9.5))
        self._sway = rng.random(3)
        self._oncoming_speed = float(rng.uniform(7.0, 10.0))
        kinds = ["car"] * 8 + ["truck", "bus", "motorcycle", "bicycle", "bicycle"] + ["none"] * 3
        if world.road.tram_rails:
            kinds[0] = "train"
        self._order = [kinds[i] for i in rng.permutation(len(kinds))]
        self._jam = jam
        self._busy = 1.0 if not world.wide else float(np.exp(rng.uniform(-0.7, 1.2)))
        if jam:
            self.speed, self._oncoming_speed = float(rng.uniform(1.6, 3.5)), float(rng.uniform(0.5, 9.0))
        elif not world.in_town:
            low, high = (19.0, 34.0) if world.base_theme == "highway" else (9.0, 24.0)
            self.speed, self._oncoming_speed = (float(rng.uniform(low, high)) for _ in range(2))
        self._clothes = people.varied_clothes if world.wide else people.clothes
        self._crowd = {"canyon": 3.2, "suburb": 1.0, "avenue": 1.8, "open": 0.6}

    def travelled(self, t: float) -> float:
        """s of the ego car at time t."""
        return _START + self.speed * t + 3.0 * float(wave(t / 17.0 + self._sway[0]))

    def ego(self, t: float) -> EgoPose:
        """Pose of the ego car: along its lane, with a little weaving."""
        road = self._road
        s = self.travelled(t)
        speed = self.speed + 3.0 / 17.0 * float(wave_slope(t / 17.0 + self._sway[0]))
        weave = 0.18 * float(wave(t / 11.0 + self._sway[1]))
        drift = 0.18 / 11.0 * float(wave_slope(t / 11.0 + self._sway[1])) / max(speed, 1.0)
        y = float(road.centre(s)) + road.lane_centre(road.ego_lane) + weave
        yaw = round(math.atan(float(road.slope(s)) + drift), 10)
        return EgoPose(s, y, yaw, speed)

    def things(self, t: float, chunks: list[Chunk]) -> list[Thing]:
        """All moving things near the ego car at time t."""
        ego = self.travelled(t)
        if self._jam or not self._world.in_town:
            made = self._queues(t, ego) if self._jam else self._open_lanes(t, ego)
            return made + [thing for chunk in chunks for thing in self._walkers(t, chunk)]
        made = self._stream(t, ego, 20, self._road.lane_centre(0, True), -self._oncoming_speed, self._order)
        if self._road.lanes > 1:
            order = ["car", "none", "car", "none", "truck", "car", "none", "car", "none", "car", "none"]
            made += self._stream(t, ego, 21, self._road.lane_centre(1, True), -self._oncoming_speed * 0.85, order)
            made += self._stream(t, ego, 22, self._road.lane_centre(1), self.speed + 1.7, order)
        order = ["bicycle", "none", "none", "none", "motorcycle", "none"]
        edge = (self._road.drive_half - 0.5) * self._road.side
        if self._road.lanes == 1:
            made += self._stream(t, ego, 23, edge, self.speed * 0.45, order)
        if self._world.wide:
            made += self._stream(t, ego, 27, edge, self.speed * 0.6, ["bicycle", "none", "bicycle", "none"])
            made += self._stream(t, ego, 28, -edge, -4.5, ["bicycle", "none", "none", "motorcycle"])
        made += self._leader(t, ego)
        for chunk in chunks:
            made += self._walkers(t, chunk)
        return made

    def _stream(self, t: float, ego: float, key: int, d: float, speed: float, order: list[str]) -> list[Thing]:
        """Vehicles of one lane at one speed: slots that wrap around far ahead of (or behind) the ego car."""
        made, loop = [], _SLOTS * _SPACING
        for slot in range(_SLOTS):
            turns, ahead = divmod(slot * _SPACING + speed * t - ego + _BEHIND, loop)
            number = int(turns) * _SLOTS + slot
            kind = order[(number * 5 + 3) % len(order)] if len(order) % 5 else order[(number * 7 + 3) % len(order)]
            if kind == "none":
                continue
            rng = derived_rng(self._seed, key, number)
            s = ego + ahead - _BEHIND + float(rng.uniform(-5, 5))
            made.append(self._vehicle(rng, kind, s, d, 1 if speed > 0 else -1, t))
        return made

    def _open_lanes(self, t: float, ego: float) -> list[Thing]:
        """Free traffic out of town: streams in all lanes, cyclists and motorcycles on country roads."""
        road, made = self._road, self._leader(t, ego)
        order = ["car", "none", "car", "truck", "none", "car", "car", "none", "car", "truck", "none"]
        for lane in range(road.lanes):
            rng = derived_rng(self._seed, 30, lane)
            speed = self.speed + float(rng.uniform(-4.0, 6.0))
            turned = [order[i] for i in rng.permutation(len(order))]
            made += self._stream(t, ego, 31 + lane, road.lane_centre(lane, True), -self._oncoming_speed, turned)
            if lane != road.ego_lane:
                made += self._stream(t, ego, 41 + lane, road.lane_centre(lane), speed, turned)
        if road.lanes == 1:
            rare = ["bicycle", "none", "none", "none", "motorcycle", "none", "bicycle"]
            made += self._stream(t, ego, 51, (road.drive_half - 0.4) * road.side, self.speed * 0.4, rare)
        return made

    def _queues(self, t: float, ego: float) -> list[Thing]:
        """A jam: all lanes of the own direction closed up, the other direction closed up or moving."""
        road, made = self._road, []
        for lane in range(road.lanes):
            if lane == road.ego_lane:
                made += self._queue(ego, ego, 60 + lane, road.lane_centre(lane), 0.0, 1, own=True)
            else:
                speed = float(derived_rng(self._seed, 61, lane).uniform(0.0, 4.0))
                made += self._queue(ego, speed * t, 62 + lane, road.lane_centre(lane), speed, 1)
            back = -self._oncoming_speed * t
            made += self._queue(ego, back, 72 + lane, road.lane_centre(lane, True), -self._oncoming_speed, -1)
        return made

    def _queue(self, ego: float, offset: float, key: int, d: float, speed: float, turn: int, own=False) -> list[Thing]:
        """Vehicles bumper to bumper, gaps longer at speed; `offset` moves them, `own` keeps off the ego car."""
        rng = derived_rng(self._seed, key)
        made, rows, at = [], [], 0.0
        while at < 200.0:
            kind = str(rng.choice(["car", "truck", "bus", "motorcycle"], p=[0.76, 0.16, 0.05, 0.03]))
            variant = int(rng.integers({"car": 40, "truck": 12, "bus": 8, "motorcycle": 1}[kind]))
            length = 2.2 if kind == "motorcycle" else self._world.library.vehicle(kind, variant)[1]
            gap = float(rng.uniform(1.5, 5.0)) + abs(speed) * float(rng.uniform(0.6, 1.8))
            rows.append((at + gap + length / 2, kind, variant))
            at += gap + length
        for place, kind, variant in rows:
            ahead = place + 2.5 if own else (place + offset - ego + _BEHIND) % at - _BEHIND
            made.append(self._vehicle(rng, kind, ego + ahead, d, turn, 0.0, variant))
        return made

    def _leader(self, t: float, ego: float) -> list[Thing]:
        """A vehicle ahead in the ego lane that comes closer and pulls away again."""
        number, part = divmod(t / 32.0 + float(self._sway[2]), 1.0)
        rng = derived_rng(self._seed, 24, int(number))
        if rng.random() < 0.3:
            return []
        near = float(rng.uniform(9.0, 22.0))
        kind = str(rng.choice(["truck", "bus", *["car"] * 12]))
        if not self._world.in_town:
            near, kind = (
                float(rng.uniform(7.0, 45.0)),
                str(rng.choice(["truck", "truck", "car", "car", "car", "car", "bus"])),
            )
        length = 7.0 if kind != "car" else 2.0
        s = ego + near + length + 4.0 * 95.0 * (part - 0.5) ** 2
        return [self._vehicle(rng, kind, s, self._road.lane_centre(self._road.ego_lane), 1, t)]

    def _vehicle(self, rng, kind: str, s: float, d: float, turn: int, t: float, variant: int | None = None) -> Thing:
        road = self._road
        if kind not in ("bicycle", "motorcycle"):
            variants = {"car": 40, "truck": 12, "bus": 8, "train": 3}[kind]
            variant = int(rng.integers(variants)) if variant is None else variant
            mesh, length, width = self._world.library.vehicle(kind, variant)
            return placed(s, d, (length, width), 1.3, road, turn, mesh.draw)
        look, color = self._clothes(rng), _COLORS[rng.integers(len(_COLORS))]

        def ride(canvas, origin, forward, left) -> None:
            if kind == "bicycle":
                people.draw_bicycle(canvas, origin, forward, left, color, look, t * 1.2)
            else:
                people.draw_motorcycle(canvas, origin, forward, left, color, look)

        if kind == "bicycle":
            d = math.copysign(road.drive_half - 0.35, d)
        return placed(s, d, (1.8, 0.7), 1.2, road, turn, ride)

    def _walkers(self, t: float, chunk: Chunk) -> list[Thing]:
        made = []
        middle = (chunk.index + 0.5) * CHUNK
        passing = (middle - 20.0 - _START) / self.speed  # when the ego car is about to pass
        for side, section in zip((-1, 1), chunk.sections, strict=True):
            rng = derived_rng(self._seed, 25, chunk.index, side)
            if section.walk <= 0:
                continue
            for _ in range(int(rng.poisson(self._crowd[chunk.theme] * self._busy))):
                pace = float(rng.uniform(0.9, 1.6)) * (1 if rng.random() < 0.5 else -1)
                if rng.random() < 0.18:
                    pace = 0.0
                at = chunk.index * CHUNK + float(rng.uniform(0, CHUNK)) + pace * (t - passing)
                out = self._road.half + section.verge + float(rng.uniform(0.9, max(section.walk - 0.4, 1.0)))
                look = self._clothes(rng)
                turn = float(rng.uniform(-1, 1))
                made.append(self._walker(rng, look, at, side * out, pace, t, turn))
        if chunk.junction:
            made += self._crossers(t, chunk)
        return made

    def _walker(self, rng, look, s: float, d: float, pace: float, t: float, turn: float) -> Thing:
        forward, left = self._road.axes(s, 1 if pace >= 0 else -1)
        if pace == 0.0 and abs(turn) > 0.4:
            forward, left = (left, -forward) if turn > 0 else (-left, forward)
        return self._person(rng, look, self._road.point(s, d), s, d, forward, left, pace, t)

    def _person(self, rng, look, origin, s, d, forward, left, pace: float, t: float) -> Thing:
        phase = float(rng.random()) + abs(pace) * t / (0.83 * look.height)
        walking = pace != 0.0
        return Thing(
            s - 0.25,
            s + 0.25,
            d - 0.25,
            d + 0.25,
            lambda canvas: people.draw_person(canvas, origin, forward, left, look, phase, walking),
            things.outline(origin, forward, left, 0.4, 0.5),
            1.1,
            0.7,
        )

    def _crossers(self, t: float, chunk: Chunk) -> list[Thing]:
        made, road, junction = [], self._road, chunk.junction
        rng = derived_rng(self._seed, 26, chunk.index)
        line = junction.centre - junction.half - 2.7
        for _ in range(int(rng.integers(0, 4))):
            pace = float(rng.uniform(1.2, 1.5)) * (1 if rng.random() < 0.5 else -1)
            begin = (line - 105.0 + float(rng.uniform(-10, 10)) - _START) / self.speed
            reach = road.half + 1.2
            d = min(max(-reach + abs(pace) * (t - begin), -reach), reach) * (1 if pace > 0 else -1)
            moving = abs(d) < reach
            s = line + float(rng.uniform(-1.2, 1.2))
            forward = np.array([0.0, math.copysign(1.0, pace), 0.0])
            left = np.array([-forward[1], 0.0, 0.0])
            origin = road.point(s, d)
            made.append(self._person(rng, self._clothes(rng), origin, s, d, forward, left, pace if moving else 0.0, t))
        return made
