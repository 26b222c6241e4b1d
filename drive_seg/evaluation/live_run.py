"""A run of player, node and recorder as processes of this one, without ``ros2 launch``: live replay, and the demo."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from drive_seg.evaluation.deterministic import ModelChoice, Work
from drive_seg.evaluation.output import LOGS, RECORDED, RUN, is_report, is_rest_of_run
from drive_seg.evaluation.processes import Child, ChildError, Children, ros_arguments, ros_environment
from drive_seg.evaluation.recorded import TOPICS
from drive_seg.inference.runtimes import preparation
from drive_seg.recordings.reading import Reading
from drive_seg.recordings.sources import COMPRESSED, Topic
from drive_seg.recordings.sources.topics import image_topic_of, ros2_name

STEP_S = 0.2
START_S = 300.0
END_S = 120.0
RECORDER_NICE = 5
"""The recorder shares the machine with the node here, which would not wait for it on a vehicle."""


@dataclass(frozen=True)
class Run:
    """A source that is played through the node while a recorder listens.

    Attributes:
        source: what is played.
        cameras: camera of the node -> its image topic in the source.
        parameters: of the node, beside those of its cameras.
        outputs: what is recorded of each camera, below ``<camera>/segmentation/``.
        heard: further topics that are recorded, such as "/clock".
        beside: topics of the source that are played beside the images.
        playing: further arguments of the player.
    """

    source: str
    cameras: Mapping[str, Topic]
    parameters: Mapping[str, object]
    outputs: Sequence[str] = TOPICS
    heard: Sequence[str] = ("/clock", "/diagnostics")
    beside: Sequence[str] = ()
    playing: Sequence[str] = ()

    def node_arguments(self) -> list[str]:
        """The node's parameters, so that it listens to the topics that are played."""
        parameters = {**self.parameters, "cameras": list(self.cameras), "autostart": True}
        for camera, topic in self.cameras.items():
            parameters[f"{camera}.image_topic"] = image_topic_of(topic)
            parameters[f"{camera}.transport"] = "compressed" if topic.type == COMPRESSED else "raw"
        return ros_arguments(parameters)

    def recorder_arguments(self, bag: Path) -> list[str]:
        """What to record, and where."""
        topics = [f"/{camera}/segmentation/{name}" for camera in self.cameras for name in self.outputs]
        image = absolute(next(iter(self.cameras.values())).name)
        return ["--topics", *topics, *self.heard, "--replay", image, "--compress", "-o", str(bag)]

    def player_arguments(self) -> list[str]:
        """What to play, and how many listeners to wait for.

        These are the node at every image, the recorder at what it records, and at the first image once more the
        recorder, which so gives the start.
        """
        images = [topic.name for topic in self.cameras.values()]
        names = [*images, *self.beside]
        waits = [(name in images) + (name == images[0]) + (absolute(name) in self.heard) for name in names]
        pairs = [f"{name}={count}" for name, count in zip(names, waits, strict=True)]
        # Rendering takes longer than real time on a small machine, and would then be seen as latency.
        preload = ["--preload"] if self.source.startswith("synth:") else []
        return [self.source, "--topics", *names, "--wait-for", *pairs, *self.playing, *preload]

    def play(self, bag: Path, logs: Path, seconds: float, show: Callable[[str], None] = lambda what: None) -> None:
        """Run the processes to their end.

        Args:
            bag: where the recording goes.
            logs: folder for what the processes print.
            seconds: about how long the playing lasts.
            show: called now and then with what goes on.

        Raises:
            ChildError: a process failed.
            ValueError: ROS 2 is not installed.
        """
        if find_spec("rclpy") is None:
            raise ValueError("a live run needs ROS 2's rclpy: the extra 'ros', or an installed ROS 2")
        logs.mkdir(parents=True, exist_ok=True)
        # One runtime labels all frames.
        environment = {preparation.SWITCH: preparation.WAIT, **ros_environment()}
        with Children(environment, logs) as children:
            node = children.start("node", "drive_seg.node.segmentation_node", *self.node_arguments())
            arguments = self.recorder_arguments(bag)
            recorder = children.start("recorder", "drive_seg.recordings.recorder", *arguments, nice=RECORDER_NICE)
            player = children.start("player", "drive_seg.recordings.player", *self.player_arguments())
            began, limit = time.monotonic(), START_S + 2 * seconds + END_S
            while not recorder.has_ended(STEP_S):
                node.check()
                if player.returncode not in (None, 0):
                    player.check()
                passed = time.monotonic() - began
                if passed > limit:
                    raise ChildError(f"The run did not end within {limit:.0f} s.\n{_tails(node, recorder, player)}")
                show(f"playing, {passed:.0f} s" if player.returncode is None else "the node's last frames")
            recorder.wait(1.0)
            if player.returncode is None:
                raise ChildError(f"The recorder ended before the player.\n{_tails(recorder, player)}")
            node.finish()


def play_live(work: Work, choice: ModelChoice, rate: float, show: Callable[[str], None] = lambda what: None) -> Path:
    """Play a source through the node and record what it publishes.

    Args:
        work: what to play, and the folder for the recording and the processes' logs.
        choice: the model; its path may be a name.
        rate: speed, times real time.
        show: called now and then with what goes on.

    Returns:
        the bag of the recording.

    Raises:
        ChildError: a process failed.
        ValueError: the source cannot be used, or ROS 2 is not installed.
    """
    reading = Reading(work.source, work.topics, work.part, work.truth.topics())
    part = work.part
    seconds = reading.images().seconds / rate
    bag, logs = work.output / RECORDED, work.output / LOGS
    if bag.exists() and not (is_report(work.output) or is_rest_of_run(work.output)):
        raise ValueError(f"{bag} is there, and it may be a recording that somebody wants: name another folder")
    for name in (*RUN, LOGS):
        shutil.rmtree(work.output / name, ignore_errors=True)
    parameters: dict[str, object] = {
        "model": _model_path(choice.path),
        "use_sim_time": True,
        "device": choice.device,
        "precision": choice.precision,
        "runtime": choice.runtime,
    }
    if choice.input_size is not None:
        parameters["input_size"] = list(choice.input_size)
    playing = ["--clock", "--rate", str(rate), "--start", str(part.start)]
    for option, value in (("--duration", part.duration), ("--frames", part.frames), ("--fps", part.fps)):
        playing += [option, str(value)] if value is not None else []
    Run(work.source, node_cameras(reading), parameters, playing=playing).play(bag, logs, seconds, show)
    return bag


def node_cameras(reading: Reading) -> dict[str, Topic]:
    """Every camera of a reading, by a name that the node takes -> its image topic."""
    topics = {topic.name: topic for topic in reading.available}
    found: dict[str, Topic] = {}
    for number, (camera, name) in enumerate(reading.topics.items()):
        words = re.findall(r"[A-Za-z0-9]+", camera)
        title = "_".join(words) if words and words[0][0].isalpha() else f"camera_{'_'.join(words)}".rstrip("_")
        found[title if title not in found else f"{title}_number_{number}"] = topics[name]
    return found


def absolute(topic: str) -> str:
    """The absolute name under which the player publishes a topic of the recording."""
    return f"/{ros2_name(topic).lstrip('/')}"


def _model_path(name: str) -> str:
    path = Path(name).expanduser()
    return str(path.resolve()) if path.exists() else name


def _tails(*children: Child) -> str:
    return "\n".join(child.tail() for child in children)
