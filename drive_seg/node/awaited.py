"""Why no image comes: who publishes an awaited topic, as what, and with which QoS, in one log sentence."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rclpy.node import Node
from rclpy.qos import (
    DurabilityPolicy,
    HistoryPolicy,
    QoSCompatibility,
    QoSProfile,
    ReliabilityPolicy,
    qos_check_compatible,
)
from rclpy.subscription import Subscription
from rclpy.utilities import get_rmw_implementation_identifier

from drive_seg.node.dds import is_fast_dds

if TYPE_CHECKING:
    # Since rclpy 10 it is in rclpy.endpoint_info.
    from rclpy.topic_endpoint_info import TopicEndpointInfo

IMAGE_TYPES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")


def describe_publishers(node: Node, camera: str, subscription: Subscription) -> str:
    """Which topic is awaited, who publishes it with what QoS, and what to do about a mismatch."""
    topic, wanted = subscription.topic_name, _type_name(subscription.msg_type)
    awaited = f"awaiting {topic} ({wanted}, {describe_qos(subscription.qos_profile)})"
    publishers = node.get_publishers_info_by_topic(topic)
    if not publishers:
        return f"{awaited}, which nobody publishes{_other_images(node, topic)}"
    offers = [_describe_offer(publisher, subscription, wanted, camera) for publisher in publishers]
    return f"{awaited}, published by {'; and by '.join(offers)}"


def describe_qos(qos: QoSProfile) -> str:
    """The part of a QoS profile that decides who hears whom: ``best effort, volatile, keep last 1``."""
    reliability = {ReliabilityPolicy.RELIABLE: "reliable", ReliabilityPolicy.BEST_EFFORT: "best effort"}
    durability = {DurabilityPolicy.VOLATILE: "volatile", DurabilityPolicy.TRANSIENT_LOCAL: "transient local"}
    parts = [reliability.get(qos.reliability, "reliability unknown"), durability.get(qos.durability, "")]
    if qos.history == HistoryPolicy.KEEP_LAST:
        parts.append(f"keep last {qos.depth}")
    return ", ".join(part for part in parts if part)


def _describe_offer(publisher: TopicEndpointInfo, subscription: Subscription, wanted: str, camera: str) -> str:
    # The name comes later than the publisher itself, and the middleware fills the gap with a word in capitals.
    known = "_UNKNOWN_" not in publisher.node_name
    name = f"{publisher.node_namespace.rstrip('/')}/{publisher.node_name}" if known else "a node without a name"
    offer = f"{name} ({publisher.topic_type}, {describe_qos(publisher.qos_profile)})"
    if publisher.topic_type != wanted:
        transport = {IMAGE_TYPES[0]: "raw", IMAGE_TYPES[1]: "compressed"}.get(publisher.topic_type)
        mend = f": set {camera}.transport to {transport}" if transport else ""
        return f"{offer}, but as another type{mend}"
    compatibility, reason = qos_check_compatible(publisher.qos_profile, subscription.qos_profile)
    if compatibility == QoSCompatibility.ERROR:
        best_effort = publisher.qos_profile.reliability == ReliabilityPolicy.BEST_EFFORT
        asks_reliable = subscription.qos_profile.reliability == ReliabilityPolicy.RELIABLE
        mend = "set input_reliability to best_effort" if best_effort and asks_reliable else reason.strip()
        return f"{offer}, whose QoS does not match: {mend}"
    # Best-effort images that do not fit the publisher's transport are lost there, without a trace here.
    rmw = get_rmw_implementation_identifier()
    advice = "start it with config/fastdds_large_images.xml, see docs/vehicle.md"
    if not is_fast_dds(rmw):
        advice = f"for {rmw} see docs/distros.md"
    return f"{offer}, whose type and QoS match: if it sends images, they may be too large for its transport ({advice})"


def _other_images(node: Node, topic: str) -> str:
    """Where images are to be had instead, for a topic that was misspelt."""
    others = [
        name
        for name, types in node.get_topic_names_and_types()
        if set(types) & set(IMAGE_TYPES) and name != topic and "/segmentation/" not in name
    ]
    published = [name for name in others if node.count_publishers(name)]
    return f"; images are published on {', '.join(published[:5])}" if published else ""


def _type_name(message_type: type) -> str:
    package, _, _ = message_type.__module__.partition(".")
    return f"{package}/msg/{message_type.__name__}"
