"""Masks of a bag that belong to images: by their stamps, and where stamps repeat in order or not at all."""

from __future__ import annotations

from collections import Counter

import cv2
import numpy as np

from drive_seg.images.messages import ImageError
from drive_seg.recordings.reading import Reading, Taken
from drive_seg.recordings.sources import Record, Source
from drive_seg.recordings.sources.topics import so_many


class UnclearStampError(ImageError):
    """Several images or masks have one stamp, and not as many of either, so nobody knows which belong together."""


class StampedMasks:
    """The label images of one topic of a bag, asked for in about the order in which they lie there.

    Of several images with one stamp the first has the first mask with it, and so on, where there are as many masks as
    images in the whole recording. Masks that were passed on the way and not asked for yet are kept, as PNG.

    Args:
        source: the bag.
        topic: the topic of its label images.
        reading: the images.

    Raises:
        SourceError: the bag cannot be read or lacks the topic.
    """

    def __init__(self, source: Source, topic: str, reading: Reading) -> None:
        masks = source.select([topic])
        self._counts = Counter(record.stamp_ns for record in masks)
        self._records = iter(masks)
        self._reading = reading
        self._read: Counter[int] = Counter()
        self._passed: dict[tuple[int, int], bytes | ImageError] = {}

    def count(self, stamp_ns: int) -> int:
        """How many masks have a stamp."""
        return self._counts[stamp_ns]

    def place(self, taken: Taken) -> int | None:
        """Which of the masks with the image's stamp is the image's, from 0; None if none has its stamp.

        Raises:
            UnclearStampError: that cannot be known.
        """
        masks = self._counts[taken.record.stamp_ns]
        if not masks:
            return None
        place, images = self._reading.place_of(taken)
        if masks != images:
            raise UnclearStampError(
                f"{so_many(images, 'image')} and {so_many(masks, 'mask')} have its stamp: "
                "which of them belong together is not known"
            )
        return place

    def find(self, taken: Taken) -> np.ndarray | None:
        """The mask of an image, uint8 [H, W]; None if there is none.

        Raises:
            ImageError: it cannot be decoded, or as :meth:`place`.
        """
        place = self.place(taken)
        if place is None:
            return None
        key = taken.record.stamp_ns, place
        while self._read[key[0]] <= place:
            record = next(self._records, None)
            if record is None:
                raise ImageError("it cannot be read a second time: the bag is changing")
            stamp = record.stamp_ns
            number, self._read[stamp] = self._read[stamp], self._read[stamp] + 1
            if (stamp, number) == key:
                return record.label()
            self._passed[stamp, number] = _packed(record)
        kept = self._passed.pop(key)
        if isinstance(kept, ImageError):
            raise kept
        return cv2.imdecode(np.frombuffer(kept, np.uint8), cv2.IMREAD_UNCHANGED)


def _packed(record: Record) -> bytes | ImageError:
    try:
        return cv2.imencode(".png", record.label())[1].tobytes()
    except ImageError as error:
        return error
