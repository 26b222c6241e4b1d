"""A labelled dataset as a rosbag2: images, labels, what the ids mean, and camera_info. No rclpy."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rosbags.interfaces import Connection
from rosbags.typesys import Stores, get_typestore

from drive_seg.labels import LabelMap
from drive_seg.recordings.bag_writer import BagWriter, reliable
from drive_seg.recordings.message_types import definition
from drive_seg.recordings.sources.topics import CAMERA_INFO, COMPRESSED, IMAGE

STRING = "std_msgs/msg/String"
JPEG_QUALITY = 95
_FILES = {
    "jpeg": (".jpg", [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]),
    "png": (".png", [cv2.IMWRITE_PNG_COMPRESSION, 3]),
}


@dataclass(frozen=True)
class LabelledFrame:
    """One frame on its way into the bag.

    Attributes:
        stamp_ns: its header stamp and record time; frames come in the order of their stamps.
        image: uint8 BGR [H, W, 3].
        label: uint8 [H, W], class ids and 255 = void.
        camera_info: anything with the fields of sensor_msgs/CameraInfo, or None; its header is not used.
    """

    stamp_ns: int
    image: np.ndarray
    label: np.ndarray
    camera_info: Any = None


def make_bag(
    path: str | Path,
    frames: Iterable[LabelledFrame],
    label_map: LabelMap,
    *,
    camera: str = "camera",
    compressed: str | None = None,
    storage: str = "mcap",
) -> dict[str, int]:
    """Write a bag. It takes its name only when it is whole; if a frame fails, nothing stays.

    Topics: ``/<camera>/image_raw`` (bgr8, or ``/compressed`` below it), ``/<camera>/label_truth`` (mono8), latched
    ``/<camera>/label_map`` (a String with the label map as JSON, as the node latches it) and ``/<camera>/camera_info``
    for the frames that have one.

    Args:
        path: folder of the bag, which must not exist.
        frames: the frames.
        label_map: what the ids of the labels mean.
        camera: prefix of the topics.
        compressed: "jpeg" or "png" for CompressedImage topics; labels stay as they are.
        storage: "mcap" (with zstd chunks) or "sqlite3".

    Returns:
        Messages by topic.

    Raises:
        BagError: the bag is there already or cannot be written.
        ValueError: an option is unknown, a frame's arrays or calibration do not fit each other, or no frame came.
    """
    if compressed is not None and compressed not in _FILES:
        raise ValueError(f"images are compressed as {' or '.join(_FILES)}, not as '{compressed}'")
    if not camera.strip("/"):
        raise ValueError("the camera's name must not be empty")
    bag = BagWriter(path, compress=storage == "mcap", storage=storage)
    try:
        writer = _FrameWriter(bag, label_map, camera.strip("/"), compressed)
        for frame in frames:
            writer.write(frame)
        if not bag.messages:
            raise ValueError("there is no frame to write")
    except BaseException:
        bag.discard()
        raise
    bag.close()
    return dict(bag.counts)


class _FrameWriter:
    """Turns frames into messages; topics are added when their first message comes."""

    def __init__(self, bag: BagWriter, label_map: LabelMap, camera: str, compressed: str | None) -> None:
        self._bag, self._label_map, self._compressed = bag, label_map, compressed
        self._prefix = f"/{camera}"
        self._frame_id = camera.replace("/", "_") + "_optical_frame"
        self._store = get_typestore(Stores.ROS2_JAZZY)
        self._connections: dict[str, Connection] = {}

    def write(self, frame: LabelledFrame) -> None:
        _check(frame, self._label_map.num_classes)
        if not self._connections:
            text = self._store.types[STRING](data=json.dumps(self._label_map.to_dict()))
            self._put("label_map", STRING, frame.stamp_ns, text)
        stamp = self._store.types["builtin_interfaces/msg/Time"](*divmod(frame.stamp_ns, 1_000_000_000))
        header = self._store.types["std_msgs/msg/Header"](stamp=stamp, frame_id=self._frame_id)
        if frame.camera_info is not None:
            self._put("camera_info", CAMERA_INFO, frame.stamp_ns, self._camera_info(header, frame.camera_info))
        if self._compressed is None:
            self._put("image_raw", IMAGE, frame.stamp_ns, self._image(header, frame.image, "bgr8"))
        else:
            self._put("image_raw/compressed", COMPRESSED, frame.stamp_ns, self._file(header, frame.image))
        self._put("label_truth", IMAGE, frame.stamp_ns, self._image(header, frame.label, "mono8"))

    def _put(self, name: str, kind: str, time_ns: int, message: Any) -> None:
        if name not in self._connections:
            text, type_hash = definition(kind)
            qos = reliable(1, latched=True) if name == "label_map" else reliable(10)
            self._connections[name] = self._bag.add(f"{self._prefix}/{name}", kind, text, type_hash, [qos])
        self._bag.write(self._connections[name], time_ns, bytes(self._store.serialize_cdr(message, kind)))

    def _image(self, header: Any, array: np.ndarray, encoding: str) -> Any:
        packed = np.ascontiguousarray(array)
        height, width = packed.shape[:2]
        return self._store.types[IMAGE](
            header=header,
            height=height,
            width=width,
            encoding=encoding,
            is_bigendian=0,
            step=packed.strides[0],
            data=packed.reshape(-1),
        )

    def _file(self, header: Any, image: np.ndarray) -> Any:
        suffix, options = _FILES[self._compressed]
        _, data = cv2.imencode(suffix, image, options)
        # As image_transport writes it: the camera's encoding, then the file's kind and what was encoded.
        text = f"bgr8; {self._compressed} compressed bgr8"
        return self._store.types[COMPRESSED](header=header, format=text, data=data.reshape(-1))

    def _camera_info(self, header: Any, info: Any) -> Any:
        kind, roi = self._store.types[CAMERA_INFO], self._store.types["sensor_msgs/msg/RegionOfInterest"]
        values = {field.name: getattr(info, field.name) for field in fields(kind) if not field.name.startswith("_")}
        for name in ("d", "k", "r", "p"):
            values[name] = np.asarray(values[name], np.float64)
        whole = roi(**{f.name: getattr(info.roi, f.name) for f in fields(roi) if not f.name.startswith("_")})
        return kind(**{**values, "header": header, "roi": whole})


def _check(frame: LabelledFrame, classes: int) -> None:
    height, width = frame.label.shape
    if frame.image.dtype != np.uint8 or frame.label.dtype != np.uint8 or frame.image.shape != (height, width, 3):
        raise ValueError(
            f"image {frame.image.dtype} {frame.image.shape} and label {frame.label.dtype} {frame.label.shape} at "
            f"{frame.stamp_ns} ns are not uint8 [H, W, 3] and uint8 [H, W] of one size"
        )
    wrong = np.flatnonzero(np.bincount(frame.label.ravel(), minlength=256)[classes:255])
    if wrong.size:
        raise ValueError(f"the label at {frame.stamp_ns} ns holds {classes + wrong[0]}, which is no class")
    info = frame.camera_info
    if info is not None and (info.height, info.width) != (height, width):
        raise ValueError(
            f"the calibration is for {info.width}x{info.height} pixels, but the image at {frame.stamp_ns} ns has "
            f"{width}x{height}"
        )
