"""The whole way of a drive once, over DDS: player -> node -> recorder, each a process; then figures and pictures.

``python -m drive_seg.evaluation.demo`` plays a synthetic drive with its labels; ``--input`` takes any footage instead.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from drive_seg.checkpoint import find_model
from drive_seg.evaluation import demo_report, pictures
from drive_seg.evaluation.live_run import Run, absolute
from drive_seg.evaluation.pictures import Labelled, RecordedTopics
from drive_seg.evaluation.processes import ChildError, ros_environment
from drive_seg.evaluation.recorded import LiveRecording
from drive_seg.labels import CITYSCAPES19
from drive_seg.metrics import ConfusionMatrix
from drive_seg.recordings.sources import SourceError, Topic, open_source
from drive_seg.recordings.sources.topics import cameras_of, no_cameras
from drive_seg.recordings.video import VideoError

CAMERA = "camera"
TRUTH = f"{CAMERA}/label_truth"
SYNTHETIC = "synth:seed=7,size=640x360,fps=10,frames={frames}"
SYNTHETIC_FRAMES = 90
SHEET_FRAMES = 5


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
        truth = absolute(TRUTH) if self.has_truth else None
        return RecordedTopics(absolute(self.image.name), f"/{CAMERA}/segmentation/label", truth)

    def run(self) -> Run:
        """The processes of it."""
        topics = self.topics
        frames = ["--frames", str(self.frames)] if self.frames is not None else []
        return Run(
            self.source,
            {CAMERA: self.image},
            {"model": str(self.model)},
            outputs=("label", "color", "label_*"),  # label_info is there where vision_msgs is
            heard=["/diagnostics", *(topic for topic in (topics.image, topics.truth) if topic)],
            beside=[TRUTH] if self.has_truth else [],
            playing=["--camera", CAMERA, "--stamps", "now", *frames],
        )


def make_plan(options: argparse.Namespace) -> Plan:
    """Check everything that can be checked before a process is started: SourceError, CheckpointError."""
    model = find_model(options.model).resolve()
    spec = options.input or SYNTHETIC.format(frames=options.frames or SYNTHETIC_FRAMES)
    source = open_source(spec, camera=CAMERA, frames=options.frames)
    cameras = cameras_of(source.topics)
    if not cameras:
        raise no_cameras(spec, source.topics)
    has_truth = any(topic.name == TRUTH for topic in source.topics)
    return Plan(spec, cameras[0], has_truth, source.seconds, options.frames, model, options.output)


def run(plan: Plan, console: Console) -> None:
    """Play, record, score, report. ChildError if any process fails or anything takes too long."""
    _clear(plan.output)
    logs = plan.output / "logs"
    console.print(
        f"Playing [bold]{plan.source}[/] through [bold]{plan.model.name}[/] "
        f"(ROS_DOMAIN_ID={ros_environment()['ROS_DOMAIN_ID']}); logs in {logs}"
    )
    with console.status("starting the node, whose runtime is prepared once on a machine") as status:
        plan.run().play(plan.output / "masks", logs, plan.seconds, status.update)
    for warning in warnings_of(logs / "player.log"):
        console.print(f"player: {warning}", style="yellow", markup=False, highlight=False)
    _report(plan, _single_file(plan.output), console)


def _report(plan: Plan, bag: Path, console: Console) -> None:
    times = pictures.label_times(bag, plan.topics)
    if not times:
        raise ChildError(f"The node published no mask; see {plan.output}/logs/node.log.")
    recording = LiveRecording(bag)
    labels, account = recording.label_map, recording.account_of(CAMERA)
    stamps = [stamp for stamp, _ in times]
    images = sum(1 for _ in open_source(bag, [plan.topics.image]))
    shown = pictures.spread(stamps, SHEET_FRAMES)
    frames = sorted(pictures.labelled_frames(bag, plan.topics, shown), key=lambda frame: frame.stamp_ns)
    if not frames:
        raise ChildError(f"{bag} has no image for any of its masks; see {plan.output}/logs/recorder.log.")
    pictures.write_contact_sheet(plan.output / "contact_sheet.png", frames, labels)
    fps = (len(stamps) - 1) * 1e9 / (stamps[-1] - stamps[0]) if len(stamps) > 1 else 10.0
    is_scored = plan.has_truth and labels.names == CITYSCAPES19.names
    matrix = ConfusionMatrix(labels.num_classes)

    def counted(each: Iterator[Labelled]) -> Iterator[Labelled]:
        for frame in each:
            if is_scored:
                matrix.update(frame.label, frame.truth)
            yield frame

    with console.status("drawing the overlay video"):
        every = pictures.labelled_frames(bag, plan.topics, set(stamps))
        video, drawn = pictures.write_overlay_video(plan.output / "overlay.mp4", counted(every), labels, fps)
    score = demo_report.score(matrix, labels, drawn if is_scored else 0) if plan.has_truth else None
    summary = demo_report.summarise(account.about if account is not None else {}, images, times, score)
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
    for name in ("masks.mcap", "overlay.mp4", "overlay.avi", "contact_sheet.png", "summary.json"):
        (output / name).unlink(missing_ok=True)


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
