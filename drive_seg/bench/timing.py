"""Times of several contenders that run in turn, so that what the machine does meanwhile meets all of them alike."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

LEAST, LEAST_HEAVY, MOST = 5, 3, 1000
HEAVY_S = 0.5
"""A call that takes longer is repeated LEAST_HEAVY times at least, any other LEAST times."""
WARM_UPS = 2

Clock = Callable[[], float]


@dataclass(frozen=True)
class Figures:
    """Times of one contender in ms: median, 10th and 90th percentile, and of how many runs."""

    median_ms: float
    p10_ms: float
    p90_ms: float
    runs: int

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Figures:
        """The figures of times in seconds; there must be one at least."""
        return cls(*(1e3 * percentile(seconds, p) for p in (50, 10, 90)), len(seconds))


def percentile(values: Sequence[float], p: float) -> float:
    """The p-th percentile, 0 to 100, interpolated between the two values next to it.

    Raises:
        ValueError: if there are no values.
    """
    if not values:
        raise ValueError("of no values there is no percentile")
    ordered = sorted(values)
    place = (len(ordered) - 1) * p / 100
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def turns(counts: Mapping[str, int]) -> list[str]:
    """Who runs when: A B C A B C ..., each as often as asked, those with fewer runs spread evenly over the whole."""
    rounds = max(counts.values(), default=0)
    order = []
    for number in range(rounds):
        # The share of the runs that is due after this round, in whole numbers, grows by one or stays.
        order += [n for n, count in counts.items() if (number + 1) * count // rounds > number * count // rounds]
    return order


def measure(calls: Mapping[str, Callable[[], object]], seconds: float, clock: Clock = time.perf_counter) -> dict:
    """Time calls in turn.

    Each is called WARM_UPS times first (once, if it is heavy), which does not count. Each then gets as many turns as
    fit into its seconds, and LEAST or LEAST_HEAVY at the least.

    Args:
        calls: by name; a call returns when its work is done, on a GPU too.
        seconds: for each call.
        clock: gives seconds.

    Returns:
        by name, the seconds of each run, or the exception that a run raised.
    """
    outcome: dict[str, list[float] | Exception] = {}
    counts = {}
    for name, call in calls.items():
        try:
            counts[name] = _how_often(call, seconds, clock)
            outcome[name] = []
        except Exception as error:  # whatever it is, it costs this contender and none of the others
            outcome[name] = error
    for name in turns(counts):
        if isinstance(outcome[name], Exception):
            continue
        try:
            outcome[name].append(_time(calls[name], clock))
        except Exception as error:
            outcome[name] = error
    return outcome


def _how_often(call: Callable[[], object], seconds: float, clock: Clock) -> int:
    once = _time(call, clock)
    for _ in range(WARM_UPS - 1):
        if once < HEAVY_S:
            once = _time(call, clock)
    least = LEAST if once < HEAVY_S else LEAST_HEAVY
    return min(MOST, max(least, round(seconds / max(once, 1e-6))))


def _time(call: Callable[[], object], clock: Clock) -> float:
    started = clock()
    call()
    return clock() - started
