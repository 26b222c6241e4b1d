"""When the recording of one replay may begin and when it is over."""

from __future__ import annotations

import time

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from rclpy.subscription import Subscription

from drive_seg.recordings.message_types import message_class
from drive_seg.recordings.recording import Recorder

STATUS = "drive_seg: "
AFTER_S = 1.0
PATIENCE_S = 30.0


class ReplayWatch:
    """Watches a replay beside a recorder.

    Once everything chosen is recorded it listens to the image topic until an image comes: a player that waits for the
    node and for one more listener so begins when no mask can be missed. The replay is over when the image topic has no
    publisher any more and diagnostics of a second later say that no frame is in flight.

    Args:
        node: whoever spins it.
        recorder: what records on it.
        image: a topic that the player publishes.
    """

    def __init__(self, node: Node, recorder: Recorder, image: str) -> None:
        self._node, self._recorder = node, recorder
        self._image = node.resolve_topic_name(image)
        self._listener: Subscription | None = None
        self._is_played = False
        self._over_since: float | None = None
        self._is_settled = False
        self._diagnostics = node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)

    def is_over(self) -> bool:
        """Look; to be called now and then."""
        offers = self._node.get_publishers_info_by_topic(self._image)
        now = time.monotonic()
        if self._listener is None and not self._is_played:
            if offers and self._recorder.hears_all():
                kind = message_class(offers[0].topic_type)
                self._listener = self._node.create_subscription(
                    kind, self._image, self._on_image, qos_profile_sensor_data, raw=True
                )
            return False
        if offers:
            self._over_since = None
        elif self._over_since is None:
            self._over_since, self._is_settled = now, False
        return self._over_since is not None and (self._is_settled or now - self._over_since > PATIENCE_S)

    def _on_image(self, _: bytes) -> None:
        self._is_played = True
        if self._listener is not None:
            self._node.destroy_subscription(self._listener)
            self._listener = None

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        if self._over_since is None or time.monotonic() - self._over_since < AFTER_S:
            return
        in_flight = [
            pair.value
            for status in message.status
            if status.name.startswith(STATUS)
            for pair in status.values
            if pair.key == "in_flight"
        ]
        if in_flight:
            self._is_settled = all(value == "0" for value in in_flight)
