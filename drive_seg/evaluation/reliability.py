"""Is a pixel right as often as its confidence says? Reliability diagram and expected calibration error.

C. Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, section 2. Labels may hold groups of classes, see
:mod:`drive_seg.metrics`: the question is then whether a pixel is one of the group's classes, and the confidence is the
sum of their probabilities.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from drive_seg.inference.decision import decide, to_size
from drive_seg.labels import VOID
from drive_seg.metrics import memberships

BINS = 15
_WIDTH = 255 // BINS
"""Values of a confidence image in a bin; the last one has 255 too."""


@dataclass
class Reliability:
    """Counts of labelled pixels by confidence; ``+`` adds those of other images.

    Attributes:
        temperature: of the confidences.
        counts: int64 [2, 256], for each value of a confidence image the labelled pixels that have it, and those of
            them that are right.
        uncalibrated: the same at temperature 1, where that is another one.
    """

    temperature: float
    counts: np.ndarray
    uncalibrated: np.ndarray | None

    @classmethod
    def empty(cls, temperature: float) -> Reliability:
        zeros = np.zeros((2, 256), np.int64)
        return cls(temperature, zeros, None if temperature == 1 else zeros.copy())

    def __add__(self, other: Reliability) -> Reliability:
        before = None if self.uncalibrated is None else self.uncalibrated + other.uncalibrated
        return Reliability(self.temperature, self.counts + other.counts, before)

    def error(self) -> float:
        """The expected calibration error, 0..1; nan without pixels."""
        return expected_error(self.counts)

    def to_dict(self) -> dict[str, Any] | None:
        """Plain data; None without pixels."""
        if not self.counts.any():
            return None
        before = self.uncalibrated
        return {
            "temperature": self.temperature,
            "expected_calibration_error": self.error(),
            "bins": diagram(self.counts),
            "before": None
            if before is None
            else {"expected_calibration_error": expected_error(before), "bins": diagram(before)},
        }


class Confidences:
    """Looks at logits beside labels that hold classes 0..C-1 and groups C + g.

    Args:
        temperature: of the model.
        num_classes: C.
        groups: the class ids of each.
        ids: the classes and groups that labels can hold; None is all of them.
    """

    def __init__(
        self,
        temperature: float,
        num_classes: int,
        groups: Sequence[Sequence[int]] = (),
        ids: Sequence[int] | None = None,
    ) -> None:
        self._temperature = temperature
        members = memberships(num_classes, groups)
        self._right = np.pad(members, ((0, 0), (0, 256 - num_classes)))  # what is no class is never right
        self._asked = asked_together(members if ids is None else members[list(ids)])

    @torch.inference_mode()
    def count(self, logits: Tensor, label: np.ndarray) -> Reliability:
        """Count one image's pixels.

        Args:
            logits: [1, C, h, w].
            label: uint8 [H, W], 255 = void; the confidence is brought to this size as on the vehicle.
        """
        found = Reliability.empty(self._temperature)
        found.counts = self._counted(logits, label, self._temperature)
        if found.uncalibrated is not None:
            found.uncalibrated = self._counted(logits, label, 1.0)
        return found

    def _counted(self, logits: Tensor, label: np.ndarray, temperature: float) -> np.ndarray:
        ids, sureness = decide(logits, True, temperature)
        if self._asked is not None:
            shares = (logits.float() / temperature).softmax(1)
            together = torch.einsum("sc,bchw->bshw", torch.from_numpy(self._asked).to(shares), shares)
            chosen = ids.long().clamp_max(together.shape[1] - 1)[:, None]
            sureness = (255 * together.gather(1, chosen)[:, 0]).round().to(torch.uint8)
        chosen, sureness = (to_size(plane[0].cpu(), label.shape).numpy() for plane in (ids, sureness))
        labelled = label != VOID
        truth, values = label[labelled], sureness[labelled]
        right = self._right[truth, chosen[labelled]]
        return np.stack([np.bincount(part, minlength=256) for part in (values, values[right])])


def asked_together(members: np.ndarray) -> np.ndarray | None:
    """Which classes count with each class: bool [C, C] of what labels can hold, bool [N, C].

    The largest set of a label that holds a class, or that class alone. None if every class stands alone: the
    confidence is then the softmax maximum as it is.
    """
    if (members.sum(1) == 1).all():
        return None
    together = np.eye(members.shape[1], dtype=bool)
    for row in members[np.argsort(members.sum(1), kind="stable")]:
        together[row] = row
    return together


def expected_error(counts: np.ndarray) -> float:
    """Mean distance of confidence and accuracy over 15 bins of equal width, by pixels (Guo et al., eq. 3), 0..1.

    Args:
        counts: int64 [2, 256] as of :class:`Reliability`.

    Returns:
        nan without pixels.
    """
    pixels, right, sure = _binned(counts)
    return float(np.abs(right - sure).sum() / pixels.sum()) if pixels.any() else float("nan")


def diagram(counts: np.ndarray) -> list[dict[str, Any]]:
    """For each of the bins ``from`` and ``to`` (confidence 0..1), ``pixels``, mean ``confidence`` and ``accuracy``.

    The means are None in an empty bin.
    """
    return [
        {
            "from": number / BINS,
            "to": (number + 1) / BINS,
            "pixels": int(pixels),
            "confidence": float(sure / pixels) if pixels else None,
            "accuracy": float(right / pixels) if pixels else None,
        }
        for number, (pixels, right, sure) in enumerate(zip(*_binned(counts), strict=True))
    ]


def _binned(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pixels, right pixels and sum of confidences of each bin, [15]."""
    values = np.arange(256)
    bins = np.minimum(values // _WIDTH, BINS - 1)
    pixels, right, sure = (
        np.bincount(bins, weights, BINS) for weights in (counts[0], counts[1], counts[0] * values / 255)
    )
    return pixels, right, sure
