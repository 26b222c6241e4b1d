"""A rosbag with labels: pictures and label images of the same stamps."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from drive_seg.datasets.base import BrokenSample, Fault, mismatches
from drive_seg.datasets.folder import read_classes
from drive_seg.labels import VOID, LabelMap


class _Key(NamedTuple):
    """A message: its stamp, its place among those of its topic with this stamp, and whether it is a label."""

    stamp_ns: int
    place: int
    is_label: bool


class Bag:
    """Pictures of a camera and the label images with the very same header stamps (rosbag2 or rosbag1).

    Of several pictures with one stamp the first belongs to the first label with it, and so on, where there are as many
    labels as pictures; where not, they are in ``problems``.

    Both are Image or CompressedImage messages; labels are ``mono8``, ``8UC1`` or 8-bit grey PNG, class ids and 255 =
    void, such as the package's recorder writes. Pictures without labels are passed over. The messages that are used are
    read at the first sample and kept as they are in the bag.

    Args:
        root: the bag's folder, or an .mcap, .db3 or .bag file.
        classes: what the ids mean, see :func:`~drive_seg.datasets.folder.read_classes`.
        image: topic of the pictures.
        label: topic of the label images.
        start, duration: the slice to take, in seconds from the bag's beginning.

    Raises:
        ValueError: if the bag cannot be read, lacks a topic, or no stamp is common to both.
    """

    cache_folder: Path | None = None
    reads_in_parallel = False

    def __init__(
        self,
        root: str | Path,
        classes: str | Path | Sequence[str] | Mapping[str, Any] | LabelMap,
        image: str = "camera/image_raw",
        label: str = "camera/label_truth",
        start: float = 0.0,
        duration: float | None = None,
    ) -> None:
        self.label_map = read_classes(classes)
        self._root, self._topics, self._slice = str(root), (image, label), (start, duration)
        keys = {key for key, _ in self._messages()}
        pictures, labels = (Counter(key.stamp_ns for key in keys if key.is_label == side) for side in (False, True))
        self._stamped = sorted(
            (stamp, place) for stamp, count in labels.items() if count == pictures[stamp] for place in range(count)
        )
        if not pictures.keys() & labels.keys():
            raise ValueError(f"{root}: no message of '{label}' has the stamp of one of '{image}'")
        self.problems = [
            Fault("missing", self._root, _mismatch(image, pictures[stamp], count, stamp))
            for stamp, count in sorted(labels.items())
            if count != pictures[stamp]
        ]
        self._records: dict[_Key, Any] = {}

    def __len__(self) -> int:
        return len(self._stamped)

    def name_of(self, i: int) -> str:
        stamp, place = self._stamped[i]
        return f"{Path(self._root).name} at {_time(stamp)}" + (f", number {place + 1}" if place else "")

    def read(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Image uint8 BGR [H, W, 3] and label uint8 [H, W] of sample i.

        Raises:
            BrokenSample: if a message is damaged, sizes differ, or the label holds an id that is no class.
        """
        from drive_seg.images.messages import ImageError

        if not self._records:
            wanted = set(self._stamped)
            self._records = {key: record for key, record in self._messages() if (key.stamp_ns, key.place) in wanted}
        try:
            image = self._records[_Key(*self._stamped[i], False)].image()
            label = self._records[_Key(*self._stamped[i], True)].label()
        except ImageError as error:
            raise BrokenSample.by([Fault("unreadable", self.name_of(i), f"cannot be read: {error}")]) from None
        known = np.arange(256) < self.label_map.num_classes
        known[VOID] = True
        if faults := mismatches(image, label, known, self.name_of(i)):
            raise BrokenSample.by(faults)
        return image, label

    def fingerprint(self) -> str:
        """A hash over the arguments and the bag's files: names, sizes, modification times."""
        path = Path(self._root)
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        stats = [(f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in files if f.is_file()]
        return hashlib.sha256(
            repr((path.name, self.label_map.names, self._topics, self._slice, stats)).encode()
        ).hexdigest()

    def _messages(self) -> Iterator[tuple[_Key, Any]]:
        """The messages of both topics."""
        try:
            from drive_seg.recordings.sources import open_source
        except ImportError as error:
            raise ValueError(f"reading {self._root} needs the messages of ROS 2: {error}") from None
        source = open_source(self._root, self._topics, *self._slice)
        if len(source.topics) != 2:
            named = ", ".join(topic.name for topic in source.topics)
            raise ValueError(f"{self._root}: one topic of pictures and one of labels are needed, not {named}")
        name = self._topics[1].lstrip("/")
        seen: Counter[tuple[int, bool]] = Counter()
        for record in source:
            side = record.stamp_ns, record.topic.lstrip("/") == name
            yield _Key(side[0], seen[side], side[1]), record
            seen[side] += 1
        if source.truncated:
            raise ValueError(source.truncated)


def _mismatch(image: str, pictures: int, labels: int, stamp_ns: int) -> str:
    if not pictures:
        return f"has no picture on '{image}' for the label at {_time(stamp_ns)}"
    return f"has {pictures} of '{image}' and {labels} labels at {_time(stamp_ns)}: which belong together is not known"


def _time(stamp_ns: int) -> str:
    return f"{stamp_ns // 1_000_000_000}.{stamp_ns % 1_000_000_000:09d} s"
