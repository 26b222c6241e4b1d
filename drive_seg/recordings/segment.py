"""``drive-seg segment``: label an image, a folder, a video or a bag, into pictures or a video."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from rich.progress import track

from drive_seg.files import written_aside
from drive_seg.images.messages import ImageError
from drive_seg.images.overlay import blend
from drive_seg.recordings.reading import Reading
from drive_seg.recordings.sources import SourceError
from drive_seg.recordings.sources.folder import images_in
from drive_seg.recordings.video import LegendVideo
from drive_seg.segmenter import Segmenter

VIDEO_SUFFIXES = (".mp4", ".avi")
KINDS = ("label", "color", "overlay")


class Picture(NamedTuple):
    """An image to label, uint8 BGR [H, W, 3], and how its results are called."""

    name: str
    image: np.ndarray


def segment_source(
    segmenter: Segmenter,
    source: str,
    output: Path,
    alpha: float = 0.5,
    *,
    topic: str | None = None,
    labels_only: bool = False,
    tell: Callable[[str], None] = lambda sentence: None,
    progress: bool = True,
) -> tuple[int, Path]:
    """Label every image of a source. What cannot be decoded is skipped and reported.

    Args:
        segmenter: who labels.
        source: anything that ``open_source`` takes.
        output: a video file (.mp4, .avi) for overlays with a legend; else a folder, which receives ``label/``,
            ``color/`` and ``overlay/``, named after an image file or the frame's number.
        alpha: strength of the mask in overlays.
        topic: of a bag, the image topic; None is the first camera as ``drive-seg replay`` takes them.
        labels_only: leave colours and overlays out.
        tell: called with what the user should know: topics left out, images that could not be read.

    Returns:
        how many images were labelled, and where the result lies.

    Raises:
        SourceError: if the source cannot be read or holds no image that can be decoded.
        ValueError: if a video is to hold labels alone.
        OSError: if the output cannot be written.
    """
    to_video = output.suffix.lower() in VIDEO_SUFFIXES
    if to_video and labels_only:
        raise ValueError(f"{output} is a video of overlays: name a folder for labels alone")
    images = Images(source, topic, tell)
    shown = iter(track(images, total=images.expected, description="labelling", disable=not progress))
    if to_video:
        count, path = _to_video(segmenter, shown, output, alpha, images.rate)
    else:
        count, path = _to_folder(segmenter, shown, output, alpha, KINDS[:1] if labels_only else KINDS)
    if not count:
        raise SourceError(
            f"{source} has no image that can be decoded" + (f": {images.reason}" if images.reason else "")
        )
    for remark in images.remarks():
        tell(remark)
    return count, path


class Images:
    """The images of one camera.

    Attributes:
        expected: how many there are, where that is known.
        rate: frames per second.
        named: whether they are files, named after these, and not frames of a drive.
        reason: why the first that cannot be decoded is left out.
    """

    def __init__(self, source: str, topic: str | None, tell: Callable[[str], None]) -> None:
        reading = Reading(source, None if topic is None else [topic])
        others = [other.name for other in reading.available if other.is_camera]
        chosen = next(iter(reading.topics.values()))
        if others := [name for name in others if name != chosen]:
            tell(f"labelling {chosen}, leaving out {', '.join(others)}: --topic names another")
        if len(reading.topics) > 1:
            reading = Reading(source, [chosen])
        self._reading, self._names = reading, _names(Path(source).expanduser()) if reading.stems else []
        self.expected, self.rate, self.named = reading.expected, reading.rate(), bool(self._names)
        self._undecoded, self.reason = 0, ""

    def __iter__(self) -> Iterator[Picture]:
        for taken in self._reading:
            try:
                image = taken.record.image()
            except ImageError as error:
                self._undecoded += 1
                self.reason = self.reason or f"frame {taken.number}: {error}"
                continue
            yield Picture(self._names[taken.number] if self._names else f"{taken.number:06d}", image)

    def remarks(self) -> list[str]:
        """What the latest iteration left out."""
        reading = self._reading
        found = [reading.truncated] if reading.truncated else []
        if reading.damaged:
            found.append(f"{reading.damaged} could not be read and are left out")
        if self._undecoded:
            found.append(f"{self._undecoded} could not be decoded and are left out, the first is {self.reason}")
        return found


def _names(path: Path) -> list[str]:
    """Of an image folder's results: the files' stems, or their whole names where two have the same stem."""
    files = images_in(path) if path.is_dir() else [path]
    stems = [file.stem for file in files]
    return stems if len(set(stems)) == len(stems) else [file.name for file in files]


def _to_folder(
    segmenter: Segmenter, images: Iterator[Picture], output: Path, alpha: float, kinds: tuple[str, ...]
) -> tuple[int, Path]:
    for kind in kinds:
        (output / kind).mkdir(parents=True, exist_ok=True)
    count = 0
    for name, image in images:
        label = segmenter(image).label
        _write_png(output / "label" / f"{name}.png", label)
        if len(kinds) > 1:
            color = segmenter.label_map.colorize(label)
            _write_png(output / "color" / f"{name}.png", color)
            _write_png(output / "overlay" / f"{name}.png", blend(image, color, alpha))
        count += 1
    return count, output


def _to_video(
    segmenter: Segmenter, images: Iterator[Picture], output: Path, alpha: float, fps: float
) -> tuple[int, Path]:
    with LegendVideo(output, fps, segmenter.label_map) as video:
        for _, image in images:
            video.write(blend(image, segmenter.label_map.colorize(segmenter(image).label), alpha))
    return video.frames, video.path


def _write_png(path: Path, picture: np.ndarray) -> None:
    with written_aside(path) as aside:
        if not cv2.imwrite(str(aside), picture):
            raise OSError(f"{path} cannot be written")
