"""Folders of images, in natural order of their names."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from drive_seg.replay.sources.frames import FALLBACK_FPS, FrameSource, log
from drive_seg.replay.sources.record import SourceError

SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})


class FolderSource(FrameSource):
    """Images of a folder (not of its subfolders), or one image file, at a chosen rate.

    An image that cannot be read is skipped with a warning and counted; its moment stays empty.
    """

    def __init__(
        self,
        path: Path,
        camera: str,
        fps: float | None,
        topics: Sequence[str] | None,
        start: float,
        duration: float | None,
    ) -> None:
        self._files = [path] if path.is_file() else images_in(path)
        if not self._files:
            raise SourceError(f"{path} holds no images ({', '.join(sorted(SUFFIXES))}) and no rosbag.")
        super().__init__(str(path), camera, fps or FALLBACK_FPS, topics, start, duration)

    def _count(self) -> int:
        return len(self._files)

    def _frames(self, first: int, stop: int | None) -> Iterator[tuple[int, np.ndarray, None]]:
        read = 0
        for index in range(first, len(self._files) if stop is None else stop):
            image = read_image(self._files[index])
            if image is None:
                self.skipped += 1
                log.warning("%s is not an image that OpenCV can read: skipped.", self._files[index])
                continue
            read += 1
            yield index, image, None
        if not read:
            raise SourceError(f"None of the {self.skipped} images of {self.spec} can be read.")


def images_in(folder: Path) -> list[Path]:
    """The image files of a folder in natural order (frame2 before frame10); hidden files are left out."""
    files = (p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
    return sorted((p for p in files if p.is_file()), key=natural_order)


def natural_order(path: Path) -> tuple:
    """Sort key: digits count as numbers; the name itself settles what is left equal (01 and 1)."""
    parts = re.split(r"([0-9]+)", path.name.lower())
    return [int(part) if part.isdigit() else part for part in parts], path.name


def read_image(path: Path) -> np.ndarray | None:
    """uint8 [H, W, 3] BGR as stored (an EXIF orientation does not turn it); None if it cannot be read."""
    try:
        data = np.frombuffer(path.read_bytes(), np.uint8)
        return cv2.imdecode(data, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION) if data.size else None
    except (OSError, cv2.error):
        return None
