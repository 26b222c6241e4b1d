"""What a camera publishes: the masks of each frame, and the latched meaning of their ids."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable

import numpy as np
from nav_msgs.msg import OccupancyGrid
from rclpy.lifecycle import LifecycleNode
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Float64, Header, String

from drive_seg.images.masks import hide
from drive_seg.images.messages import to_compressed_png, to_image
from drive_seg.images.overlay import blend
from drive_seg.labels import LabelMap
from drive_seg.node.health.measures import Persistence
from drive_seg.node.parameters import QOS_OVERRIDES, Tuning, given_parameters
from drive_seg.node.planning.planner import Planner, UnavailableError

try:
    from vision_msgs.msg import LabelInfo, VisionClass
except ImportError:  # not on the Python package index; then label_map alone tells what the ids mean
    LabelInfo = VisionClass = None

PER_FRAME: dict[str, type] = {
    "label": Image,
    "confidence": Image,
    "camera_info": CameraInfo,
    "drivable": Image,
    "free_space": OccupancyGrid,
    "label/compressed": CompressedImage,
    "color": Image,
    "overlay": Image,
}
"""The outputs made per frame, in the order of publishing: the mask that others wait for comes first."""

TIMES = ("processing_time_ms", "pipeline_latency_ms")
"""Topics below ``debug/``, one figure per published frame: from pick-up to published on a monotonic clock, and from the
image's stamp to published on the node's clock."""


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

    def __init__(self, node: LifecycleNode, camera: str, planner: Planner) -> None:
        self._node, self._camera, self._planner = node, camera, planner
        self._persistence = Persistence()
        self._missing: dict[str, str] = {}
        prefix = f"{camera}/segmentation"
        self._per_frame: dict[str, Publisher] = {
            name: self._publisher(kind, f"{prefix}/{name}") for name, kind in PER_FRAME.items()
        }
        self._label_map = self._publisher(String, f"{prefix}/label_map", latched=True)
        self._label_info = self._publisher(LabelInfo, f"{prefix}/label_info", latched=True) if LabelInfo else None
        self._times = {name: self._publisher(Float64, f"{prefix}/debug/{name}") for name in TIMES}

    def wanted(self, publish_confidence: bool) -> frozenset[str]:
        """The outputs per frame that somebody listens to now; work is done for no others."""
        return frozenset(
            name
            for name, publisher in self._per_frame.items()
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
        tuning: Tuning,
    ) -> str:
        """Publish the wanted outputs of one frame, each with the frame's own header.

        Pixels that are ignored, or less sure than is asked for, are void in all of them.

        Args:
            image: uint8 BGR [H, W, 3], the frame itself.
            label: uint8 [H, W], class ids.
            confidence: uint8 [H, W]; needed only if it is wanted or there is a least confidence.

        Returns:
            why nothing was published, or "" if something was.
        """
        planner = self._planner
        label, confidence = hide(label, confidence, planner.ignored, tuning.min_confidence)
        color = functools.cache(lambda: label_map.colorize(label))
        drivable = functools.cache(lambda: planner.drivable(label, label_map, tuning.drivable_min_area))
        make: dict[str, Callable[[], object]] = {
            "label": lambda: to_image(label, header, "mono8"),
            "confidence": lambda: to_image(confidence, header, "mono8"),
            "camera_info": lambda: planner.camera_info(header, label.shape),
            "drivable": lambda: to_image(drivable(), header, "mono8"),
            "free_space": lambda: planner.free_space(label, drivable(), label_map, header),
            "label/compressed": lambda: to_compressed_png(label, header, "mono8"),
            "color": lambda: to_image(color(), header, "bgr8"),
            "overlay": lambda: to_image(blend(image, color(), tuning.overlay_alpha), header, "bgr8"),
        }
        missing: dict[str, str] = {}
        for name, publisher in self._per_frame.items():
            if name in wanted:
                try:
                    publisher.publish(make[name]())
                    self._persistence.over(name)
                except UnavailableError as error:
                    missing[name] = str(error)
        self._tell(missing)
        return "" if wanted.difference(missing) else "; ".join(f"{name}: {why}" for name, why in missing.items())

    def kept_pixels(
        self, label: np.ndarray, confidence: np.ndarray | None, min_confidence: float, step: int
    ) -> np.ndarray:
        """Of every ``step``-th row and column the pixels that are not ignored, as they will be published: uint8 [N, 1].

        Args:
            label, confidence: as for :meth:`publish`.
        """
        sample = np.s_[::step, ::step]
        label, _ = hide(label[sample], None if confidence is None else confidence[sample], None, min_confidence)
        ignored = self._planner.ignored
        fits = ignored is not None and ignored[sample].shape == label.shape
        return label[~ignored[sample], None] if fits else label.reshape(-1, 1)

    def _tell(self, missing: dict[str, str]) -> None:
        """Say once of each output that is wanted and does not come why that is so."""
        lasting = {name: why for name, why in missing.items() if name in self._missing}
        for name, why in missing.items():
            if self._persistence.says(name, why):
                self._node.get_logger().warning(f"camera '{self._camera}': no {name}: {why}")
                lasting[name] = why
        self._missing = lasting

    def describe_missing(self) -> str:
        """Which outputs are listened to and have not come for a while, with the reasons; "" if all come."""
        missing, heard = self._missing, self.wanted(publish_confidence=True)
        return "; ".join(f"no {name}: {why}" for name, why in missing.items() if name in heard)

    def publish_times(self, processing_ms: float, pipeline_ms: float) -> None:
        """Tell what a published frame took, if somebody listens; see :data:`TIMES`."""
        for publisher, value in zip(self._times.values(), (processing_ms, pipeline_ms), strict=True):
            if publisher.get_subscription_count() > 0:
                publisher.publish(Float64(data=value))

    def destroy(self) -> None:
        """Take the topics off the graph."""
        for publisher in (*self._per_frame.values(), *self._times.values(), self._label_map, self._label_info):
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
