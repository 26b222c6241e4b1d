"""What a camera publishes: the masks of each frame, and the latched meaning of their ids."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
from rclpy.lifecycle import LifecycleNode
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header, String

from drive_seg.image_messages import to_compressed_png, to_image
from drive_seg.labels import LabelMap
from drive_seg.node.parameters import QOS_OVERRIDES, given_parameters
from drive_seg.overlay import blend

try:
    from vision_msgs.msg import LabelInfo, VisionClass
except ImportError:  # not on the Python package index; then label_map alone tells what the ids mean
    LabelInfo = VisionClass = None

IMAGES: dict[str, type] = {
    "label": Image,
    "label/compressed": CompressedImage,
    "color": Image,
    "overlay": Image,
    "confidence": Image,
}
"""The outputs made per frame, in the order of publishing: the mask that others wait for comes first."""


def output_qos(latched: bool = False) -> QoSProfile:
    """Reliable, so that reliable and best-effort listeners both hear it; latched is for late joiners too.

    A new profile each time: qos_overrides are written into the one that rclpy is given.
    """
    durability = DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=1,
        reliability=ReliabilityPolicy.RELIABLE,
        durability=durability,
    )


class Outputs:
    """The publishers of one camera, ``<camera>/segmentation/...``."""

    def __init__(self, node: LifecycleNode, camera: str) -> None:
        self._node = node
        prefix = f"{camera}/segmentation"
        self._images: dict[str, Publisher] = {
            name: self._publisher(kind, f"{prefix}/{name}") for name, kind in IMAGES.items()
        }
        self._label_map = self._publisher(String, f"{prefix}/label_map", latched=True)
        self._label_info = self._publisher(LabelInfo, f"{prefix}/label_info", latched=True) if LabelInfo else None

    def wanted(self, publish_confidence: bool) -> frozenset[str]:
        """The image outputs that somebody listens to now; work is done for no others."""
        return frozenset(
            name
            for name, publisher in self._images.items()
            if (publish_confidence or name != "confidence") and publisher.get_subscription_count() > 0
        )

    def latch(self, label_map: LabelMap, model: str, model_hash: str, header: Header) -> None:
        """Tell everyone, also those who join later, what the ids of the masks mean."""
        data = {**label_map.to_dict(), "model": model, "model_hash": model_hash}
        self._label_map.publish(String(data=json.dumps(data)))
        if self._label_info is not None:
            classes = [VisionClass(class_id=i, class_name=name) for i, name in enumerate(label_map.names)]
            self._label_info.publish(LabelInfo(header=header, class_map=classes))

    def publish(
        self,
        wanted: frozenset[str],
        header: Header,
        image: np.ndarray,
        label: np.ndarray,
        confidence: np.ndarray | None,
        label_map: LabelMap,
        overlay_alpha: float,
    ) -> None:
        """Publish the wanted outputs of one frame, each with the frame's own header.

        Args:
            image: uint8 BGR [H, W, 3], the frame itself.
            label: uint8 [H, W], class ids.
            confidence: uint8 [H, W]; needed only if wanted.
        """
        color = label_map.colorize(label) if wanted & {"color", "overlay"} else None
        make: dict[str, Callable[[], Image | CompressedImage]] = {
            "label": lambda: to_image(label, header, "mono8"),
            "label/compressed": lambda: to_compressed_png(label, header, "mono8"),
            "color": lambda: to_image(color, header, "bgr8"),
            "overlay": lambda: to_image(blend(image, color, overlay_alpha), header, "bgr8"),
            "confidence": lambda: to_image(confidence, header, "mono8"),
        }
        for name, publisher in self._images.items():
            if name in wanted:
                publisher.publish(make[name]())

    def destroy(self) -> None:
        """Take the topics off the graph."""
        for publisher in (*self._images.values(), self._label_map, self._label_info):
            if publisher is not None:
                self._node.destroy_publisher(publisher)

    def _publisher(self, kind: type, topic: str, latched: bool = False) -> Publisher:
        return self._node.create_publisher(
            kind, topic, output_qos(latched), qos_overriding_options=qos_options(self._node, topic)
        )


def qos_options(node: LifecycleNode, topic: str) -> QoSOverridingOptions:
    """Take ``qos_overrides.<topic>...`` parameters into account where the user gave some for this topic.

    Only then, because each overridable topic brings three more parameters into every listing.
    """
    prefix = f"{QOS_OVERRIDES}.{node.resolve_topic_name(topic)}."
    given = any(name.startswith(prefix) for name in given_parameters(node))
    return QoSOverridingOptions.with_default_policies() if given else QoSOverridingOptions(policy_kinds=())
