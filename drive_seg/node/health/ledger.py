"""The ledger of DESIGN: what became of every frame a camera sent."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass
from enum import StrEnum


class Fate(StrEnum):
    """How a frame ends; each one ends exactly once."""

    PUBLISHED = "published"
    DROPPED = "dropped"
    """a newer one came before it was picked up"""
    EXPIRED = "expired"
    """older than max_image_age_ms"""
    REJECTED = "rejected"
    """the message cannot be used"""
    FAILED = "failed"
    """a run-time error on the way"""
    WITHHELD = "withheld"
    """the node was inactive or paused, nobody listens, or it was held back by policy: the reason is told"""


@dataclass(frozen=True)
class LedgerCount:
    """One consistent reading: ``received`` is the sum of ``ended`` plus ``in_flight``."""

    received: int
    ended: dict[Fate, int]
    in_flight: int


class FrameLedger:
    """Counts the frames of one camera; any thread may use it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._received = 0
        self._ended: Counter[Fate] = Counter()

    def receive(self) -> None:
        """A frame came in; it is in flight until :meth:`end`."""
        with self._lock:
            self._received += 1

    def end(self, fate: Fate) -> None:
        """A frame in flight has ended.

        Raises:
            ValueError: if no frame is in flight.
        """
        with self._lock:
            if self._ended.total() >= self._received:
                raise ValueError(f"a frame cannot end as {fate.value}: none is in flight")
            self._ended[fate] += 1

    def count(self) -> LedgerCount:
        """The ledger now, all figures of one moment."""
        with self._lock:
            ended = {fate: self._ended[fate] for fate in Fate}
            return LedgerCount(self._received, ended, self._received - sum(ended.values()))
