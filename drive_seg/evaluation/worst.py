"""A handful of frames to look at out of any number, with little memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import cv2
import numpy as np

from drive_seg.evaluation.records import Picture

WIDEST = 960
APART_S = 1.0


class Worst:
    """The frames with the lowest score of all that were shown to it, spread over the time where that is possible.

    A drive's worst frame has neighbours that are nearly as bad and look the same. So where there are too many, frames
    go first that lie within a second of a worse one of the same camera. The worst of all always stays; the others
    depend a little on the order in which frames come.

    Args:
        count: how many to keep at most.
        score: of a picture's row; low is bad.
    """

    def __init__(self, count: int, score: Callable[[dict], float]) -> None:
        self._count, self._score = count, score
        self._kept: list[Picture] = []

    @classmethod
    def of(cls, pictures: Iterable[Picture], count: int, score: Callable[[dict], float]) -> list[Picture]:
        """The worst of these, the worst first."""
        kept = cls(count, score)
        for picture in pictures:
            kept.add(picture)
        return kept.pictures

    def add(self, picture: Picture) -> None:
        """Show it a frame. Pictures wider than a page needs are shrunk."""
        self._kept.append(picture)
        self._kept.sort(key=lambda kept: self._score(kept.row))  # stable: of equals the earlier stays in front
        if len(self._kept) > self._count:
            crowded = [i for i in range(len(self._kept)) if self._is_crowded(i)]
            del self._kept[crowded[-1] if crowded else -1]
        self._kept = [shrunk(kept) if kept is picture else kept for kept in self._kept]

    @property
    def pictures(self) -> list[Picture]:
        """The frames, the worst first."""
        return list(self._kept)

    def _is_crowded(self, i: int) -> bool:
        return any(_is_near(self._kept[j].row, self._kept[i].row) for j in range(i))


def shrunk(picture: Picture) -> Picture:
    """The picture with its image and masks at most 960 pixels wide; masks by nearest neighbour. The arrays are own."""
    height, width = picture.image.shape[:2]
    scale = min(1.0, WIDEST / width)
    size = (round(width * scale), max(1, round(height * scale)))

    def mask(ids: np.ndarray | None) -> np.ndarray | None:
        if ids is None:
            return None
        return ids.copy() if scale == 1.0 else cv2.resize(ids, size, interpolation=cv2.INTER_NEAREST_EXACT)

    image = picture.image.copy() if scale == 1.0 else cv2.resize(picture.image, size, interpolation=cv2.INTER_AREA)
    return replace(
        picture,
        image=image,
        prediction=mask(picture.prediction),
        truth=mask(picture.truth),
        other=mask(picture.other),
    )


def _is_near(one: dict, other: dict) -> bool:
    same = (one["bag"], one["camera"]) == (other["bag"], other["camera"])
    return same and abs(one["stamp_ns"] - other["stamp_ns"]) < APART_S * 1e9
