"""Sources of frames: rosbag2, rosbag1, videos, folders of images, synthetic drives. No rclpy.

``open_source`` is the one way in; the player publishes what it yields and the evaluator reads it directly.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path

from drive_seg.recordings.sources.file_kinds import METADATA, is_bag, refuse_pointer
from drive_seg.recordings.sources.record import FirstFrames, Frame, Record, Serialized, Source
from drive_seg.recordings.sources.topics import CAMERA_INFO, COMPRESSED, IMAGE, SourceError, Topic

__all__ = [
    "CAMERA_INFO",
    "COMPRESSED",
    "IMAGE",
    "Frame",
    "Record",
    "Serialized",
    "Source",
    "SourceError",
    "Topic",
    "open_source",
]


def open_source(
    spec: str | Path,
    topics: Sequence[str] | None = None,
    start: float = 0.0,
    duration: float | None = None,
    *,
    camera: str = "camera",
    fps: float | None = None,
    frames: int | None = None,
    camera_info: bool | str | Path = False,
) -> Source:
    """Open whatever ``spec`` names.

    Args:
        spec: a rosbag2 folder or its metadata.yaml, a .mcap, .db3 (also .zstd) or .bag file, a video, a folder of
            images, one image, or a synthetic drive such as ``synth:seed=3,frames=100,size=640x360,fps=10``.
        topics: patterns (``*``, ``?``) of topics to yield; None takes a bag's images (but for
            recorded masks), else everything.
        start, duration: the slice to yield, in seconds from the beginning.
        camera: prefix of the topics of anything but a bag: ``<camera>/image_raw``, ``<camera>/label_truth``.
        fps: frames per second of a folder (else 10) or drive, or instead of what a video says.
        frames: end after so many images of the (first) camera.
        camera_info: adds a camera_info topic: a calibration file, or True for the exact one of a synthetic drive.

    Returns:
        A source; iterating it yields ``Record`` in time order with the original stamps.

    Raises:
        SourceError: it cannot be opened; the message says why and what would do. Iterating raises it too where
            nothing can be read.
    """
    source = _open(str(spec), topics, start, duration, camera, fps)
    if camera_info:
        source = _with_camera_info(source, camera_info)
    return source if frames is None else FirstFrames(source, frames)


def _open(
    spec: str,
    topics: Sequence[str] | None,
    start: float,
    duration: float | None,
    camera: str,
    fps: float | None,
) -> Source:
    # Each kind is imported where it is used: a video must open where rosbags is not installed.
    if fps is not None and not 0 < fps <= 1000:
        raise SourceError(f"The frame rate must lie above 0 and up to 1000, not {fps}.")
    if spec.startswith("synth:"):
        from drive_seg.recordings.sources.synthetic import SynthSource

        return SynthSource(spec, camera, fps, topics, start, duration)
    path = Path(spec).expanduser()
    if not path.exists():
        raise SourceError(f"{spec} does not exist.")
    if path.name == METADATA:
        path = path.absolute().parent
    if path.is_file():
        refuse_pointer(path)
    if is_bag(path):
        try:
            bag = importlib.import_module("drive_seg.recordings.sources.bag")
        except ImportError as error:
            raise SourceError(f"Reading {spec} needs the Python package 'rosbags' ({error}).") from error
        return bag.BagSource(path, topics, start, duration)
    from drive_seg.recordings.sources.folder import SUFFIXES, FolderSource
    from drive_seg.recordings.sources.video import VideoSource

    kind = FolderSource if path.is_dir() or path.suffix.lower() in SUFFIXES else VideoSource
    return kind(path, camera, fps, topics, start, duration)


def _with_camera_info(source: Source, camera_info: bool | str | Path) -> Source:
    from drive_seg.recordings.sources.calibration import WithCameraInfo, pinhole, read_calibration

    if camera_info is not True:
        return WithCameraInfo(source, read_calibration(Path(camera_info)))
    camera = getattr(source, "synth_camera", None)
    if camera is None:
        raise SourceError(f"{source.spec} comes without a calibration: name a calibration file for camera_info.")
    return WithCameraInfo(source, pinhole(camera))
