"""A live run without ``ros2 launch``: player, node and recorder as processes of this one."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from drive_seg.evaluation.deterministic import ModelChoice, Work
from drive_seg.evaluation.output import LOGS, RECORDED, RUN, is_report, is_rest_of_run
from drive_seg.evaluation.processes import Child, ChildError, Children
from drive_seg.evaluation.recorded import TOPICS
from drive_seg.inference.runtimes import preparation
from drive_seg.node.dds import large_image_environment
from drive_seg.recordings.reading import Reading
from drive_seg.recordings.sources import COMPRESSED, Topic
from drive_seg.recordings.sources.topics import image_topic_of, ros2_name

STEP_S = 0.2
START_S = 300.0
END_S = 120.0


@dataclass(frozen=True)
class Cast:
    """Who has which name: camera of the node -> its image topic in the source."""

    cameras: dict[str, Topic]

    @classmethod
    def of(cls, reading: Reading) -> Cast:
        """Every camera of a reading, by a name that the node takes."""
        topics = {topic.name: topic for topic in reading.available}
        found: dict[str, Topic] = {}
        for number, (camera, name) in enumerate(reading.topics.items()):
            words = re.findall(r"[A-Za-z0-9]+", camera)
            title = "_".join(words) if words and words[0][0].isalpha() else f"camera_{'_'.join(words)}".rstrip("_")
            found[title if title not in found else f"{title}_number_{number}"] = topics[name]
        return cls(found)

    def node_arguments(self, choice: ModelChoice) -> list[str]:
        """The node's parameters."""
        parameters: dict[str, object] = {
            "model": _model_path(choice.path),
            "cameras": list(self.cameras),
            "autostart": True,
            "use_sim_time": True,
            "device": choice.device,
            "precision": choice.precision,
            "runtime": choice.runtime,
        }
        if choice.input_size is not None:
            parameters["input_size"] = list(choice.input_size)
        for camera, topic in self.cameras.items():
            parameters[f"{camera}.image_topic"] = image_topic_of(topic)
            parameters[f"{camera}.transport"] = "compressed" if topic.type == COMPRESSED else "raw"
        # JSON is YAML, which ROS reads them as, with every text in quotes: a camera may be called "on".
        given = (f"{name}:={json.dumps(value)}" for name, value in parameters.items())
        return ["--ros-args", *(part for text in given for part in ("-p", text))]

    def recorder_arguments(self, bag: Path) -> list[str]:
        """What to record, and where."""
        topics = [f"/{camera}/segmentation/{name}" for camera in self.cameras for name in TOPICS]
        image = _absolute(next(iter(self.cameras.values())).name)
        return ["--topics", *topics, "/clock", "/diagnostics", "--replay", image, "--compress", "-o", str(bag)]

    def player_arguments(self, work: Work, rate: float) -> list[str]:
        """What to play, and that it waits for the node at every camera and for the recorder at the first."""
        part = work.part
        names = [topic.name for topic in self.cameras.values()]
        waits = [f"{name}={1 + (place == 0)}" for place, name in enumerate(names)]
        arguments = [work.source, "--clock", "--rate", str(rate), "--topics", *names, "--wait-for", *waits]
        arguments += ["--start", str(part.start)]
        for option, value in (("--duration", part.duration), ("--frames", part.frames), ("--fps", part.fps)):
            arguments += [option, str(value)] if value is not None else []
        # Rendering takes longer than real time on a small machine, and would then be seen as latency.
        return [*arguments, "--preload"] if work.source.startswith("synth:") else arguments


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
    if find_spec("rclpy") is None:
        raise ValueError("a live run needs ROS 2's rclpy: the extra 'ros', or an installed ROS 2")
    reading = Reading(work.source, work.topics, work.part, work.truth.topics())
    seconds = work.part.open(work.source, list(reading.topics.values())).seconds / rate
    cast = Cast.of(reading)
    bag, logs = work.output / RECORDED, work.output / LOGS
    if bag.exists() and not (is_report(work.output) or is_rest_of_run(work.output)):
        raise ValueError(f"{bag} is there, and it may be a recording that somebody wants: name another folder")
    for name in (*RUN, LOGS):
        shutil.rmtree(work.output / name, ignore_errors=True)
    logs.mkdir(parents=True)
    with Children(_environment(), logs) as children:
        node = children.start("node", "drive_seg.node.segmentation_node", *cast.node_arguments(choice))
        recorder = children.start("recorder", "drive_seg.recordings.recorder", *cast.recorder_arguments(bag))
        player = children.start("player", "drive_seg.recordings.player", *cast.player_arguments(work, rate))
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
    return bag


def _environment() -> dict[str, str]:
    """This process's environment, with large images let through, and apart from other ROS systems nearby."""
    environment = {**os.environ, **large_image_environment(), "PYTHONUNBUFFERED": "1"}
    environment.setdefault("ROS_DOMAIN_ID", str(1 + os.getpid() % 100))
    environment.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    environment.setdefault(preparation.SWITCH, preparation.WAIT)  # one runtime labels all frames
    return environment


def _model_path(name: str) -> str:
    path = Path(name).expanduser()
    return str(path.resolve()) if path.exists() else name


def _tails(*children: Child) -> str:
    return "\n".join(child.tail() for child in children)


def _absolute(topic: str) -> str:
    """The absolute name under which the player publishes a topic of the recording."""
    return f"/{ros2_name(topic).lstrip('/')}"
