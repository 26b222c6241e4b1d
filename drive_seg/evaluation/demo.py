"""The whole way of a drive once, over DDS: player -> node -> recorder, each a process; then figures and pictures.

``python -m drive_seg.evaluation.demo`` plays a synthetic drive with its labels; ``--input`` takes any footage instead.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from drive_seg.checkpoint import CheckpointError, find_model
from drive_seg.evaluation import demo_report, pictures
from drive_seg.evaluation.deterministic import Work
from drive_seg.evaluation.live import LiveReplay
from drive_seg.evaluation.live_run import Run, absolute
from drive_seg.evaluation.many import classes_of
from drive_seg.evaluation.output import FRAMES, PAGE, REPORT, write_report
from drive_seg.evaluation.pictures import RecordedTopics
from drive_seg.evaluation.processes import ChildError, ros_environment
from drive_seg.evaluation.recorded import LiveRecording
from drive_seg.evaluation.records import Mode
from drive_seg.evaluation.report import About, as_report
from drive_seg.evaluation.truths import TruthChoice, truth_table
from drive_seg.labels import CITYSCAPES19
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
    """What one demo does.

    ``image`` is the camera topic played, ``seconds`` about how long it lasts, ``problem`` why there will be no score
    though there is truth.
    """

    source: str
    image: Topic
    has_truth: bool
    seconds: float
    frames: int | None
    model: Path
    output: Path
    problem: str = ""

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
    problem = ""
    if has_truth := any(topic.name == TRUTH for topic in source.topics):
        try:
            truth_table(CITYSCAPES19, classes_of(str(model)), [])
        except CheckpointError:  # the node says what is wrong with it
            pass
        except ValueError as error:
            has_truth, problem = False, f"No score: {error}."
    return Plan(spec, cameras[0], has_truth, source.seconds, options.frames, model, options.output, problem)


def run(plan: Plan, console: Console) -> None:
    """Play, record, score, report. ChildError if any process fails or anything takes too long."""
    _clear(plan.output)
    logs = plan.output / "logs"
    console.print(
        f"Playing [bold]{plan.source}[/] through [bold]{plan.model.name}[/] "
        f"(ROS_DOMAIN_ID={ros_environment()['ROS_DOMAIN_ID']}); logs in {logs}"
    )
    if plan.problem:
        console.print(plan.problem, style="yellow", markup=False, highlight=False)
    with console.status("starting the node, whose runtime is prepared once on a machine") as status:
        plan.run().play(plan.output / "masks", logs, plan.seconds, status.update)
    for warning in warnings_of(logs / "player.log"):
        console.print(f"player: {warning}", style="yellow", markup=False, highlight=False)
    _report(plan, _single_file(plan.output), console)


def _report(plan: Plan, bag: Path, console: Console) -> None:
    recording = LiveRecording(bag)
    ((camera, masks),) = recording.masks.items()
    if not masks.stamps:
        raise ChildError(f"The node published no mask; see {plan.output}/logs/node.log.")
    truth = TruthChoice(classes=CITYSCAPES19.name if plan.has_truth else None)
    work = Work(str(bag), "", (plan.topics.image,), truth=truth, output=plan.output, video=True)
    with console.status("judging the masks, and drawing the overlay video"):
        replay = LiveReplay(work, recording)
        partial = replay.run()
    title, model = f"{plan.source} by {recording.model['name']}", recording.model
    about = About(Mode.LIVE, plan.source, title, model, f"make demo INPUT={plan.source}", replay.latency_meaning)
    report = as_report(partial, about, replay.stalls)
    write_report(plan.output, report, partial, [bag, *replay.written])
    shown = pictures.spread(masks.stamps, SHEET_FRAMES)
    frames = sorted(pictures.labelled_frames(bag, plan.topics, shown), key=lambda frame: frame.stamp_ns)
    if not frames:
        raise ChildError(f"{bag} has no image for any of its masks; see {plan.output}/logs/recorder.log.")
    pictures.write_contact_sheet(plan.output / "contact_sheet.png", frames, recording.label_map)
    account = recording.account_of(camera)
    summary = demo_report.summarise(account.about if account is not None else {}, report, len(masks.stamps))
    demo_report.write(plan.output / "summary.json", summary)
    demo_report.show(console, summary)
    made = (*replay.written, *(plan.output / name for name in ("contact_sheet.png", "summary.json", PAGE)))
    console.print(
        f"{bag}: images and masks, for `ros2 bag play -s mcap {bag}` or `ros2 run drive_seg player {bag}`",
        *made,
        sep="\n",
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
    for name in ("masks.mcap", "overlay.mp4", "overlay.avi", "contact_sheet.png", "summary.json", REPORT, PAGE, FRAMES):
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
