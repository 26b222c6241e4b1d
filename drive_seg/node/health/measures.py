"""Figures over the last seconds, kept while frames pass: percentiles, rate, recent fates."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

import numpy as np

WINDOW_S = 10.0
"""How far back every figure of the diagnostics looks, in seconds."""

Clock = Callable[[], float]
"""Monotonic seconds, not the node's clock: that may stand still under use_sim_time."""


class Window:
    """The samples of the last ``WINDOW_S`` seconds; any thread may use it."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._samples: deque[tuple[float, float]] = deque()

    def add(self, value: float) -> None:
        with self._lock:
            self._samples.append((self._clock(), value))
            self._forget()

    def values(self) -> list[float]:
        with self._lock:
            self._forget()
            return [value for _, value in self._samples]

    def percentile(self, q: float) -> float | None:
        """The q-th percentile (0..100); None when there are no samples."""
        values = self.values()
        return float(np.percentile(values, q)) if values else None

    def clear(self) -> None:
        with self._lock:
            self._samples.clear()

    def _forget(self) -> None:
        oldest = self._clock() - WINDOW_S
        while self._samples and self._samples[0][0] < oldest:
            self._samples.popleft()


class Rate:
    """Events per second over the last ``WINDOW_S`` seconds; any thread may use it."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._times: deque[float] = deque()
        self._first: float | None = None

    def tick(self) -> None:
        with self._lock:
            now = self._clock()
            self._first = now if self._first is None else self._first
            self._times.append(now)
            self._forget(now)

    def per_second(self) -> float | None:
        """None while there is nothing to measure: fewer than two events, or none in the window."""
        with self._lock:
            now = self._clock()
            self._forget(now)
            if not self._times or self._first is None:
                return None
            # A stream that began inside the window is measured from its first event, which only opens the span.
            began_inside = self._first >= now - WINDOW_S
            events, span = len(self._times) - began_inside, now - self._first if began_inside else WINDOW_S
            return events / span if events and span > 0 else None

    def clear(self) -> None:
        with self._lock:
            self._times.clear()
            self._first = None

    def _forget(self, now: float) -> None:
        while self._times and self._times[0] < now - WINDOW_S:
            self._times.popleft()


class Persistence:
    """Notices what stays as it is: a sentence counts once it was said for a while without a break, and then once."""

    def __init__(self, after_s: float = 2.0, clock: Clock = time.monotonic) -> None:
        self._after_s, self._clock = after_s, clock
        self._said: dict[str, tuple[str, float]] = {}
        self._counted: dict[str, str] = {}

    def says(self, key: str, sentence: str) -> bool:
        """Note that this is said about the key now; true if it is time to tell it."""
        before, since = self._said.setdefault(key, (sentence, self._clock()))
        if before != sentence:
            self._said[key] = sentence, self._clock()
        elif self._clock() - since >= self._after_s and self._counted.get(key) != sentence:
            self._counted[key] = sentence
            return True
        return False

    def over(self, key: str) -> None:
        """Note that nothing is said about the key any more."""
        self._said.pop(key, None)
        self._counted.pop(key, None)


class Throttle:
    """Lets a log sentence through at most once per period, so that a bad stream cannot flood the log."""

    def __init__(self, period_s: float = 5.0, clock: Clock = time.monotonic) -> None:
        self._period_s, self._clock = period_s, clock
        self._last: dict[str, float] = {}

    def lets_through(self, key: str) -> bool:
        now = self._clock()
        if now - self._last.get(key, float("-inf")) < self._period_s:
            return False
        self._last[key] = now
        return True
