"""A rosbag with labels: pictures and label images of the same stamps."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from drive_seg.labels import VOID, LabelMap
from drive_seg.training.datasets.base import BrokenSample, Fault, mismatches
from drive_seg.training.datasets.folder import read_classes


class Bag:
    """Pictures of a camera and the label images with the very same header stamps (rosbag2 or rosbag1).

    Both are Image or CompressedImage messages; labels are ``mono8``, ``8UC1`` or 8-bit grey PNG, class ids and 255 =
    void, such as the package's recorder writes. Pictures without labels are passed over. The messages that are used are
    read at the first sample and kept as they are in the bag.

    Args:
        root: the bag's folder, or an .mcap, .db3 or .bag file.
        classes: what the ids mean, see :func:`~drive_seg.training.datasets.folder.read_classes`.
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
        pictures, labels = self._stamps()
        self._stamped = sorted(pictures & labels)
        if not self._stamped:
            raise ValueError(f"{root}: no message of '{label}' has the stamp of one of '{image}'")
        self.problems = [
            Fault("missing", self._root, f"has no picture on '{image}' for the label at {_time(stamp)}")
            for stamp in sorted(labels - pictures)
        ]
        self._records: dict[tuple[int, bool], Any] = {}

    def __len__(self) -> int:
        return len(self._stamped)

    def name_of(self, i: int) -> str:
        return f"{Path(self._root).name} at {_time(self._stamped[i])}"

    def read(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Image uint8 BGR [H, W, 3] and label uint8 [H, W] of sample i.

        Raises:
            BrokenSample: if a message is damaged, sizes differ, or the label holds an id that is no class.
        """
        from drive_seg.image_messages import ImageError

        stamp = self._stamped[i]
        if not self._records:
            wanted = set(self._stamped)
            self._records = {key: record for key, record in self._messages() if key[0] in wanted}
        try:
            image = self._records[stamp, False].image()
            label = self._records[stamp, True].label()
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

    def _stamps(self) -> tuple[set[int], set[int]]:
        found: tuple[set[int], set[int]] = (set(), set())
        for (stamp, is_label), _ in self._messages():
            if stamp in found[is_label]:
                raise ValueError(
                    f"{self._root}: two messages of '{self._topics[is_label]}' have the stamp {_time(stamp)}"
                )
            found[is_label].add(stamp)
        return found

    def _messages(self) -> Any:
        """((stamp in ns, whether it is a label), record) of both topics."""
        try:
            from drive_seg.replay.sources import open_source
        except ImportError as error:
            raise ValueError(f"reading {self._root} needs the messages of ROS 2: {error}") from None
        source = open_source(self._root, self._topics, *self._slice)
        if len(source.topics) != 2:
            named = ", ".join(topic.name for topic in source.topics)
            raise ValueError(f"{self._root}: one topic of pictures and one of labels are needed, not {named}")
        name = self._topics[1].lstrip("/")
        for record in source:
            yield (record.stamp_ns, record.topic.lstrip("/") == name), record
        if source.truncated:
            raise ValueError(source.truncated)


def _time(stamp_ns: int) -> str:
    return f"{stamp_ns // 1_000_000_000}.{stamp_ns % 1_000_000_000:09d} s"
