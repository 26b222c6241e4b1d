"""Records topics on a node: subscriptions that fit whoever publishes, bytes written as they come."""

from __future__ import annotations

import time
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription
from rosbags.interfaces import (
    Connection,
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)

from drive_seg.recordings.bag_writer import BagWriter
from drive_seg.recordings.message_types import definition, message_class

if TYPE_CHECKING:
    # Since rclpy 10 it is in rclpy.endpoint_info.
    from rclpy.topic_endpoint_info import TopicEndpointInfo

DEPTH = 100
SEGMENTATION_TOPICS = ("label", "color", "overlay", "confidence", "label_info", "label_map")


class TopicRecorder:
    """One topic on its way into the bag. ``weaken`` follows publishers that offer less than the first did."""

    def __init__(self, node: Node, bag: BagWriter, topic: str, offers: Sequence[TopicEndpointInfo]) -> None:
        self.topic = topic
        self.type = offers[0].topic_type
        self.latched = all(o.qos_profile.durability == DurabilityPolicy.TRANSIENT_LOCAL for o in offers)
        self.last_heard: float | None = None
        self._node = node
        self._bag = bag
        self._class = message_class(self.type)
        definition_text, type_hash = definition(self.type, hash_of(offers[0]))
        self._connection: Connection = bag.add(
            topic, self.type, definition_text, type_hash, [offered_qos(o.qos_profile) for o in offers]
        )
        self._reliable = self._transient = True
        self._subscription: Subscription | None = None
        self.weaken(offers)

    def weaken(self, offers: Sequence[TopicEndpointInfo]) -> None:
        """Subscribe so that every publisher is heard: a subscriber that wants more than is offered hears nothing."""
        profiles = [offer.qos_profile for offer in offers]
        reliable = self._reliable and all(p.reliability == ReliabilityPolicy.RELIABLE for p in profiles)
        transient = self._transient and all(p.durability == DurabilityPolicy.TRANSIENT_LOCAL for p in profiles)
        if self._subscription is not None and (reliable, transient) == (self._reliable, self._transient):
            return
        if self._subscription is not None:
            self._node.destroy_subscription(self._subscription)
        self._reliable, self._transient = reliable, transient
        qos = QoSProfile(
            history=HistoryPolicy.KEEP_LAST,
            depth=DEPTH,
            reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
            durability=DurabilityPolicy.TRANSIENT_LOCAL if transient else DurabilityPolicy.VOLATILE,
        )
        self._subscription = self._node.create_subscription(self._class, self.topic, self._record, qos, raw=True)

    def _record(self, cdr: bytes, info: dict) -> None:
        self.last_heard = time.monotonic()
        self._bag.write(self._connection, self._time_ns(info), cdr)

    def _time_ns(self, info: dict) -> int:
        clock = self._node.get_clock()
        if clock.ros_time_is_active:
            return clock.now().nanoseconds
        return info.get("received_timestamp") or clock.now().nanoseconds


class Recorder:
    """Watches the graph for the chosen topics and records each from the moment somebody publishes it.

    Args:
        node: whoever spins it calls ``poll`` now and then.
        bag: where messages go.
        topics: names or patterns (``*``, ``?``), relative ones resolved in the node's namespace.
    """

    def __init__(self, node: Node, bag: BagWriter, topics: Sequence[str]) -> None:
        self._node = node
        self._bag = bag
        self._patterns = [_resolved(node, topic) for topic in topics]
        self._recorded: dict[str, TopicRecorder] = {}
        self._refused: set[tuple[str, str]] = set()

    def poll(self) -> None:
        """Look who publishes what now; begin new topics, and adapt those where a weaker publisher came."""
        for topic, _ in self._node.get_topic_names_and_types():
            if not any(fnmatchcase(topic, pattern) for pattern in self._patterns):
                continue
            offers = self._node.get_publishers_info_by_topic(topic)
            if not offers:
                continue
            if topic in self._recorded:
                kind = self._recorded[topic].type
                self._recorded[topic].weaken([offer for offer in offers if offer.topic_type == kind])
                offers = [offer for offer in offers if offer.topic_type != kind]
            elif self._can_record(topic, offers[0]):
                kind = offers[0].topic_type
                same = [offer for offer in offers if offer.topic_type == kind]
                self._recorded[topic] = TopicRecorder(self._node, self._bag, topic, same)
                self._node.get_logger().info(f"Recording {topic} ({kind}).")
                offers = [offer for offer in offers if offer.topic_type != kind]
            for offer in offers:
                self._refuse(topic, offer.topic_type, "another type than the one recorded")

    def idle_s(self) -> float | None:
        """Seconds since the latest message; None before the first. Latched topics do not count: they come once."""
        heard = [r.last_heard for r in self._recorded.values() if r.last_heard is not None and not r.latched]
        return time.monotonic() - max(heard) if heard else None

    def hears_all(self) -> bool:
        """Whether there is somebody who publishes each of the chosen topics, or one of each pattern."""
        return all(any(fnmatchcase(topic, p) for topic in self._recorded) for p in self._patterns)

    def silent(self) -> list[str]:
        """The chosen topics (or patterns) of which nothing was recorded."""
        heard = [topic for topic, count in self._bag.counts.items() if count]
        return [p for p in self._patterns if not any(fnmatchcase(topic, p) for topic in heard)]

    def _can_record(self, topic: str, offer: TopicEndpointInfo) -> bool:
        if message_class(offer.topic_type) is None:
            return self._refuse(topic, offer.topic_type, "its type is not installed")
        if definition(offer.topic_type, hash_of(offer)) is None:
            return self._refuse(topic, offer.topic_type, "no definition of its type fits what is published")
        return True

    def _refuse(self, topic: str, kind: str, reason: str) -> bool:
        if (topic, kind) not in self._refused:
            self._refused.add((topic, kind))
            self._node.get_logger().warning(f"{topic} ({kind}) is not recorded: {reason}.")
        return False


def segmentation_topics(camera: str) -> list[str]:
    """Every output topic of a camera but its compressed label, which repeats the label."""
    return [f"{camera}/segmentation/{name}" for name in SEGMENTATION_TOPICS]


def hash_of(offer: TopicEndpointInfo) -> str:
    """The type hash that a publisher announces, as "RIHS01_..."; empty where it announces none."""
    announced = str(offer.topic_type_hash)
    return announced if announced.startswith("RIHS01_") else ""


def offered_qos(profile: QoSProfile) -> Qos:
    """A publisher's QoS in the form that the bag's metadata holds."""
    return Qos(
        QosHistory(int(profile.history)),
        profile.depth,
        QosReliability(int(profile.reliability)),
        QosDurability(int(profile.durability)),
        _qos_time(profile.deadline),
        _qos_time(profile.lifespan),
        QosLiveliness(int(profile.liveliness)),
        _qos_time(profile.liveliness_lease_duration),
        bool(profile.avoid_ros_namespace_conventions),
    )


def _qos_time(duration: Duration) -> QosTime:
    return QosTime(*divmod(duration.nanoseconds, 1_000_000_000))


def _resolved(node: Node, topic: str) -> str:
    if topic.startswith("/"):
        return topic
    if any(mark in topic for mark in "*?["):
        return f"{node.get_namespace().rstrip('/')}/{topic}"
    return node.resolve_topic_name(topic)
