"""The outputs of a camera, with publishers that only remember."""

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from std_msgs.msg import Header

from drive_seg.labels import CAMVID11, CITYSCAPES19
from drive_seg.node import outputs
from drive_seg.node.outputs import PER_FRAME, Outputs
from drive_seg.node.parameters import Tuning
from drive_seg.node.planning.planner import UnavailableError

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
        self.warnings: list[str] = []
        self._parameter_overrides: dict = {}

    def create_publisher(self, kind: type, topic: str, qos: Any, **options: Any) -> RememberingPublisher:
        return self.publishers.setdefault(topic.removeprefix(PREFIX), RememberingPublisher())

    def resolve_topic_name(self, topic: str) -> str:
        return f"/{topic}"

    def get_logger(self) -> SimpleNamespace:
        return SimpleNamespace(warning=self.warnings.append)

    def destroy_publisher(self, publisher: RememberingPublisher) -> None:
        self.publishers = {name: other for name, other in self.publishers.items() if other is not publisher}


class NotingPlanner:
    """Gives what it was asked for, by name, and notes the work."""

    def __init__(self, done: list[str] | None = None) -> None:
        self.done = [] if done is None else done
        self.ignored: np.ndarray | None = None
        self.missing: dict[str, str] = {}

    def camera_info(self, header: Header, size: tuple[int, int]) -> tuple:
        return self._give("camera_info", header, size)

    def drivable(self, label: np.ndarray, label_map: Any, min_area: float) -> np.ndarray:
        self._give("drivable")
        return label

    def free_space(self, label: np.ndarray, drivable: np.ndarray, label_map: Any, header: Header) -> tuple:
        return self._give("free_space", drivable, header)

    def _give(self, name: str, *what: Any) -> tuple:
        if name in self.missing:
            raise UnavailableError(self.missing[name])
        self.done.append(name)
        return what


TUNING = Tuning(None, 0.5, publish_confidence=True)


@pytest.fixture
def node() -> RememberingNode:
    return RememberingNode()


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (8, 12, 3), np.uint8)


@pytest.fixture
def label() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 19, (8, 12), np.uint8)


@pytest.mark.parametrize("name", PER_FRAME)
def test_an_output_is_wanted_while_somebody_listens(node: RememberingNode, name: str) -> None:
    front = Outputs(node, "front", NotingPlanner())
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
        ("camera_info", ["camera_info"]),
        ("drivable", ["drivable", "to_image"]),
        ("free_space", ["drivable", "free_space"]),
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
    front = Outputs(node, "front", NotingPlanner(done))
    assert front.publish(frozenset({name}), Header(), image, label, label, label_map, TUNING) == ""
    assert done == work
    assert {topic for topic, publisher in node.publishers.items() if publisher.messages} == {name}


def test_the_mask_goes_out_first_and_the_drivable_area_is_worked_out_once(
    node: RememberingNode, image: np.ndarray, label: np.ndarray
) -> None:
    order: list[str] = []
    front = Outputs(node, "front", planner := NotingPlanner())
    for name in PER_FRAME:
        node.publishers[name].publish = lambda message, name=name: order.append(name)
    front.publish(frozenset(PER_FRAME), Header(), image, label, label, CITYSCAPES19, TUNING)
    assert order[0] == "label"
    assert sorted(order) == sorted(PER_FRAME)
    assert planner.done == ["camera_info", "drivable", "free_space"]


def test_ignored_and_unsure_pixels_are_void_in_all_outputs(node: RememberingNode, image: np.ndarray) -> None:
    label = np.full(image.shape[:2], 3, np.uint8)
    confidence = np.full(label.shape, 200, np.uint8)
    confidence[0] = 127
    front = Outputs(node, "front", planner := NotingPlanner())
    planner.ignored = np.zeros(label.shape, bool)
    planner.ignored[:, 0] = True
    wanted = frozenset({"label", "color", "overlay", "confidence", "free_space"})
    front.publish(wanted, Header(), image, label, confidence, CITYSCAPES19, Tuning(None, 1.0, True, min_confidence=0.5))

    void = planner.ignored.copy()
    void[0] = True
    sent = {name: publisher.messages[0] for name, publisher in node.publishers.items() if publisher.messages}
    pixels = {name: np.frombuffer(sent[name].data, np.uint8) for name in ("label", "color", "overlay", "confidence")}
    assert np.array_equal(pixels["label"].reshape(void.shape), np.where(void, 255, 3))
    assert np.array_equal(pixels["color"].reshape(image.shape), CITYSCAPES19.colorize(np.where(void, 255, label)))
    assert np.array_equal(pixels["overlay"].reshape(image.shape)[void], image[void])
    assert np.array_equal(pixels["confidence"].reshape(void.shape), np.where(planner.ignored, 0, confidence))
    assert np.array_equal(sent["free_space"][0], np.where(void, 255, 3)), "made of the mask that is published"


def test_what_cannot_be_made_does_not_keep_the_rest_back(
    node: RememberingNode, image: np.ndarray, label: np.ndarray
) -> None:
    front = Outputs(node, "front", planner := NotingPlanner())
    planner.missing = {"camera_info": "none yet", "free_space": "no mounting"}

    def publish(*names: str) -> str:
        return front.publish(frozenset(names), Header(), image, label, label, CITYSCAPES19, TUNING)

    assert publish("label", "camera_info") == ""
    assert publish("camera_info", "free_space") == "camera_info: none yet; free_space: no mounting"
    assert [topic for topic, publisher in node.publishers.items() if publisher.messages] == ["label"]
    assert node.warnings == [], "it may come in a moment"
    front._persistence._after_s = 0.0
    for _ in range(3):
        publish("camera_info", "label")
    assert node.warnings == ["camera 'front': no camera_info: none yet"], "and is told once when it does not"


def test_the_meaning_of_the_ids_is_told_as_json(node: RememberingNode) -> None:
    Outputs(node, "front", NotingPlanner()).latch(CAMVID11, "night", "abc", Header())
    (message,) = node.publishers["label_map"].messages
    assert json.loads(message.data) == {**CAMVID11.to_dict(), "model": "night", "model_hash": "abc"}


def test_label_info_is_told_where_vision_msgs_is_installed(
    node: RememberingNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the fields of vision_msgs/LabelInfo and VisionClass, which no Python package index carries."""
    monkeypatch.setattr(outputs, "LabelInfo", SimpleNamespace)
    monkeypatch.setattr(outputs, "VisionClass", SimpleNamespace)
    header = Header(frame_id="x")
    front = Outputs(node, "front", NotingPlanner())
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
