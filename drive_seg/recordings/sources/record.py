"""What travels out of every source: records with their original times, readable without rclpy."""

from __future__ import annotations

import struct
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from drive_seg.images.messages import ImageError, decode, decode_label
from drive_seg.recordings.sources.topics import COMPRESSED, IMAGE, SourceError, Topic, cameras_of, no_cameras


@dataclass(frozen=True, slots=True)
class Frame:
    """A picture made here (video, folder, synthetic drive), not yet a message.

    ``array`` is uint8: [H, W, 3] BGR where ``encoding`` is "bgr8", [H, W] class ids where it is "mono8".
    """

    array: np.ndarray
    encoding: str
    stamp_ns: int
    frame_id: str


@dataclass(frozen=True, slots=True)
class Serialized:
    """A message as it lies in a bag, in CDR (ROS 1 messages have been converted).

    ``has_header``: its first field is a std_msgs/Header. ``typestore`` reads it (``deserialize_cdr``).
    """

    cdr: bytes
    type: str
    has_header: bool
    typestore: Any

    @property
    def stamp_ns(self) -> int:
        """Stamp of the header in ns; only where ``has_header``."""
        sec, nanosec = struct.unpack_from(self._order + "iI", self.cdr, 4)
        return sec * 1_000_000_000 + nanosec

    @property
    def frame_id(self) -> str:
        """Frame id of the header; only where ``has_header``."""
        (length,) = struct.unpack_from(self._order + "I", self.cdr, 12)
        return self.cdr[16 : 16 + max(length - 1, 0)].decode("utf-8", "replace")

    def with_stamp(self, stamp_ns: int) -> bytes:
        """The same bytes with another stamp in the header; only where ``has_header``."""
        changed = bytearray(self.cdr)
        struct.pack_into(self._order + "iI", changed, 4, *divmod(stamp_ns, 1_000_000_000))
        return bytes(changed)

    def message(self) -> Any:
        """The message as rosbags' own object: the fields of the ROS message, arrays as numpy arrays.

        Raises:
            SourceError: the bytes do not fit the type.
        """
        try:
            return self.typestore.deserialize_cdr(self.cdr, self.type)
        except Exception as error:  # whatever struct, numpy or rosbags make of damaged bytes
            raise SourceError(f"A {self.type} message is damaged: {error}") from error

    @property
    def _order(self) -> str:
        return "<" if self.cdr[1] & 1 else ">"


@dataclass(frozen=True, slots=True)
class Record:
    """One message of a source.

    Args:
        topic: as recorded (a bag) or relative to the camera's name (``camera/image_raw``).
        type: ROS 2 type name, such as "sensor_msgs/msg/Image".
        time_ns: when it plays, in ns on the source's clock: a bag's record time, else the frame's own stamp.
        message: a ``Frame``, a ``Serialized`` message, or a ready ROS message (camera_info).
    """

    topic: str
    type: str
    time_ns: int
    message: Any

    @property
    def is_image(self) -> bool:
        """Whether ``image`` or ``label`` can be asked of it."""
        return self.type in (IMAGE, COMPRESSED)

    @property
    def has_header(self) -> bool:
        """Whether the message carries a stamp of its own."""
        return not isinstance(self.message, Serialized) or self.message.has_header

    @property
    def stamp_ns(self) -> int:
        """The header's stamp in ns; ``time_ns`` for a message without a header."""
        if not self.has_header:
            return self.time_ns
        if isinstance(self.message, (Frame, Serialized)):
            return self.message.stamp_ns
        return self.message.header.stamp.sec * 1_000_000_000 + self.message.header.stamp.nanosec

    @property
    def moment_ns(self) -> int:
        """The stamp, or ``time_ns`` where the stamp is 0, which is how ROS writes that none was set."""
        return self.stamp_ns or self.time_ns

    @property
    def frame_id(self) -> str:
        """The header's frame id; empty for a message without a header."""
        if not self.has_header:
            return ""
        if isinstance(self.message, (Frame, Serialized)):
            return self.message.frame_id
        return self.message.header.frame_id

    def image(self) -> np.ndarray:
        """The picture, uint8 [H, W, 3] BGR; may be a view that must not be written to.

        Raises:
            ImageError: it is not an image, or cannot be decoded.
        """
        if not self.is_image:
            raise ImageError(f"{self.topic} is {self.type}, not an image")
        if not isinstance(self.message, Frame):
            return decode(self._bag_message())
        if self.message.encoding == "bgr8":
            return self.message.array
        return np.repeat(self.message.array[..., None], 3, axis=2)

    def label(self) -> np.ndarray:
        """The class ids, uint8 [H, W].

        Raises:
            ImageError: it is not a label image, or cannot be decoded.
        """
        if not self.is_image:
            raise ImageError(f"{self.topic} is {self.type}, not a label image")
        if not isinstance(self.message, Frame):
            return decode_label(self._bag_message())
        if self.message.encoding != "mono8":
            raise ImageError(f"{self.topic} holds pictures ({self.message.encoding}), not class ids")
        return self.message.array

    def _bag_message(self) -> Any:
        try:
            return self.message.message()
        except SourceError as error:
            raise ImageError(str(error)) from error


class Source(ABC):
    """Iterating yields ``Record`` in time order. It can be iterated again, from the start.

    Attributes:
        spec: what it was opened from.
        topics: every topic that it may yield.
        expected: how many records it will yield, where that is known beforehand.
        seconds: about how long it lasts.
        skipped: what could not be read in the latest iteration (unreadable images, damaged messages).
        truncated: what of the recording is lost that the latest iteration should have yielded, else empty.
        repeated: images of the latest iteration with a stamp that one before them on the same topic had.
        backward: images of the latest iteration with an earlier stamp than the one before them on the same topic.
    """

    spec: str
    topics: tuple[Topic, ...] = ()
    expected: int | None = None
    seconds: float = 0.0
    skipped: int = 0
    truncated: str = ""
    repeated: int = 0
    backward: int = 0

    @abstractmethod
    def __iter__(self) -> Iterator[Record]: ...

    @abstractmethod
    def select(self, topics: Sequence[str] | None, start: float = 0.0, duration: float | None = None) -> Source:
        """Other topics or another part of the same recording, which is not opened anew; as ``open_source``."""


class FirstFrames(Source):
    """Another source up to its Nth camera image, with what belongs to that image (same time).

    Args:
        source: what to cut.
        frames: how many images of its first camera topic to let through, 1 or more.

    Raises:
        SourceError: frames is below 1, or the source has no camera topic.
    """

    def __init__(self, source: Source, frames: int) -> None:
        cameras = [topic.name for topic in cameras_of(source.topics) or source.topics if topic.is_camera]
        if frames < 1:
            raise SourceError(f"The number of frames must be 1 or more, not {frames}.")
        if not cameras:
            raise no_cameras(source.spec, source.topics)
        self.spec, self.topics = source.spec, source.topics
        self.seconds = source.seconds
        self._source, self._camera, self._frames = source, cameras[0], frames

    def __iter__(self) -> Iterator[Record]:
        count = 0
        for record in self._source:
            count += record.topic == self._camera
            if count > self._frames:
                return
            yield record
            self._follow()
        self._follow()

    def select(self, topics: Sequence[str] | None, start: float = 0.0, duration: float | None = None) -> Source:
        return FirstFrames(self._source.select(topics, start, duration), self._frames)

    def _follow(self) -> None:
        self.skipped, self.truncated = self._source.skipped, self._source.truncated
        self.repeated, self.backward = self._source.repeated, self._source.backward
