"""Publishes a recording as camera topics: ``ros2 run drive_seg player SOURCE``.

SOURCE is a rosbag2 (folder, .mcap, .db3), a rosbag1 (.bag), a video, a folder of images, or a synthetic drive
(``synth:seed=3,frames=100,size=640x360,fps=10``).
"""

from __future__ import annotations

import argparse
import contextlib
import math
import signal
import sys
import threading
from collections.abc import Sequence

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from drive_seg.recordings.playing import Player, PlayerError
from drive_seg.recordings.ros_args import split_ros_args
from drive_seg.recordings.sources import Source, SourceError, open_source


def arguments() -> argparse.ArgumentParser:
    """The player's command line; ROS's own arguments follow after --ros-args."""
    parser = argparse.ArgumentParser(prog="player", description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("source", help="rosbag2, rosbag1, video, folder of images, image, or synth:seed=0,frames=100")
    add(
        "--topics",
        nargs="+",
        metavar="TOPIC",
        help="only these (* and ?); otherwise of a bag its images, but for masks",
    )
    add("--start", type=float, default=0.0, metavar="S", help="begin S seconds into the recording")
    add("--duration", type=float, metavar="S", help="play S seconds of the recording")
    add("--frames", type=int, metavar="N", help="end after N images of the first camera")
    add("--rate", type=_positive, default=1.0, help="times real time (default 1)")
    add("--loop", action="store_true", help="again and again; times go on growing")
    add(
        "--camera",
        default="camera",
        metavar="NAME",
        help="publish NAME/image_raw (default camera); not for bags",
    )
    add("--fps", type=_positive, help="frame rate of a folder (default 10), or instead of a video's own")
    add("--stamps", choices=("original", "now"), default="original", help="header stamps (default original)")
    add("--clock", action="store_true", help="publish the recording's time on /clock")
    add(
        "--camera-info",
        nargs="?",
        const=True,
        default=False,
        metavar="FILE",
        help="publish camera_info from a calibration file; without FILE the exact one of a synthetic drive",
    )
    add("--compressed", action="store_true", help="publish pictures as JPEG on <topic>/compressed")
    add(
        "--quality",
        type=int,
        choices=range(1, 101),
        default=90,
        metavar="1-100",
        help="of the JPEG (default 90)",
    )
    add(
        "--reliability",
        choices=("reliable", "best_effort"),
        default="reliable",
        help="of the publishers (default reliable, which either kind of subscriber hears)",
    )
    add(
        "--wait-for",
        nargs="+",
        default=[],
        metavar="[TOPIC=]N",
        help="begin when N subscribers listen to TOPIC, by default the first camera's",
    )
    add("--wait-timeout", type=_positive, default=math.inf, metavar="S", help="wait S seconds at most")
    add("--preload", action="store_true", help="read everything into memory before beginning")
    add(
        "--remap",
        nargs="+",
        default=[],
        metavar="OLD:=NEW",
        help="rename topics; OLD is a name in the recording, also one that ROS 2 does not allow",
    )
    return parser


def main(args: Sequence[str] | None = None) -> int:
    """Play as the command line (``args`` without the program's name) says; returns the exit status."""
    own, ros_args = split_ros_args(sys.argv[1:] if args is None else args)
    parser = arguments()
    options = parser.parse_args(own)
    if options.clock and options.stamps == "now":
        parser.error("--clock gives out the recording's time, which --stamps now does not fit; leave one out")
    if wrong := [rule for rule in options.remap if ":=" not in rule]:
        parser.error(f"--remap takes OLD:=NEW, not '{wrong[0]}'")
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    try:
        source = _open(options)
        ros_args += ["--ros-args", *_ros_remaps(options, source)]
        rclpy.init(args=ros_args, signal_handler_options=SignalHandlerOptions.NO)
    except (
        SourceError,
        RuntimeError,
    ) as error:  # rclpy raises its RCLError, a RuntimeError, for bad ROS arguments
        print(f"player: {error}", file=sys.stderr)
        return 1
    try:
        return _run(source, options, stop)
    finally:
        rclpy.try_shutdown()


def _open(options: argparse.Namespace) -> Source:
    return open_source(
        options.source,
        options.topics,
        options.start,
        options.duration,
        camera=options.camera,
        fps=options.fps,
        frames=options.frames,
        camera_info=options.camera_info,
    )


def _ros_remaps(options: argparse.Namespace, source: Source) -> list[str]:
    """The rules that name no topic of the source, as /clock:=/time, for ROS; the others are kept in the options."""
    names = {topic.name.strip("/") for topic in source.topics}
    ours = [rule for rule in options.remap if rule.partition(":=")[0].strip("/") in names]
    theirs = [rule for rule in options.remap if rule not in ours]
    options.remap = ours
    return [part for rule in theirs for part in ("-r", rule)]


def _run(source: Source, options: argparse.Namespace, stop: threading.Event) -> int:
    node = Node("player")
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    spinner = threading.Thread(target=_spin, args=(executor,), name="spin", daemon=True)
    spinner.start()
    log = node.get_logger()
    try:
        player = Player(node, source, options, stop)
        player.play()
        odd = player.late or player.refused or source.skipped or source.repeated or source.backward
        failed = not (player.sent or stop.is_set())
        (log.error if failed else log.warning if odd else log.info)(player.summary())
        return int(failed)
    except (SourceError, PlayerError) as error:
        log.error(str(error))
        return 1
    finally:
        executor.shutdown()
        spinner.join()
        node.destroy_node()


def _spin(executor: SingleThreadedExecutor) -> None:
    with contextlib.suppress(ExternalShutdownException):
        executor.spin()


def _positive(text: str) -> float:
    value = float(text)
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"must be above 0, not {text}")
    return value


if __name__ == "__main__":
    sys.exit(main())
