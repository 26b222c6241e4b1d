"""Is what comes out of a camera believable? Cheap looks at image and mask, frame by frame.

A mask can be wrong without any error: the camera repeats its last image, a lens is covered, the network sees one class
everywhere. Each check has a threshold that normal driving stays away from; they were set on real and synthetic drives.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import cv2
import numpy as np

from drive_seg.confidence import Confidence, FrameConfidence
from drive_seg.labels import VOID

STEP = 8
"""Every so many-th row and column is looked at."""
FROZEN_FRAMES = 10
"""So many images in a row, equal in every byte, are a frozen camera."""
DARK_VALUE, BRIGHT_VALUE = 32, 250
"""A pixel below the one is dark, a pixel from the other on is saturated (green channel)."""
DARK_SHARE = 0.99
"""Share of dark pixels of a dark image: street lamps and headlights leave a night drive far below it."""
SATURATED_SHARE = 0.8
BLANK_DEVIATION = 2.0
"""Standard deviation of the grey values below which an image shows nothing: a covered lens, a driver's fill."""
COLLAPSED_SHARE, COLLAPSED_FRAMES = 0.97, 5
"""One class covers this share of the mask in so many frames in a row."""
JUMP_SHARE, JUMP_WITHIN_S = 0.5, 1.0
"""The classes of this share of the mask are others than in the frame before, which is less than so long ago."""
VOID_SHARE = 0.95
"""Void pixels of a mask that says next to nothing, as a share of those that are not ignored."""


class Doubt(StrEnum):
    """Why a mask is not to be trusted."""

    COLLAPSED = "class_collapse"
    FROZEN = "frozen_image"
    DARK = "dark_image"
    SATURATED = "saturated_image"
    BLANK = "blank_image"
    JUMP = "sudden_change"
    VOID = "void_mask"
    NO_CONFIDENCE = "no_confidence"
    UNFAMILIAR = "unfamiliar_frame"


@dataclass(frozen=True)
class Finding:
    """A doubt about one frame, and the sentence that says why."""

    doubt: Doubt
    text: str


class OutputCheck:
    """The checks of one camera; it is shown every frame once, in order, by one thread.

    Args:
        class_names: of the label map, by id, for the sentences.
        confidence: what the model's contract says of it.
    """

    def __init__(self, class_names: Sequence[str], confidence: Confidence = Confidence()) -> None:  # noqa: B008
        self._names, self._contract = list(class_names), confidence
        self._image: np.ndarray | None = None
        self._sample: np.ndarray | None = None
        self._repeats = 0
        self._shares: np.ndarray | None = None
        self._stamp_ns = 0
        self._collapsed_frames = 0

    def look(
        self,
        image: np.ndarray,
        label: np.ndarray,
        stamp_ns: int,
        confidence: FrameConfidence | None = None,
        published: np.ndarray | None = None,
    ) -> list[Finding]:
        """What is doubtful about this frame; an empty list if nothing is.

        The image is kept until the next one comes and must not be written to.

        Args:
            image: uint8 BGR [H, W, 3].
            label: uint8 [H, W], class ids as the network gave them.
            stamp_ns: the image's stamp, in ns.
            confidence: of the frame; None if the model has none.
            published: uint8 of any shape, pixels of the label as it is published, 255 where the network is not sure
                enough, without those that are ignored; the label if left out.
        """
        sample = image[::STEP, ::STEP, 1].copy()
        shares = _shares(label[::STEP, ::STEP].copy())
        findings = [
            self._frozen(image, sample),
            _exposure(sample),
            self._collapse(shares),
            self._jump(shares, stamp_ns),
            _void(shares if published is None else _shares(published)),
            *([] if confidence is None else [self._unsure(confidence)]),
        ]
        self._image, self._sample, self._shares, self._stamp_ns = image, sample, shares, stamp_ns
        return [finding for finding in findings if finding]

    def _frozen(self, image: np.ndarray, sample: np.ndarray) -> Finding | None:
        # The whole images are compared only where the samples are equal, which moving cameras never are.
        same = (
            self._sample is not None
            and self._image.shape == image.shape
            and np.array_equal(self._sample, sample)
            and np.array_equal(self._image, image)
        )
        self._repeats = self._repeats + 1 if same else 0
        if self._repeats + 1 < FROZEN_FRAMES:
            return None
        return Finding(Doubt.FROZEN, f"the image is frozen: the same bytes {self._repeats + 1} times in a row")

    def _collapse(self, shares: np.ndarray) -> Finding | None:
        largest = int(shares.argmax())
        share = float(shares[largest])
        self._collapsed_frames = self._collapsed_frames + 1 if share > COLLAPSED_SHARE else 0
        if self._collapsed_frames < COLLAPSED_FRAMES:
            return None
        return Finding(Doubt.COLLAPSED, f"class '{self._name(largest)}' covers {share:.1%} of the mask")

    def _jump(self, shares: np.ndarray, stamp_ns: int) -> Finding | None:
        apart_s = (stamp_ns - self._stamp_ns) / 1e9
        if self._shares is None or not 0 < apart_s < JUMP_WITHIN_S:
            return None
        change = shares - self._shares
        moved = float(np.abs(change).sum() / 2)
        if moved <= JUMP_SHARE:
            return None
        less, more = self._name(int(change.argmin())), self._name(int(change.argmax()))
        return Finding(
            Doubt.JUMP,
            f"the classes of {moved:.0%} of the mask changed within {apart_s * 1e3:.0f} ms, most from '{less}' to "
            f"'{more}'",
        )

    def _unsure(self, confidence: FrameConfidence) -> Finding | None:
        # What a softmax of a softmax gives at most: so low a mean is no network's doubt, but a mistake in the contract.
        most = math.exp(1 / self._contract.frame_temperature)
        if len(self._names) > 2 and confidence.mean <= most / (most + len(self._names) - 1):
            return Finding(
                Doubt.NO_CONFIDENCE,
                f"the confidence is next to none, as if all {len(self._names)} classes were equally likely: is the "
                "model's output what its contract says?",
            )
        usual = self._contract.usual
        if usual is None or confidence.sure is None or confidence.sure >= usual.least:
            return None
        return Finding(
            Doubt.UNFAMILIAR,
            f"the model was not made for this frame: it is sure of {confidence.sure:.1%} of it, in its validation of "
            f"{usual.sure:.0%} (doubted below {usual.least:.0%})",
        )

    def _name(self, index: int) -> str:
        return self._names[index] if index < len(self._names) else "void" if index == 255 else str(index)


def _shares(values: np.ndarray) -> np.ndarray:
    """uint8 [H, W] -> [256], the share of each value."""
    return cv2.calcHist([values], [0], None, [256], [0, 256]).ravel().astype(np.float64) / max(values.size, 1)


def _void(shares: np.ndarray) -> Finding | None:
    share = float(shares[VOID])
    if share < VOID_SHARE:
        return None
    return Finding(Doubt.VOID, f"the mask says next to nothing: {share:.1%} of it is void")


def _exposure(sample: np.ndarray) -> Finding | None:
    """What is wrong with the grey values of an image."""
    shares = _shares(sample)
    dark, saturated = float(shares[:DARK_VALUE].sum()), float(shares[BRIGHT_VALUE:].sum())
    if dark >= DARK_SHARE:
        return Finding(Doubt.DARK, f"the image is dark: {dark:.1%} of it below {DARK_VALUE} of 255")
    if saturated >= SATURATED_SHARE:
        return Finding(Doubt.SATURATED, f"the image is saturated: {saturated:.0%} of it from {BRIGHT_VALUE} of 255 on")
    greys = np.arange(256)
    deviation = float(np.sqrt(shares @ (greys - shares @ greys) ** 2))
    if deviation < BLANK_DEVIATION:
        return Finding(Doubt.BLANK, f"the image shows nothing: its grey values deviate by {deviation:.1f} of 255")
    return None
