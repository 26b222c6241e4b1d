"""Video files, decoded by OpenCV."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from drive_seg.recordings.sources.frames import FALLBACK_FPS, FrameSource, log
from drive_seg.recordings.sources.mp4_boxes import missing_bytes
from drive_seg.recordings.sources.topics import SourceError, so_many
from drive_seg.recordings.sources.video_colors import correction

# Containers without a real rate answer 0, NaN, or their time base (1000, 90000).
MOST_FPS = 480.0


class VideoSource(FrameSource):
    """The frames of a video at its mean rate. Stamps count from the first frame of the file.

    How many frames there are is only known at the end: what a container says of it is an estimate, which files that
    were cut without re-encoding, segments, and those of varying rate or with a longer sound track are far from.
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
        self._path = path
        self._estimate, rate = self._probe()
        super().__init__(str(path), camera, fps or rate, topics, start, duration)

    def _cut(self, topics: Sequence[str] | None, start: float, duration: float | None) -> None:
        super()._cut(topics, start, duration)
        if self._estimate is not None:
            last = self._estimate if self._stop is None else min(self._stop, self._estimate)
            frames = max(0, last - self._first)
            self.expected, self.seconds = frames * len(self.topics), frames / self.fps

    def _probe(self) -> tuple[int | None, float]:
        capture = cv2.VideoCapture(str(self._path))
        try:
            # Only a frame proves that it is a video: some backends "open" anything.
            if not capture.isOpened() or not capture.grab():
                raise SourceError(self._why_none())
            rate = capture.get(cv2.CAP_PROP_FPS)
            count = capture.get(cv2.CAP_PROP_FRAME_COUNT)
        finally:
            capture.release()
        if not (math.isfinite(rate) and 0 < rate <= MOST_FPS):
            log.warning("%s does not say its frame rate (%s): taking %g (see --fps).", self._path, rate, FALLBACK_FPS)
            rate = FALLBACK_FPS
        return (int(count) if math.isfinite(count) and count >= 1 else None), rate

    def _why_none(self) -> str:
        if missing := missing_bytes(self._path):
            return (
                f"{self._path} is a video that was cut off, {missing} bytes before its end: nothing of it can be read."
            )
        return (
            f"{self._path} is no recording that can be read: not a rosbag (.mcap, .db3, .bag or its folder), "
            "not an image, and OpenCV finds no video in it."
        )

    def _count(self) -> None:
        return None

    def _frames(self, first: int, stop: int | None) -> Iterator[tuple[int, np.ndarray, None]]:
        capture = cv2.VideoCapture(str(self._path))
        corrected = correction(self._path, capture)
        index = 0
        try:
            # Seeking lands on key frames with many codecs; running through is exact.
            while index < first and capture.grab():
                index += 1
            while stop is None or index < stop:
                ok, image = capture.read()
                if not ok:
                    break
                yield index, image if corrected is None else corrected(image), None
                index += 1
        finally:
            capture.release()
        missing = missing_bytes(self._path) if stop is None or index < stop else 0
        if index <= first:
            reason = (
                f"it was cut off, {missing} bytes before its end" if missing else f"it has {so_many(index, 'frame')}"
            )
            raise SourceError(f"{self._path} gives no frame at {first / self.fps:g} s: {reason}.")
        if missing:
            self.truncated = (
                f"{self._path} was cut off, {missing} bytes before its end: {so_many(index, 'frame')} decoded"
            )
            log.warning("%s.", self.truncated)
