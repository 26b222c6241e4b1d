"""Temporal flicker: labels that change from one frame to the next although the picture moved on unchanged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

GAP_S = 0.5
"""Frames further apart are not compared."""

LONGEST_SIDE = 480
CONSISTENT_PX = 1.0
SAME_BRIGHTNESS = 12
REACH_PX = 0.4
LEAST_SHARE = 0.1

MEANING = (
    "Share of the compared pixels whose label is another one than where the same point was in the frame before. "
    f"Motion is OpenCV's DIS optical flow between the two grey images, shrunk to at most {LONGEST_SIDE} pixels a side. "
    "A pixel is compared if the flow there and back ends within "
    f"{CONSISTENT_PX:g} pixel of where it began, and the brightness of both ends differs by at most {SAME_BRIGHTNESS} "
    "of 255 after the change of the whole image's brightness is taken off: what was hidden, came into view or cannot "
    f"be followed does not count. A label counts as unchanged if it is found within {REACH_PX:g} pixel of that point. "
    f"Frames more than {GAP_S:g} s apart, of different sizes, or with fewer than {LEAST_SHARE:.0%} of their pixels to "
    "compare are left out; 255 counts as a label of its own. The exact labels of a synthetic drive give about 0.5 %: "
    "so much is the measure's own noise."
)
"""How the figure is computed, for the reader of a report."""


@dataclass(frozen=True)
class Changes:
    """How many of the compared pixels (at reduced size) changed their label for no reason to be seen."""

    changed: int
    compared: int

    @property
    def share(self) -> float:
        return self.changed / self.compared


class Flicker:
    """Compares the masks of one camera frame by frame."""

    def __init__(self) -> None:
        self._before: tuple[int, tuple[int, ...], np.ndarray, list[np.ndarray | None]] | None = None

    def update(self, stamp_ns: int, image: np.ndarray, masks: Sequence[np.ndarray | None]) -> list[Changes | None]:
        """Compare with the frame before.

        Args:
            stamp_ns: the frame's stamp.
            image: uint8 [H, W, 3] BGR.
            masks: uint8 [H, W] each: the masks of as many models of this image, None where one gave none.

        Returns:
            for each model its changes since the frame before; None where there is nothing to compare with.
        """
        height, width = _reduced(image.shape[:2])
        grey = cv2.GaussianBlur(
            cv2.resize(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), (width, height), interpolation=cv2.INTER_AREA),
            (3, 3),
            0,
        )
        small = [
            None if mask is None else cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
            for mask in masks
        ]
        before, self._before = self._before, (stamp_ns, image.shape, grey, small)
        if before is None or before[1] != image.shape or not 0 < stamp_ns - before[0] <= GAP_S * 1e9:
            return [None] * len(small)
        pairs = list(zip(before[3], small, strict=True))
        if all(old is None or new is None for old, new in pairs):
            return [None] * len(small)
        origin, followed = _origins(before[2], grey)
        if followed.mean() < LEAST_SHARE:
            return [None] * len(small)
        return [None if old is None or new is None else _changes(old, new, origin, followed) for old, new in pairs]


def _origins(before: np.ndarray, now: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each pixel was, float32 [h, w, 2] (x, y), and whether that is known, bool [h, w]."""
    back, forth = _flow(now, before), _flow(before, now)
    height, width = now.shape
    grid = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1).astype(np.float32)
    origin = grid + back
    returned = back + cv2.remap(forth, origin, None, cv2.INTER_LINEAR)
    inside = ((origin >= 0) & (origin <= (width - 1, height - 1))).all(2)
    difference = now.astype(np.float32) - cv2.remap(before, origin, None, cv2.INTER_LINEAR)
    if inside.any():
        difference -= np.median(difference[inside])
    return origin, inside & (np.hypot(*cv2.split(returned)) <= CONSISTENT_PX) & (np.abs(difference) <= SAME_BRIGHTNESS)


def _flow(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Dense motion from one grey image to another in pixels, float32 [h, w, 2]."""
    threads = cv2.getNumThreads()
    # DIS works in as many stripes as there are threads, and its result depends on the stripes.
    cv2.setNumThreads(1)
    try:
        return cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM).calc(start, end, None)
    finally:
        cv2.setNumThreads(threads)


def _changes(old: np.ndarray, new: np.ndarray, origin: np.ndarray, followed: np.ndarray) -> Changes:
    height, width = new.shape
    same = np.zeros(new.shape, bool)
    for dx in (-REACH_PX, REACH_PX):
        for dy in (-REACH_PX, REACH_PX):
            x = np.clip(np.rint(origin[..., 0] + dx).astype(np.intp), 0, width - 1)
            y = np.clip(np.rint(origin[..., 1] + dy).astype(np.intp), 0, height - 1)
            same |= old[y, x] == new
    return Changes(int(np.count_nonzero(followed & ~same)), int(np.count_nonzero(followed)))


def _reduced(size: tuple[int, int]) -> tuple[int, int]:
    scale = min(1.0, LONGEST_SIDE / max(size))
    return max(16, round(size[0] * scale)), max(16, round(size[1] * scale))
