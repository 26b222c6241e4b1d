"""Folders of images, in natural order of their names."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from drive_seg.images.files import decode_file, read_whole
from drive_seg.recordings.sources.frames import FALLBACK_FPS, FrameSource, log
from drive_seg.recordings.sources.topics import SourceError, so_many

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
        read, reason = 0, ""
        for index in range(first, len(self._files) if stop is None else stop):
            try:
                image = decode_file(read_whole(self._files[index]))
            except ValueError as error:
                self.skipped += 1
                reason = reason or str(error)
                log.warning("%s %s: skipped.", self._files[index], error)
                continue
            read += 1
            yield index, image, None
        if not read:
            raise SourceError(f"{self.spec}: none of {so_many(self.skipped, 'image')} can be read, the first {reason}.")


def images_in(folder: Path) -> list[Path]:
    """The image files of a folder in natural order (frame2 before frame10); hidden files are left out."""
    files = (p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
    return sorted((p for p in files if p.is_file()), key=natural_order)


def natural_order(path: Path) -> tuple:
    """Sort key: digits count as numbers; the name itself settles what is left equal (01 and 1)."""
    parts = re.split(r"([0-9]+)", path.name.lower())
    return [int(part) if part.isdigit() else part for part in parts], path.name
