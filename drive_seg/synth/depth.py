"""Drawing order of things whose footprints are boxes in road coordinates."""

import numpy as np

from drive_seg.synth.camera import View
from drive_seg.synth.road import Road
from drive_seg.synth.things import Thing

_REACH = 5.5  # m; crowns, arms and roofs stand out of their footprints


def in_view(made: list[Thing], view: View, road: Road) -> list[Thing]:
    """Leave out what is surely outside the picture."""
    if not made:
        return []
    boxes = np.array([(thing.s0, thing.s1, thing.d0, thing.d1) for thing in made])
    s, d = boxes[:, [0, 0, 1, 1]], boxes[:, [2, 3, 2, 3]]
    seen = view.sees_box(np.stack([s, road.centre(s) + d], axis=-1), _REACH)
    return [thing for thing, is_seen in zip(made, seen.tolist(), strict=True) if is_seen]


def far_to_near(made: list[Thing], s: float, d: float) -> list[Thing]:
    """Sort so that nothing is drawn after what hides it, seen from road coordinates (s, d).

    Two boxes apart along the road, or else across it, are ordered by the side the camera is on; rings, which
    cannot be sorted, are broken at the farthest thing.
    """
    if not made:
        return []
    boxes = np.array([(thing.s0, thing.s1, thing.d0, thing.d1) for thing in made])
    s0, s1, d0, d1 = boxes.T
    beyond = (s0[:, None] >= s1[None, :] - 1e-9) & (s <= s0 + 1e-9)[:, None]
    apart = (s0[:, None] >= s1[None, :] - 1e-9) | (s1[:, None] <= s0[None, :] + 1e-9)
    left_of = ~apart & (d0[:, None] >= d1[None, :] - 1e-9)
    behind = beyond | (left_of & (d <= d0)[:, None]) | ((left_of & (d > d0)[:, None]).T)
    middle = (s0 + s1) / 2 - s
    across = (d0 + d1) / 2 - d
    distance = middle * middle + across * across
    mixed = ~apart & ~left_of & ~left_of.T
    behind |= mixed & (distance[:, None] > distance[None, :])
    np.fill_diagonal(behind, False)
    waiting = behind.sum(axis=0)  # how many must still be drawn before each
    left = np.ones(len(made), bool)
    order = []
    for _ in range(len(made)):
        ready = left & (waiting == 0)
        pick = int(np.argmax(np.where(ready if ready.any() else left, distance, -1.0)))
        order.append(made[pick])
        left[pick] = False
        waiting = waiting - behind[pick]
    return order
