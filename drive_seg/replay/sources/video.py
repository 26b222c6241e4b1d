"""Video files, decoded by OpenCV."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from drive_seg.replay.sources.frames import FALLBACK_FPS, FrameSource, log
from drive_seg.replay.sources.record import SourceError

# Containers without a real rate answer 0, NaN, or their time base (1000, 90000).
MOST_FPS = 480.0


class VideoSource(FrameSource):
    """The frames of a video at its mean rate. Stamps count from the first frame of the file."""

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
        self._length, rate = self._probe()
        super().__init__(str(path), camera, fps or rate, topics, start, duration)

    def _probe(self) -> tuple[int | None, float]:
        capture = cv2.VideoCapture(str(self._path))
        try:
            # Only a frame proves that it is a video: some backends "open" anything.
            if not capture.isOpened() or not capture.grab():
                raise SourceError(
                    f"{self._path} is no recording that can be read: not a rosbag (.mcap, .db3, .bag or its folder), "
                    "not an image, and OpenCV finds no video in it."
                )
            rate = capture.get(cv2.CAP_PROP_FPS)
            count = capture.get(cv2.CAP_PROP_FRAME_COUNT)
        finally:
            capture.release()
        if not (math.isfinite(rate) and 0 < rate <= MOST_FPS):
            log.warning("%s does not say its frame rate (%s): taking %g (see --fps).", self._path, rate, FALLBACK_FPS)
            rate = FALLBACK_FPS
        return (int(count) if math.isfinite(count) and count >= 1 else None), rate

    def _count(self) -> int | None:
        return self._length

    def _frames(self, first: int, stop: int | None) -> Iterator[tuple[int, np.ndarray, None]]:
        capture = cv2.VideoCapture(str(self._path))
        index = 0
        try:
            # Seeking lands on key frames with many codecs; running through is exact.
            while index < first and capture.grab():
                index += 1
            while stop is None or index < stop:
                ok, image = capture.read()
                if not ok:
                    break
                yield index, image, None
                index += 1
        finally:
            capture.release()
        if index <= first:
            raise SourceError(f"{self._path} gives no frame at {first / self.fps:g} s; its end may be damaged.")
        if stop is not None and index < stop:
            self.truncated = f"{self._path} could be decoded up to frame {index} only, of {stop}"
            log.warning("%s.", self.truncated)
