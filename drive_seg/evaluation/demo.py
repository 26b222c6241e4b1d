"""The whole road once, over DDS: player -> node -> recorder and scorer, each a process; then figures and pictures.

``python -m drive_seg.evaluation.demo`` plays a synthetic drive with its labels; ``--input`` takes any footage instead.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rclpy
from rclpy.signals import SignalHandlerOptions
from rich.console import Console

from drive_seg.checkpoint import find_model
from drive_seg.evaluation import demo_report, pictures
from drive_seg.evaluation.demo_watch import Watch
from drive_seg.evaluation.pictures import RecordedTopics
from drive_seg.evaluation.processes import Child, ChildError, Children
from drive_seg.inference.runtimes.preparation import prepare_and_wait
from drive_seg.labels import LabelMap
from drive_seg.node.dds import large_image_environment
from drive_seg.recordings.sources import COMPRESSED, SourceError, Topic, open_source
from drive_seg.recordings.sources.topics import cameras_of, image_topic_of, no_cameras, ros2_name
from drive_seg.recordings.video import VideoError

CAMERA = "camera"
SYNTHETIC = "synth:seed=7,size=640x360,fps=10,frames={frames}"
SYNTHETIC_FRAMES = 90
SHEET_FRAMES = 5
READY_S = 180.0
SETTLED_S = 30.0
WAITING_MARGIN_S = 240.0
LISTENERS_NICE = 5
"""Recorder and scorer share the machine with the node here, which would not wait for them on a vehicle."""


@dataclass(frozen=True)
class Plan:
    """What one demo does: ``image`` is the camera topic played, ``seconds`` about how long it lasts."""

    source: str
    image: Topic
    has_truth: bool
    seconds: float
    frames: int | None
    model: Path
    output: Path

    @property
    def topics(self) -> RecordedTopics:
        """Absolute names of what the recording holds."""
        truth = f"/{CAMERA}/label_truth" if self.has_truth else None
        return RecordedTopics(_absolute(self.image.name), f"/{CAMERA}/segmentation/label", truth)


def make_plan(options: argparse.Namespace) -> Plan:
    """Check everything that can be checked before a process is started: SourceError, CheckpointError."""
    model = find_model(options.model).resolve()
    spec = options.input or SYNTHETIC.format(frames=options.frames or SYNTHETIC_FRAMES)
    source = open_source(spec, camera=CAMERA, frames=options.frames)
    cameras = cameras_of(source.topics)
    if not cameras:
        raise no_cameras(spec, source.topics)
    has_truth = any(topic.name == f"{CAMERA}/label_truth" for topic in source.topics)
    return Plan(spec, cameras[0], has_truth, source.seconds, options.frames, model, options.output)


def run(plan: Plan, console: Console) -> None:
    """Play, record, score, report. ChildError if any process fails or anything takes too long."""
    _clear(plan.output)
    environment = _environment()
    os.environ.update(environment)
    console.print(
        f"Playing [bold]{plan.source}[/] through [bold]{plan.model.name}[/] "
        f"(ROS_DOMAIN_ID={environment['ROS_DOMAIN_ID']}); logs in {plan.output}/logs"
    )
    with console.status("preparing the fastest runtime; this takes seconds, once on a machine"):
        prepare_and_wait(plan.model, "auto", "auto", console.print)
    with Children(environment, plan.output / "logs") as children, _ros() as watch:
        figures = _play(plan, children, watch, console)
    for warning in warnings_of(plan.output / "logs" / "player.log"):
        console.print(f"player: {warning}", style="yellow", markup=False, highlight=False)
    bag = _single_file(plan.output)
    label_map = LabelMap.from_dict(json.loads(watch.label_map))
    _report(plan, bag, figures, label_map, console)


def _play(plan: Plan, children: Children, watch: Watch, console: Console) -> dict[str, str]:
    """Run the processes to their end; gives the last diagnostics of the camera."""
    node = children.start("node", "drive_seg.node.segmentation_node", *node_arguments(plan))
    recorder = children.start(
        "recorder", "drive_seg.recordings.recorder", *_recorder_arguments(plan), nice=LISTENERS_NICE
    )
    score = plan.output / "score.json"
    listeners = [recorder]
    if plan.has_truth:
        scoring = ("--camera", CAMERA, "-o", str(score))
        listeners.append(children.start("scorer", "drive_seg.evaluation.scorer", *scoring, nice=LISTENERS_NICE))
    player = children.start("player", "drive_seg.recordings.player", *_player_arguments(plan))
    alive: list[Child] = [node, *listeners, player]
    with console.status("waiting for the node and its listeners"):
        ready = len(listeners)
        children.wait_until(lambda: watch.is_ready(ready), "the node getting ready", READY_S, alive)
    watch.fire(plan.image)
    with console.status("playing"):
        limit = 2 * plan.seconds + WAITING_MARGIN_S
        children.wait_until(lambda: watch.spin() or player.returncode is not None, "the end", limit, alive[:-1])
        player.wait(1.0)
        ended_ns = time.time_ns()
        children.wait_until(lambda: watch.is_settled(ended_ns), "the node's last diagnostics", SETTLED_S, alive[:-1])
    for child in (*listeners, node):
        child.finish()
    return watch.figures


def _report(plan: Plan, bag: Path, figures: dict[str, str], label_map: LabelMap, console: Console) -> None:
    times = pictures.label_times(bag, plan.topics)
    if not times:
        raise ChildError(f"The node published no mask; see {plan.output}/logs/node.log.")
    stamps = [stamp for stamp, _ in times]
    images = sum(1 for _ in open_source(bag, [plan.topics.image]))
    shown = pictures.spread(stamps, SHEET_FRAMES)
    frames = sorted(pictures.labelled_frames(bag, plan.topics, shown), key=lambda frame: frame.stamp_ns)
    if not frames:
        raise ChildError(f"{bag} has no image for any of its masks; see {plan.output}/logs/recorder.log.")
    pictures.write_contact_sheet(plan.output / "contact_sheet.png", frames, label_map)
    fps = (len(stamps) - 1) * 1e9 / (stamps[-1] - stamps[0]) if len(stamps) > 1 else 10.0
    with console.status("drawing the overlay video"):
        every = pictures.labelled_frames(bag, plan.topics, set(stamps))
        video, drawn = pictures.write_overlay_video(plan.output / "overlay.mp4", every, label_map, fps)
    score = json.loads((plan.output / "score.json").read_text()) if plan.has_truth else None
    summary = demo_report.summarise(figures, images, times, score)
    demo_report.write(plan.output / "summary.json", summary)
    demo_report.show(console, summary)
    console.print(
        f"{bag}: images and masks, for `ros2 bag play -s mcap {bag}` or `ros2 run drive_seg player {bag}`\n"
        f"{video}: {drawn} frames\n{plan.output / 'contact_sheet.png'}\n{plan.output / 'summary.json'}"
    )


def warnings_of(log: Path) -> list[str]:
    """What a process warned of, by its log: stamps that repeat, names that were changed, time that was not kept."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return [line.partition("]: ")[2] for line in lines if line.startswith("[WARN] ")]


def node_arguments(plan: Plan) -> list[str]:
    """The node's parameters, so that it listens to the topic that is played."""
    parameters = {
        "model": str(plan.model),
        "cameras": f"[{CAMERA}]",
        "autostart": "true",
        "prepare": "never",  # it is prepared already: a second runtime would be in the figures
        f"{CAMERA}.image_topic": image_topic_of(plan.image),
        f"{CAMERA}.transport": "compressed" if plan.image.type == COMPRESSED else "raw",
    }
    return [
        "--ros-args",
        *(part for name, value in parameters.items() for part in ("-p", f"{name}:={value}")),
    ]


def _recorder_arguments(plan: Plan) -> list[str]:
    outputs = [f"/{CAMERA}/segmentation/{name}" for name in ("label", "color", "label_info", "label_map")]
    topics = [topic for topic in (plan.topics.image, plan.topics.truth) if topic] + outputs
    return ["--topics", *topics, "--compress", "-o", str(plan.output / "masks")]


def _player_arguments(plan: Plan) -> list[str]:
    topics = [plan.image.name] + ([f"{CAMERA}/label_truth"] if plan.has_truth else [])
    # Of the image: the node, the recorder, and the demo itself, which comes last and so gives the start.
    waits = [f"{plan.image.name}=3"] + ([f"{CAMERA}/label_truth=2"] if plan.has_truth else [])
    arguments = [
        plan.source,
        "--camera",
        CAMERA,
        "--stamps",
        "now",
        "--topics",
        *topics,
        "--wait-for",
        *waits,
    ]
    if plan.frames is not None:
        arguments += ["--frames", str(plan.frames)]
    # Rendering takes longer than real time on a small machine; doing it before keeps it out of the figures.
    return [*arguments, "--preload"] if plan.has_truth else arguments


def _absolute(topic: str) -> str:
    """The absolute name under which the player publishes a topic of the recording."""
    return f"/{ros2_name(topic).lstrip('/')}"


def _environment() -> dict[str, str]:
    """This process's environment with large images let through, and apart from other ROS systems nearby."""
    environment = {**os.environ, **large_image_environment(), "PYTHONUNBUFFERED": "1"}
    environment.setdefault("ROS_DOMAIN_ID", str(1 + os.getpid() % 100))
    environment.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    return environment


@contextlib.contextmanager
def _ros():
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    watch = Watch(CAMERA)
    try:
        yield watch
    finally:
        watch.close()
        rclpy.try_shutdown()


def _single_file(output: Path) -> Path:
    recording = output / "masks"
    bag = output / "masks.mcap"
    os.replace(recording / "masks.mcap", bag)
    shutil.rmtree(recording)
    return bag


def _clear(output: Path) -> None:
    """Remove what an earlier demo left, so that nothing of it can pass for this one's."""
    for name in ("masks", "masks.partial", "logs"):
        shutil.rmtree(output / name, ignore_errors=True)
    for name in (
        "masks.mcap",
        "overlay.mp4",
        "overlay.avi",
        "contact_sheet.png",
        "score.json",
        "summary.json",
    ):
        (output / name).unlink(missing_ok=True)
    (output / "logs").mkdir(parents=True)


def arguments() -> argparse.ArgumentParser:
    """The demo's command line."""
    parser = argparse.ArgumentParser(prog="demo", description=__doc__.split("\n")[0])
    parser.add_argument("--input", help="video, folder of images, rosbag or synth:...; left out, a synthetic drive")
    parser.add_argument(
        "--model", default="swiftnet_road19", help="a .safetensors or .onnx file, or a model of the package"
    )
    parser.add_argument("--frames", type=int, help=f"play so many frames (synthetic: {SYNTHETIC_FRAMES}; else all)")
    parser.add_argument("--output", type=Path, default=Path("demo_out"), help="folder for the results (demo_out)")
    return parser


def main(args: Sequence[str] | None = None) -> int:
    """Run the demo; returns the exit status."""
    options = arguments().parse_args(args)

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)
    try:
        run(make_plan(options), Console())
        return 0
    except (SourceError, ChildError, VideoError, ValueError, OSError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("demo: interrupted; every process was ended", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
