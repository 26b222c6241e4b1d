"""The masks of a replay as one mcap file, and overlay videos."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from types import TracebackType

import numpy as np
from rosbags.interfaces import Connection
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from drive_seg.evaluation.output import distinct_names
from drive_seg.images.overlay import blend
from drive_seg.labels import LabelMap
from drive_seg.recordings.bag_writer import BagError, BagWriter, reliable
from drive_seg.recordings.video import LegendVideo

IMAGE, STRING, LABEL_INFO = "sensor_msgs/msg/Image", "std_msgs/msg/String", "vision_msgs/msg/LabelInfo"

# vision_msgs comes neither with rosbags nor from the Python package index.
DEFINITIONS = {
    "vision_msgs/msg/VisionClass": "uint16 class_id\nstring class_name\n",
    LABEL_INFO: "std_msgs/Header header\nvision_msgs/VisionClass[] class_map\nfloat32 threshold\n",
}

ALPHA = 0.5
WIDEST = 1280


def typestore():
    """rosbags' types of ROS 2 Jazzy and those of a label_info."""
    store = get_typestore(Stores.ROS2_JAZZY)
    for name, text in DEFINITIONS.items():
        store.register(get_types_from_msg(text, name))
    return store


class MaskFile:
    """Masks as the node publishes them, in one .mcap file: a context manager that leaves a whole file or none.

    Per camera ``/<camera>/segmentation/label`` (mono8, stamps and frame ids of the images, recorded at their times)
    and, latched, ``label_map`` (String, JSON) and ``label_info`` (vision_msgs/LabelInfo) beside it.

    Args:
        path: the file; what is there is replaced in the end. Beside it lies ``.<stem>.partial`` meanwhile.
        label_map: what the ids mean.
        model: name and hash of who made the masks, for the label_map topic.

    Raises:
        BagError: it cannot be written.
    """

    def __init__(self, path: Path, label_map: LabelMap, model: str = "", model_hash: str = "") -> None:
        self.path = path
        self._label_map = label_map
        self._text = json.dumps({**label_map.to_dict(), "model": model, "model_hash": model_hash})
        self._store = typestore()
        self._aside = path.with_name(f".{path.stem}.{os.getpid()}.partial")
        shutil.rmtree(self._aside, ignore_errors=True)
        try:
            self._aside.mkdir(parents=True)
        except OSError as error:
            raise BagError(f"{path} cannot be written: {error}.") from error
        self._bag = BagWriter(self._aside / path.stem, compress=True)
        self._labels: dict[str, Connection] = {}
        self.count = 0

    def write(self, camera: str, stamp_ns: int, frame_id: str, time_ns: int, mask: np.ndarray) -> None:
        """Append a mask, uint8 [H, W], with the stamp and frame id of its image and the time at which that came."""
        if camera not in self._labels:
            self._begin(camera, stamp_ns, frame_id, time_ns)
        types = self._store.types
        message = types[IMAGE](
            header=self._header(stamp_ns, frame_id),
            height=mask.shape[0],
            width=mask.shape[1],
            encoding="mono8",
            is_bigendian=0,
            step=mask.shape[1],
            data=np.ascontiguousarray(mask).ravel(),
        )
        self._write(self._labels[camera], time_ns, message, IMAGE)
        self.count += 1

    def __enter__(self) -> MaskFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        try:
            self._bag.close()
            if kind is None and self._bag.messages:
                os.replace(self._aside / self.path.stem / f"{self.path.stem}.mcap", self.path)
        finally:
            shutil.rmtree(self._aside, ignore_errors=True)

    def _begin(self, camera: str, stamp_ns: int, frame_id: str, time_ns: int) -> None:
        prefix = f"/{camera.strip('/')}/segmentation"
        types = self._store.types
        classes = [
            types["vision_msgs/msg/VisionClass"](class_id=i, class_name=name)
            for i, name in enumerate(self._label_map.names)
        ]
        info = types[LABEL_INFO](header=self._header(stamp_ns, frame_id), class_map=classes, threshold=0.0)
        text = types[STRING](data=self._text)
        self._write(self._add(f"{prefix}/label_map", STRING, latched=True), time_ns, text, STRING)
        self._write(self._add(f"{prefix}/label_info", LABEL_INFO, latched=True), time_ns, info, LABEL_INFO)
        self._labels[camera] = self._add(f"{prefix}/label", IMAGE)

    def _add(self, topic: str, kind: str, latched: bool = False) -> Connection:
        text, _ = self._store.generate_msgdef(kind, ros_version=2)
        return self._bag.add(topic, kind, text, self._store.hash_rihs01(kind), [reliable(latched=latched)])

    def _write(self, connection: Connection, time_ns: int, message: object, kind: str) -> None:
        self._bag.write(connection, time_ns, bytes(self._store.serialize_cdr(message, kind)))

    def _header(self, stamp_ns: int, frame_id: str) -> object:
        sec, nanosec = divmod(stamp_ns, 1_000_000_000)
        types = self._store.types
        stamp = types["builtin_interfaces/msg/Time"](sec=sec, nanosec=nanosec)
        return types["std_msgs/msg/Header"](stamp=stamp, frame_id=frame_id)


class Overlays:
    """An overlay video with a legend for each camera: a context manager that leaves whole files or none.

    Frames keep the size of the camera's first one, at most 1280 pixels wide; a frame without a mask shows the image.

    Args:
        folder: where ``overlay.mp4`` goes, or ``overlay_<camera>.mp4`` each if there are several.
        cameras: their names.
        fps: frames a second.
        label_map: what the ids mean.
    """

    def __init__(self, folder: Path, cameras: list[str], fps: float, label_map: LabelMap) -> None:
        self._label_map = label_map
        self._videos = {
            camera: LegendVideo(
                folder / ("overlay.mp4" if len(cameras) == 1 else f"overlay_{name}.mp4"), fps, label_map, WIDEST
            )
            for camera, name in distinct_names(cameras).items()
        }

    @property
    def paths(self) -> list[Path]:
        """The files begun so far, as they will be called."""
        return [video.path for video in self._videos.values() if video.frames]

    def write(self, camera: str, image: np.ndarray, mask: np.ndarray | None) -> None:
        """Append a frame: uint8 [H, W, 3] BGR and, if there is one, its mask uint8 [H, W]."""
        picture = image if mask is None else blend(image, self._label_map.colorize(mask), ALPHA)
        self._videos[camera].write(picture)

    def __enter__(self) -> Overlays:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for video in self._videos.values():
            video.__exit__(kind)
