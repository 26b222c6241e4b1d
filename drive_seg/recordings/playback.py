"""When each record of a source is due and which stamp it gets: rate, loop, stamps. No rclpy."""

from __future__ import annotations

import queue
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from drive_seg.recordings.sources import Record

DEFAULT_PERIOD_NS = 100_000_000
REMEMBERED_STAMPS = 256


@dataclass(frozen=True, slots=True)
class Due:
    """A record, when it plays and by how much its times are moved (0 in the first round), in ns."""

    record: Record
    time_ns: int
    shift_ns: int
    round: int


def rounds(source: Iterable[Record], loop: bool) -> Iterator[Due]:
    """The records once, or again and again with times that go on growing.

    A round is as long as the source from its first to its last record plus one mean image period, so that the
    first frame of the next round keeps its distance from the last one.
    """
    shift = number = 0
    while True:
        times = _Times()
        for record in source:
            times.add(record)
            yield Due(record, record.time_ns + shift, shift, number)
        if not loop or times.first is None:
            return
        shift += times.length_ns
        number += 1


class _Times:
    """First and last time of a round, and how far images lie apart."""

    def __init__(self) -> None:
        self.first: int | None = None
        self._last = 0
        # Stamps and record times may disagree by a little; the next round must lie beyond both.
        self._first_stamp = self._last_stamp = 0
        self._images: dict[str, tuple[int, int, int]] = {}

    def add(self, record: Record) -> None:
        stamp = record.stamp_ns
        if self.first is None:
            self.first, self._first_stamp, self._last_stamp = record.time_ns, stamp, stamp
        self._last = record.time_ns
        self._first_stamp, self._last_stamp = min(self._first_stamp, stamp), max(self._last_stamp, stamp)
        if record.is_image:
            begin, _, count = self._images.get(record.topic, (record.time_ns, 0, 0))
            self._images[record.topic] = (begin, record.time_ns, count + 1)

    @property
    def length_ns(self) -> int:
        periods = [(end - begin) // (count - 1) for begin, end, count in self._images.values() if count > 1]
        period = min((p for p in periods if p > 0), default=DEFAULT_PERIOD_NS)
        span = max(self._last - self.first, self._last_stamp - self._first_stamp)
        return span + period


class Stamps:
    """The stamp that each record is published with.

    ``now`` (a function that gives ns) is asked once for each original stamp, so that an image, its camera_info
    and its truth still carry the same stamp; again where a topic repeats a stamp. Without it stamps stay original,
    moved by the round's shift.
    """

    def __init__(self, now: Callable[[], int] | None = None) -> None:
        self._now = now
        self._given: OrderedDict[tuple[int, int], tuple[int, set[str]]] = OrderedDict()

    def of(self, due: Due) -> int:
        """Stamp in ns for this record."""
        original = due.record.stamp_ns
        if self._now is None:
            return original + due.shift_ns
        key = (due.round, original)
        topic = due.record.topic
        if key not in self._given or topic in self._given[key][1]:
            self._given[key] = self._now(), set()
            if len(self._given) > REMEMBERED_STAMPS:
                self._given.popitem(last=False)
        stamp, topics = self._given[key]
        topics.add(topic)
        return stamp


class Ahead:
    """Iterates in a thread of its own, a few items ahead, so that decoding does not delay publishing.

    Args:
        items: what to iterate.
        depth: how many items may wait.

    Use it as a context manager; leaving it ends the thread. An exception of the iteration is raised here.
    """

    def __init__(self, items: Iterable[Any], depth: int = 8) -> None:
        self._items = items
        self._queue: queue.Queue[tuple[str, Any]] = queue.Queue(depth)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="read ahead", daemon=True)

    def __enter__(self) -> Ahead:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        while self._thread.is_alive():
            self._clear()
            self._thread.join(0.05)

    def __iter__(self) -> Iterator[Any]:
        while not self._stopped.is_set():
            kind, value = self._queue.get()
            if kind == "error":
                raise value
            if kind == "end":
                return
            yield value

    def _run(self) -> None:
        try:
            for item in self._items:
                self._queue.put(("item", item))
                if self._stopped.is_set():
                    return
            self._queue.put(("end", None))
        except BaseException as error:  # handed over, not swallowed
            self._queue.put(("error", error))

    def _clear(self) -> None:
        while not self._queue.empty():
            try:
                self._queue.get_nowait()
            except queue.Empty:
                return
