"""The other end of the node's benchmark: publishes images as a camera does, and receives the label masks.

``python -m drive_seg.bench.camera_process --seconds 5 -o outcome.json`` awaits a running node, measures at the rate and
then at the overload, and writes what it saw and what the node counted meanwhile.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import rclpy
from builtin_interfaces.msg import Time
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from drive_seg.bench.subjects import image
from drive_seg.files import write_atomically
from drive_seg.image_messages import to_image
from drive_seg.replay.demo_watch import ENDS, Watch

SIZE = (720, 1280)
FRAME_ID = "bench_camera"
READY_S, SETTLED_S = 90.0, 30.0
WARM_UP_FRAMES, WARM_UP_HZ = 6, 3.0
MOST_HZ = 120.0
_COUNTERS = ("received", *ENDS, "in_flight")


class CameraAndListener:
    """Publishes 1280x720 bgr8, best effort and depth 1, and times the masks as they come.

    Attributes:
        latencies_s: of the masks of the current phase, in the order in which they came.
    """

    def __init__(self, camera: str) -> None:
        self.latencies_s: list[float] = []
        self.fault = ""
        self._node = Node("bench_camera")
        best_effort = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
        self._images = self._node.create_publisher(Image, f"{camera}/image_raw", best_effort)
        self._label = f"{camera}/segmentation/label"
        self._node.create_subscription(Image, self._label, self._on_mask, QoSProfile(depth=100))
        self._messages = [to_image(image(SIZE, number), Header(frame_id=FRAME_ID), "bgr8") for number in range(4)]
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self._node)
        self._thread = threading.Thread(target=self._spin, name="spin", daemon=True)
        self._thread.start()

    @property
    def matched(self) -> bool:
        """The node hears the images and is heard."""
        return self._images.get_subscription_count() > 0 and self._node.count_publishers(self._label) > 0

    def send(self, frames: int, hz: float) -> float:
        """Publish so many frames at a steady rate, each stamped as it is sent; the rate that was reached."""
        started = time.monotonic()
        for number in range(frames):
            time.sleep(max(0.0, started + number / hz - time.monotonic()))
            message = self._messages[number % len(self._messages)]
            seconds, nanoseconds = divmod(time.time_ns(), 10**9)
            message.header.stamp = Time(sec=seconds, nanosec=nanoseconds)
            self._images.publish(message)
        time.sleep(max(0.0, started + frames / hz - time.monotonic()))
        return frames / (time.monotonic() - started)

    def close(self) -> None:
        self._executor.shutdown()
        self._thread.join()
        self._node.destroy_node()

    def _on_mask(self, message: Image) -> None:
        now_ns, stamp = time.time_ns(), message.header.stamp
        self.latencies_s.append((now_ns - stamp.sec * 10**9 - stamp.nanosec) / 1e9)
        if (message.height, message.width, message.encoding) != (*SIZE, "mono8"):
            self.fault = f"a mask is {message.width}x{message.height} {message.encoding}, not 1280x720 mono8"
        elif message.header.frame_id != FRAME_ID:
            self.fault = f"a mask has the frame_id '{message.header.frame_id}', not that of its image"
        elif len(message.data) != SIZE[0] * SIZE[1]:
            self.fault = f"a mask has {len(message.data)} bytes"

    def _spin(self) -> None:
        with contextlib.suppress(ExternalShutdownException):
            self._executor.spin()


def measure(camera: str, seconds: float, rate: float, overload: float) -> list[dict[str, Any]]:
    """Both phases, one after the other.

    Raises:
        RuntimeError: if the node does not become ready or settle in time, or a mask is not what it should be.
    """
    watch, ends = Watch(camera), CameraAndListener(camera)
    try:
        _await(lambda: watch.spin() or (bool(watch.label_map) and ends.matched), READY_S, "the node to be ready")
        ends.send(WARM_UP_FRAMES, WARM_UP_HZ)
        before = _settled(watch)
        phases = []
        for hz in (rate, None):
            if hz is None:
                # What it manages is told by the time it takes for a frame.
                hz = min(MOST_HZ, overload * 1e3 / float(watch.figures["processing_ms_p50"]))
            ends.latencies_s = []
            sent = max(1, round(seconds * hz))
            reached = ends.send(sent, hz)
            after = _settled(watch)
            counted = {key: after[key] - before[key] for key in _COUNTERS}
            lost = watch.figures["lost_by_middleware"]
            phases.append(
                {
                    "image": f"{SIZE[1]}x{SIZE[0]} bgr8",
                    "asked_hz": hz,
                    "sent_hz": reached,
                    "sent": sent,
                    "latencies_s": list(ends.latencies_s),
                    "node": {**counted, "lost_by_middleware_so_far": lost},
                    "stages_ms": {k: v for k, v in watch.figures.items() if k.startswith("stage_")},
                    "device": watch.figures["device"],
                    "precision": watch.figures["precision"],
                    "runtime": watch.figures.get("runtime", "torch"),
                }
            )
            before = after
        if ends.fault:
            raise RuntimeError(ends.fault)
        return phases
    finally:
        ends.close()
        watch.close()


def _settled(watch: Watch) -> dict[str, int]:
    """The node's counters when all that was sent has ended."""
    moment = time.time_ns() + 500_000_000  # what is on its way shall be counted
    _await(lambda: watch.is_settled(moment), SETTLED_S, "the node to finish what it has")
    return {key: int(watch.figures[key]) for key in _COUNTERS}


def _await(happened: Any, seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        if time.monotonic() > deadline:
            raise RuntimeError(f"waited {seconds:.0f} s in vain for {what}")


def main(args: Sequence[str] | None = None) -> int:
    """Measure as the command line says; returns the exit status."""
    parser = argparse.ArgumentParser(prog="camera_process", description=__doc__.split("\n")[0])
    parser.add_argument("--camera", default="camera", help="prefix of the topics")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each rate")
    parser.add_argument("--rate", type=float, default=10.0, help="images per second of the first phase")
    parser.add_argument("--overload", type=float, default=3.0, help="of the second: times what the node manages")
    parser.add_argument("-o", "--output", type=Path, required=True, help="JSON file to write")
    options = parser.parse_args(args)
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    try:
        phases = measure(options.camera, options.seconds, options.rate, options.overload)
    except RuntimeError as error:
        print(f"camera: {error}", file=sys.stderr)
        return 1
    finally:
        rclpy.try_shutdown()
    write_atomically(options.output, json.dumps(phases).encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
