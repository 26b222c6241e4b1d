"""Topics of a source: what they hold, which of them are cameras, and what they are called in ROS 2."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

IMAGE = "sensor_msgs/msg/Image"
COMPRESSED = "sensor_msgs/msg/CompressedImage"
CAMERA_INFO = "sensor_msgs/msg/CameraInfo"
DEPTH_ENCODINGS = ("16UC1", "32FC1")


class SourceError(ValueError):
    """A source cannot be opened or read on; the message is one sentence that names the mend where there is one."""


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic of a source.

    ``latched``: its publisher was transient local (tf_static, label_info). ``encoding``: that of the first
    message of an Image topic, where it is known.
    """

    name: str
    type: str
    latched: bool = False
    encoding: str = ""

    @property
    def is_camera(self) -> bool:
        """Whether it holds a camera's pictures, going by type and name: not a mask, nor labels of any kind."""
        is_label = "/segmentation/" in self.name or self.name.endswith("/label_truth")
        return self.type in (IMAGE, COMPRESSED) and not is_label

    @property
    def is_depth(self) -> bool:
        """Whether it holds depth images, going by the encoding and the name."""
        return self.encoding in DEPTH_ENCODINGS or self.name.endswith("/compressedDepth")


def choose(available: Sequence[Topic], patterns: Sequence[str] | None, spec: str) -> tuple[Topic, ...]:
    """The topics that the patterns name (``*`` and ``?`` as in a shell; a leading slash may be left out).

    Raises:
        SourceError: a pattern fits no topic.
    """
    if patterns is None:
        return tuple(available)
    chosen: list[Topic] = []
    for pattern in patterns:
        fitting = [t for t in available if fnmatchcase(t.name.lstrip("/"), pattern.lstrip("/"))]
        if not fitting:
            raise SourceError(f"{spec} has no topic '{pattern}'; it has {listed(available)}.")
        chosen += [t for t in fitting if t not in chosen]
    return tuple(t for t in available if t in chosen)


def cameras_of(topics: Sequence[Topic]) -> list[Topic]:
    """The topics with pictures of cameras: no depth images, nor a compressed topic whose raw images are there too."""
    pictures = [topic for topic in topics if topic.is_camera and not topic.is_depth]
    raw = {topic.name for topic in pictures if topic.type != COMPRESSED}
    return [topic for topic in pictures if topic.name.removesuffix("/compressed") not in raw - {topic.name}]


def ros2_name(topic: str) -> str:
    """A topic's name as ROS 2 allows it, which is how the player publishes it: ROS 1 allowed more.

    Each character but letters, digits, "_" and "/" becomes "_", and a part that begins with a digit gets an "n" before
    it: ``/usb-cam/0/image_raw`` is ``/usb_cam/n0/image_raw``. Names that are allowed stay.
    """
    parts = [re.sub(r"[^A-Za-z0-9_]", "_", part) for part in topic.split("/")]
    named = "/".join(f"n{part}" if part[:1].isdigit() else part for part in parts if part)
    return f"/{named}" if topic.startswith("/") else named


def image_topic_of(topic: Topic) -> str:
    """The node's image topic for a camera's images as the player publishes them: without image_transport's suffix.

    Raises:
        SourceError: compressed images on a topic that does not end in "/compressed", where the node would listen.
    """
    name = f"/{ros2_name(topic.name).lstrip('/')}"
    if topic.type != COMPRESSED:
        return name
    if not name.endswith("/compressed"):
        raise SourceError(
            f"{topic.name} has compressed images, but its name does not end in /compressed, where the node listens for "
            f"such: play it with `player --remap {topic.name}:={topic.name}/compressed`."
        )
    return name.removesuffix("/compressed")


def no_cameras(spec: str, topics: Sequence[Topic]) -> SourceError:
    """The error of a source whose topics hold no camera's pictures: what they hold instead."""
    images = [topic for topic in topics if topic.type in (IMAGE, COMPRESSED)]
    if not images:
        return SourceError(f"{spec} has no image topic; it has {listed(topics)}.")
    kinds = [f"{topic.name} ({'depth' if topic.is_depth else 'labels'})" for topic in images]
    return SourceError(
        f"{spec} has no topic of a camera's pictures, only of {', '.join(kinds)}: name the one that is meant."
    )


def so_many(count: float, what: str) -> str:
    """A number with what it counts: "1 frame", "2,000 frames"."""
    return f"{count:,.0f} {what}{'' if count == 1 else 's'}"


def listed(topics: Sequence[Topic]) -> str:
    """The topics with their types, for a message to the user."""
    return ", ".join(f"{t.name} ({t.type})" for t in topics) or "no topics at all"
