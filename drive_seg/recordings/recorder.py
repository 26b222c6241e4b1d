"""Records topics into an mcap rosbag2: ``ros2 run drive_seg recorder --topics A B -o OUT``.

Messages are written as they come over the wire. Ctrl-C, SIGTERM or one of the limits ends it with a complete bag; a
killed recorder leaves a folder named ``OUT.partial``.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import signal
import sys
import threading
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from rosbags.rosbag2 import WriterError

from drive_seg.recordings.bag_writer import BagError, BagWriter
from drive_seg.recordings.recording import Recorder, segmentation_topics
from drive_seg.recordings.replay_watch import ReplayWatch
from drive_seg.recordings.ros_args import split_ros_args

POLL_S = 0.1
FLUSH_S = 2.0


def arguments() -> argparse.ArgumentParser:
    """The recorder's command line; ROS's own arguments follow after --ros-args."""
    parser = argparse.ArgumentParser(prog="recorder", description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--topics", nargs="+", default=[], metavar="TOPIC", help="topics to record (* and ? allowed)")
    add("--all-segmentation", nargs="+", default=[], metavar="CAM", help="every output topic of these cameras")
    add("-o", "--output", type=Path, metavar="OUT", help="folder of the bag (default rosbag2_<date and time>)")
    add("--compress", action="store_true", help="zstd within the file; any mcap reader undoes it")
    add("--duration", type=_positive, default=math.inf, metavar="S", help="end S seconds after the start")
    add(
        "--until-idle",
        type=_positive,
        default=math.inf,
        metavar="S",
        help="end after S seconds without a message",
    )
    add("--max-messages", type=int, metavar="N", help="end once N messages are recorded")
    add(
        "--replay",
        metavar="IMAGE",
        help="record one replay: listen to this image topic once all others are recorded, which a player can wait for; "
        "end when nobody publishes it any more and the node has finished its frames",
    )
    return parser


def main(args: Sequence[str] | None = None) -> int:
    """Record as the command line (``args`` without the program's name) says; returns the exit status."""
    own, ros_args = split_ros_args(sys.argv[1:] if args is None else args)
    parser = arguments()
    options = parser.parse_args(own)
    topics = [
        *options.topics,
        *(t for camera in options.all_segmentation for t in segmentation_topics(camera)),
    ]
    if not topics:
        parser.error("name what to record, with --topics or --all-segmentation")
    output = options.output or Path(f"rosbag2_{datetime.now():%Y_%m_%d-%H_%M_%S}")
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    try:
        rclpy.init(args=ros_args, signal_handler_options=SignalHandlerOptions.NO)
        bag = BagWriter(output, options.compress)
        return _run(bag, topics, options, stop)
    except (
        BagError,
        RuntimeError,
    ) as error:  # rclpy raises its RCLError, a RuntimeError, for bad ROS arguments
        print(f"recorder: {error}", file=sys.stderr)
        return 1
    except (OSError, WriterError) as error:
        print(f"recorder: writing failed, {output}.partial holds what there is: {error}", file=sys.stderr)
        return 1
    finally:
        rclpy.try_shutdown()


def _run(bag: BagWriter, topics: Sequence[str], options: argparse.Namespace, stop: threading.Event) -> int:
    node = Node("recorder")
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    recorder = Recorder(node, bag, topics)
    watch = ReplayWatch(node, recorder, options.replay) if options.replay else None
    try:
        with contextlib.suppress(ExternalShutdownException):
            _record(executor, recorder, bag, options, stop, watch)
        bag.close()
        return _report(node, bag, recorder)
    finally:
        executor.shutdown()
        node.destroy_node()


def _record(
    executor: SingleThreadedExecutor,
    recorder: Recorder,
    bag: BagWriter,
    options: argparse.Namespace,
    stop: threading.Event,
    watch: ReplayWatch | None = None,
) -> None:
    begin = time.monotonic()
    looked = -math.inf
    most = options.max_messages if options.max_messages is not None else math.inf
    while not stop.is_set():
        now = time.monotonic()
        if now - looked >= POLL_S:
            recorder.poll()
            looked = now
            if watch is not None and watch.is_over():
                break
        executor.spin_once(timeout_sec=POLL_S)
        idle = recorder.idle_s()
        if now - begin >= options.duration or bag.messages >= most:
            return
        if idle is not None and idle >= options.until_idle:
            return
    _flush(executor, bag)


def _flush(executor: SingleThreadedExecutor, bag: BagWriter) -> None:
    """Take what has arrived before the stop; not for ever, since publishers may go on."""
    deadline = time.monotonic() + FLUSH_S
    before = -1
    while bag.messages != before and time.monotonic() < deadline:
        before = bag.messages
        executor.spin_once(timeout_sec=POLL_S)


def _report(node: Node, bag: BagWriter, recorder: Recorder) -> int:
    log = node.get_logger()
    for topic in recorder.silent():
        log.warning(f"Nothing was recorded of {topic}.")
    if not bag.messages:
        log.error(f"Nothing was recorded, so there is no {bag.path}.")
        return 1
    for topic, count in sorted(bag.counts.items()):
        log.info(f"{count:6d}  {topic}")
    log.info(f"{bag.messages} messages in {bag.path}.")
    return 0


def _positive(text: str) -> float:
    value = float(text)
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"must be above 0, not {text}")
    return value


if __name__ == "__main__":
    sys.exit(main())
