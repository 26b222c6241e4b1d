"""Scores of a segmentation over a whole set of images: one confusion matrix, and boundaries matched with a tolerance.

Labels may say less than predictions: besides the classes 0..C-1 they may hold the ids C + g of groups of classes, "one
of these". An id t then stands for the set M_t of its classes (of one class, for a class), and its figures answer the
question "is the pixel one of M_t?" over the pixels whose label tells: those whose own set lies in M_t (yes) or apart
from it (no). Where nothing but classes is labelled, these are the usual figures.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np

from drive_seg.labels import VOID


class ConfusionMatrix:
    """Counts of (true id, predicted class) pixels, gathered over any number of images.

    ``counts`` is int64 [C + G, C + 1]: rows are true classes and groups, columns predicted classes; the last column
    counts pixels whose prediction is void or no class id, which are errors like any other wrong prediction. Pixels
    whose truth is void (255) are left out.

    Args:
        num_classes: C.
        groups: the class ids of each of the G groups that labels may hold.
    """

    def __init__(self, num_classes: int, groups: Sequence[Sequence[int]] = ()) -> None:
        self.num_classes = num_classes
        self.members = memberships(num_classes, groups)
        self.counts = np.zeros((len(self.members), num_classes + 1), np.int64)

    def update(self, prediction: np.ndarray, target: np.ndarray) -> None:
        """Add one image (or a stack of them).

        Args:
            prediction: uint8, class ids of any shape.
            target: uint8 of the same shape, true ids, 255 = void.

        Raises:
            ValueError: if the shapes differ, or a true id is neither a class nor a group nor void.
        """
        if prediction.shape != target.shape:
            raise ValueError(f"prediction is {prediction.shape} but target is {target.shape}")
        valid = target != VOID
        truth = target[valid].astype(np.int64)
        if truth.size and truth.max() >= len(self.counts):
            raise ValueError(f"target holds id {truth.max()}, but there are only {len(self.counts)} classes")
        guess = np.minimum(prediction[valid].astype(np.int64), self.num_classes)
        flat = np.bincount(truth * (self.num_classes + 1) + guess, minlength=self.counts.size)
        self.counts += flat.reshape(self.counts.shape)

    def __iadd__(self, other: ConfusionMatrix) -> ConfusionMatrix:
        self.counts += other.counts
        return self

    def iou(self) -> np.ndarray:
        """Intersection over union per id, float64 [C + G]; nan for one neither present nor predicted."""
        within, apart = _relations(self.members)
        guesses = self.counts[:, : self.num_classes]
        hit = (within @ guesses * self.members).sum(1)
        union = within @ self.counts.sum(1) + (apart @ guesses * self.members).sum(1)
        return _ratio(hit, union)

    def miou(self) -> float:
        """Mean of :meth:`iou` over the ids present or predicted; nan when nothing was counted."""
        return mean(self.iou())

    def pixel_accuracy(self) -> float:
        """Share of counted pixels that are right, their prediction being one of M_t; nan when nothing was counted."""
        total = self.counts.sum()
        return float(self._right().sum() / total) if total else float("nan")

    def class_accuracy(self) -> np.ndarray:
        """Share of each id's pixels that are right (its recall), float64 [C + G]; nan for one that is not present."""
        return _ratio(self._right(), self.counts.sum(1))

    def precision(self) -> np.ndarray:
        """Share of the pixels predicted as an id that are it, float64 [C + G]; nan for one that is not predicted.

        Only pixels whose label tells whether they are it are counted.
        """
        within, apart = _relations(self.members)
        guesses = self.counts[:, : self.num_classes]
        hit, missed = ((relation @ guesses * self.members).sum(1) for relation in (within, apart))
        return _ratio(hit, hit + missed)

    def mean_class_accuracy(self) -> float:
        """Mean of :meth:`class_accuracy` over the ids present in the labels; nan when nothing was counted.

        A class that is only predicted has no recall and is left out. torchmetrics' macro accuracy counts it as 0.
        """
        return mean(self.class_accuracy())

    def frequency(self) -> np.ndarray:
        """Each true id's share of the counted pixels, float64 [C + G]."""
        rows = self.counts.sum(1).astype(np.float64)
        return rows / max(rows.sum(), 1.0)

    def _right(self) -> np.ndarray:
        return (self.counts[:, : self.num_classes] * self.members).sum(1)


class BoundaryScore:
    """Boundary F1 per id, its hits summed over all images.

    The boundary of an id are its pixels that have one of the four neighbours outside the id: a neighbour that the
    image holds and whose label tells. So neither the image's edge nor the edge of a void area is a boundary. Precision
    is the share of predicted boundary pixels with a true one of the same id within the tolerance (Euclidean distance
    between pixel centres), recall the reverse. That equals a look into the other boundary dilated by a disc.

    ``counts`` is int64 [4, C + G]; ``+=`` adds those of other images.

    Args:
        num_classes: C.
        groups: as in :class:`ConfusionMatrix`.
        tolerance: in parts of the image's diagonal, rounded up to whole pixels; 0.0075 is Csurka et al.'s ("What is a
            good evaluation measure for semantic segmentation?", BMVC 2013).
    """

    def __init__(self, num_classes: int, groups: Sequence[Sequence[int]] = (), tolerance: float = 0.0075) -> None:
        self.tolerance = tolerance
        members = memberships(num_classes, groups)
        self._within, self._apart = (_table(relation) for relation in _relations(members))
        self._members = _table(members)
        # rows: boundary pixels predicted, those of them near a true one, true ones, those of them near a predicted
        self.counts = np.zeros((4, len(members)), np.int64)
        self._predicted, self._predicted_near, self._true, self._true_near = self.counts

    def update(self, prediction: np.ndarray, target: np.ndarray) -> None:
        """Add one image.

        Args:
            prediction: uint8 [H, W], class ids.
            target: uint8 [H, W], true ids, 255 = void.

        Raises:
            ValueError: if the shapes differ.
        """
        if prediction.shape != target.shape:
            raise ValueError(f"prediction is {prediction.shape} but target is {target.shape}")
        radius = math.ceil(self.tolerance * math.hypot(*target.shape))
        labelled, guessed = np.unique(target), np.unique(prediction)
        for t in range(len(self._true)):
            if not (self._within[t][labelled].any() or self._members[t][guessed].any()):
                continue
            truth = self._within[t][target]
            known = truth | self._apart[t][target]
            true, predicted = _boundary(truth, known), _boundary(self._members[t][prediction] & known, known)
            self._true[t] += np.count_nonzero(true)
            self._predicted[t] += np.count_nonzero(predicted)
            if true.any() and predicted.any():
                true, predicted = _cropped(true, predicted)
                self._true_near[t] += np.count_nonzero(true & _near(predicted, radius))
                self._predicted_near[t] += np.count_nonzero(predicted & _near(true, radius))

    def __iadd__(self, other: BoundaryScore) -> BoundaryScore:
        self.counts += other.counts
        return self

    def precision(self) -> np.ndarray:
        """Per id, float64 [C + G]; nan where no boundary is predicted."""
        return _ratio(self._predicted_near, self._predicted)

    def recall(self) -> np.ndarray:
        """Per id, float64 [C + G]; nan where there is no true boundary."""
        return _ratio(self._true_near, self._true)

    def f1(self) -> np.ndarray:
        """2 P R / (P + R) per id, float64 [C + G]; 0 where one of both has no boundary, nan where neither has."""
        precision, recall = np.nan_to_num(self.precision()), np.nan_to_num(self.recall())
        f1 = np.nan_to_num(_ratio(2 * precision * recall, precision + recall))
        return np.where(self._true + self._predicted > 0, f1, np.nan)


def mean(values: np.ndarray) -> float:
    """The mean of the values that are not nan; nan if there is none."""
    values = values[~np.isnan(values)]
    return float(values.mean()) if values.size else float("nan")


def memberships(num_classes: int, groups: Sequence[Sequence[int]] = ()) -> np.ndarray:
    """Which classes each id stands for: bool [C + G, C]."""
    members = np.eye(num_classes + len(groups), num_classes, dtype=bool)
    for g, classes in enumerate(groups, start=num_classes):
        members[g, list(classes)] = True
    return members


def _relations(members: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """bool [R, R] twice: whether the set of id s (column) lies in that of id t (row); whether they share no class."""
    return ~(~members @ members.T), ~(members @ members.T)


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole in float64, nan where the whole is 0."""
    return np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0)


def _table(rows: np.ndarray) -> np.ndarray:
    """bool [R, N] -> look-up tables bool [R, 256], False for ids from N on."""
    return np.pad(rows, ((0, 0), (0, 256 - rows.shape[1])))


def _boundary(mask: np.ndarray, known: np.ndarray) -> np.ndarray:
    """The mask's pixels beside one that is known to be outside it: bool [H, W]."""
    outside = known & ~mask
    beside = np.zeros_like(mask)
    beside[1:] |= outside[:-1]
    beside[:-1] |= outside[1:]
    beside[:, 1:] |= outside[:, :-1]
    beside[:, :-1] |= outside[:, 1:]
    return mask & beside


def _cropped(one: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both without the rows and columns around them that hold nothing; distances between their pixels stay."""
    x, y, width, height = cv2.boundingRect((one | other).astype(np.uint8))
    here = np.s_[y : y + height, x : x + width]
    return one[here], other[here]


def _near(pixels: np.ndarray, radius: int) -> np.ndarray:
    """Where one of the pixels is at most ``radius`` away: bool [H, W]."""
    distance = cv2.distanceTransform((~pixels).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    # float32 roots: whole distances may come out a hair larger; the next larger distance is over 1 / (2 r + 2) away
    return distance <= radius + 1e-3
