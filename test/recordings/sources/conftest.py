"""Bags of every layout that recorders write, of small noisy pictures that tell which one they are."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from mcap.writer import CompressionType
from mcap.writer import Writer as McapWriter
from rosbags.rosbag1 import Writer as Writer1
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from drive_seg.recordings.bag_writer import reliable

S = 1_000_000_000
BEGIN_NS = 1_700_000_000 * S
TOPIC = "/front/image_raw"
IMAGE = "sensor_msgs/msg/Image"
STORAGE = {"mcap": StoragePlugin.MCAP, "sqlite3": StoragePlugin.SQLITE3}
STORE = get_typestore(Stores.ROS2_JAZZY)
LATCHED = reliable(latched=True)


class Pictures:
    """What the bags hold: pictures 0, 1, 2, ... at 10 per second, recorded 3 ms after their stamps."""

    size = (40, 60)

    def array(self, index: int) -> np.ndarray:
        """Picture ``index``, uint8 BGR, noise that no compression makes smaller."""
        return np.random.default_rng(index).integers(0, 256, (*self.size, 3), np.uint8)

    def stamp_ns(self, index: int) -> int:
        return BEGIN_NS + index * S // 10

    def record_ns(self, index: int) -> int:
        return self.stamp_ns(index) + 3_000_000

    def header(self, stamp_ns: int, **seq: int) -> object:
        stamp = STORE.types["builtin_interfaces/msg/Time"](*divmod(stamp_ns, S))
        return STORE.types["std_msgs/msg/Header"](stamp=stamp, frame_id="front", **seq)

    def message(self, index: int, stamp_ns: int | None = None) -> object:
        image = self.array(index)
        height, width = image.shape[:2]
        return STORE.types[IMAGE](
            header=self.header(self.stamp_ns(index) if stamp_ns is None else stamp_ns),
            height=height,
            width=width,
            encoding="bgr8",
            is_bigendian=0,
            step=3 * width,
            data=image.reshape(-1),
        )

    def cdr(self, index: int, stamp_ns: int | None = None) -> bytes:
        return bytes(STORE.serialize_cdr(self.message(index, stamp_ns), IMAGE))

    def compressed_cdr(self, index: int, kind: str) -> bytes:
        _, data = cv2.imencode(f".{kind}", self.array(index))
        name = "sensor_msgs/msg/CompressedImage"
        message = STORE.types[name](header=self.header(self.stamp_ns(index)), format=kind, data=data.reshape(-1))
        return bytes(STORE.serialize_cdr(message, name))


PICTURES = Pictures()


def write(path: Path, storage: str = "mcap", mode: str = "none", indices: Sequence[int] = range(6)) -> Path:
    """A rosbag2 folder; mode is none, file, message or storage."""
    writer = Writer(path, version=9, storage_plugin=STORAGE[storage])
    writer.set_compression(CompressionMode[mode.upper()], CompressionFormat.ZSTD)
    with writer:
        connection = writer.add_connection(TOPIC, IMAGE, typestore=STORE)
        for i in indices:
            writer.write(connection, PICTURES.record_ns(i), PICTURES.cdr(i))
    return path


def write_split(path: Path, storage: str, parts: Sequence[Sequence[int]]) -> Path:
    """A split recording as rosbag2 leaves it: <folder>_0, <folder>_1, ... under one metadata.yaml."""
    path.mkdir()
    whole: dict = {}
    for number, indices in enumerate(parts):
        part = write(path / f"{path.name}_{number}", storage, indices=indices)
        (file,) = (f for f in part.iterdir() if f.suffix != ".yaml")
        file = file.rename(path / f"part_{file.name}")
        document = yaml.safe_load((part / "metadata.yaml").read_text())
        (part / "metadata.yaml").unlink()
        part.rmdir()
        file = file.rename(path / file.name.removeprefix("part_"))
        if not whole:
            whole = document["rosbag2_bagfile_information"]
            whole["relative_file_paths"] = []
        whole["relative_file_paths"].append(file.name)
    times = [PICTURES.record_ns(i) for indices in parts for i in indices]
    whole["starting_time"]["nanoseconds_since_epoch"] = min(times)
    whole["duration"]["nanoseconds"] = max(times) - min(times)
    whole["message_count"] = whole["topics_with_message_count"][0]["message_count"] = len(times)
    (path / "metadata.yaml").write_text(yaml.safe_dump({"rosbag2_bagfile_information": whole}))
    return path


def write_mcap(
    path: Path,
    indices: Sequence[int] = range(12),
    compression: CompressionType = CompressionType.NONE,
    profile: str = "ros2",
    encoding: str = "cdr",
    definition: bytes | None = None,
    **options: object,
) -> Path:
    """One mcap file with two pictures in a chunk, written by the format's own library."""
    options = {"chunk_size": 12_000, **options}
    with path.open("wb") as file:
        writer = McapWriter(file, compression=compression, **options)
        writer.start(profile=profile)
        if definition is None:
            definition = STORE.generate_msgdef(IMAGE, ros_version=2)[0].encode()
        schema = writer.register_schema(IMAGE, "ros2msg", definition)
        channel = writer.register_channel(TOPIC, encoding, schema)
        for i in indices:
            writer.add_message(channel, PICTURES.record_ns(i), PICTURES.cdr(i), PICTURES.stamp_ns(i))
        writer.finish()
    return path


def write_ros1(path: Path, indices: Sequence[int], compression: str | None = None) -> Path:
    """A rosbag1 with two pictures in a chunk; compression is BZ2 or LZ4."""
    store = get_typestore(Stores.ROS1_NOETIC)
    writer = Writer1(path)
    writer.chunk_threshold = 12_000
    if compression:
        writer.set_compression(Writer1.CompressionFormat[compression])
    with writer:
        connection = writer.add_connection(TOPIC, IMAGE, typestore=store)
        for i in indices:
            message = PICTURES.message(i)
            message.header = store.types["std_msgs/msg/Header"](i, message.header.stamp, "front")
            writer.write(connection, PICTURES.record_ns(i), store.serialize_ros1(message, IMAGE))
    return path


@pytest.fixture
def layouts():
    """This module's writers."""

    class Layouts:
        pictures = PICTURES
        write = staticmethod(write)
        write_split = staticmethod(write_split)
        write_mcap = staticmethod(write_mcap)
        write_ros1 = staticmethod(write_ros1)
        store = STORE
        topic = TOPIC
        latched = LATCHED

        @staticmethod
        def places(records) -> list[int]:
            """Which pictures these records are, by their stamps; their bytes are compared."""
            found = []
            for record in records:
                place = (record.stamp_ns - BEGIN_NS) * 10 // S
                np.testing.assert_array_equal(record.image(), PICTURES.array(place))
                found.append(place)
            return found

    return Layouts
