"""Parked cars, trucks, buses, bicycles and motorcycles along one side of one chunk."""

from drive_seg.synth import people
from drive_seg.synth.side import Side
from drive_seg.synth.things import Thing, placed

_COLORS = [(40, 40, 160), (150, 80, 30), (40, 40, 42), (160, 162, 165), (60, 120, 50), (50, 150, 210)]
_PLACE = 5.8  # m of kerb for one car


def parked_vehicles(side: Side) -> list[Thing]:
    """Fill the parking strip, sparsely or densely; now and then with a truck or a bus."""
    rng, world, road, made = side.rng, side.world, side.world.road, []
    full = float(rng.choice([0.1, 0.35, 0.75]))
    d = side.side * (road.drive_half + road.parking / 2 + 0.05)
    turn = 1 if side.side != road.side else -1
    big = None
    if side.side == (1 if world.due(side.index, 2, 7) else -1):
        big = "truck" if world.due(side.index, 7, 3) else "bus" if world.due(side.index, 9, 4) else None
    s = side.start + 3.0
    while s < side.end - 2.4:
        if big and side.free(s + 4, 16.0) and s + 13 < side.end:
            mesh, length, width = world.library.vehicle(big, int(rng.integers(8)))
            made.append(placed(s + length / 2 - 2.0, d, (length, width), 1.2, road, turn, mesh.draw))
            s, big = s + length + 1.5, None
            continue
        if rng.random() < full and side.free(s, 9.0):
            mesh, length, width = world.library.vehicle("car", int(rng.integers(40)))
            heading = turn if rng.random() < 0.9 else -turn
            at = s + float(rng.uniform(-0.3, 0.3))
            made.append(placed(at, d, (length, width), 1.2, road, heading, mesh.draw))
        s += _PLACE
    return made


def parked_cycles(side: Side) -> list[Thing]:
    """A rack of bicycles or a single one on the pavement, and a motorcycle at times."""
    rng, world, made = side.rng, side.world, []
    out = side.side * (side.verge_end + 0.75)
    if side.section.walk > 0 and (world.due(side.index, 3, 5) or rng.random() < 0.25):
        count, s = int(rng.integers(1, 6)), float(rng.uniform(side.start + 2, side.end - 8))
        for i in range(count):
            made += _cycle(side, "bicycle", s + 0.75 * i, out, across=count > 1)
    if world.due(side.index, 3, 6) and side.side == world.road.side:
        s = float(rng.uniform(side.start + 3, side.end - 3))
        made += _cycle(side, "motorcycle", s, out, across=bool(rng.random() < 0.5))
    return made


def _cycle(side: Side, kind: str, s: float, d: float, across: bool) -> list[Thing]:
    color = _COLORS[side.rng.integers(len(_COLORS))]
    if not side.free(s, 5.0):
        return []
    draw = people.draw_bicycle if kind == "bicycle" else people.draw_motorcycle

    def stand(canvas, origin, forward, left) -> None:
        draw(canvas, origin, *((left, -forward) if across else (forward, left)), color, None)

    return [placed(s, d, (0.6, 0.8), 0.4, side.world.road, 1, stand)]
