"""The outputs of a camera, with publishers that only remember."""

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from std_msgs.msg import Header

from drive_seg.labels import CAMVID11, CITYSCAPES19
from drive_seg.node import outputs
from drive_seg.node.outputs import IMAGES, Outputs

PREFIX = "front/segmentation/"


class RememberingPublisher:
    def __init__(self) -> None:
        self.listeners = 0
        self.messages: list[Any] = []

    def get_subscription_count(self) -> int:
        return self.listeners

    def publish(self, message: Any) -> None:
        self.messages.append(message)


class RememberingNode:
    """Makes publishers that remember, by topic."""

    def __init__(self) -> None:
        self.publishers: dict[str, RememberingPublisher] = {}
        self._parameter_overrides: dict = {}

    def create_publisher(self, kind: type, topic: str, qos: Any, **options: Any) -> RememberingPublisher:
        return self.publishers.setdefault(topic.removeprefix(PREFIX), RememberingPublisher())

    def resolve_topic_name(self, topic: str) -> str:
        return f"/{topic}"

    def destroy_publisher(self, publisher: RememberingPublisher) -> None:
        self.publishers = {name: other for name, other in self.publishers.items() if other is not publisher}


@pytest.fixture
def node() -> RememberingNode:
    return RememberingNode()


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (8, 12, 3), np.uint8)


@pytest.fixture
def label() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 19, (8, 12), np.uint8)


@pytest.mark.parametrize("name", IMAGES)
def test_an_output_is_wanted_while_somebody_listens(node: RememberingNode, name: str) -> None:
    front = Outputs(node, "front")
    assert front.wanted(publish_confidence=True) == frozenset()
    node.publishers[name].listeners = 1
    assert front.wanted(publish_confidence=True) == {name}
    assert front.wanted(publish_confidence=False) == {name} - {"confidence"}


@pytest.mark.parametrize(
    ("name", "work"),
    [
        ("label", ["to_image"]),
        ("label/compressed", ["to_compressed_png"]),
        ("color", ["colorize", "to_image"]),
        ("overlay", ["colorize", "blend", "to_image"]),
        ("confidence", ["to_image"]),
    ],
)
def test_no_work_is_done_for_what_nobody_wants(
    node: RememberingNode,
    image: np.ndarray,
    label: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    work: list[str],
) -> None:
    done: list[str] = []

    def note(step: str, original: Any) -> Any:
        return lambda *arguments: done.append(step) or original(*arguments)

    for step in ("to_image", "to_compressed_png", "blend"):
        monkeypatch.setattr(outputs, step, note(step, getattr(outputs, step)))
    label_map = SimpleNamespace(colorize=note("colorize", CITYSCAPES19.colorize))
    Outputs(node, "front").publish(frozenset({name}), Header(), image, label, label, label_map, 0.5)
    assert done == work
    assert {topic for topic, publisher in node.publishers.items() if publisher.messages} == {name}


def test_the_meaning_of_the_ids_is_told_as_json(node: RememberingNode) -> None:
    Outputs(node, "front").latch(CAMVID11, "night", "abc", Header())
    (message,) = node.publishers["label_map"].messages
    assert json.loads(message.data) == {**CAMVID11.to_dict(), "model": "night", "model_hash": "abc"}


def test_label_info_is_told_where_vision_msgs_is_installed(
    node: RememberingNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the fields of vision_msgs/LabelInfo and VisionClass, which no Python package index carries."""
    monkeypatch.setattr(outputs, "LabelInfo", SimpleNamespace)
    monkeypatch.setattr(outputs, "VisionClass", SimpleNamespace)
    header = Header(frame_id="x")
    front = Outputs(node, "front")
    front.latch(CAMVID11, "night", "abc", header)
    (message,) = node.publishers["label_info"].messages
    assert message.header is header
    told = [(vision_class.class_id, vision_class.class_name) for vision_class in message.class_map]
    assert told == list(enumerate(CAMVID11.names))
    front.destroy()
    assert node.publishers == {}


def test_each_profile_is_its_own(node: RememberingNode) -> None:
    """rclpy writes qos_overrides into the profile it is given."""
    outputs.output_qos().depth = 7
    assert outputs.output_qos().depth == 1
