"""One side of a delivery of camera images, as a process: ``publish TOPIC FRAMES RATE`` or ``count TOPIC``.

Each side prints ``matched`` once it sees the other on both topics. The publishing side then waits for a line on
its standard input, sends its frames, each filled with its own number, and marks the end on a reliable topic. The
counting side prints the numbers it received as JSON. A side that waits in vain ends with an error.
"""

import json
import sys
import time
from collections.abc import Callable

import numpy as np
import rclpy
from rclpy.duration import Duration
from rclpy.event_handler import PublisherEventCallbacks, SubscriptionEventCallbacks
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy, qos_profile_sensor_data
from sensor_msgs.msg import Image
from std_msgs.msg import Empty, Header

from drive_seg.images.messages import to_image

HEIGHT, WIDTH = 720, 1280
DEADLINE_S = 60.0
END_TOPIC = "end_of_frames"


class Side:
    """A node that knows on how many of its topics the other side has appeared."""

    def __init__(self, name: str) -> None:
        rclpy.init()
        self.node = Node(name)
        self.matched = set()
        self.executor = SingleThreadedExecutor()
        self.executor.add_node(self.node)

    def on_match(self, topic: str) -> Callable:
        return lambda status: self.matched.add(topic) if status.current_count > 0 else None

    def spin_until(self, done: Callable[[], bool], what: str) -> None:
        end = time.monotonic() + DEADLINE_S
        while not done():
            if time.monotonic() > end:
                sys.exit(f"{self.node.get_name()}: no {what} within {DEADLINE_S:.0f} s")
            self.executor.spin_once(timeout_sec=0.5)

    def announce(self) -> None:
        self.spin_until(lambda: len(self.matched) == 2, "other side")
        print("matched", flush=True)


def publish(topic: str, frames: int, rate: float) -> None:
    """As a camera driver does it: best effort, keep last 1, at a steady rate."""
    side = Side("camera")
    best_effort = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
    image_events = PublisherEventCallbacks(matched=side.on_match(topic))
    images = side.node.create_publisher(Image, topic, best_effort, event_callbacks=image_events)
    end_events = PublisherEventCallbacks(matched=side.on_match(END_TOPIC))
    end = side.node.create_publisher(Empty, END_TOPIC, 1, event_callbacks=end_events)
    side.announce()
    sys.stdin.readline()
    start = time.monotonic()
    for number in range(frames):
        message = to_image(np.full((HEIGHT, WIDTH, 3), number, np.uint8), Header(), "bgr8")
        time.sleep(max(0.0, start + number / rate - time.monotonic()))
        images.publish(message)
    end.publish(Empty())
    if not end.wait_for_all_acked(Duration(seconds=DEADLINE_S)):
        sys.exit("camera: the end was not heard")


def count(topic: str) -> None:
    """Counts and nothing else, so that a frame is missing only if the transport lost it."""
    side = Side("counter")
    numbers = []
    ended = []

    def on_image(serialized: bytes) -> None:
        # The pixels come last in the serialised message.
        assert serialized[-1] == serialized[-HEIGHT * WIDTH * 3], "a frame was torn"
        numbers.append(serialized[-1])

    sensor_data = QoSProfile(depth=100, reliability=qos_profile_sensor_data.reliability)
    image_events = SubscriptionEventCallbacks(matched=side.on_match(topic))
    side.node.create_subscription(Image, topic, on_image, sensor_data, raw=True, event_callbacks=image_events)
    end_events = SubscriptionEventCallbacks(matched=side.on_match(END_TOPIC))
    side.node.create_subscription(Empty, END_TOPIC, ended.append, 1, event_callbacks=end_events)
    side.announce()
    side.spin_until(lambda: bool(ended), "end")
    # The end may overtake frames that wait in this process already.
    heard = -1
    while heard < len(numbers):
        heard = len(numbers)
        side.executor.spin_once(timeout_sec=1.0)
    print(json.dumps(numbers), flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "publish":
        publish(sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))
    else:
        count(sys.argv[2])
