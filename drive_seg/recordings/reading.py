"""Every image of a source's cameras, each once and in order."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path

import numpy as np

from drive_seg.recordings.sources import COMPRESSED, IMAGE, Record, Source, Topic, open_source
from drive_seg.recordings.sources.folder import FolderSource, images_in
from drive_seg.recordings.sources.frames import FALLBACK_FPS, FIRST_STAMP_NS, FrameSource
from drive_seg.recordings.sources.record import FirstFrames
from drive_seg.recordings.sources.topics import cameras_of, no_cameras

TRUTH = "label_truth"
RATE_FRAMES = 10


@dataclass(frozen=True)
class Slice:
    """What part of a source to read: seconds from its beginning, and at most so many images of its first camera.

    ``fps`` is the rate of a folder of images, or instead of what a video says.
    """

    start: float = 0.0
    duration: float | None = None
    frames: int | None = None
    fps: float | None = None


@dataclass(frozen=True)
class Taken:
    """One image of a camera.

    Attributes:
        camera: its name, see :func:`camera_names`.
        number: its place among the camera's images, from 0; of a video, folder or drive the place in the whole of it.
        record: the image.
        truth: the label that came with it (synthetic drives); None from other sources.
    """

    camera: str
    number: int
    record: Record
    truth: Record | None = None


class Reading:
    """The images of a source. Iterating again begins anew.

    Args:
        spec: as for ``open_source``.
        topics: patterns of the image topics; None takes every camera of a bag, but not depth images, nor a compressed
            topic whose raw images are there too.
        part: which part of it.
        ignored: patterns of topics that hold no camera's images whatever they are called.

    Attributes:
        source: what is read, to select other topics from.
        topics: camera -> its image topic.
        available: every topic of the source.
        is_bag: whether stamps are those of a recording, not made up.
        stems: the names of an image folder's files without suffix, by number; empty for other sources.
        expected: how many images there will be, where that is known.
        damaged: how many messages or images could not be read in the latest iteration.
        truncated: what of the recording the latest iteration lost, and why, else empty.
        repeated, backward: stamps of the latest iteration that came before or go back, see :class:`Source`.

    Raises:
        SourceError: the source cannot be read, or holds no such images.
    """

    def __init__(
        self,
        spec: str,
        topics: Sequence[str] | None = None,
        part: Slice = Slice(),
        ignored: Sequence[str] = (),
    ) -> None:
        self.spec, self.part = spec, part
        self.source = whole = open_source(spec, ["*"], part.start, part.duration, fps=part.fps)
        self.available = whole.topics
        self.is_bag = not isinstance(whole, FrameSource)
        self._fps = 0.0 if self.is_bag else whole.fps
        path = Path(spec).expanduser()
        self.stems = []
        if isinstance(whole, FolderSource):
            self.stems = [file.stem for file in (images_in(path) if path.is_dir() else [path])]
        found = whole.select(topics).topics if topics is not None else self.available
        images = [topic for topic in found if topic.type in (IMAGE, COMPRESSED) and not _fits(topic, ignored)]
        chosen = images if topics is not None else cameras_of(images)
        if not chosen:
            raise no_cameras(spec, found)
        self.topics = camera_names(chosen)
        self.expected = self._expected()
        self.damaged, self.truncated, self.repeated, self.backward = 0, "", 0, 0
        self._first_ns: dict[str, int] = {}

    def images(self, topics: Sequence[str] | None = None) -> Source:
        """This part of the source with these topics, else with all images: SourceError if there is nothing."""
        part = self.part
        source = self.source.select(topics or list(self.topics.values()), part.start, part.duration)
        return source if part.frames is None else FirstFrames(source, part.frames)

    def rate(self) -> float:
        """Images a second of the first camera, from the stamps of the first few; 10 where they do not tell."""
        if self._fps:
            return self._fps
        stamps: list[int] = []
        for record in self.images([next(iter(self.topics.values()))]):
            stamps.append(record.moment_ns)
            if len(stamps) == RATE_FRAMES:
                break
        steps = np.diff(sorted(set(stamps)))
        return float(np.clip(1e9 / np.median(steps), 0.1, 1000)) if steps.size else FALLBACK_FPS

    def place_of(self, taken: Taken) -> tuple[int, int]:
        """(place, count): the image's place, from 0, among its camera's images with its stamp, and how many these are.

        Both are of the whole recording, whatever the part. The first call reads a bag's images once through.
        """
        if not self.is_bag:
            return 0, 1
        times, numbers = self._stamped[taken.camera]
        same = numbers[taken.record.stamp_ns]
        return bisect_left(same, bisect_left(times, self._first_ns[taken.camera]) + taken.number), len(same)

    @cached_property
    def _stamped(self) -> dict[str, tuple[list[int], dict[int, list[int]]]]:
        """Camera -> record times of all its images, and stamp -> numbers of the images with it."""
        names = {topic: camera for camera, topic in self.topics.items()}
        found: dict[str, tuple[list[int], dict[int, list[int]]]] = {
            camera: ([], defaultdict(list)) for camera in self.topics
        }
        for record in self.source.select(list(names)):
            times, numbers = found[names[record.topic]]
            numbers[record.stamp_ns].append(len(times))
            times.append(record.time_ns)
        return found

    def __iter__(self) -> Iterator[Taken]:
        self.damaged, self.truncated, self.repeated, self.backward = 0, "", 0, 0
        if self.is_bag:
            yield from self._numbered(self.images())
        else:
            yield from self._with_labels(self.images(["*"]))

    def _numbered(self, source: Source) -> Iterator[Taken]:
        names = {topic: camera for camera, topic in self.topics.items()}
        counts: Counter[str] = Counter()
        for record in source:
            camera = names[record.topic]
            if not counts[camera]:
                self._first_ns[camera] = record.time_ns
            yield Taken(camera, counts[camera], record)
            counts[camera] += 1
            self.damaged = source.skipped
        self.damaged, self.truncated = source.skipped, source.truncated
        self.repeated, self.backward = source.repeated, source.backward

    def _with_labels(self, source: Source) -> Iterator[Taken]:
        camera, topic = next(iter(self.topics.items()))
        held: Taken | None = None
        for record in source:
            if record.topic == topic:
                if held is not None:
                    yield held
                number = round((record.stamp_ns - FIRST_STAMP_NS) * self._fps / 1e9)
                held = Taken(camera, number, record)
            elif held is not None:  # a drive's label follows its image
                yield Taken(camera, held.number, held.record, record)
                held = None
            self.damaged = source.skipped
        if held is not None:
            yield held
        self.damaged, self.truncated = source.skipped, source.truncated

    def _expected(self) -> int | None:
        chosen = list(self.topics.values())
        count = self.source.select(chosen, self.part.start, self.part.duration).expected
        if self.part.frames is None:
            return count
        return self.part.frames * len(chosen) if count is None else min(self.part.frames * len(chosen), count)


def camera_names(topics: Sequence[Topic]) -> dict[str, str]:
    """Camera -> image topic. A camera is called as the folder of its topic: ``/front/image_raw/compressed`` is "front".

    Where two topics lie in one folder, each is called by its whole name.
    """
    short = [_folder(topic) for topic in topics]
    twice = {name for name, count in Counter(short).items() if count > 1}
    return {
        (topic.name.strip("/") if name in twice else name): topic.name
        for name, topic in zip(short, topics, strict=True)
    }


def _fits(topic: Topic, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(topic.name.strip("/"), pattern.strip("/")) for pattern in patterns)


def _folder(topic: Topic) -> str:
    base = topic.name.strip("/")
    if topic.type == COMPRESSED:
        base = base.removesuffix("/compressed")
    return base.rpartition("/")[0] or base
