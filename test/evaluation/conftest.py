"""A small untrained model, and small bags with images and labels."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from rosbags.rosbag2 import StoragePlugin
from rosbags.rosbag2 import Writer as BagFolder
from rosbags.typesys import Stores, get_typestore

from drive_seg import checkpoint, networks
from drive_seg.checkpoint import Contract, InputSpec
from drive_seg.cli import main
from drive_seg.labels import CITYSCAPES19, LabelMap
from drive_seg.segmenter import Segmenter

FIRST_NS = 1_700_000_000_000_000_000
STEP_NS = 100_000_000
SIZE = (48, 88)


def save_model(path: Path, label_map: LabelMap = CITYSCAPES19, seed: int = 1) -> Path:
    """An untrained DSNet for images of 48 x 88."""
    torch.manual_seed(seed)
    contract = Contract("dsnet", {}, label_map, InputSpec(SIZE))
    checkpoint.save(path, networks.build("dsnet", label_map.num_classes), contract)
    return path


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> Path:
    """A checkpoint with the 19 classes of Cityscapes."""
    return save_model(tmp_path_factory.mktemp("models") / "small.safetensors")


@pytest.fixture(scope="session")
def segmenter(model) -> Segmenter:
    return Segmenter.load(model, device="cpu", runtime="torch")


def stamp(index: int) -> int:
    """Of the image ``index``: 10 a second."""
    return FIRST_NS + index * STEP_NS


def shot(index: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """A textured BGR picture that moves a little from one to the next."""
    noise = np.random.default_rng(5).integers(0, 256, (size[0] // 4 + 2, size[1] // 4 + 40, 3), np.uint8)
    large = cv2.resize(noise, None, fx=4, fy=4, interpolation=cv2.INTER_CUBIC)
    return np.ascontiguousarray(large[: size[0], index : index + size[1]])


def truth_of(index: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """Labels of the first 19 classes in blocks, with a void row."""
    label = np.random.default_rng(100 + index).integers(0, 19, (size[0] // 8, size[1] // 8), np.uint8)
    label = cv2.resize(label, size[::-1], interpolation=cv2.INTER_NEAREST)
    label[0] = 255
    return label


def write_bag(path: Path, messages: Sequence[tuple]) -> Path:
    """A bag of messages in their order, recorded 1 ms apart.

    A message is (topic, stamp, uint8 array [H, W] or [H, W, 3]), or (topic, stamp, bytes of an image file), or
    (topic, stamp, dict) for a String with JSON.
    """
    store = get_typestore(Stores.ROS2_JAZZY)
    types = store.types
    with BagFolder(path, version=9, storage_plugin=StoragePlugin.MCAP) as bag:
        topics = {}
        for place, (topic, stamp_ns, content) in enumerate(messages):
            time = types["builtin_interfaces/msg/Time"](*divmod(stamp_ns, 1_000_000_000))
            header = types["std_msgs/msg/Header"](stamp=time, frame_id="front_optical_frame")
            if isinstance(content, dict):
                kind, message = "std_msgs/msg/String", types["std_msgs/msg/String"](data=json.dumps(content))
            elif isinstance(content, bytes):
                kind = "sensor_msgs/msg/CompressedImage"
                message = types[kind](header=header, format="jpeg", data=np.frombuffer(content, np.uint8))
            else:
                kind, channels = "sensor_msgs/msg/Image", content.shape[2] if content.ndim == 3 else 1
                message = types[kind](
                    header=header,
                    height=content.shape[0],
                    width=content.shape[1],
                    encoding="bgr8" if channels == 3 else "mono8",
                    is_bigendian=0,
                    step=content.shape[1] * channels,
                    data=np.ascontiguousarray(content).reshape(-1),
                )
            if topic not in topics:
                topics[topic] = bag.add_connection(topic, kind, typestore=store)
            bag.write(topics[topic], FIRST_NS + place * 1_000_000, store.serialize_cdr(message, kind))
    return path


@pytest.fixture
def labelled_bag(tmp_path) -> Path:
    """Five images of /front, and the labels of all but the third."""
    messages = []
    for i in range(5):
        messages.append(("/front/image_raw", stamp(i), shot(i)))
        if i != 2:
            messages.append(("/front/label_truth", stamp(i), truth_of(i)))
    return write_bag(tmp_path / "bag", messages)


@pytest.fixture(scope="session")
def small() -> SimpleNamespace:
    """The makers of small things above, for tests that write their own bags and folders."""
    return SimpleNamespace(
        size=SIZE, step_ns=STEP_NS, stamp=stamp, shot=shot, truth=truth_of, write_bag=write_bag, save_model=save_model
    )


@pytest.fixture
def replay(monkeypatch, capsys):
    """Runs the command in this process; gives what it said in one line."""

    def run(*arguments, expect=0):
        command = ["replay", "--device", "cpu", "--runtime", "torch", *map(str, arguments)]
        monkeypatch.setattr(sys, "argv", ["drive-seg", *command])
        with pytest.raises(SystemExit) as ended:
            main()
        said = " ".join(capsys.readouterr().err.split())
        assert (ended.value.code or 0) == expect, said
        return said

    return run
