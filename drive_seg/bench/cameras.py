"""The cameras of the node's benchmark, and who listens to its masks: one ROS node with one or several of each."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Sequence

from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
from std_msgs.msg import Float64, Header, String

from drive_seg.bench.frames import IMAGE as SIZE
from drive_seg.bench.subjects import image
from drive_seg.evaluation.records import FATES
from drive_seg.images.messages import to_image

PICTURES = 4
COUNTERS = ("received", *FATES, "in_flight")
PATIENCE_S, TRIALS = 10.0, 3
"""How long a mask is awaited, and how often an image is sent: best effort may lose one."""


class Cameras:
    """Publish 1280x720 bgr8, best effort and depth 1, and time the masks as they come.

    Args:
        names: prefixes of the topics of each camera.

    Attributes:
        pictures: the images, uint8 BGR [720, 1280, 3], that are sent in turn.
        latencies_s: from stamp to mask, in the order in which they came; to be emptied by whoever likes.
        sent: images so far.
        fault: what was wrong with a mask; "" if nothing was.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.pictures = [image(SIZE, number) for number in range(PICTURES)]
        self.latencies_s: list[float] = []
        self.sent, self.fault = 0, ""
        self._names = list(names)
        self._changed = threading.Condition()
        self._masks: dict[str, tuple[int, int, bytes]] = {}
        self._processing: dict[str, list[float]] = {name: [] for name in names}
        self._label_maps: set[str] = set()
        self._figures: dict[str, dict[str, str]] = {}
        self._figures_ns = 0
        self._messages = [to_image(picture, Header(), "bgr8") for picture in self.pictures]
        self._node = Node("bench_cameras")
        self._images = {name: self._publisher(name) for name in names}
        for name in names:
            self._listen(name)
        self._node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self._node)
        self._thread = threading.Thread(target=self._spin, name="spin", daemon=True)
        self._thread.start()

    @property
    def count(self) -> int:
        return len(self._names)

    def is_ready(self) -> bool:
        """The node has its model, hears the images and is heard."""
        return self._label_maps == set(self._names) and all(
            self._images[name].get_subscription_count() > 0 and self._node.count_publishers(_label(name)) > 0
            for name in self._names
        )

    def serve(self, cameras: int, number: int) -> tuple[float, float]:
        """Send an image from so many cameras, all with one stamp, and wait for their masks.

        Args:
            number: of the picture.

        Returns:
            seconds from the stamp to the last mask; seconds that the node gives as its processing time of the first
            camera's frame.

        Raises:
            RuntimeError: if a mask does not come.
        """
        names = self._names[:cameras]
        for _ in range(TRIALS):
            with self._changed:
                told = len(self._processing[names[0]])
            stamp_ns = time.time_ns()
            for name in names:
                self._send(name, number, stamp_ns)
            if self._await_masks(names, stamp_ns, told):
                last_ns = max(self._masks[name][1] for name in names)
                return (last_ns - stamp_ns) / 1e9, self._processing[names[0]][-1]
        raise RuntimeError(f"of {TRIALS} images none came back as a mask within {PATIENCE_S:.0f} s")

    def mask(self) -> bytes:
        """The latest mask of the first camera, 720 x 1280 ids."""
        return self._masks[self._names[0]][2]

    def stream(self, frames: int, hz: float) -> float:
        """Publish so many frames of the first camera at a steady rate, and return the rate that was reached."""
        started = time.monotonic()
        for number in range(frames):
            time.sleep(max(0.0, started + number / hz - time.monotonic()))
            self._send(self._names[0], number, time.time_ns())
        time.sleep(max(0.0, started + frames / hz - time.monotonic()))
        return frames / (time.monotonic() - started)

    def counters(self, patience_s: float) -> dict[str, int]:
        """The node's counters, of all cameras together, when all that was sent has ended.

        Raises:
            RuntimeError: if that takes longer.
        """
        moment = time.time_ns() + 500_000_000  # what is on its way shall be counted
        await_(lambda: self._is_settled(moment), patience_s, "the node to finish what it has")
        return {key: sum(int(figures[key]) for figures in self._figures.values()) for key in COUNTERS}

    def figures(self) -> dict[str, str]:
        """The latest diagnostics of the first camera."""
        return self._figures[self._names[0]]

    def close(self) -> None:
        self._executor.shutdown()
        self._thread.join()
        self._node.destroy_node()

    def _await_masks(self, names: Sequence[str], stamp_ns: int, told: int) -> bool:
        """Whether each camera's mask of that stamp, and one more processing time of the first, come in time."""
        with self._changed:
            return self._changed.wait_for(
                lambda: (
                    all(name in self._masks and self._masks[name][0] == stamp_ns for name in names)
                    and len(self._processing[names[0]]) > told
                ),
                PATIENCE_S,
            )

    def _send(self, name: str, number: int, stamp_ns: int) -> None:
        message = self._messages[number % PICTURES]
        seconds, nanoseconds = divmod(stamp_ns, 10**9)
        message.header.stamp, message.header.frame_id = Time(sec=seconds, nanosec=nanoseconds), name
        self._images[name].publish(message)
        self.sent += 1

    def _publisher(self, name: str) -> object:
        best_effort = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
        return self._node.create_publisher(Image, f"{name}/image_raw", best_effort)

    def _listen(self, name: str) -> None:
        def on_mask(message: Image) -> None:
            now_ns, stamp = time.time_ns(), message.header.stamp
            self._take_mask(name, message, stamp.sec * 10**9 + stamp.nanosec, now_ns)

        def on_processing(message: Float64) -> None:
            with self._changed:
                self._processing[name].append(message.data / 1e3)
                self._changed.notify_all()

        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        topic, take_map = f"{name}/segmentation/label_map", lambda _: self._label_maps.add(name)
        self._node.create_subscription(String, topic, take_map, latched)
        self._node.create_subscription(Image, _label(name), on_mask, QoSProfile(depth=100))
        self._node.create_subscription(Float64, f"{name}/segmentation/debug/processing_time_ms", on_processing, 100)

    def _take_mask(self, name: str, message: Image, stamp_ns: int, now_ns: int) -> None:
        if (message.height, message.width, message.encoding) != (*SIZE, "mono8"):
            self.fault = f"a mask is {message.width}x{message.height} {message.encoding}, not 1280x720 mono8"
        elif message.header.frame_id != name:
            self.fault = f"a mask has the frame_id '{message.header.frame_id}', not that of its image"
        elif len(message.data) != SIZE[0] * SIZE[1]:
            self.fault = f"a mask has {len(message.data)} bytes"
        with self._changed:
            self.latencies_s.append((now_ns - stamp_ns) / 1e9)
            self._masks[name] = stamp_ns, now_ns, message.data
            self._changed.notify_all()

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            name = status.name.rpartition(": ")[2]
            if name in self._images:
                self._figures[name] = {pair.key: pair.value for pair in status.values}
                self._figures_ns = message.header.stamp.sec * 10**9 + message.header.stamp.nanosec

    def _is_settled(self, after_ns: int) -> bool:
        return self._figures_ns > after_ns and all(found["in_flight"] == "0" for found in self._figures.values())

    def _spin(self) -> None:
        with contextlib.suppress(ExternalShutdownException):
            self._executor.spin()


def await_(happened: Callable[[], bool], seconds: float, what: str) -> None:
    """Wait until something has happened.

    Raises:
        RuntimeError: if it takes longer.
    """
    deadline = time.monotonic() + seconds
    while not happened():
        if time.monotonic() > deadline:
            raise RuntimeError(f"waited {seconds:.0f} s in vain for {what}")
        time.sleep(0.02)


def _label(camera: str) -> str:
    return f"{camera}/segmentation/label"
