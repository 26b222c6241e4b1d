"""rosbag2 (mcap and sqlite3; a folder or one file) and rosbag1, through the rosbags library."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from copy import copy
from dataclasses import replace
from functools import cache
from pathlib import Path

from rosbags.interfaces import Connection, ConnectionExtRosbag2, Nodetype, QosDurability
from rosbags.rosbag1 import ReaderError as ReaderError1
from rosbags.rosbag2 import ReaderError as ReaderError2
from rosbags.typesys import Stores, get_typestore
from rosbags.typesys.store import Typestore

from drive_seg.recordings.sources.bag_files import BagFiles, OpenedBag
from drive_seg.recordings.sources.bag_types import nested_type, types_of
from drive_seg.recordings.sources.frames import check_slice
from drive_seg.recordings.sources.record import Record, Serialized, Source
from drive_seg.recordings.sources.scanned import in_words
from drive_seg.recordings.sources.topics import COMPRESSED, IMAGE, SourceError, Topic, choose, no_cameras, so_many

HEADER = "std_msgs/msg/Header"

log = logging.getLogger(__name__)


class BagSource(Source):
    """The messages of a bag in the order of their record times, across the files of a split bag too.

    Stamps are left as they were recorded: they may go back or come twice, which is counted.

    Args:
        path: folder of a bag, or one .mcap, .db3 or .bag file, also compressed as .mcap.zstd or .db3.zstd.
        topics: patterns of topics; None takes every Image and CompressedImage topic but recorded masks.
        start, duration: seconds from the bag's first message.

    Raises:
        SourceError: the bag cannot be read, or holds none of the topics.
    """

    def __init__(self, path: Path, topics: Sequence[str] | None, start: float, duration: float | None) -> None:
        check_slice(start, duration)
        self.spec = str(path)
        self._files = BagFiles(path)
        with self._opened() as bag:
            if not bag.message_count:
                raise SourceError(f"{self.spec} is a rosbag without a single message.")
            self._types = types_of(bag.connections, bag.is2)
            by_name = self._of_one_type(bag.connections)
            self._counts = {name: sum(c.msgcount for c in connections) for name, connections in by_name.items()}
            self._span = bag.start_time, bag.end_time
            self._available = [_topic(name, connections) for name, connections in sorted(by_name.items())]
        self._encodings: dict[str, str] = {}
        self._cut(topics, start, duration)

    def select(self, topics: Sequence[str] | None, start: float = 0.0, duration: float | None = None) -> Source:
        part = copy(self)
        part._cut(topics, start, duration)
        return part

    def _cut(self, topics: Sequence[str] | None, start: float, duration: float | None) -> None:
        check_slice(start, duration)
        self._begin, self._end = self._window(start, duration)
        chosen = self._chosen(self._available, topics)
        self.topics = tuple(self._with_encoding(topic) for topic in chosen)
        is_whole = self._begin is None and self._end is None
        self.expected = sum(self._counts[topic.name] for topic in chosen) if is_whole else None

    def __iter__(self) -> Iterator[Record]:
        self.skipped, self.truncated, self.repeated, self.backward = 0, "", 0, 0
        with self._opened() as bag:
            converters = Converters(self._types, bag.is2)
            known = {topic.name: topic.type for topic in self.topics if converters.knows(topic.type)}
            if not known:
                unknown = ", ".join(f"{t.name} ({t.type})" for t in self.topics)
                raise SourceError(f"{self.spec} has nothing that can be read on {unknown}: no definition is known.")
            yield from self._counted(self._records(bag, known, converters))
            self._lose([self._doubled[name] for name in known if name in self._doubled])
            if self._end is None or self._end > bag.end_time:
                self._lose(self._files.lost)

    def _of_one_type(self, connections: Sequence[Connection]) -> dict[str, list[Connection]]:
        """Topic -> its connections of one type: of images if there are such, else that with the most messages.

        ROS 2 lets a topic have one type only, whatever a bag holds.
        """
        by_type: dict[str, dict[str, list[Connection]]] = {}
        for connection in connections:
            by_type.setdefault(connection.topic, {}).setdefault(connection.msgtype, []).append(connection)
        chosen: dict[str, list[Connection]] = {}
        self._doubled: dict[str, str] = {}
        for topic, types in by_type.items():
            counts = {name: sum(connection.msgcount for connection in same) for name, same in types.items()}
            kept = max(types, key=lambda name: (bool(counts[name]), name in (IMAGE, COMPRESSED), counts[name]))
            chosen[topic] = types[kept]
            if others := [f"{counts[name]} of {name}" for name in types if name != kept and counts[name]]:
                self._doubled[topic] = (
                    f"{topic} has messages of several types: {counts[kept]} of {kept} are read, "
                    f"{' and '.join(others)} left out"
                )
                _warn_once(self._doubled[topic])
        return chosen

    def _records(self, bag: OpenedBag, topics: Mapping[str, str], converters: Converters) -> Iterator[Record]:
        messages = bag.messages(topics, self._begin, self._end)
        read = 0
        while True:
            try:
                connection, time_ns, data = next(messages)
            except StopIteration:
                return
            except Exception as error:  # rosbags lets struct, zstd, lz4 and sqlite errors through
                self._lose([f"{self.spec} is damaged after {so_many(read, 'message')}: {in_words(error)}"])
                log.warning("%s.", self.truncated)
                return
            read += 1
            try:
                message = converters.convert(data, connection.msgtype)
            except Exception as error:
                self.skipped += 1
                log.warning("A message on %s is damaged: skipped (%s).", connection.topic, in_words(error))
                continue
            yield Record(connection.topic, connection.msgtype, time_ns, message)

    def _counted(self, records: Iterator[Record]) -> Iterator[Record]:
        seen: dict[str, set[int]] = {}
        latest: dict[str, int] = {}
        for record in records:
            if record.is_image:
                stamp, stamps = record.stamp_ns, seen.setdefault(record.topic, set())
                self.repeated += stamp in stamps
                self.backward += stamp < latest.get(record.topic, stamp)
                stamps.add(stamp)
                latest[record.topic] = stamp
            yield record

    def _lose(self, sentences: Sequence[str]) -> None:
        self.truncated = "; ".join(filter(None, (self.truncated, *sentences)))

    @contextmanager
    def _opened(self) -> Iterator[OpenedBag]:
        try:
            with self._files.opened() as bag:
                yield bag
        except (OSError, ReaderError1, ReaderError2) as error:  # it was readable before
            raise SourceError(f"{self.spec} cannot be read as a rosbag: {in_words(error)}.") from error

    def _chosen(self, available: list[Topic], patterns: Sequence[str] | None) -> tuple[Topic, ...]:
        if patterns is not None:
            return choose(available, patterns, self.spec)
        images = tuple(topic for topic in available if topic.type in (IMAGE, COMPRESSED))
        if not images:
            raise no_cameras(self.spec, available)
        # Masks of an earlier run would be published beside those of the node that is to make new ones.
        return tuple(topic for topic in images if "/segmentation/" not in topic.name) or images

    def _window(self, start: float, duration: float | None) -> tuple[int | None, int | None]:
        first, last = self._span
        begin = first + round(start * 1e9)
        if begin >= last:
            seconds = (last - first) / 1e9
            raise SourceError(f"{self.spec} is over after {seconds:.3f} s, so there is nothing at {start:g} s.")
        end = None if duration is None else begin + round(duration * 1e9)
        self.seconds = (min(end or last, last) - begin) / 1e9
        return (begin if start else None), end

    def _with_encoding(self, topic: Topic) -> Topic:
        if topic.type == IMAGE and topic.name not in self._encodings:
            self._encodings[topic.name] = topic.encoding
            # an empty topic or a damaged message; reading on tells what is wrong
            with suppress(Exception), self._opened() as bag:
                _, _, data = next(bag.messages({topic.name: topic.type}))
                message = Converters(self._types, bag.is2).convert(data, topic.type)
                self._encodings[topic.name] = message.message().encoding
        return replace(topic, encoding=self._encodings.get(topic.name, topic.encoding))


class Converters:
    """Bytes of a bag -> ``Serialized``: as they are for ROS 2, converted to CDR for ROS 1."""

    def __init__(self, types: Typestore, is2: bool) -> None:
        self._is2 = is2
        self._typestore = types if is2 else _as_ros2(types)
        self._headers: dict[str, bool] = {}
        self._known: dict[str, bool] = {}

    def knows(self, msgtype: str) -> bool:
        """Whether messages of the type can be converted; a warning names the one that cannot."""
        if msgtype not in self._known:
            reason = self._refusal(msgtype)
            self._known[msgtype] = not reason
            if reason:
                log.warning("%s %s: its messages are skipped.", msgtype, reason)
        return self._known[msgtype]

    def _refusal(self, msgtype: str) -> str:
        if msgtype not in self._typestore.fielddefs:
            return "is defined neither in the bag nor on this machine"
        if self._is2 or same_layout(self._typestore, get_typestore(Stores.ROS2_JAZZY), msgtype):
            return ""
        return "is laid out differently in ROS 1 and ROS 2"

    def convert(self, data: bytes | memoryview, msgtype: str) -> Serialized:
        """One message.

        Raises:
            Exception: of any kind, where the bytes are damaged.
        """
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
    return all(same_layout(ours, theirs, name) for name in filter(None, (nested_type(field[1]) for field in a)))


def _as_ros2(typestore: Typestore) -> Typestore:
    """The bag's own ROS 1 definitions with ROS 2's Header, which has no sequence number."""
    header = get_typestore(Stores.ROS2_JAZZY).fielddefs[HEADER]
    changed = get_typestore(Stores.EMPTY)
    changed.register({**typestore.fielddefs, HEADER: header})
    return changed


def _starts_with_header(typestore: Typestore, msgtype: str) -> bool:
    fields = typestore.fielddefs[msgtype][1]
    return bool(fields) and fields[0][1] == (Nodetype.NAME, HEADER)


@cache
def _warn_once(sentence: str) -> None:
    """A warning that each opening of the same bag would repeat."""
    log.warning("%s.", sentence)


def _topic(name: str, connections: list[Connection]) -> Topic:
    def latched(connection: Connection) -> bool:
        if isinstance(connection.ext, ConnectionExtRosbag2):
            offered = connection.ext.offered_qos_profiles
            # Where no QoS was recorded: static transforms are sent once, and always latched.
            is_static = not offered and name.rpartition("/")[2] == "tf_static"
            return is_static or any(qos.durability == QosDurability.TRANSIENT_LOCAL for qos in offered)
        return bool(connection.ext.latching)

    return Topic(name, connections[0].msgtype, any(latched(connection) for connection in connections))
