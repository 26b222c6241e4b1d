"""Small recordings of every kind, and the processes of this folder's ROS tests."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from rosbags.rosbag1 import Writer as Writer1
from rosbags.rosbag2 import StoragePlugin
from rosbags.rosbag2 import Writer as Writer2
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from drive_seg.node.dds import large_image_environment
from drive_seg.recordings.bag_writer import reliable

BEGIN_NS = 1_700_000_000_000_000_000
LATCHED = reliable(latched=True)


def picture(index: int, width: int = 32, height: int = 24) -> np.ndarray:
    """A BGR picture that tells which one it is."""
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0] = 10 * index % 256
    image[..., 1] = np.arange(width)
    image[..., 2] = np.arange(height)[:, None]
    return image


def header_ns(index: int) -> int:
    """The stamp of the image ``index``: 10 per second."""
    return BEGIN_NS + index * 100_000_000


def record_ns(index: int) -> int:
    """When it was recorded: 3 ms after its stamp."""
    return header_ns(index) + 3_000_000


class BagMaker:
    """Writes bags with ``count`` images, as many temperatures, and one latched label map."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def write(self, kind: str, count: int = 5, name: str = "bag", images: bool = True) -> Path:
        """Kind: mcap, sqlite3 or ros1; returns what a user would name."""
        if kind == "ros1":
            return self._ros1(self._folder / f"{name}.bag", count)
        storage = {"mcap": StoragePlugin.MCAP, "sqlite3": StoragePlugin.SQLITE3}[kind]
        store = get_typestore(Stores.ROS2_JAZZY)
        path = self._folder / name
        with Writer2(path, version=9, storage_plugin=storage) as writer:

            def add(topic: str, kind: str, **more: object) -> object:
                return writer.add_connection(topic, f"{kind}", typestore=store, **more)

            pictures = add("/front/image_raw", "sensor_msgs/msg/Image") if images else None
            heat = add("/temperature", "sensor_msgs/msg/Temperature")
            label_map = add("/label_map", "std_msgs/msg/String", offered_qos_profiles=[LATCHED])
            text = store.types["std_msgs/msg/String"](data="{}")
            writer.write(label_map, BEGIN_NS, store.serialize_cdr(text, "std_msgs/msg/String"))
            for i in range(count):
                if images:
                    data = store.serialize_cdr(image_message(store, i), pictures.msgtype)
                    writer.write(pictures, record_ns(i), data)
                writer.write(heat, record_ns(i) + 1, store.serialize_cdr(temperature(store, i), heat.msgtype))
        return path

    def write_foreign(self, name: str) -> Path:
        """A bag with a type that is installed nowhere, and a word."""
        store = get_typestore(Stores.ROS2_JAZZY)
        store.register(get_types_from_msg("std_msgs/Header header\nint32 size\n", "foreign_msgs/msg/Thing"))
        path = self._folder / name
        with Writer2(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
            things = writer.add_connection("/things", "foreign_msgs/msg/Thing", typestore=store)
            words = writer.add_connection("/words", "std_msgs/msg/String", typestore=store)
            thing = store.types["foreign_msgs/msg/Thing"](header=header(store, 0, "nowhere"), size=3)
            word = store.types["std_msgs/msg/String"](data="hello")
            writer.write(things, BEGIN_NS, store.serialize_cdr(thing, things.msgtype))
            writer.write(words, BEGIN_NS + 1, store.serialize_cdr(word, words.msgtype))
        return path

    def _ros1(self, path: Path, count: int) -> Path:
        store = get_typestore(Stores.ROS1_NOETIC)
        with Writer1(path) as writer:
            images = writer.add_connection("/front/image_raw", "sensor_msgs/msg/Image", typestore=store)
            heat = writer.add_connection("/temperature", "sensor_msgs/msg/Temperature", typestore=store)
            for i in range(count):
                writer.write(images, record_ns(i), store.serialize_ros1(image_message(store, i, seq=i), images.msgtype))
                writer.write(heat, record_ns(i) + 1, store.serialize_ros1(temperature(store, i, seq=i), heat.msgtype))
        return path


def header(store, index: int, frame_id: str, **seq: int):
    """A Header of either ROS; ``seq`` is for ROS 1."""
    stamp = store.types["builtin_interfaces/msg/Time"](*divmod(header_ns(index), 1_000_000_000))
    return store.types["std_msgs/msg/Header"](**seq, stamp=stamp, frame_id=frame_id)


def image_message(store, index: int, **seq: int):
    """``picture(index)`` as a message."""
    image = picture(index)
    return store.types["sensor_msgs/msg/Image"](
        header=header(store, index, "front_optical_frame", **seq),
        height=image.shape[0],
        width=image.shape[1],
        encoding="bgr8",
        is_bigendian=0,
        step=image.shape[1] * 3,
        data=image.reshape(-1),
    )


def temperature(store, index: int, **seq: int):
    """20 degrees and one more for each index."""
    return store.types["sensor_msgs/msg/Temperature"](
        header=header(store, index, "roof", **seq), temperature=20.0 + index, variance=0.5
    )


@pytest.fixture
def bags(tmp_path: Path) -> BagMaker:
    """Writes small bags into the test's folder."""
    return BagMaker(tmp_path)


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    """frame1, frame2, ... frame10, frame11 as PNG, written in another order."""
    folder = tmp_path / "images"
    folder.mkdir()
    for i in (10, 2, 1, 11, 5):
        cv2.imwrite(str(folder / f"frame{i}.png"), picture(i))
    return folder


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """12 grey frames at 8 per second, each brighter than the last."""
    path = tmp_path / "clip.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 8.0, (64, 48))
    for i in range(12):
        writer.write(np.full((48, 64, 3), 20 * i, np.uint8))
    writer.release()
    return path


class Processes:
    """Starts this package's modules as processes on the test's own ROS domain and ends them in any case."""

    def __init__(self) -> None:
        self._running: list[subprocess.Popen] = []
        self._read: dict[int, str] = {}

    def start(self, module: str, *arguments: object) -> subprocess.Popen:
        """``python -m drive_seg.recordings.<module> arguments``; its output is captured."""
        process = subprocess.Popen(
            [sys.executable, "-m", f"drive_seg.recordings.{module}", *map(str, arguments)],
            env={**os.environ, **large_image_environment(), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._running.append(process)
        return process

    def run(self, module: str, *arguments: object) -> tuple[int, str]:
        """Start and wait; (exit status, output)."""
        return self.finish(self.start(module, *arguments))

    def finish(self, process: subprocess.Popen, seconds: float = 120.0) -> tuple[int, str]:
        """Wait for a process's own end; (exit status, output)."""
        output, _ = process.communicate(timeout=seconds)
        return process.returncode, self._read.pop(process.pid, "") + output

    def interrupt(self, process: subprocess.Popen) -> tuple[int, str]:
        """SIGINT, then as ``finish``."""
        process.send_signal(signal.SIGINT)
        return self.finish(process)

    def wait_for_output(self, process: subprocess.Popen, text: str) -> None:
        """Until the process prints a line with this text; a process that ends without it fails the test."""
        for line in process.stdout:
            self._read[process.pid] = self._read.get(process.pid, "") + line
            if text in line:
                return
        raise AssertionError(f"'{text}' was never printed, but:\n{self._read.get(process.pid)}")

    def end(self) -> None:
        """Kill what still runs."""
        for process in self._running:
            if process.poll() is None:
                process.kill()
            process.communicate()


@pytest.fixture
def processes(ros_domain_id: int):
    """Processes on a ROS domain of the test's own."""
    started = Processes()
    yield started
    started.end()
