"""What the demo sees of the others: whether the node is ready, what its diagnostics say."""

from __future__ import annotations

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, qos_profile_sensor_data
from std_msgs.msg import String

from drive_seg.recordings.message_types import message_class
from drive_seg.recordings.sources import Topic
from drive_seg.recordings.sources.topics import ros2_name

ENDS = ("published", "dropped", "expired", "rejected", "failed", "withheld")


class Watch:
    """The demo's own node.

    Attributes:
        label_map: what the node latched there (JSON); empty before.
        figures: the camera's latest diagnostics, values by key.
    """

    def __init__(self, camera: str) -> None:
        self.label_map = ""
        self.figures: dict[str, str] = {}
        self._figures_ns = 0
        self._camera = camera
        self._outputs = [f"/{camera}/segmentation/{name}" for name in ("label", "color")]
        self._node = Node("demo")
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self._node)
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._node.create_subscription(String, f"/{camera}/segmentation/label_map", self._on_label_map, latched)
        self._node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)

    def spin(self) -> None:
        """Take what has come, waiting a moment for it."""
        self._executor.spin_once(timeout_sec=0.1)

    def is_ready(self, listeners: int) -> bool:
        """Whether the node is configured and so many processes listen to its masks."""
        self.spin()
        label, color = (self._node.count_subscribers(topic) for topic in self._outputs)
        return bool(self.label_map) and label >= listeners and color >= 1

    def fire(self, image: Topic) -> None:
        """Subscribe to the image, which is what the player waits for."""
        self._shot = self._node.create_subscription(
            message_class(image.type),
            ros2_name(image.name),
            self._on_first_image,
            qos_profile_sensor_data,
            raw=True,
        )

    def is_settled(self, after_ns: int) -> bool:
        """Whether diagnostics younger than this moment say that every received frame has ended."""
        self.spin()
        return self._figures_ns > after_ns and self.figures.get("in_flight") == "0"

    def close(self) -> None:
        """Take the node off the graph."""
        self._executor.shutdown()
        self._node.destroy_node()

    def _on_first_image(self, _: bytes) -> None:
        if self._shot is not None:
            self._node.destroy_subscription(self._shot)
            self._shot = None

    def _on_label_map(self, message: String) -> None:
        self.label_map = message.data

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            # "drive_seg: <node>: <camera>"
            if status.name.startswith("drive_seg: ") and status.name.endswith(f": {self._camera}"):
                stamp = message.header.stamp
                self._figures_ns = stamp.sec * 1_000_000_000 + stamp.nanosec
                self.figures = {pair.key: pair.value for pair in status.values}
