"""The synthetic street drive as a dataset: frames rendered when read, from seeds alone."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from drive_seg.datasets.base import Fault
from drive_seg.labels import CITYSCAPES19

FRAMES_KEPT = 2048
"""So many frames are not rendered again: shares of classes, then images, and again for each run of a study."""


class SynthSet:
    """Frames of several synthetic drives (19 classes; void is the own bonnet of the variety "wide" alone).

    Args:
        seeds: one drive each, as [first, last + 1].
        frames: how many frames of each drive.
        step: every step-th frame is taken, since neighbours look alike.
        size: (width, height) in pixels.
        variety: "street" or "wide", see :class:`drive_seg.synth.SynthDrive`.

    Raises:
        ValueError: if there would be no frame, or the variety is unknown.
    """

    label_map = CITYSCAPES19
    cache_folder: Path | None = None
    reads_in_parallel = False
    problems: tuple[Fault, ...] = ()

    def __init__(
        self,
        seeds: tuple[int, int],
        frames: int,
        step: int = 10,
        size: tuple[int, int] = (640, 360),
        variety: str = "street",
    ) -> None:
        from drive_seg.synth.scene import check_variety

        check_variety(variety)
        self._seeds = range(*seeds)
        self._frames, self._step, self._size, self._variety = frames, step, tuple(size), variety
        if len(self) < 1:
            raise ValueError(f"seeds {tuple(seeds)} with {frames} frames each hold no frame")

    def __len__(self) -> int:
        return len(self._seeds) * max(0, self._frames)

    def name_of(self, i: int) -> str:
        seed, frame = self._place(i)
        return f"seed {seed} frame {frame}"

    def read(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Image uint8 BGR [H, W, 3] and label uint8 [H, W] of sample i."""
        return _render(self._size, self._variety, *self._place(i))

    def fingerprint(self) -> str:
        """A hash of the arguments: they decide every pixel."""
        return hashlib.sha256(
            repr((self._seeds, self._frames, self._step, self._size, self._variety)).encode()
        ).hexdigest()

    def _place(self, i: int) -> tuple[int, int]:
        return self._seeds[i // self._frames], (i % self._frames) * self._step


@lru_cache(maxsize=FRAMES_KEPT)
def _render(size: tuple[int, int], variety: str, seed: int, number: int) -> tuple[np.ndarray, np.ndarray]:
    frame = _drive(size, variety, seed).frame(number)
    return frame.image, frame.label


@lru_cache(maxsize=1)  # worlds are read one after the other
def _drive(size: tuple[int, int], variety: str, seed: int) -> Any:
    from drive_seg.synth import SynthDrive

    return SynthDrive(seed=seed, size=size, variety=variety)
