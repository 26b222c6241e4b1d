"""From records to publishers: one outlet per topic of the player."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import cv2
from builtin_interfaces.msg import Time
from rclpy.duration import Duration
from rclpy.event_handler import PublisherEventCallbacks
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import CompressedImage
from std_msgs.msg import Header

from drive_seg.images.messages import to_image
from drive_seg.recordings.message_types import message_class
from drive_seg.recordings.sources import COMPRESSED, IMAGE, Frame, Record, Serialized, Topic

DEPTH = 10
LATCHED_DEPTH = 100
TF = "tf2_msgs/msg/TFMessage"
# One channel or more than 8 bits: JPEG would change what these numbers mean (class ids, depth).
NEVER_JPEG = ("mono8", "8UC1", "mono16", "16UC1", "32FC1")


class Outlet:
    """Publishes the records of one topic. ``matched`` is how many subscribers it has now."""

    def __init__(self, node: Node, topic: Topic, reliability: str, changed: threading.Condition) -> None:
        self.topic = topic
        self.sent = 0
        self.matched = 0
        self._changed = changed
        reliable = reliability == "reliable" or topic.latched
        qos = QoSProfile(
            history=HistoryPolicy.KEEP_LAST,
            depth=LATCHED_DEPTH if topic.latched else DEPTH,
            reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
            durability=DurabilityPolicy.TRANSIENT_LOCAL if topic.latched else DurabilityPolicy.VOLATILE,
        )
        callbacks = PublisherEventCallbacks(matched=self._on_matched)
        self._class = message_class(topic.type)
        self._publisher = node.create_publisher(self._class, topic.name, qos, event_callbacks=callbacks)
        self.name = self._publisher.topic_name

    def publish(self, record: Record, stamp_ns: int) -> None:
        """Send a record under this stamp. Bytes of a bag go out as they are, but for the stamp."""
        self._publisher.publish(self._message(record, stamp_ns))
        self.sent += 1

    def wait_until_acknowledged(self, seconds: float) -> bool:
        """Whether every reliable subscriber has all that was sent, after at most this long."""
        return self._publisher.wait_for_all_acked(Duration(seconds=seconds))

    def _message(self, record: Record, stamp_ns: int) -> object:
        message = record.message
        if isinstance(message, Serialized):
            return self._restamped(record, stamp_ns)
        if isinstance(message, Frame):
            return to_image(message.array, header(stamp_ns, message.frame_id), message.encoding)
        message.header.stamp = time(stamp_ns)
        return message

    def _restamped(self, record: Record, stamp_ns: int) -> bytes:
        message: Serialized = record.message
        if stamp_ns == record.stamp_ns:
            return message.cdr
        if message.has_header:
            return message.with_stamp(stamp_ns)
        if record.type == TF:
            return self._shifted_transforms(message.cdr, stamp_ns - record.stamp_ns)
        return message.cdr

    def _shifted_transforms(self, cdr: bytes, shift_ns: int) -> bytes:
        transforms = deserialize_message(cdr, self._class)
        for transform in transforms.transforms:
            old = transform.header.stamp
            transform.header.stamp = time(old.sec * 1_000_000_000 + old.nanosec + shift_ns)
        return serialize_message(transforms)

    def _on_matched(self, info: object) -> None:
        with self._changed:
            self.matched = info.current_count
            self._changed.notify_all()


class JpegOutlet(Outlet):
    """Publishes the pictures of an Image topic as JPEG on ``<topic>/compressed``."""

    def __init__(self, node: Node, topic: Topic, reliability: str, changed: threading.Condition, quality: int) -> None:
        super().__init__(node, Topic(f"{topic.name}/compressed", COMPRESSED), reliability, changed)
        self._quality = [cv2.IMWRITE_JPEG_QUALITY, quality]

    def _message(self, record: Record, stamp_ns: int) -> CompressedImage:
        done, file = cv2.imencode(".jpg", record.image(), self._quality)
        if not done:
            raise ValueError(f"OpenCV could not write a frame of {record.topic} as JPEG")
        message = CompressedImage(header=header(stamp_ns, record.frame_id), format="bgr8; jpeg compressed bgr8")
        message.data.frombytes(file.tobytes())
        return message


def time(stamp_ns: int) -> Time:
    """Nanoseconds as a message."""
    sec, nanosec = divmod(stamp_ns, 1_000_000_000)
    return Time(sec=sec, nanosec=nanosec)


def header(stamp_ns: int, frame_id: str) -> Header:
    """A Header with this stamp and frame id."""
    return Header(stamp=time(stamp_ns), frame_id=frame_id)


def is_picture(topic: Topic) -> bool:
    """Whether a topic holds raw pictures, which may become JPEG."""
    return topic.type == IMAGE and topic.encoding not in NEVER_JPEG


def installed(topics: Sequence[Topic]) -> tuple[list[Topic], list[str]]:
    """The topics whose message types are installed, and the types that are not."""
    kept = [topic for topic in topics if message_class(topic.type)]
    missing = sorted({topic.type for topic in topics if message_class(topic.type) is None})
    return kept, missing
