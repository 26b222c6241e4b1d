"""What a replay is compared with: a second model, or the masks of an earlier run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from drive_seg.evaluation.output import MASKS, is_report
from drive_seg.evaluation.stamped_masks import StampedMasks
from drive_seg.evaluation.truths import same_classes
from drive_seg.labels import LabelMap
from drive_seg.recordings.reading import Reading, Taken
from drive_seg.recordings.sources import SourceError, open_source
from drive_seg.segmenter import Segmenter

LABEL = "segmentation/label"


class OtherModel:
    """A second model that labels the same images."""

    def __init__(self, segmenter: Segmenter, target: LabelMap) -> None:
        self._segmenter = segmenter
        self._table = same_classes(segmenter.label_map, target, "the other model", "the model")

    def of(self, taken: Taken, image: np.ndarray) -> np.ndarray | None:
        """Its mask of an image, uint8 [H, W], in the ids of the model."""
        return self._table[self._segmenter(image).label]


class OtherRun:
    """The masks of an earlier run, found by camera and stamp.

    Args:
        folder: its OUT_DIR.
        target: the ids in which its masks are wanted.
        reading: the images.

    Raises:
        SourceError: it kept no masks, or they cannot be read.
        ValueError: its classes are not the model's.
    """

    def __init__(self, folder: Path, target: LabelMap, reading: Reading) -> None:
        self._file, self._reading = folder / MASKS, reading
        if not self._file.is_file():
            raise SourceError(f"{folder} has no {MASKS}: repeat that run with --masks, or name its checkpoint.")
        self._source = open_source(self._file, ["*"])
        self._topics = {topic.name.strip("/"): topic.name for topic in self._source.topics}
        self._masks: dict[str, StampedMasks | None] = {}
        self._table = same_classes(self._label_map(), target, "the other run", "the model")

    def of(self, taken: Taken, image: np.ndarray) -> np.ndarray | None:
        """Its mask of exactly this stamp, uint8 [H, W], in the ids of the model; None if there is none.

        Raises:
            ImageError: it cannot be decoded, or several images or masks have the stamp.
        """
        camera = taken.camera
        if camera not in self._masks:
            topic = self._topics.get(f"{camera}/{LABEL}")
            self._masks[camera] = StampedMasks(self._source, topic, self._reading) if topic else None
        masks = self._masks[camera]
        mask = masks.find(taken) if masks is not None else None
        return None if mask is None else self._table[mask]

    def _label_map(self) -> LabelMap:
        topics = [name for short, name in self._topics.items() if short.endswith("segmentation/label_map")]
        for record in self._source.select(topics) if topics else ():
            try:
                return LabelMap.from_dict(json.loads(record.message.message().data))
            except (ValueError, AttributeError) as error:
                raise SourceError(f"{self._file}: its label map cannot be read: {error}") from error
        raise SourceError(f"{self._file} does not say what its ids mean: it has no label_map topic.")


Rival = OtherModel | OtherRun


def name_of(against: str, model: str) -> str:
    """What a report calls it: the folder's or the file's name, or all of it where that is the judged model's name."""
    path = Path(against)
    name = path.resolve().name if is_run(against) else path.stem
    return against if name == model else name


def is_run(against: str) -> bool:
    """Whether it names an earlier run, not a model."""
    return Path(against).is_dir() and (is_report(Path(against)) or (Path(against) / MASKS).is_file())
