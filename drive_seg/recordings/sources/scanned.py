"""What the readers of files that rosbags refuses share: blocks that are whole, read in the order of record times."""

from __future__ import annotations

import heapq
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import IO, Any, NamedTuple

import yaml
from rosbags.interfaces import Connection, Qos
from rosbags.rosbag2.metadata import parse_qos

_NO_LIMIT = {"sec": 0, "nsec": 0}
_UNSAID = {
    **dict.fromkeys(("history", "reliability", "durability", "liveliness"), "unknown"),
    **dict.fromkeys(("deadline", "lifespan", "liveliness_lease_duration"), _NO_LIMIT),
    "depth": 0,
    "avoid_ros_namespace_conventions": False,
}
"""What a QoS says of which nothing is said, in rosbag2's terms."""


class ReadMessage(NamedTuple):
    """A message: which connection it came by, its record time, its bytes."""

    connection: int
    time_ns: int
    data: bytes


class _Block(NamedTuple):
    """Where a chunk (or a message outside of chunks) stands in the file, and the first record time in it."""

    begin_ns: int
    offset: int


class ScannedFile(ABC):
    """The messages of a file up to its first damage, found by reading it once from the beginning.

    It has the members of a rosbags reader that are used here.

    Args:
        path: the file.

    Raises:
        ValueError: not a single message can be read; the message says why.

    Attributes:
        damage: what ended the reading, empty if the file is whole.
        connections: topics with their number of messages.
        message_count, start_time, end_time: as rosbags counts them, of what can be read; the end is exclusive.
    """

    def __init__(self, path: Path) -> None:
        self.damage = ""
        self.connections: list[Connection] = []
        self.start_time, self.end_time = 2**63 - 1, 0
        self._path = path
        self._blocks: list[_Block] = []
        self._counts: Counter[int] = Counter()
        with path.open("rb") as file:
            self.damage = self._scan(file)
        self.connections = self._found_connections()
        self.message_count = sum(connection.msgcount for connection in self.connections)
        if not self.message_count and self.damage:
            raise ValueError(f"it was cut off or damaged before its first messages were whole: {self.damage}")

    def messages(
        self, connections: Sequence[Connection], start: int | None = None, stop: int | None = None
    ) -> Iterator[tuple[Connection, int, bytes]]:
        """The messages with record times of start..stop (ns, stop exclusive) in the order of these times."""
        wanted = {connection.id: connection for connection in connections}
        waiting: list[tuple[int, int, Connection, bytes]] = []
        order = count()
        with self._path.open("rb") as file:
            for block in sorted(self._blocks):
                while waiting and waiting[0][0] < block.begin_ns:
                    yield _unqueued(heapq.heappop(waiting))
                if stop is not None and block.begin_ns >= stop:
                    break
                for message in self._messages_at(file, block.offset):
                    in_time = (start is None or message.time_ns >= start) and (stop is None or message.time_ns < stop)
                    if in_time and message.connection in wanted:
                        found = wanted[message.connection]
                        heapq.heappush(waiting, (message.time_ns, next(order), found, message.data))
        while waiting:
            yield _unqueued(heapq.heappop(waiting))

    @abstractmethod
    def _scan(self, file: IO[bytes]) -> str:
        """Call ``_add_block`` for all that is whole; returns what ended it, or nothing."""

    @abstractmethod
    def _found_connections(self) -> list[Connection]:
        """After the scan, with the counts."""

    @abstractmethod
    def _messages_at(self, file: IO[bytes], offset: int) -> Iterable[ReadMessage]:
        """The messages of the block that begins there."""

    def _add_block(self, offset: int, messages: Sequence[ReadMessage]) -> None:
        if messages:
            times = [message.time_ns for message in messages]
            self._blocks.append(_Block(min(times), offset))
            self._counts.update(message.connection for message in messages)
            self.start_time, self.end_time = min(self.start_time, *times), max(self.end_time, max(times) + 1)


def offered_qos(text: Any) -> list[Qos]:
    """QoS of publishers as bags hold it, YAML or a list of mappings; also one mapping, or with keys left out.

    Text written by hand or by other recorders must not cost a bag: what cannot be read is left out.
    """
    try:
        loaded = yaml.safe_load(text) if isinstance(text, str) else text
    except yaml.YAMLError:
        return []
    found: list[Qos] = []
    for item in [loaded] if isinstance(loaded, dict) else loaded if isinstance(loaded, list) else ():
        try:
            found += parse_qos([{**_UNSAID, **item}])
        except Exception:  # rosbags lets whatever a wrong kind of value raises through
            continue
    return found


def in_words(error: Exception) -> str:
    """An error in one sentence without its full stop."""
    return (" ".join(str(error).split()) or type(error).__name__).rstrip(".")


def _unqueued(item: tuple[int, int, Connection, bytes]) -> tuple[Connection, int, bytes]:
    time_ns, _, connection, data = item
    return connection, time_ns, data
