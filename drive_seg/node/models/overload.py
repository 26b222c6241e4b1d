"""What the node gives up, and when, under an overload that lasts: a state machine that knows neither ROS nor a clock.

Work is given up step by step: the camera of lowest priority is skipped, then the next, then the network sees smaller
images. A step is taken when frames keep being dropped although the worker is never idle, and taken back when there has
been room for what it saves. Room that turns out too small makes the next attempt wait twice as long.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

SCALES = (0.75, 0.5)
"""Of the sides of the network's input, one step each: 56 % and 25 % of its pixels."""
OVERLOAD_S = 3.0
"""How long an overload must last for a step down."""
DROPPED_SHARE = 0.1
"""More of the frames than this are dropped: overload, if the worker is busy as well."""
BUSY = 0.8
"""Share of its time that the worker works: drops of an idle one come from bursts, and less work would not help."""
ROOM_S = 10.0
"""How long there must be room for a step up; doubled after each step up that had to be taken back soon."""
ROOM_S_MAX = 320.0
ROOM_BUSY = 0.7
"""There is room if the worker would be busy for less than this share of its time one step up."""
PROBATION_S = 60.0
"""A step up that has to be taken back within this time was a mistake."""


@dataclass(frozen=True)
class Step:
    """How much is done: the cameras that are not served, and the factor for the sides of the network's input."""

    skipped: tuple[str, ...] = ()
    scale: float = 1.0

    def work(self, cameras: int) -> float:
        """Pixels through the network, in units of one camera at full size."""
        return (cameras - len(self.skipped)) * self.scale**2

    def describe(self) -> str:
        parts = [f"skipping {', '.join(self.skipped)}"] if self.skipped else []
        parts += [f"network input x{self.scale:g}"] if self.scale < 1 else []
        return ", ".join(parts) or "nothing given up"


@dataclass(frozen=True)
class Load:
    """What happened since the last look.

    Attributes:
        served: frames that went through the worker, of the cameras that are not skipped.
        dropped: frames of them that a newer one replaced before the worker came to them.
        busy: share of the time that the worker worked, 0..1.
    """

    served: int
    dropped: int
    busy: float


def plan(ranked: Sequence[str], order: Sequence[str], can_shrink: bool = True) -> list[Step]:
    """The steps from everything to the least that is done.

    Args:
        ranked: camera names, the most important first; that one is never skipped.
        order: what is given up, "cameras" and "input_size", and in which order.
        can_shrink: False if the model's file fixes the size of its input.
    """
    steps = [Step()]
    for way in order:
        last = steps[-1]
        if way == "cameras":
            steps += [Step(tuple(ranked[place:]), last.scale) for place in range(len(ranked) - 1, 0, -1)]
        elif can_shrink:
            steps += [Step(last.skipped, scale) for scale in SCALES]
    return steps


class Degradation:
    """Decides which step is taken; the caller looks at the load about once a second and does what it says.

    Args:
        steps: those of :func:`plan`.
        cameras: how many there are.
    """

    def __init__(self, steps: Sequence[Step], cameras: int) -> None:
        self._steps, self._cameras = list(steps), cameras
        self._place = 0
        self._loads: deque[tuple[float, Load]] = deque()
        self._since: float | None = None
        self._stepped_up: float | None = None
        self._room_s = ROOM_S

    @property
    def step(self) -> Step:
        """What is to be done now."""
        return self._steps[self._place]

    def describe(self) -> str:
        """For the diagnostics: ``step 1 of 4: skipping rear``, or ``no``."""
        return f"step {self._place} of {len(self._steps) - 1}: {self.step.describe()}" if self._place else "no"

    def look(self, now: float, load: Load) -> bool:
        """Take the load since the last look into account; True if another step is to be taken.

        Args:
            now: monotonic seconds.
        """
        if self._since is None:
            self._since = now
            return False
        self._loads.append((now, load))
        while self._loads[0][0] <= now - self._room_s:
            self._loads.popleft()
        if self._stepped_up is not None and now - self._stepped_up > PROBATION_S:
            self._stepped_up, self._room_s = None, ROOM_S
        if self._overloaded(now):
            return self._step_down(now)
        if self._place and self._has_room(now):
            self._place -= 1
            self._stepped_up = now
            self.look_anew(now)
            return True
        return False

    def look_anew(self, now: float) -> None:
        """Forget the loads so far: they belong to another step, or to a time when it was being taken."""
        self._loads.clear()
        self._since = now

    def forbid_scale(self, scale: float) -> None:
        """So small an input cannot be had after all: back to the last step with a larger one, and never again there."""
        self._steps = [step for step in self._steps if step.scale > scale]
        self._place = min(self._place, len(self._steps) - 1)

    def fall_back(self, scale: float) -> bool:
        """The larger input of a step up cannot be had: back to the next step with the one that goes on.

        The next attempt waits twice as long, as after any step up that did not hold.

        Args:
            scale: of the input that goes on.

        Returns:
            False if there is no such step.
        """
        place = next((i for i, step in enumerate(self._steps) if i >= self._place and step.scale == scale), None)
        if place is None:
            return False
        self._place, self._stepped_up = place, None
        self._wait_longer()
        return True

    def _wait_longer(self) -> None:
        self._room_s = min(2 * self._room_s, ROOM_S_MAX)

    def _step_down(self, now: float) -> bool:
        if self._stepped_up is not None:
            self._stepped_up = None
            self._wait_longer()
        moved = self._place < len(self._steps) - 1
        self._place += moved
        self.look_anew(now)
        return moved

    def _overloaded(self, now: float) -> bool:
        loads = self._last(OVERLOAD_S, now)
        # Busy all the time, while so slow a camera as one frame per look does not drop one in each.
        return bool(loads) and min(load.busy for load in loads) > BUSY and _dropped_share(loads) > DROPPED_SHARE

    def _has_room(self, now: float) -> bool:
        loads = self._last(self._room_s, now)
        more = self._steps[self._place - 1].work(self._cameras) / self.step.work(self._cameras)
        return bool(loads) and _dropped_share(loads) < DROPPED_SHARE / 2 and _busy(loads) * more < ROOM_BUSY

    def _last(self, seconds: float, now: float) -> list[Load]:
        """The loads of so many seconds; none if it was not looked for that long yet."""
        if self._since is None or now - self._since < seconds:
            return []
        return [load for at, load in self._loads if at > now - seconds]


def _dropped_share(loads: Sequence[Load]) -> float:
    dropped = sum(load.dropped for load in loads)
    return dropped / max(dropped + sum(load.served for load in loads), 1)


def _busy(loads: Sequence[Load]) -> float:
    return sum(load.busy for load in loads) / len(loads)
