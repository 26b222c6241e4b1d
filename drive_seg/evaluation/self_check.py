"""How often the self-check doubts a frame: of drives that a model was made for, and of what it was not made for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import cv2
import numpy as np

from drive_seg.inference.output_checks import OutputCheck
from drive_seg.recordings.sources import SourceError, open_source
from drive_seg.segmenter import Segmenter

SEED = 0


@dataclass
class Doubts:
    """The frames of one source, each judged by itself.

    Attributes:
        source: its name.
        good: whether its frames are such as the model was made for.
        frames: how many there were.
        doubted: how many of them the self-check doubts.
        reasons: doubts by name; a frame may have several.
    """

    source: str
    good: bool
    frames: int = 0
    doubted: int = 0
    reasons: Counter[str] = field(default_factory=Counter)

    def to_dict(self) -> dict[str, Any]:
        return {
            "source": self.source,
            "good": self.good,
            "frames": self.frames,
            "doubted": self.doubted,
            "reasons": dict(self.reasons),
        }


def dark(image: np.ndarray) -> np.ndarray:
    """A frame as a camera without headlights has it at night: a fiftieth of the light, and the sensor's noise."""
    shown = (image / np.float32(255)) ** 2.5 * (0.2 * 255)
    noise = np.random.default_rng(SEED).normal(0, 8, image.shape).astype(np.float32)
    return np.clip(shown + noise, 0, 255).astype(np.uint8)


def upside_down(image: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(image[::-1])


def on_its_side(image: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.rot90(image))


def blurred(image: np.ndarray) -> np.ndarray:
    """A frame through a lens covered with water: Gaussian, its deviation a fortieth of the width."""
    return cv2.GaussianBlur(image, (0, 0), image.shape[1] / 40)


DAMAGES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "dark": dark,
    "upside down": upside_down,
    "on its side": on_its_side,
    "blurred": blurred,
}
"""What makes frames of a good drive such as no model was made for: uint8 BGR [H, W, 3] -> uint8 BGR."""


def noises(count: int = 10, size: tuple[int, int] = (360, 480)) -> Iterator[np.ndarray]:
    """Pictures of nothing, uint8 BGR [H, W, 3]: noise, ever coarser, and one grey."""
    rng = np.random.default_rng(SEED)
    for number in range(count - 1):
        values = rng.normal(0, 1, (*size, 3)).astype(np.float32)
        if number:
            values = cv2.GaussianBlur(values, (0, 0), 1.6**number)
        yield np.clip(128 + 60 * values / values.std(), 0, 255).astype(np.uint8)
    yield np.full((*size, 3), 128, np.uint8)


def judge(
    segmenter: Segmenter,
    good: Iterable[str],
    bad: Iterable[str] = (),
    made: bool = True,
    every: int = 1,
    most: int | None = None,
    advance: Callable[[], None] = lambda: None,
) -> list[Doubts]:
    """Label frames and look at each as the node's self-check does, by itself: what takes several frames is left out.

    Args:
        segmenter: the model, whose contract says how sure it usually is.
        good, bad: sources that ``open_source`` takes.
        made: also make bad frames: of each good one by :data:`DAMAGES`, and :func:`noises`.
        every: take every so many-th frame.
        most: of each source so many at most.
        advance: called after each frame that was labelled.

    Raises:
        SourceError: if a source cannot be read or has no image.
    """
    found = []

    def look(doubts: Doubts, image: np.ndarray) -> None:
        answer = segmenter(image, frame_confidence=True)
        check = OutputCheck(segmenter.label_map.names, segmenter.contract.confidence)
        reasons = check.look(image, answer.label, 0, answer.frame_confidence)
        doubts.frames += 1
        doubts.doubted += bool(reasons)
        doubts.reasons.update(reason.doubt.value for reason in reasons)
        advance()

    for source, is_good in (*((name, True) for name in good), *((name, False) for name in bad)):
        plain = Doubts(source, is_good)
        damaged = [Doubts(f"{source}, {name}", False) for name in DAMAGES] if is_good and made else []
        for image in islice(_images(source), 0, None if most is None else most * every, every):
            look(plain, image)
            for doubts, damage in zip(damaged, DAMAGES.values(), strict=bool(damaged)):
                look(doubts, damage(image))
        if not plain.frames:
            raise SourceError(f"{source} has no image.")
        found += [plain, *damaged]
    if made:
        doubts = Doubts("noise and grey", False)
        for image in noises():
            look(doubts, image)
        found.append(doubts)
    return found


def rate(found: Iterable[Doubts], good: bool) -> float | None:
    """The share of the good, or of the bad, frames that are doubted, 0..1; None if there is none."""
    chosen = [doubts for doubts in found if doubts.good == good]
    frames = sum(doubts.frames for doubts in chosen)
    return sum(doubts.doubted for doubts in chosen) / frames if frames else None


def _images(source: str) -> Iterator[np.ndarray]:
    """The images, uint8 BGR [H, W, 3], of whatever a source names, but for recorded masks."""
    for record in open_source(source):
        if record.is_image and "label" not in record.topic:
            yield record.image()
