"""rosbag2 (mcap and sqlite3; a folder or one file) and rosbag1, through the rosbags library."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rosbags.highlevel import AnyReader
from rosbags.interfaces import Connection, ConnectionExtRosbag2, Nodetype, QosDurability
from rosbags.typesys import Stores, get_typestore
from rosbags.typesys.store import Typestore

from drive_seg.replay.sources.frames import check_slice
from drive_seg.replay.sources.record import (
    COMPRESSED,
    IMAGE,
    Record,
    Serialized,
    Source,
    SourceError,
    Topic,
    choose,
    listed,
)

HEADER = "std_msgs/msg/Header"
FILE_SUFFIXES = frozenset({".mcap", ".db3", ".bag"})

log = logging.getLogger("drive_seg.replay")


class BagSource(Source):
    """The messages of a bag in the order of their record times.

    Args:
        path: folder with metadata.yaml, or one .mcap, .db3 or .bag file.
        topics: patterns of topics; None takes every Image and CompressedImage topic but recorded masks.
        start, duration: seconds from the bag's first message.

    Raises:
        SourceError: the bag cannot be read, or holds none of the topics.
    """

    def __init__(self, path: Path, topics: Sequence[str] | None, start: float, duration: float | None) -> None:
        check_slice(start, duration)
        self.spec = str(path)
        self._path = path
        with self._opened() as reader:
            available = [_topic(name, info.connections) for name, info in sorted(reader.topics.items())]
            chosen = self._chosen(available, topics)
            self.topics = tuple(_with_encoding(topic, reader) for topic in chosen)
            self._begin, self._end = self._window(reader, start, duration)
            if self._begin is None and self._end is None:
                names = {topic.name for topic in self.topics}
                self.expected = sum(c.msgcount for c in reader.connections if c.topic in names)

    def __iter__(self) -> Iterator[Record]:
        self.skipped, self.truncated = 0, ""
        with self._opened() as reader:
            converters = _Converters(reader)
            names = {topic.name for topic in self.topics}
            connections = [c for c in reader.connections if c.topic in names and converters.knows(c.msgtype)]
            if not connections:
                raise SourceError(f"{self.spec} has nothing that can be read on {', '.join(sorted(names))}.")
            yield from self._records(reader, connections, converters)

    def _records(self, reader: AnyReader, connections: list[Connection], converters: _Converters) -> Iterator[Record]:
        messages = reader.messages(connections, start=self._begin, stop=self._end)
        read = 0
        while True:
            try:
                connection, time_ns, data = next(messages)
            except StopIteration:
                return
            except Exception as error:  # rosbags lets struct, zstd, lz4 and sqlite errors through
                self.truncated = f"{self.spec} is damaged after {read} messages: {_sentence(error)}"
                log.warning("%s.", self.truncated)
                return
            read += 1
            try:
                message = converters.convert(data, connection.msgtype)
            except Exception as error:
                self.skipped += 1
                log.warning("A message on %s is damaged: skipped (%s).", connection.topic, _sentence(error))
                continue
            yield Record(connection.topic, connection.msgtype, time_ns, message)

    def _opened(self) -> AnyReader:
        try:
            reader = AnyReader([self._path], default_typestore=get_typestore(Stores.ROS2_JAZZY))
            reader.open()
        except Exception as error:  # damaged files raise whatever their parser stumbled over
            raise SourceError(f"{self._path} cannot be read as a rosbag: {_sentence(error)}.{_mend(error)}") from error
        return _Closing(reader)

    def _chosen(self, available: list[Topic], patterns: Sequence[str] | None) -> tuple[Topic, ...]:
        if patterns is not None:
            return choose(available, patterns, self.spec)
        images = tuple(topic for topic in available if topic.type in (IMAGE, COMPRESSED))
        if not images:
            raise SourceError(f"{self.spec} has no image topic; it has {listed(available)}.")
        # Masks of an earlier run would be published beside those of the node that is to make new ones.
        return tuple(topic for topic in images if "/segmentation/" not in topic.name) or images

    def _window(self, reader: AnyReader, start: float, duration: float | None) -> tuple[int | None, int | None]:
        if not reader.message_count:
            raise SourceError(f"{self.spec} is a rosbag without a single message.")
        begin = reader.start_time + round(start * 1e9)
        if begin >= reader.end_time:
            raise SourceError(
                f"{self.spec} is over after {reader.duration / 1e9:.3f} s, so there is nothing at {start:g} s."
            )
        end = None if duration is None else begin + round(duration * 1e9)
        self.seconds = (min(end or reader.end_time, reader.end_time) - begin) / 1e9
        return (begin if start else None), end


class _Closing:
    """The opened reader as a context manager that does not open it a second time."""

    def __init__(self, reader: AnyReader) -> None:
        self._reader = reader

    def __enter__(self) -> AnyReader:
        return self._reader

    def __exit__(self, *_: object) -> None:
        self._reader.close()


class _Converters:
    """Bytes of a bag -> ``Serialized``: as they are for ROS 2, converted to CDR for ROS 1."""

    def __init__(self, reader: AnyReader) -> None:
        self._is2 = reader.is2
        self._typestore = reader.typestore if reader.is2 else _as_ros2(reader.typestore)
        self._headers: dict[str, bool] = {}
        self._refused: set[str] = set()

    def knows(self, msgtype: str) -> bool:
        """Whether messages of the type can be converted; a warning names the one that cannot."""
        if self._is2 or same_layout(self._typestore, get_typestore(Stores.ROS2_JAZZY), msgtype):
            return True
        if msgtype not in self._refused:
            self._refused.add(msgtype)
            log.warning("%s is laid out differently in ROS 1 and ROS 2: its messages are skipped.", msgtype)
        return False

    def convert(self, data: bytes | memoryview, msgtype: str) -> Serialized:
        if msgtype not in self._headers:
            self._headers[msgtype] = _starts_with_header(self._typestore, msgtype)
        cdr = bytes(data) if self._is2 else bytes(self._typestore.ros1_to_cdr(data, msgtype))
        if len(cdr) < (16 if self._headers[msgtype] else 4):
            raise SourceError(f"only {len(cdr)} bytes long")
        return Serialized(cdr, msgtype, self._headers[msgtype], self._typestore)


def same_layout(ours: Typestore, theirs: Typestore, msgtype: str) -> bool:
    """Whether a type's fields have the same types in the same order in both stores.

    Field names may differ (CameraInfo's D became d). A type that the second store lacks counts as the same.
    """
    if msgtype == HEADER or msgtype not in theirs.fielddefs:
        return True
    a, b = ours.fielddefs[msgtype][1], theirs.fielddefs[msgtype][1]
    if [field[1] for field in a] != [field[1] for field in b]:
        return False
    return all(same_layout(ours, theirs, name) for name in filter(None, (_nested(field[1]) for field in a)))


def _nested(description: Any) -> str | None:
    kind, inner = description
    if kind in (Nodetype.ARRAY, Nodetype.SEQUENCE):
        kind, inner = inner[0]
    return inner if kind == Nodetype.NAME else None


def _as_ros2(typestore: Typestore) -> Typestore:
    """The bag's own ROS 1 definitions with ROS 2's Header, which has no sequence number."""
    header = get_typestore(Stores.ROS2_JAZZY).fielddefs[HEADER]
    changed = get_typestore(Stores.EMPTY)
    changed.register({**typestore.fielddefs, HEADER: header})
    return changed


def _starts_with_header(typestore: Typestore, msgtype: str) -> bool:
    fields = typestore.fielddefs[msgtype][1]
    return bool(fields) and fields[0][1] == (Nodetype.NAME, HEADER)


def _topic(name: str, connections: list[Connection]) -> Topic:
    def latched(connection: Connection) -> bool:
        if isinstance(connection.ext, ConnectionExtRosbag2):
            offered = connection.ext.offered_qos_profiles
            return any(qos.durability == QosDurability.TRANSIENT_LOCAL for qos in offered)
        return bool(connection.ext.latching)

    return Topic(name, connections[0].msgtype, any(latched(connection) for connection in connections))


def _with_encoding(topic: Topic, reader: AnyReader) -> Topic:
    if topic.type != IMAGE:
        return topic
    try:
        connection, _, data = next(reader.messages(reader.topics[topic.name].connections))
        return replace(topic, encoding=reader.deserialize(data, connection.msgtype).encoding)
    except Exception:  # an empty topic or a damaged message; reading on tells what is wrong
        return topic


def _sentence(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).rstrip(".")


def _mend(error: Exception) -> str:
    if "end magic" in str(error) or "Truncated" in str(error):
        return " It was cut off while it was written; `mcap recover` may save what is there."
    return ""
