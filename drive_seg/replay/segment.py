"""``drive-seg segment``: label an image, a folder, a video or a bag, into pictures or a video."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import cv2
import numpy as np
from rich.progress import track

from drive_seg.files import written_aside
from drive_seg.image_messages import ImageError
from drive_seg.overlay import blend, legend_panel
from drive_seg.replay.sources import SourceError, open_source
from drive_seg.replay.sources.folder import SUFFIXES, images_in, read_image
from drive_seg.replay.video import OverlayVideo
from drive_seg.segmenter import Segmenter

VIDEO_SUFFIXES = (".mp4", ".avi")
FALLBACK_FPS = 10.0


def segment_source(
    segmenter: Segmenter, source: str, output: Path, alpha: float, progress: bool = True
) -> tuple[int, Path]:
    """Label every image of a source.

    Args:
        segmenter: who labels.
        source: anything that ``open_source`` takes; of a bag with several cameras the first image topic.
        output: a video file (.mp4, .avi) for overlays with a legend; else a folder, which receives ``label/``,
            ``color/`` and ``overlay/``, named after an image file's stem or the frame's number.
        alpha: strength of the mask in overlays.

    Returns:
        how many images were labelled, and where the result lies.

    Raises:
        SourceError: if the source cannot be read or holds no image.
        OSError: if the output cannot be written.
    """
    images, total = _images(source)
    images = iter(track(images, total=total, description="labelling", disable=not progress))
    if output.suffix.lower() in VIDEO_SUFFIXES:
        return _to_video(segmenter, images, output, alpha, _rate(source))
    return _to_folder(segmenter, images, output, alpha)


def _to_folder(
    segmenter: Segmenter, images: Iterator[tuple[str, np.ndarray]], output: Path, alpha: float
) -> tuple[int, Path]:
    for kind in ("label", "color", "overlay"):
        (output / kind).mkdir(parents=True, exist_ok=True)
    count = 0
    for stem, image in images:
        label = segmenter(image).label
        color = segmenter.label_map.colorize(label)
        for kind, picture in (("label", label), ("color", color), ("overlay", blend(image, color, alpha))):
            _write_png(output / kind / f"{stem}.png", picture)
        count += 1
    return count, output


def _to_video(
    segmenter: Segmenter, images: Iterator[tuple[str, np.ndarray]], output: Path, alpha: float, fps: float
) -> tuple[int, Path]:
    first = next(images, None)
    if first is None:
        raise SourceError("the source holds no image that can be read")
    height, width = first[1].shape[:2]
    legend = legend_panel(segmenter.label_map, height)
    with OverlayVideo(output, fps, (width + legend.shape[1], height)) as video:
        for _, image in chain([first], images):
            picture = blend(image, segmenter.label_map.colorize(segmenter(image).label), alpha)
            if picture.shape[:2] != (height, width):
                picture = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
            video.write(np.hstack((picture, legend)))
    return video.frames, video.path


def _images(source: str) -> tuple[Iterator[tuple[str, np.ndarray]], int | None]:
    """(name, BGR image) of everything that can be read, and how many there will be where that is known."""
    path = Path(source).expanduser()
    if path.is_dir() and not (path / "metadata.yaml").is_file() and images_in(path):
        files = images_in(path)
        return _read_files(files), len(files)
    if path.is_file() and path.suffix.lower() in SUFFIXES:
        return _read_files([path]), 1
    opened = open_source(source)
    pictures = [topic for topic in opened.topics if topic.type.endswith("Image") and "label" not in topic.name]
    if not pictures:
        raise SourceError(f"{source} has no image topic")
    return _read_records(open_source(source, topics=[pictures[0].name])), None


def _read_files(files: list[Path]) -> Iterator[tuple[str, np.ndarray]]:
    for file in files:
        image = read_image(file)
        if image is None:
            raise SourceError(f"{file} is not an image that OpenCV can read")
        yield file.stem, image


def _read_records(records) -> Iterator[tuple[str, np.ndarray]]:
    for number, record in enumerate(records):
        try:
            yield f"{number:06d}", record.image()
        except ImageError as error:
            raise SourceError(f"frame {number} of {record.topic}: {error}") from error


def _rate(source: str) -> float:
    """Frames per second by the first second or so of stamps; a folder of images has none, so 10."""
    if Path(source).expanduser().exists() and Path(source).suffix.lower() in SUFFIXES:
        return FALLBACK_FPS
    times = []
    for record in open_source(source):
        if record.is_image:
            times.append(record.time_ns)
        if len(times) == 10:
            break
    distinct = sorted(set(times))
    return 1e9 * (len(distinct) - 1) / (distinct[-1] - distinct[0]) if len(distinct) > 1 else FALLBACK_FPS


def _write_png(path: Path, picture: np.ndarray) -> None:
    with written_aside(path) as aside:
        if not cv2.imwrite(str(aside), picture):
            raise OSError(f"{path} cannot be written")
