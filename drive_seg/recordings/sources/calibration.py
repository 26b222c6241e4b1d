"""camera_info beside image topics: from a calibration file, or the exact one of a synthetic drive."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from sensor_msgs.msg import CameraInfo

from drive_seg.recordings.sources.record import Record, Source
from drive_seg.recordings.sources.topics import CAMERA_INFO, COMPRESSED, SourceError, Topic
from drive_seg.synth import SynthCamera


class WithCameraInfo(Source):
    """Another source with a camera_info just before each image of one topic, with its stamp and frame id.

    Raises:
        SourceError: the source does not have exactly one camera image topic, or has that camera_info itself.
    """

    def __init__(self, source: Source, info: CameraInfo) -> None:
        images = [t for t in source.topics if t.is_camera]
        if len(images) != 1:
            names = ", ".join(t.name for t in images) or "none"
            raise SourceError(f"One calibration fits one image topic; {source.spec} has {names} (see --topics).")
        self.spec = source.spec
        self._source = source
        self._image = images[0].name
        self._info = info
        self._topic = camera_info_topic(self._image, images[0].type)
        if any(t.name == self._topic for t in source.topics):
            raise SourceError(f"{source.spec} has {self._topic} itself; leave one of the two out.")
        self.topics = (*source.topics, Topic(self._topic, CAMERA_INFO))
        self.seconds = source.seconds

    @property
    def skipped(self) -> int:  # type: ignore[override]
        """As the source within."""
        return self._source.skipped

    @property
    def truncated(self) -> str:  # type: ignore[override]
        """As the source within."""
        return self._source.truncated

    @property
    def repeated(self) -> int:  # type: ignore[override]
        """As the source within."""
        return self._source.repeated

    @property
    def backward(self) -> int:  # type: ignore[override]
        """As the source within."""
        return self._source.backward

    def __iter__(self) -> Iterator[Record]:
        for record in self._source:
            if record.topic == self._image:
                yield Record(self._topic, CAMERA_INFO, record.time_ns, self._stamped(record))
            yield record

    def select(self, topics: Sequence[str] | None, start: float = 0.0, duration: float | None = None) -> Source:
        return WithCameraInfo(self._source.select(topics, start, duration), self._info)

    def _stamped(self, record: Record) -> CameraInfo:
        info = CameraInfo(
            **{name: getattr(self._info, name) for name in self._info.get_fields_and_field_types() if name != "header"}
        )
        info.header.frame_id = record.frame_id
        info.header.stamp.sec, info.header.stamp.nanosec = divmod(record.stamp_ns, 1_000_000_000)
        return info


def camera_info_topic(image_topic: str, msgtype: str) -> str:
    """image_transport's rule: camera_info lies beside the image topic, or beside the base topic of a transport."""
    base = posixpath.dirname(image_topic) if msgtype == COMPRESSED else image_topic
    return posixpath.join(posixpath.dirname(base), "camera_info")


def pinhole(camera: SynthCamera) -> CameraInfo:
    """The camera_info of an undistorted camera."""
    k = [camera.fx, 0.0, camera.cx, 0.0, camera.fy, camera.cy, 0.0, 0.0, 1.0]
    p = [camera.fx, 0.0, camera.cx, 0.0, 0.0, camera.fy, camera.cy, 0.0, 0.0, 0.0, 1.0, 0.0]
    return CameraInfo(
        width=camera.width,
        height=camera.height,
        distortion_model="plumb_bob",
        d=[0.0] * 5,
        k=k,
        r=[1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0],
        p=p,
    )


def read_calibration(path: Path) -> CameraInfo:
    """Read a calibration file as camera_calibration writes it (YAML).

    Raises:
        SourceError: it cannot be read or lacks something.
    """
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
        return CameraInfo(
            width=int(document["image_width"]),
            height=int(document["image_height"]),
            distortion_model=str(document["distortion_model"]),
            d=_numbers(document, "distortion_coefficients"),
            k=_numbers(document, "camera_matrix", 9),
            r=_numbers(document, "rectification_matrix", 9),
            p=_numbers(document, "projection_matrix", 12),
        )
    except OSError as error:
        raise SourceError(f"The calibration {path} cannot be read: {error.strerror}.") from error
    except KeyError as error:
        raise SourceError(f"The calibration {path} lacks {error.args[0]!r}.") from error
    except (yaml.YAMLError, UnicodeDecodeError, TypeError, ValueError, AssertionError) as error:
        reason = " ".join(str(error).split())
        raise SourceError(f"The calibration {path} is not as camera_calibration writes it: {reason}.") from error


def _numbers(document: dict[str, Any], name: str, count: int | None = None) -> list[float]:
    numbers = [float(number) for number in document[name]["data"]]
    if count is not None and len(numbers) != count:
        raise ValueError(f"{name} has {len(numbers)} numbers instead of {count}")
    return numbers
