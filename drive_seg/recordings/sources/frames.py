"""What videos, folders and synthetic drives share: frames at a rate, turned into camera topics."""

from __future__ import annotations

import logging
import math
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from copy import copy

import numpy as np

from drive_seg.recordings.sources.record import Frame, Record, Source
from drive_seg.recordings.sources.topics import IMAGE, SourceError, Topic, choose

FALLBACK_FPS = 10.0
FIRST_STAMP_NS = 1_000_000_000
"""Stamp of the first frame where the footage has no clock of its own. Not 0, which means "no time yet" in ROS."""

log = logging.getLogger(__name__)


class FrameSource(Source):
    """Frames at a rate, as ``<camera>/image_raw`` and, where there are labels, ``<camera>/label_truth``.

    Subclasses give ``_count`` and ``_frames``.
    """

    has_truth = False

    def __init__(
        self,
        spec: str,
        camera: str,
        fps: float,
        topics: Sequence[str] | None,
        start: float,
        duration: float | None,
    ) -> None:
        if not (math.isfinite(fps) and fps > 0):
            raise SourceError(f"The frame rate must be above 0, not {fps}.")
        self.spec = spec
        self.fps = fps
        self.camera = camera.strip("/")
        self.frame_id = self.camera.replace("/", "_") + "_optical_frame"
        self._image = f"{self.camera}/image_raw"
        self._truth = f"{self.camera}/label_truth"
        available = [Topic(self._image, IMAGE, encoding="bgr8")]
        if self.has_truth:
            available.append(Topic(self._truth, IMAGE, encoding="mono8"))
        self._available = available
        self._cut(topics, start, duration)

    def select(self, topics: Sequence[str] | None, start: float = 0.0, duration: float | None = None) -> Source:
        part = copy(self)
        part._cut(topics, start, duration)
        return part

    def _cut(self, topics: Sequence[str] | None, start: float, duration: float | None) -> None:
        self.topics = choose(self._available, topics, self.spec)
        self._first, self._stop = frame_range(start, duration, self.fps, self._count(), self.spec)
        if self._stop is not None:
            self.expected = (self._stop - self._first) * len(self.topics)
            self.seconds = (self._stop - self._first) / self.fps

    @abstractmethod
    def _count(self) -> int | None:
        """How many frames there are, where that is known."""

    @abstractmethod
    def _frames(self, first: int, stop: int | None) -> Iterator[tuple[int, np.ndarray, np.ndarray | None]]:
        """(index, uint8 BGR image, uint8 label or None) of frames first..stop-1."""

    def _stamp_ns(self, index: int) -> int:
        return FIRST_STAMP_NS + round(index * 1e9 / self.fps)

    def __iter__(self) -> Iterator[Record]:
        self.skipped, self.truncated = 0, ""
        wanted = {topic.name for topic in self.topics}
        for index, image, label in self._frames(self._first, self._stop):
            stamp = self._stamp_ns(index)
            if self._image in wanted:
                yield Record(self._image, IMAGE, stamp, Frame(image, "bgr8", stamp, self.frame_id))
            if self._truth in wanted and label is not None:
                yield Record(self._truth, IMAGE, stamp, Frame(label, "mono8", stamp, self.frame_id))


def check_slice(start: float, duration: float | None) -> None:
    """Refuse a slice that cannot be: SourceError."""
    if not (math.isfinite(start) and start >= 0):
        raise SourceError(f"The start must be 0 or more seconds, not {start}.")
    if duration is not None and not duration > 0:
        raise SourceError(f"The duration must be above 0 seconds, not {duration}.")


def frame_range(
    start: float, duration: float | None, fps: float, count: int | None, spec: str
) -> tuple[int, int | None]:
    """First frame and the one after the last of [start, start + duration) seconds; the end may be unknown (None)."""
    check_slice(start, duration)
    # A start that is meant to hit a frame must not miss it by a rounding error.
    first = math.ceil(start * fps - 1e-6)
    stop = count
    if duration is not None and math.isfinite(duration):
        end = math.ceil((start + duration) * fps - 1e-6)
        stop = end if count is None else min(end, count)
    if count is not None and first >= count:
        raise SourceError(f"{spec} is over after {count / fps:g} s, so there is nothing at {start:g} s.")
    if stop is not None and stop <= first:
        raise SourceError(f"{spec} has no frame in the {duration:g} s after {start:g} s, at {fps:g} frames per second.")
    return first, stop
